"""What the benchmark asks of its load generator and what it is answered: one JSON line each way."""

from __future__ import annotations

import msgspec

BODY_BYTES = 2048


class Target(msgspec.Struct, frozen=True):
    """A server, the keys it takes, one for each tenant, and the model that leads to the lane."""

    port: int
    keys: list[str]
    model: str
    host: str = "127.0.0.1"
    path: str = ""  # before that of the API


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Requests over `connections`. With a `rate` that many a second for `seconds`, whatever happens; else each
    connection sends its next one when it has its answer, until `seconds` are over, but at least one. The first requests
    are spread over `spread` seconds. An answer to `stream` has `events` events at least."""

    target: Target
    connections: int
    seconds: float = 0.0
    rate: float = 0.0
    spread: float = 0.0
    stream: bool = False
    events: int = 0
    size: int = BODY_BYTES


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Open streams, see the first event of each, and keep them until the next `Hold`; none is left by `streams` 0."""

    target: Target
    streams: int


class Loaded(msgspec.Struct, tag=True):
    """What came of a job: good answers (or streams held), events in them, bad answers and what was the matter with the
    first; how long it took, the CPU time of the generator, and the median time to a whole answer."""

    answers: int
    events: int
    bad: int
    problem: str
    seconds: float
    cpu: float
    p50: float


class Failed(msgspec.Struct, tag=True):
    """The job could not be done."""

    reason: str


Job = Load | Hold
Result = Loaded | Failed
