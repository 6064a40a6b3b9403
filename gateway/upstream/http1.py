"""HTTP/1.1 to one origin: a pool of keep-alive connections on httptools.

A connection is an asyncio protocol that carries one exchange at a time and *is* the exchange's response. Timeouts
are deadlines that one ticker of the pool compares, so that no timer is made for a request. It does not know what it
carries, and it never sends anything twice.
"""

from __future__ import annotations

import asyncio
import re
from typing import NoReturn, cast

import httptools

from gateway.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    Interrupted,
    NotSent,
    Origin,
    Timeouts,
    TransportError,
    Unanswered,
)

TICK = 0.25  # seconds between looks at the deadlines
HIGH_WATER = 256 * 1024  # unread body bytes at which reading from the upstream pauses
MAX_HEAD = 256 * 1024  # bytes of response head beyond which the upstream is taken for broken
FOREVER = float("inf")
UNSAFE = re.compile(rb"[^\x21-\x7e]")  # in a request target


class Connection(asyncio.Protocol):
    """One connection, and the response of the exchange it carries.

    Phases: `idle` in the pool → `head` (request written, waiting) → `body` → `done` (all received) → `idle`; `closed`
    from anywhere.
    """

    __slots__ = (
        "_chunks", "_error", "_framed", "_head_size", "_length", "_origin_method", "_parser", "_paused", "_pool",
        "_size", "_transport", "_waiter", "deadline", "headers", "idle_since", "phase", "served", "status",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: TransportError | None = None
        self._paused = False
        self._framed = False
        self.phase = "idle"
        self.served = 0
        self.idle_since = 0.0
        self.deadline = FOREVER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    def __repr__(self) -> str:
        return f"<Connection {self._pool.origin.host}:{self._pool.origin.port} {self.phase} served={self.served}>"

    # The exchange, as the pool and the caller use it.

    async def exchange(self, method: bytes, head: bytes, body: bytes, first_byte: float) -> None:
        """Write one request and wait for the final response head."""
        self.phase = "head"
        self.served += 1
        self.status = self._head_size = self._size = 0
        self.headers = []
        self._chunks = []
        self._error = None
        self._framed = False
        self._origin_method = method
        self.deadline = self._pool.loop.time() + first_byte
        self._pool.busy.add(self)
        transport = self._transport
        if len(body) < 65536:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        try:
            while self.phase == "head":
                await self._wait()
        except asyncio.CancelledError:
            self._close()
            raise
        if self.status == 0:
            self._give_up()

    def _give_up(self) -> NoReturn:
        # A new exception each time: a kept one would keep the frames it passed through, request bodies and all.
        if self._error is None:
            raise Unanswered("the connection was closed before the answer")
        raise type(self._error)(*self._error.args)

    @property
    def complete(self) -> bool:
        return self.phase == "done"

    async def read(self) -> bytes:
        while True:
            if self._chunks:
                chunks = self._chunks
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                self._chunks = []
                self._size = 0
                if self._paused:
                    self._paused = False
                    if self.phase == "body":  # the upstream could not speak meanwhile
                        self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
                    if not self._transport.is_closing():
                        self._transport.resume_reading()
                return data
            if self._error is not None:
                self._give_up()
            if self.phase != "body":
                return b""
            await self._wait()

    def interrupt(self, reason: str) -> None:
        if self.phase in ("body", "done"):
            self._chunks = []
            self._fail(Interrupted(reason))

    def close(self) -> None:
        if self.phase == "done" and not self._paused and self._transport.get_write_buffer_size() == 0:
            self._pool.release(self)
        elif self.phase == "done":
            self._close()
        elif self.phase in ("head", "body"):  # a reader must not take this for the end of the body
            self._fail(Interrupted("the exchange was closed before its end"))

    # Inside.

    async def _wait(self) -> None:
        waiter = self._waiter = self._pool.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: TransportError) -> None:
        if self._error is None:
            self._error = error
        self._close()

    def _close(self) -> None:
        self.phase = "closed"
        self._pool.forget(self)
        self._transport.abort()
        self._wake()

    def expire(self) -> None:
        """The deadline has passed; called by the pool's ticker."""
        if self.phase == "head":
            self._fail(FirstByteTimeout("no response head in time"))
        elif self.phase == "body":
            if self._paused:  # the client is slow, not the upstream
                self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
            else:
                self._fail(IdleTimeout("the upstream fell silent inside its answer"))

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase == "body":
            self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
        elif phase == "head":
            self._head_size += len(data)
        else:  # unasked-for bytes: this connection can no longer be trusted
            self._framed = False
            if phase == "idle":
                self._close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(f"the upstream does not speak HTTP/1.1: {type(error).__name__}")
        else:
            if self.phase == "head" and self._head_size > MAX_HEAD:
                self._broken("the upstream's response head is too large")

    def _broken(self, reason: str) -> None:
        if self.phase == "done":  # the answer is whole; what follows it is not ours to judge
            self._framed = False
        elif self.phase != "closed":
            self._fail(Interrupted(reason) if self.phase == "body" else Unanswered(reason))

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def _ended(self, exc: Exception | None) -> None:
        if self.phase == "head":
            self._fail(Unanswered(f"the upstream closed the connection before answering ({exc or 'end of file'})"))
        elif self.phase == "body":
            if exc is None and not self._framed:
                self.phase = "done"  # delimited by the close itself
                self._wake()
            else:
                self._fail(Interrupted(f"the upstream closed the connection mid-answer ({exc or 'end of file'})"))
        if self.phase == "done":
            self._transport.abort()
        elif self.phase == "idle":
            self._close()

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        if self.phase != "head":  # a second answer to one request, of which perhaps only the beginning is here
            self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "head":  # else: trailers, which say nothing a client needs
            self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        if self.phase != "head":  # a second answer to one request
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        for name, value in self.headers:
            if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
                self._framed = True
        if self._origin_method == b"HEAD" or status in (204, 304):
            self._framed = True
        self.status = status
        self.phase = "body"
        self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
        if self._origin_method == b"HEAD":
            self.phase = "done"  # whatever the head promises, no body follows
            self.deadline = FOREVER
            self._transport.abort()
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self.phase != "body":
            return
        self._chunks.append(body)
        self._size += len(body)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def on_message_complete(self) -> None:
        if self.phase == "body":
            self.phase = "done"
            self.deadline = FOREVER
            if not self._parser.should_keep_alive():
                self._framed = False
            self._wake()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._framed and not self._transport.is_closing()


