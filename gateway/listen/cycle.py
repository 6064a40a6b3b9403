"""One request on a client connection and its answer: the data listener's `client.Client`.

It writes what it is told, in as few pieces as possible, and cuts what cannot be ended properly. Bounds on time and size
are its connection's business. What is served by an ASGI application gets its `scope`, `receive` and `send`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from gateway import log
from gateway.core.wire.short_way import ShortWay
from gateway.errors import ApiError
from gateway.listen.client import HeaderList, Scope
from gateway.listen.plain_head import PlainHead

if TYPE_CHECKING:
    from gateway.listen.connection import Connection

_FRAMING = frozenset((b"connection", b"content-length", b"transfer-encoding"))
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_ALONE = 16 * 1024  # bytes of a piece of body that is given as it came: whoever reads a large one joins it anyway
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_LINES = [b"%b: %b\r\n" * lines for lines in range(64)]
STATUS_LINE = {status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)}


class Serving(Protocol):
    """Who serves a request, as a task does."""

    def cancel(self) -> bool: ...
    def cancelling(self) -> int: ...


class Cycle:
    """The head of the answer leaves together with its first body bytes."""

    task: Serving | None = None
    disconnected = False
    # The request.
    plain: PlainHead | None = None
    received = 0  # bytes of body
    pending = 0  # of them, not yet read
    more_body = True
    body_read = False
    waiter: asyncio.Future[None] | None = None  # of the one who reads the body
    # The answer.
    head = b""  # not yet written
    remaining: int | None = 0  # bytes that its length still promises; -1: the close ends it, None: its last chunk does
    started = False
    complete = False

    def __init__(
        self,
        connection: Connection,
        method: str,
        target: tuple[bytes, bytes],
        version: str,
        headers: HeaderList,
        keep_alive: bool,
        expect_continue: bool = False,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target  # path and query
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_continue
        self.chunks: list[bytes] = []  # of the body, arrived and not yet read

    @property
    def scope(self) -> Scope:
        """What ASGI says of the request."""
        connection = self.connection
        raw_path, query = self.target
        path = raw_path.decode("latin-1")
        return {
            "type": "http", "asgi": _ASGI, "http_version": self.version, "server": connection.server,
            "client": connection.client, "scheme": connection.scheme, "root_path": "", "headers": self.headers,
            "method": self.method, "path": unquote(path) if "%" in path else path, "raw_path": raw_path,
            "query_string": query,
        }  # fmt: skip

    async def run(self, serve: Callable[[Cycle], Awaitable[None]]) -> None:
        """Have the request served, and the connection cut where that leaves no whole answer."""
        self.task = asyncio.current_task()  # not before: one that is cancelled before its first step never takes it
        try:
            await serve(self)
        except asyncio.CancelledError:
            self.connection.transport.abort()  # the client has gone, or the process is ending
        except Exception:
            log.exception("unhandled error", request_path=self.target[0].decode("latin-1"))
            if self.started:
                self.connection.transport.abort()
            else:
                await self.refuse(ApiError(500, "The gateway failed to handle this request."))
        else:
            if not self.complete and not self.disconnected:
                self.connection.transport.abort()  # an answer that cannot be ended properly must not look complete
        finally:
            self.connection.served(self)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error of the server's own and close the connection after it."""
        request_id = self.connection.listener.request_id()
        headers = [*error.headers(request_id), (b"connection", b"close")]
        await self.answer(error.status, headers, error.body(request_id))

    # The request's body.

    async def read(self) -> tuple[bytes, bool]:
        if self.waiting_for_100_continue and not self.connection.transport.is_closing():
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not self.chunks and (self.more_body or self.body_read) and not self.gone:
            self.connection.resume_reading()
            self.waiter = self.connection.loop.create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        if self.disconnected or self.complete:
            raise asyncio.CancelledError
        chunks = self.chunks
        if len(chunks) == 1 or (chunks and len(chunks[0]) >= _ALONE):
            data = chunks.pop(0)
        else:
            data = b"".join(chunks)
            chunks.clear()
        self.pending -= len(data)
        more = self.more_body or bool(chunks)
        self.body_read = not more
        return data, more

    def wake(self) -> None:
        """Something has changed for whoever reads the body."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def gone(self) -> bool:
        """Whether nobody waits for anything any more."""
        return self.disconnected or self.complete

    # The answer.

    async def start(self, status: int, headers: HeaderList) -> None:
        if self.connection.writable is not None:
            await self.connection.drained()
        if not self.disconnected:
            self._start(status, headers)

    async def write(self, body: bytes, more: bool) -> None:
        if self.connection.writable is not None:
            await self.connection.drained()
        if not self.disconnected:
            self._body(body, more)

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.connection.writable is not None:
            await self.connection.drained()
        if not self.disconnected:
            self.remaining = len(body)
            self._start(status, headers, b"content-length: %d\r\n" % len(body))
            self._body(body, False)

    @property
    def held_up(self) -> bool:
        """Whether an answer would have to wait for the client, or has none."""
        return self.connection.writable is not None or self.disconnected

    def answer_now(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer to a client that does not hold it up; none of the headers is about framing."""
        connection = self.connection
        form = _LINES[len(headers)] if len(headers) < len(_LINES) else _LINES[1] * len(headers)
        text = form % tuple(chain.from_iterable(headers))
        if text.count(b"\n") != len(headers):
            raise ValueError("a response header holds a line break")
        if not self.keep_alive or connection.listener.draining:
            self.keep_alive = False
            text += b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.started = self.complete = True
        connection.transport.write(b"".join((STATUS_LINE[status], text, length, body)))
        connection.answered()

    def go_on(self, serve: Callable[[Cycle], Awaitable[None]]) -> None:
        """Have it served on by a task."""
        self.task = None
        self.connection.serve(self, serve)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def short_way(self) -> ShortWay | None:
        plain = self.remaining is None and not self.head and not self.complete
        return self.connection.short_way() if plain else None

    def _start(self, status: int, headers: HeaderList, length: bytes = b"") -> None:
        """`length` is the line that says it, where the headers do not."""
        self.started = True
        if self.waiting_for_100_continue:  # the body may come or not: what follows could not be told apart
            self.keep_alive = False
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in _FRAMING]
        for header in [each for each in headers if each[0] in _FRAMING] if len(lines) < len(headers) else ():
            if header[0] == b"content-length":
                self.remaining = int(header[1])
                length = b"content-length: %b\r\n" % header[1]
            elif header == (b"connection", b"close"):
                self.keep_alive = False
        if not self.keep_alive or self.connection.listener.draining:
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        if length:
            lines.append(length)
        elif self.method != "HEAD" and status not in (204, 304):
            if self.version == "1.0":
                self.remaining = -1  # the close ends the answer
            else:
                self.remaining = None
                lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join((STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status, *lines, b"\r\n"))
        if head.count(b"\n") != len(lines) + 2:
            raise ValueError("a response header holds a line break")
        self.head = head

    def _body(self, body: bytes, more: bool) -> None:
        if self.complete:
            raise RuntimeError("the answer was already complete")
        if self.method == "HEAD":
            body = b""
            self.remaining = 0
        if self.remaining is None:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        elif self.remaining >= 0:
            self.remaining -= len(body)
            if self.remaining < 0 or (not more and self.remaining > 0):
                raise RuntimeError("the answer's length differs from its content-length")
        if self.head:
            body = self.head + body
            self.head = b""
        if body:
            self.connection.transport.write(body)
        if not more:
            self.complete = True
            if self.waiter is not None:
                self.wake()
            self.connection.answered()

    # As ASGI has it.

    async def receive(self) -> Any:
        try:
            body, more = await self.read()
        except asyncio.CancelledError:
            if not self.gone:
                raise
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            await self.start(message["status"], message.get("headers", []))
        else:
            await self.write(message.get("body", b""), message.get("more_body", False))
