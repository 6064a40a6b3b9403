"""HTTP/1.1 to one origin: a pool of keep-alive connections. It does not know what they carry, and never sends twice."""

from __future__ import annotations

import asyncio
import re

from gateway.upstream.connection import HEARD, Connection
from gateway.upstream.transport import NotSent, Origin, Timeouts, Unable, Upload, Withdrawn, not_connected

TICK = 0.25  # seconds between looks at the deadlines
UNSAFE = re.compile(rb"[^\x21-\x7e]")  # in a request target


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
        self._ticker: asyncio.TimerHandle | None = None  # while there are connections

    def __repr__(self) -> str:
        return f"<Pool {self.origin.host}:{self.origin.port} idle={len(self.idle)} busy={len(self.busy)}>"

    async def send(
        self, method: bytes, path: bytes, headers: bytes, body: bytes | Upload, *, first_byte: float | None = None
    ) -> Connection:
        upload = None
        if isinstance(body, bytes):
            framing = b"content-length: %d\r\n\r\n" % len(body) if body or method != b"GET" else b"\r\n"
        else:
            upload, body = body, b""
            size = upload.size
            framing = b"transfer-encoding: chunked\r\n\r\n" if size is None else b"content-length: %d\r\n\r\n" % size
        head = self._head(method, path, headers, framing)
        if self._closing:
            raise Unable("the pool is closed")
        connection = self._pick() or await self._connect()
        if self._ticker is None:
            self._ticker = self.loop.call_later(TICK, self._tick)
        limit = self.timeouts.first_byte
        limit = limit if first_byte is None else min(limit, first_byte)
        connection.begin(method, head, body, limit)
        if upload is not None:
            await connection.upload(upload, limit)
        await connection.answered()
        return connection

    @property
    def ready(self) -> bool:
        return bool(self.idle)

    def begin(self, method: bytes, path: bytes, headers: bytes, body: bytes, first_byte: float) -> Connection | None:
        head = self._head(method, path, headers, b"content-length: %d\r\n\r\n" % len(body))
        connection = None if self._closing or self._ticker is None else self._pick()
        if connection is not None:
            connection.begin(method, head, body, min(self.timeouts.first_byte, first_byte))
        return connection

    def _head(self, method: bytes, path: bytes, headers: bytes, framing: bytes) -> bytes:
        target = self.origin.prefix + path
        if UNSAFE.search(target):
            raise NotSent("the request target holds bytes that HTTP does not allow")
        return b"".join((method, b" ", target, self._host_line, headers, framing))

    def _pick(self) -> Connection | None:
        """A connection that is open and was used lately; staler ones are closed."""
        horizon = self.loop.time() - self.timeouts.keep_alive
        while self.idle:
            connection = self.idle.pop()
            if connection.idle_since >= horizon and connection.reusable and not connection.unread:
                return connection
            connection._close()
        return None

    async def _connect(self) -> Connection:
        try:
            return await self._open(self.origin)
        except asyncio.CancelledError:
            raise Withdrawn from None

    async def _open(self, origin: Origin) -> Connection:
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
            raise not_connected(error) from error
        self.opened += 1
        if self._closing or connection.phase == "closed":  # meanwhile, by us or by the upstream
            connection._close()
            raise (Unable if self._closing else NotSent)("the connection was closed before its first use")
        return connection

    def release(self, connection: Connection) -> None:
        """Take back a connection whose exchange is complete."""
        self.busy.discard(connection)
        if self._closing or not connection.reusable:
            connection._close()
            return
        connection.forget()
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
        now = self.loop.time()
        idle = now + self.timeouts.idle
        for connection in [*self.busy]:
            if connection.deadline == HEARD:
                connection.deadline = idle
            elif connection.deadline <= now:
                connection.expire()
        horizon = now - self.timeouts.keep_alive
        while self.idle and self.idle[0].idle_since < horizon:
            self.idle[0]._close()
        self._ticker = self.loop.call_later(TICK, self._tick) if self.busy or self.idle else None

    async def aclose(self) -> None:
        self._closing = True
        for connection in list(self.idle):
            connection._close()
        if self.busy:
            await self._quiet.wait()
        if self._ticker is not None:
            self._ticker.cancel()
