"""What the benchmark asks of its load generator and what it is answered: one JSON line each way.

Times are seconds of the monotonic clock unless a name says otherwise; `watch` is the process whose CPU time is read at
both ends of the measured window (0: nobody's).
"""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A listener on loopback, the key it takes, and the model that leads to the lane."""

    port: int
    key: str
    model: str


class Closed(msgspec.Struct, tag=True):
    """As many requests as get answered: each connection sends its next one when it has its answer."""

    target: Target
    connections: int
    seconds: float
    warm: float = 0.0
    watch: int = 0


class Open(msgspec.Struct, tag=True):
    """Requests at a fixed rate whatever happens; latency counts from the moment each was due."""

    target: Target
    connections: int
    rate: float
    seconds: float
    warm: float = 0.0
    samples: bool = False


class Streams(msgspec.Struct, tag=True):
    """`streams` connections, `rounds` streams in turn on each; their starts are spread evenly over `spread`."""

    target: Target
    streams: int
    rounds: int
    spread: float
    watch: int = 0


class Burst(msgspec.Struct, tag=True):
    """One plain request on each of many connections at once, so that whoever is asked opens connections of its own."""

    target: Target
    connections: int


class Hold(msgspec.Struct, tag=True):
    """Open streams, see the first event of each, and keep them until `Release`."""

    target: Target
    streams: int


class Release(msgspec.Struct, tag=True):
    """Close what is held."""


class Large(msgspec.Struct, tag=True):
    """Requests of `megabytes` MB, one after another."""

    target: Target
    megabytes: float
    count: int
    pause: float


Job = Closed | Open | Streams | Burst | Hold | Release | Large


class Latency(msgspec.Struct):
    """Milliseconds."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Answered(msgspec.Struct, tag=True):
    """`requests` were answered within the window of `seconds`, `total` in all; `samples` are (due, latency)."""

    requests: int
    total: int
    seconds: float
    cpu: float
    latency: Latency
    samples: list[tuple[float, float]] = []


class Streamed(msgspec.Struct, tag=True):
    streams: int
    events: int
    seconds: float
    cpu: float


class Held(msgspec.Struct, tag=True):
    streams: int


class Sent(msgspec.Struct, tag=True):
    """When each large request began and had its answer."""

    windows: list[tuple[float, float]]


class Failed(msgspec.Struct, tag=True):
    reason: str


Result = Answered | Streamed | Held | Sent | Failed
