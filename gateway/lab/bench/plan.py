"""What is to be measured, and the upstreams and listeners that this takes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.lab.bench.jobs import Target

_STALLED = 0.001  # tokens a second of an upstream that has begun and does not go on


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. `seconds` is the time given to one measure of one subject."""

    seconds: float = 5.0
    upstream: str = "static"
    tls: bool = True
    nginx: bool = True
    streams: int = 300
    redis: str = ""
    only: str = ""
    pace: float = 30.0  # events a second in each stream
    large_mb: float = 10.0

    def does(self, measure: str) -> bool:
        return self.only in ("", measure)

    @property
    def quick(self) -> bool:
        """Too short for figures of any worth: a look at whether it works."""
        return self.seconds < 1

    @property
    def repeats(self) -> int:
        """How often each figure is measured; the median counts."""
        return 1 if self.quick else 3

    @property
    def idle_streams(self) -> int:
        return 100 if self.quick else 1000

    @property
    def large_count(self) -> int:
        return 2 if self.quick else 5

    @property
    def events(self) -> int:
        """Deltas of a long stream."""
        return max(12, round(self.seconds * 14))

    @property
    def few_events(self) -> int:
        """Deltas of a short one."""
        return max(4, self.events // 10)

    @property
    def few_pace(self) -> float:
        """So that short streams, whose opening and end are two more things to relay, keep everybody just as busy."""
        return self.pace * self.few_events / (self.few_events + 2)


class Lane(msgspec.Struct, frozen=True):
    """An upstream behaviour: how many deltas a stream has, how many leave in a second (0: all at once), the certificate
    of a TLS one, and whether it must not take CPU time from the others."""

    name: str
    model: str
    events: int
    pace: float
    certificate: Path | None = None
    aside: bool = False


def lanes(settings: Settings, certificate: Path | None) -> list[Lane]:
    """The upstreams that the measures need."""
    found = []
    if settings.does("json") or settings.does("latency") or settings.does("memory"):
        found.append(Lane("json", "claude-haiku-4-5", 20, 0.0))
    if settings.does("latency"):
        found.append(Lane("large", "claude-opus-4-8", 4, 0.0, aside=True))
    if settings.does("sse"):
        found.append(Lane("long", "claude-sonnet-4-5", settings.events, settings.pace))
        found.append(Lane("short", "claude-sonnet-4-6", settings.few_events, settings.few_pace))
        if certificate is not None:
            found.append(Lane("long_tls", "claude-opus-4-5", settings.events, settings.pace, certificate))
            found.append(Lane("short_tls", "claude-opus-4-6", settings.few_events, settings.few_pace, certificate))
    if settings.does("memory"):
        found.append(Lane("stall", "claude-opus-4-7", 4, _STALLED))
    return found


class Upstream(msgspec.Struct, frozen=True):
    """A running upstream of a lane, and the keys of its accounts."""

    lane: Lane
    port: int
    keys: list[str]


class Subject(msgspec.Struct):
    """Who answers: `pid` is the process whose cost is measured, 0 where nobody stands between."""

    name: str
    pid: int
    targets: dict[str, Target]
