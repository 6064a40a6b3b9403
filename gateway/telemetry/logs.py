"""One log stream: JSON lines (or lines for people on a terminal), written by a thread so that nothing waits for them.

Lines leave in pieces of whole lines, on a pipe no longer than what it takes at once, so that several processes may
share one stream without mixing lines. Bodies, keys and conversation ids never come here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zlib import crc32

import msgspec

from gateway.config.schema import Log
from gateway.log import LEVELS, direct, error, warning
from gateway.records import Finished

PIPE_PIECE = 4096  # bytes that a pipe takes in one piece (PIPE_BUF on Linux)
PIECE = 256 * 1024  # bytes a write elsewhere
MAX_QUEUED = 100_000  # lines waiting for a reader that does not read; beyond it lines are counted, not kept
_PAUSE = 0.05  # seconds in which lines that come together leave together

_encode = msgspec.json.Encoder().encode
_encode_any = msgspec.json.Encoder(enc_hook=repr).encode


class LogWriter:
    """Takes lines from any thread and writes them to `fd` from its own."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._piece = PIPE_PIECE if stat.S_ISFIFO(os.fstat(fd).st_mode) else PIECE
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._due = threading.Event()  # there are lines, or it ends
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line, with its line end."""
        if len(self._lines) < MAX_QUEUED:
            self._lines.append(line)
        else:
            self._dropped += 1
        if not self._due.is_set():
            self._due.set()

    def close(self) -> None:
        """Write what is queued, for at most two seconds."""
        self._stop.set()
        self._due.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait()
            self._stop.wait(_PAUSE)
            self._due.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = self._lines
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lost = {**_begin(time.time(), "error"), "event": "log lines lost", "lost": dropped}
            lines.append(_encode(lost) + b"\n")
        while lines:
            piece = [lines.popleft()]
            size = len(piece[0])
            while lines and size + len(lines[0]) <= self._piece:
                size += len(lines[0])
                piece.append(lines.popleft())
            self._write(b"".join(piece))

    def _write(self, piece: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more, or the disk is full: serving goes on
            while piece:
                try:
                    piece = piece[os.write(self._fd, piece) :]
                except BlockingIOError:
                    time.sleep(_PAUSE)


def configure(log: Log, writer: LogWriter, fd: int = 1) -> RequestLog:
    """Send the lines of `gateway.log` and of the standard library to `writer`; returns the log of requests."""
    terminal = os.isatty(fd)
    human = log.format == "human" or (log.format == "auto" and terminal)
    paint = _PAINT if terminal and not log.no_color else {}

    def for_people(level: str, event: str, fields: dict[str, Any]) -> None:
        rest = " ".join(f"{name}={_printable(value)}" for name, value in fields.items() if name != "exception")
        trace = f"\n{fields['exception']}" if "exception" in fields else ""
        word = _painted(f"{level:<7}", paint.get(level))
        writer.write(f"{_clock(time.time())} {word} {event} {rest}{trace}\n".encode(errors="replace"))

    def as_json(level: str, event: str, fields: dict[str, Any]) -> None:
        writer.write(_json({**_begin(time.time(), level), "event": event, **fields}))

    direct(for_people if human else as_json, log.level)
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)
    return RequestLog(writer, human, LEVELS[log.level], log.sample, paint)


def _begin(at: float, level: str) -> dict[str, Any]:
    """What every line of JSON begins with: when it was written, `at` being Unix seconds, and how severe it is."""
    return {"time": _moment(at), "level": level}


def _moment(at: float) -> str:
    second, part = divmod(round(at * 1e6), 1_000_000)
    return f"{_second(second)}.{part // 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(at: int) -> str:
    """Many lines are of one second: it is written once."""
    return datetime.fromtimestamp(at, UTC).isoformat()[:19]


def _json(fields: dict[str, Any]) -> bytes:
    """One line of JSON, whatever is in it, no longer than a pipe takes in one piece."""
    try:
        line = _encode_any(fields)
    except (ValueError, TypeError, RecursionError):  # lone surrogates, endless numbers, things within themselves
        line = b""
    if not line or len(line) >= PIPE_PIECE:
        room = (PIPE_PIECE - 256) // max(1, len(fields)) // 2
        line = _encode_any({_short(name, 64): _short(value, room) for name, value in fields.items()})
    return line + b"\n"


def _short(value: Any, room: int) -> Any:
    """A value that takes little: numbers as they are, text by its ends."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    text = text.encode("ascii", "backslashreplace").decode().translate(_PLAIN)
    return text if len(text) <= room else f"{text[: room // 3]} ... {text[-(room // 2) :]}"


