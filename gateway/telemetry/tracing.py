"""Traces: which one a request belongs to, what its upstream is told of it, and whether it has a span of ours.

By the W3C's Trace Context. Spans themselves, and how they are sent, are the business of `spans`, which is imported only
where somebody wants them.
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Protocol

import msgspec

from gateway.config.schema import Config
from gateway.records import Finished

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<more>-.*)?"
)


class Trace(msgspec.Struct, frozen=True):
    """`trace_id` is 32 hexadecimal digits. `header` is the upstream's `traceparent`; None if the client's goes on as it
    came, with its `tracestate`; `broken` says that the client's is none, and its `tracestate` means nothing. `span_id`
    is our span's, "" if there is none, `parent_id` the client's, "" if there is none."""

    trace_id: str
    header: bytes | None = None
    broken: bool = False
    span_id: str = ""
    parent_id: str = ""


class Exporter(Protocol):
    """Who makes spans of records."""

    def finished(self, record: Finished) -> None:
        """Take a record; never waits and never fails."""

    def close(self) -> None:
        """Send what is left, within bounds."""


class Tracing:
    """Traces of one process. `sample` is the share of requests that have a span where their client does not say."""

    def __init__(self, exporter: Exporter | None, sample: float = 1.0) -> None:
        self._exporter = exporter
        self._most = int(sample * 2**64)  # of the lower half of trace ids

    def begin(self, given: bytes) -> Trace:
        """The trace of a request whose `traceparent` is this (b"" for none)."""
        found = _TRACEPARENT.fullmatch(given) if given else None
        if found is None or (given[:2] == b"00" and found["more"]):  # it begins here
            digits = f"{getrandbits(192) | 1 << 64 | 1:048x}"  # neither id may be nought
            trace, span = digits[:32], digits[32:]
            if self._exporter is None or int(trace[16:], 16) >= self._most:
                return Trace(trace, f"00-{trace}-{span}-00".encode(), True)
            return Trace(trace, f"00-{trace}-{span}-01".encode(), True, span)
        trace = found["trace"].decode()
        if self._exporter is None or not int(found["flags"], 16) & 1:
            return Trace(trace)  # nobody records it here: what comes next is still the client's child
        span = f"{getrandbits(64) or 1:016x}"
        return Trace(trace, f"00-{trace}-{span}-01".encode(), False, span, found["span"].decode())

    def finished(self, record: Finished) -> None:
        """Record the span of a request that has one."""
        if self._exporter is not None and record.span_id:
            self._exporter.finished(record)

    def close(self) -> None:
        """Send what is left; takes its time, within bounds."""
        if self._exporter is not None:
            self._exporter.close()


def tracing_of(config: Config, instance: str) -> Tracing:
    """As the configuration says; `instance` names this process."""
    settings = config.tracing
    if not settings.endpoint:
        return Tracing(None)
    from gateway.telemetry.spans import Spans  # the extra otel may not be there

    return Tracing(Spans(settings.endpoint, settings.headers, instance), settings.sample)
