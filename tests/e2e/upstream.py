"""An upstream by hand, for what the simulator does not do: every account answers as a function says.

It knows HTTP/1.1 as far as a gateway speaks it, and accounts by their keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tests.e2e.rig import MODEL

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream; charset=utf-8"}
Pieces = tuple[tuple[float, bytes], ...]  # of a body: seconds after the one before, bytes
Reply = tuple[int, dict[str, str], bytes | Pieces]  # status, headers, body


def error(status: int, text: str, kind: str = "invalid_request_error", **headers: str) -> Reply:
    """An error as Anthropic's are."""
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_upstream"}
    return status, {**JSON, **headers}, json.dumps(body).encode()


def served(tokens: int = 20) -> Reply:
    """A whole answer."""
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Good evening."}],
        "usage": {"input_tokens": tokens, "output_tokens": 5},
    }  # fmt: skip
    return 200, dict(JSON), json.dumps(body).encode()


# The same as a stream.
EVENTS = [
    b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())
    for name, fields in (
        ("message_start", {"message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
            "usage": {"input_tokens": 20, "output_tokens": 1},
        }}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Good evening."}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        ("message_stop", {}),
    )
]  # fmt: skip

STREAM = {"content-type": "text/event-stream"}


def events(*each: tuple[str, dict[str, Any]]) -> bytes:
    """Events of a stream: their names, and what else they hold."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (n.encode(), json.dumps({"type": n, **more}).encode()) for n, more in each
    )


def streamed(read: int = 0) -> Reply:
    """A whole answer as a stream, which has read so many tokens from a cache."""
    return 200, dict(STREAM), events(
        started(read),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Good evening."}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        ("message_stop", {}),
    )  # fmt: skip


def started(read: int = 0) -> tuple[str, dict[str, Any]]:
    """A stream's first event."""
    usage = {"input_tokens": 20, "cache_read_input_tokens": read, "output_tokens": 1}
    told = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    return "message_start", {"message": told}


def failed(kind: str) -> tuple[str, dict[str, Any]]:
    """An error as an event."""
    return "error", {"error": {"type": kind, "message": "Try again."}}


CUT = (200, dict(JSON), b"")  # a head, and then nothing but the connection's end
HTML = (404, {"content-type": "text/html"}, b"<html><body>Not Found</body></html>")


class Request:
    """What an account was asked."""

    def __init__(self, account: str, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.account, self.method, self.path, self.headers, self.body = account, method, path, headers, body


Answers = Callable[[Request], Reply | Awaitable[Reply | None] | None]


class Upstream:
    """`answers(request)` replies to each request for a message; others (probes) are answered well, or as `probes` says.
    `asked` counts messages by account. Answers wait for `gate`."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.probes: Answers = lambda request: (200, dict(JSON), b'{"data": []}')
        self.asked: Counter[str] = Counter()
        self.seen: list[Request] = []
        self.delay = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accounts(self, *weights: float, **fields: Any) -> list[dict[str, Any]]:
        """So many accounts `a0`, `a1` ... with these weights, as a configuration has them."""
        return [
            {"id": f"a{n}", "base_url": self.url, "api_key": f"key-of-a{n}", "weight": weight, **fields}
            for n, weight in enumerate(weights)
        ]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Upstream]:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while await self._exchange(reader, writer):
                continue
        self._tasks.discard(task)
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")[:-2]
        method, path, _ = line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(headers.get("x-api-key", "").removeprefix("key-of-"), method, path, headers, body)
        message = path.startswith("/v1/messages")
        if message:
            self.asked[request.account] += 1
            self.seen.append(request)
            if self.delay:
                await asyncio.sleep(self.delay)
            await self.gate.wait()
        reply = (self.answers if message else self.probes)(request)
        if isinstance(reply, Awaitable):
            reply = await reply
        if reply is None:  # hang up
            return False
        status, told, content = reply
        if isinstance(content, bytes):
            told = {"content-length": str(len(content) or 100), **told}
            pieces: Pieces = ((0.0, content),)
        else:
            told = {"transfer-encoding": "chunked", **told}
            pieces = (*((wait, b"%x\r\n%b\r\n" % (len(data), data)) for wait, data in content), (0.0, b"0\r\n\r\n"))
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in told.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        for wait, data in pieces:
            await asyncio.sleep(wait)
            writer.write(data)
            await writer.drain()
        return content != b"" or told["content-length"] == "0"
