"""What is to be measured, and the upstreams that this takes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.lab.bench.jobs import Target

MEASURES = ("start", "idle", "json", "rate", "tenants", "event", "event-tls", "bedrock", "body", "latency", "streams")
"""In the order in which they are done: first what busier times would change, last what changes others."""
EVENTS = 500  # deltas of a stream
_EVENTS_A_SECOND = 8000.0  # of all streams together: what keeps nobody busy all the time
_STILL = 0.001  # tokens a second of an upstream that has begun and does not go on


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: `measures` by name, `seconds` for one reading, `streams` to hold open, where the `peer` is and
    its key, and the first port of the upstreams (0: any free ones)."""

    measures: tuple[str, ...]
    rounds: int = 3
    seconds: float = 4.0
    streams: int = 10_000
    redis: str = ""
    peer: str = ""
    peer_key: str = "sk-bench"
    upstream_port: int = 0

    @property
    def pace(self) -> float:
        """Events a second in a stream: it takes as long as any other reading."""
        return EVENTS / self.seconds

    @property
    def paced_streams(self) -> int:
        """Paced streams at a time."""
        return max(1, round(_EVENTS_A_SECOND / self.pace))


class Lane(msgspec.Struct, frozen=True):
    """An upstream behaviour: how many deltas leave a second in a stream, and the certificate of a TLS one. `model`
    leads to it; JSON requests are answered at once on any. Of a `bedrock` one the gateway's accounts are at Bedrock."""

    name: str
    model: str
    pace: float
    certificate: Path | None = None
    bedrock: bool = False


def lanes(settings: Settings, certificate: Path | None) -> list[Lane]:
    """The upstreams that the measures need; without a certificate there is none of TLS."""
    found = [Lane("plain", "claude-haiku-4-5", settings.pace)]
    if "event-tls" in settings.measures and certificate is not None:
        found.append(Lane("tls", "claude-sonnet-4-5", settings.pace, certificate))
    if "bedrock" in settings.measures:
        found.append(Lane("bedrock", "claude-sonnet-4-6", settings.pace, bedrock=True))
    if "streams" in settings.measures:
        found.append(Lane("still", "claude-opus-4-5", _STILL))
        if certificate is not None:
            found.append(Lane("still-tls", "claude-opus-4-8", _STILL, certificate))
    return found


class Upstream(msgspec.Struct, frozen=True):
    """A running upstream of a lane, its process, and the keys of its accounts."""

    lane: Lane
    port: int
    keys: list[str]
    pid: int


class Side(msgspec.Struct, frozen=True):
    """Who answers: the processes whose descendants and selves are measured, none where nobody stands between."""

    name: str
    pids: tuple[int, ...]
    targets: dict[str, Target]