# Escapes would double a line's length.
_PLAIN = str.maketrans({"\n": " | ", '"': "'", "\\": "/"})


class _Bridge(logging.Handler):
    """Libraries that log by the standard library end in the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        say = error if record.levelno >= logging.ERROR else warning
        fields = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        try:
            say(record.getMessage(), **fields)
        except Exception:  # a library's bad arguments are no reason to fail the library
            self.handleError(record)


class RequestLog:
    """One line a request; of those without any trouble only a share, `sample`. Which of them, their ids say: every
    process and replica would choose the same, and whoever asks for one request's line can tell why there is none.

    Trouble is an error, a broken stream, a client that left, a limit that refused and an account that failed: what
    somebody will look for, and seldom enough to be worth its line each time. What is left out is still counted, in
    metrics and in the ledger. `least` is the least severe level written: a request that the gateway or its upstream
    failed is a warning.
    """

    def __init__(
        self, writer: LogWriter, human: bool, least: int, sample: float = 1.0, paint: Paint | None = None
    ) -> None:
        self._write = writer.write
        self._human = human
        self._least = least
        self._most = int(sample * 2**32)  # of the ids' checksums
        self._all = sample >= 1.0
        self._paint = paint or {}

    def request(self, record: Finished) -> None:
        bad = record.status >= 500 or record.outcome == "interrupted"
        level = logging.WARNING if bad else logging.INFO
        if level < self._least or not (self._all or self._wanted(record)):
            return
        if self._human:
            self._write(_line(record, self._paint))
        else:
            begin = f'{{"time":"{_moment(record.at + record.duration)}","level":"{"warning" if bad else "info"}",'
            self._write(begin.encode() + _encode(record)[1:] + b"\n")

    def _wanted(self, record: Finished) -> bool:
        quiet = record.outcome == "ok" and record.status < 400 and not record.failover
        return not quiet or crc32(record.request_id.encode()) < self._most


# For people.

Paint = dict[str, str]
_PAINT: Paint = {
    "debug": "2", "info": "36", "warning": "33", "error": "31",
    "2": "32", "4": "33", "5": "31", "gone": "35", "quiet": "2", "trouble": "33",
}  # fmt: skip


def _painted(text: str, colour: str | None) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and text else text


def _printable(value: Any) -> str:
    """As it is, unless it would move the cursor or colour the screen."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _line(record: Finished, paint: Paint) -> bytes:
    usage = record.usage
    tokens = f"in {usage.total_input} (cached {usage.cache_read}) out {usage.output}" if usage.total_input else ""
    cost = f"${record.cost_nano_usd / 1e9:.5f}" if record.cost_nano_usd else ""
    status = str(record.status or "gone")
    trouble = "" if record.outcome == "ok" else f"{record.outcome} {record.cause}".rstrip()
    if record.throttled:
        trouble = f"{record.throttled}'s limit: {record.limit}"
    elif record.failover:
        trouble = f"{trouble} after {record.failover}".lstrip()
    parts = (
        _painted(_clock(record.at), paint.get("quiet")), _painted(status, paint.get(status) or paint.get(status[0])),
        record.endpoint, record.caller, record.model, record.route, record.account, tokens, cost,
        f"{record.duration * 1000:.1f} ms", _painted(trouble, paint.get("trouble")),
        _painted(record.request_id, paint.get("quiet")),
    )  # fmt: skip
    return ("  ".join(part for part in parts if part) + "\n").encode(errors="replace")
