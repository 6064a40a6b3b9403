"""One request on a client connection and its answer: the ASGI side of the data listener.

It writes what the application says, in as few pieces as possible, and cuts what cannot be ended properly. Bounds on
time and size are its connection's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway import log
from gateway.errors import ApiError

if TYPE_CHECKING:
    from gateway.listen.server import Connection

Scope = MutableMapping[str, Any]
TASK = "gateway.task"  # in a scope: the task that serves the request
CHUNK = "gateway.chunk"  # in a scope: `Cycle.pass_chunk`
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FRAMING = frozenset((b"connection", b"content-length", b"transfer-encoding"))


class Cycle:
    """One request and its answer, in place of uvicorn's own class, with less work a request. The head of the answer
    leaves together with its first body bytes."""

    task: asyncio.Task[None] | None = None
    disconnected = False
    # The request.
    received = 0  # bytes of body
    pending = 0  # of them, not yet read
    more_body = True
    body_read = False
    # The answer.
    head = b""  # not yet written
    chunked = False
    remaining = 0  # bytes that content-length still promises; -1 where the close ends the answer
    response_started = False
    response_complete = False

    def __init__(self, connection: Connection, scope: Scope, keep_alive: bool, expect_continue: bool) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.scope = scope
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_continue
        self.chunks: list[bytes] = []  # of the body, arrived and not yet read
        self._waiter: asyncio.Future[None] | None = None  # of the one who reads the body

    async def run_asgi(self, app: App) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self.transport.abort()  # the client has gone, or the process is ending
        except Exception:
            log.exception("unhandled error", request_path=self.scope["path"])
            if self.response_started:
                self.transport.abort()
            else:
                await self.refuse(ApiError(500, "The gateway failed to handle this request."))
        else:
            if not self.response_complete and not self.disconnected:
                self.transport.abort()  # an answer that cannot be ended properly must not look complete
        finally:
            if self.task is not None:
                self.connection.tasks.discard(self.task)
                self.task = None

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error of the server's own and close the connection after it."""
        request_id = self.connection.bounds.request_id()
        body = error.body(request_id)
        headers = error.headers(request_id)
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send(self, message: Any) -> None:
        flow = self.connection.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        else:
            self._body(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: Any) -> None:
        self.response_started = True
        if self.waiting_for_100_continue:  # the body may come or not: what follows could not be told apart
            self.keep_alive = False
        lines = [STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status]
        chunked = self.scope["method"] != "HEAD" and status not in (204, 304)
        for header in headers:
            if header[0] in _FRAMING:
                if header[0] == b"content-length":
                    self.remaining = int(header[1])
                    chunked = False
                else:
                    self.keep_alive = self.keep_alive and header != (b"connection", b"close")
                    continue
            lines.append(b"%b: %b\r\n" % header)
        if not self.keep_alive or self.connection.server_draining:
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        self.chunked = chunked
        if chunked and self.scope["http_version"] == "1.0":
            self.chunked = False  # the close ends the answer
            self.remaining = -1
        elif chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines):
            raise ValueError("a response header holds a line break")
        self.head = head

    def _body(self, body: bytes, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the answer was already complete")
        if self.scope["method"] == "HEAD":
            body = b""
            self.remaining = 0
        if self.chunked:
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
            self.transport.write(body)
        if not more:
            self.response_complete = True
            self.wake()
            self.connection.on_response_complete()

    def pass_chunk(self, chunk: bytes) -> bool:
        """Write one whole chunk of the answer, framed as HTTP/1.1 does, at once; False if it must go through `send`."""
        if not self.chunked or self.head or self.response_complete or self.disconnected:
            return False
        if self.connection.flow.write_paused:
            return False
        self.transport.write(chunk)
        return True

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not self.gone and not self.chunks and (self.more_body or self.body_read):
            self.connection.flow.resume_reading()
            self._waiter = self.connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.gone:
            return {"type": "http.disconnect"}
        chunks, self.chunks = self.chunks, []
        self.pending = 0
        self.body_read = not self.more_body
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def wake(self) -> None:
        """Something has changed for whoever reads the body."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    set = wake

    @property
    def message_event(self) -> Cycle:
        """What uvicorn's connection sets when the client has gone."""
        return self

    @property
    def gone(self) -> bool:
        """Whether nobody waits for anything any more."""
        return self.disconnected or self.response_complete
