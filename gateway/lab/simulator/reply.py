"""An answer as a script: what to write, when, and what becomes of the connection.

Faults are changes to a `Reply`; `wire` turns the result into bytes for the socket. Knows HTTP/1.1 framing, nothing of
models or accounts, and does no I/O.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from http import HTTPStatus

import msgspec

from gateway.lab.simulator.answer import Step
from gateway.lab.simulator.cache import CachePlan
from gateway.lab.simulator.limits import Gate
from gateway.lab.simulator.records import Record

__all__ = ["End", "Framing", "Reply", "wire"]


class End(Enum):
    """What happens to the connection after the last byte."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


class Framing(Enum):
    """How the end of the body is told."""

    LENGTH = "content-length"
    CHUNKED = "chunked"
    TRAILERS = "chunked with trailers"
    CLOSE = "closed connection"


STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
STATUS_LINES[529] = b"HTTP/1.1 529 Site is overloaded\r\n"
JSON = b"content-type: application/json\r\n"
SSE = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
HTML = b"content-type: text/html; charset=UTF-8\r\n"


class Reply(msgspec.Struct, gc=False):
    """Mutable on purpose: a fault edits it before it is played.

    `headers` are encoded lines; `length` is that of the whole body, for `Framing.LENGTH`; `complete` says whether
    playing to the end gives the client the whole answer; `raw` leaves out head and framing; `head_first` sends the
    head without waiting for the first step; `pieces` writes at most so many bytes at a time; `apart` writes every
    step by itself.
    """

    status: int
    headers: bytes
    steps: Iterable[Step]
    length: int = 0
    framing: Framing = Framing.CHUNKED
    end: End = End.KEEP
    complete: bool = True
    apart: bool = False
    head_first: bool = False
    pieces: int | None = None
    preamble: bytes = b""
    raw: bool = False
    plan: CachePlan | None = None
    gate: Gate | None = None
    record: Record | None = None

    def __repr__(self) -> str:
        return f"<Reply {self.status} {self.framing.value}, then {self.end.value}>"

    @classmethod
    def of(cls, status: int, body: bytes, headers: bytes = JSON, produced: int = 0) -> "Reply":
        """A body that is there at once."""
        return cls(status, headers, [(0.0, body, produced)], len(body), Framing.LENGTH)

    def head(self, keep_alive: bool) -> bytes:
        """Status line and headers, with the empty line."""
        if self.framing is Framing.LENGTH and keep_alive:
            line = STATUS_LINES.get(self.status) or f"HTTP/1.1 {self.status} Unknown\r\n".encode()
            return b"%b%b%bcontent-length: %d\r\n\r\n" % (self.preamble, line, self.headers, self.length)
        line = STATUS_LINES.get(self.status) or f"HTTP/1.1 {self.status} Unknown\r\n".encode()
        framing = b""
        if self.framing is Framing.LENGTH:
            framing = b"content-length: %d\r\n" % self.length
        elif self.framing is Framing.CHUNKED:
            framing = b"transfer-encoding: chunked\r\n"
        elif self.framing is Framing.TRAILERS:
            framing = b"transfer-encoding: chunked\r\ntrailer: x-sim-trailer\r\n"
        if not keep_alive or self.framing is Framing.CLOSE:
            framing += b"connection: close\r\n"
        return b"%b%b%b%b\r\n" % (self.preamble, line, self.headers, framing)


def wire(reply: Reply, keep_alive: bool, head_only: bool = False) -> Iterator[Step]:
    """The bytes of a reply in order, each with the wait before it; `head_only` answers a HEAD request."""
    steps = _raw(reply) if reply.raw else _framed(reply, keep_alive, head_only)
    return steps if reply.pieces is None else _sliced(steps, reply.pieces)


def _raw(reply: Reply) -> Iterator[Step]:
    yield from reply.steps


def _framed(reply: Reply, keep_alive: bool, head_only: bool) -> Iterator[Step]:
    chunked = reply.framing in (Framing.CHUNKED, Framing.TRAILERS)
    head = reply.head(keep_alive)
    produced = 0
    if reply.head_first:
        yield 0.0, head, 0
        head = b""
    for delay, data, produced in () if head_only else reply.steps:
        # The head of a stream leaves with its first event, that of a JSON answer with the body.
        if head and (data or chunked):
            framed = head + (_chunk(data) if chunked else data)
            head = b""
        else:
            framed = _chunk(data) if chunked else data
        yield delay, framed, produced
    if head:
        yield 0.0, head, produced
    if chunked and not head_only and reply.end in (End.KEEP, End.CLOSE) and not _is_cut(reply):
        yield 0.0, b"0\r\nx-sim-trailer: end\r\n\r\n" if reply.framing is Framing.TRAILERS else b"0\r\n\r\n", produced


def _is_cut(reply: Reply) -> bool:
    return reply.end is End.CLOSE and not reply.complete


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _sliced(steps: Iterator[Step], size: int) -> Iterator[Step]:
    for delay, data, produced in steps:
        for at in range(0, max(1, len(data)), size):
            yield delay if at == 0 else 0.0, data[at : at + size], produced
