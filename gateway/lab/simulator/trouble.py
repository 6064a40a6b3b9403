"""What each kind of fault does to an answer.

Adding a kind is adding a row: to `REPLACES` (an answer instead of the model's), to `CHANGES` (an edit of the model's
answer) or to `EARLY` (before the request has been read; carried out by the connection itself).
"""

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from gateway.lab.simulator.answer import PING, Step, error_event
from gateway.lab.simulator.errors import NAMED, ApiError
from gateway.lab.simulator.reply import HTML, JSON, SSE, End, Framing, Reply

if TYPE_CHECKING:
    from gateway.lab.simulator.faults import Fault

__all__ = ["CHANGES", "EARLY", "OF_EVENTS", "REPLACES", "TEXTUAL", "error_reply"]

ELSEWHERE = "http://127.0.0.1:1/elsewhere"
HTML_PAGE = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head>"
    b"<body><center><h1>502 Bad Gateway</h1></center></body></html>\n"
)


# Answers instead of the model's: (fault, request id, organization) -> reply.


def error_reply(error: ApiError, request_id: str, headers: bytes = b"") -> Reply:
    """An error answer; `headers` are encoded lines to add."""
    lines = JSON + headers
    if error.retry_after is not None:
        lines += f"retry-after: {error.retry_after:g}\r\n".encode()
    return Reply.of(error.status, error.body(request_id), lines)


def _status(fault: "Fault", request_id: str, organization: str) -> Reply:
    status = int(fault.number) or 500
    message = fault.message
    if message is None and status == 429:
        message = (
            f"This request would exceed your organization's ({organization}) rate limit. "
            "Please reduce the prompt length or try again later."
        )
    return error_reply(
        ApiError(status, message, retry_after=fault.retry_after, error_code=fault.error_code), request_id
    )


def _named(fault: "Fault", request_id: str, organization: str) -> Reply:
    status, message, code = NAMED[fault.kind]
    return error_reply(
        ApiError(status, fault.message or message, retry_after=fault.retry_after, error_code=code), request_id
    )


def _ramp(fault: "Fault", request_id: str, organization: str) -> Reply:
    retry_after = fault.retry_after if fault.retry_after is not None else fault.number or 10.0
    status, message, code = NAMED[fault.kind]
    return error_reply(ApiError(status, message, retry_after=retry_after, error_code=code), request_id)


def _html(fault: "Fault", request_id: str, organization: str) -> Reply:
    return Reply.of(int(fault.number) or 502, HTML_PAGE, HTML)


def _redirect(fault: "Fault", request_id: str, organization: str) -> Reply:
    target = fault.value if isinstance(fault.value, str) else ELSEWHERE
    return Reply.of(302, b"", f"location: {target}\r\ncontent-type: text/plain\r\n".encode())


def _reset(fault: "Fault", request_id: str, organization: str) -> Reply:
    reply = _nothing()
    reply.end = End.RESET
    return reply


def _refuse(fault: "Fault", request_id: str, organization: str) -> Reply:
    return _nothing()


def _nothing() -> Reply:
    reply = Reply(0, b"", [], 0, Framing.LENGTH)
    reply.raw, reply.complete, reply.end = True, False, End.CLOSE
    return reply


def _junk(fault: "Fault", request_id: str, organization: str) -> Reply:
    reply = _nothing()
    reply.steps = [(0.0, b"\x16\x03\x01 this is not HTTP\r\n\x00\xff\r\n\r\n", 0)]
    return reply


def _first_event_error(fault: "Fault", request_id: str, organization: str) -> Reply:
    steps: list[Step] = [(0.0, PING, 0)] if fault.after == "ping" or fault.value == "ping" else []
    steps.append((0.0, error_event(ApiError(529, fault.message).body(request_id)), 0))
    reply = Reply(200, SSE, steps)
    reply.complete = False
    return reply


REPLACES: dict[str, Callable[["Fault", str, str], Reply]] = {
    "status": _status,
    **dict.fromkeys(NAMED, _named),
    "ramp_limit_exceeded": _ramp,
    "html": _html,
    "redirect": _redirect,
    "reset": _reset,
    "junk": _junk,
    "first_event_error": _first_event_error,
}

# Connection-level kinds; when they arrive in a header the request has been read already, and the end is the same.
EARLY: dict[str, Callable[["Fault", str, str], Reply]] = {"refuse": _refuse, "reset_before_read": _reset}

# Edits of the model's answer: (fault, reply, request id). Steps of a stream are whole events.