class Pool:
    """Keep-alive connections to one origin; a `Transport`. Idle ones are used last in, first out."""

    def __init__(self, origin: Origin, timeouts: Timeouts) -> None:
        self.origin = origin
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()
        self.opened = 0
        self._context = origin.context()
        self._host_line = b" HTTP/1.1\r\nhost: " + origin.authority + b"\r\n"
        self._closing = False
        self._quiet = asyncio.Event()  # closing, and nothing is busy any more
        self._ticker = self.loop.call_later(TICK, self._tick)

    def __repr__(self) -> str:
        return f"<Pool {self.origin.host}:{self.origin.port} idle={len(self.idle)} busy={len(self.busy)}>"

    async def send(
        self, method: bytes, path: bytes, headers: bytes, body: bytes, *, first_byte: float | None = None
    ) -> Connection:
        target = self.origin.prefix + path
        if UNSAFE.search(target):
            raise NotSent("the request target holds bytes that HTTP does not allow")
        framing = b"content-length: %d\r\n\r\n" % len(body) if body or method != b"GET" else b"\r\n"
        head = b"".join((method, b" ", target, self._host_line, headers, framing))
        if self._closing:
            raise NotSent("the pool is closed")
        connection = self._pick() or await self._connect()
        limit = self.timeouts.first_byte
        await connection.exchange(method, head, body, limit if first_byte is None else min(limit, first_byte))
        return connection

    def _pick(self) -> Connection | None:
        """A connection that is open and was used lately; staler ones are closed."""
        horizon = self.loop.time() - self.timeouts.keep_alive
        while self.idle:
            connection = self.idle.pop()
            if connection.idle_since >= horizon and connection.reusable:
                return connection
            connection._close()
        return None

    async def _connect(self) -> Connection:
        origin = self.origin
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self),
                    origin.host,
                    origin.port,
                    ssl=self._context,
                    server_hostname=origin.host if self._context else None,
                )
        except TimeoutError:
            raise NotSent("connecting took too long") from None
        except (OSError, UnicodeError) as error:  # ssl.SSLError is an OSError
            raise NotSent(f"cannot connect: {error}") from error
        self.opened += 1
        if self._closing or connection.phase == "closed":  # meanwhile, by us or by the upstream
            connection._close()
            raise NotSent("the connection was closed before its first use")
        return connection

    def release(self, connection: Connection) -> None:
        """Take back a connection whose exchange is complete."""
        self.busy.discard(connection)
        if self._closing or not connection.reusable:
            connection._close()
            return
        connection.phase = "idle"
        connection.idle_since = self.loop.time()
        self.idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection closed itself."""
        self.busy.discard(connection)
        if self._closing and not self.busy:
            self._quiet.set()
        if connection.idle_since and connection in self.idle:
            self.idle.remove(connection)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK, self._tick)
        now = self.loop.time()
        for connection in [c for c in self.busy if c.deadline <= now]:
            connection.expire()
        horizon = now - self.timeouts.keep_alive
        while self.idle and self.idle[0].idle_since < horizon:
            self.idle[0]._close()

    async def aclose(self) -> None:
        self._closing = True
        for connection in list(self.idle):
            connection._close()
        if self.busy:
            await self._quiet.wait()
        self._ticker.cancel()