def _cut(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.steps = _first_bytes(reply.steps, int(fault.number))
    reply.end = End.RESET if fault.reset else End.CLOSE
    reply.complete = False


def _first_bytes(steps: Iterable[Step], left: int) -> Iterator[Step]:
    for delay, data, produced in steps:
        if left <= 0:
            return
        yield delay, data[:left], produced
        left -= len(data)


def _polite_end(fault: "Fault", reply: Reply, request_id: str) -> None:
    if reply.framing is not Framing.LENGTH:
        reply.steps = itertools.islice(reply.steps, int(fault.number))
        reply.complete = False


def _stall(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.steps = itertools.islice(reply.steps, int(fault.number))
    reply.end = End.HANG
    reply.complete = False


def _silence(fault: "Fault", reply: Reply, request_id: str) -> None:
    steps = iter(reply.steps)
    first = next(steps, (0.0, b"", 0))
    reply.steps = itertools.chain([(first[0] + fault.number, first[1], first[2])], steps)
    reply.head_first = fault.after == "head"
    reply.apart = True


def _slow(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.steps = [(delay + fault.number, data, produced) for delay, data, produced in reply.steps]
    reply.apart = True


def _slice(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.pieces = max(1, int(fault.number))
    reply.apart = True


def _endless(fault: "Fault", reply: Reply, request_id: str) -> None:
    line = b"data: " + b"x" * 16_377 + b"\n"
    whole = max(1, int(fault.number * (1 << 20)) // len(line))
    reply.steps = itertools.chain(
        [(0.0, b"event: content_block_delta\n", 0)], ((0.0, line, 0) for _ in range(whole)), [(0.0, b"\n", 0)]
    )
    reply.headers = SSE + b"".join(
        line + b"\r\n" for line in reply.headers.split(b"\r\n") if line[:8] not in (b"", b"content-", b"cache-co")
    )
    reply.framing = Framing.CHUNKED
    reply.complete = False


def _crlf(fault: "Fault", reply: Reply, request_id: str) -> None:
    if reply.framing is not Framing.LENGTH:
        reply.steps = [(delay, data.replace(b"\n", b"\r\n"), produced) for delay, data, produced in reply.steps]


def _interim(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.preamble = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload; as=style\r\n\r\n"


def _close_delimited(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.framing = Framing.CLOSE
    reply.end = End.CLOSE


def _trailers(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.framing = Framing.TRAILERS


def _gzip(fault: "Fault", reply: Reply, request_id: str) -> None:
    steps = list(reply.steps)
    packer = zlib.compressobj(wbits=31)
    packed: list[Step] = []
    for index, (delay, data, produced) in enumerate(steps):
        piece = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH if index < len(steps) - 1 else zlib.Z_FINISH)
        packed.append((delay, piece if data or index == len(steps) - 1 else b"", produced))
    reply.steps = packed
    reply.headers += b"content-encoding: gzip\r\n"
    if reply.framing is Framing.LENGTH:
        reply.length = sum(len(data) for _, data, _ in packed)


def _error_mid_stream(fault: "Fault", reply: Reply, request_id: str) -> None:
    if reply.framing is Framing.LENGTH:
        return
    error = error_event(ApiError(529, fault.message, error_code=fault.error_code).body(request_id))
    reply.steps = itertools.chain(itertools.islice(reply.steps, int(fault.number)), [(0.0, error, 0)])
    reply.complete = False


def _corrupt(fault: "Fault", reply: Reply, request_id: str) -> None:
    reply.steps = _with_wrong_byte(reply.steps, int(fault.number))
    reply.complete = False


def _with_wrong_byte(steps: Iterable[Step], left: int) -> Iterator[Step]:
    for delay, data, produced in steps:
        if data:
            left -= 1
        yield delay, data[:-1] + bytes([data[-1] ^ 1]) if data and left == -1 else data, produced


CHANGES: dict[str, Callable[["Fault", Reply, str], None]] = {
    "cut": _cut,
    "polite_end": _polite_end,
    "stall": _stall,
    "silence": _silence,
    "slow": _slow,
    "slice": _slice,
    "endless": _endless,
    "crlf": _crlf,
    "interim": _interim,
    "close_delimited": _close_delimited,
    "trailers": _trailers,
    "gzip": _gzip,
    "error_mid_stream": _error_mid_stream,
    "corrupt": _corrupt,
}

# Those that speak of events and not of bytes.
OF_EVENTS = frozenset({"error_mid_stream"})

TEXTUAL = frozenset({"redirect", "first_event_error"})
