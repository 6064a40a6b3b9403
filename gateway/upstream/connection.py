"""One HTTP/1.1 connection on httptools: an asyncio protocol that carries one exchange at a time and *is* its response.

Timeouts are deadlines that one ticker of the pool compares, so that no timer is made for a request. It does not know
what it carries.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, cast

import httptools

from gateway.upstream.keepalive import keep_alive
from gateway.upstream.pieces import Pieces
from gateway.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    Interrupted,
    TransportError,
    Unanswered,
    Upload,
    Waiter,
)

if TYPE_CHECKING:
    from gateway.upstream.http1 import Pool

HIGH_WATER = 256 * 1024  # unread body bytes at which reading from the upstream pauses
MAX_HEAD = 256 * 1024  # bytes of response head beyond which the upstream is taken for broken
FOREVER = float("inf")
HEARD = 0.0  # a deadline that is the ticker's to set: something has come since it looked last


class _Sending:
    """An upload under way: whether `whole` it is written, whether the socket is `full`, and who waits for `room`."""

    whole = full = False
    room: asyncio.Future[None] | None = None


class Connection(asyncio.Protocol):
    """One connection, and the response of the exchange it carries.

    Phases: `idle` in the pool → `head` (request written, or being written; waiting) → `body` → `done` (all received) →
    `idle`; `closed` from anywhere.
    """

    __slots__ = (
        "_between", "_chunks", "_direct", "_error", "_framed", "_incoming", "_lines", "_origin_method",
        "_parser", "_paused", "_pool", "_size", "_transport", "_upload", "_waiter", "deadline", "headers",
        "idle_since", "phase", "status",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._size = 0  # bytes of the head that have come, then of body that nobody has read
        self._waiter: Waiter | None = None
        self._error: TransportError | None = None
        self._paused = False
        self._direct: Callable[[bytes], bool] | None = None  # whom segments are offered to, while somebody waits
        self._between = False  # the parser stands between two chunks of the body
        self._framed = False
        self._upload: _Sending | None = None  # the latest
        self._incoming: select.poll | None = None
        self.phase = "idle"
        self.idle_since = 0.0
        self.deadline = FOREVER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._lines = self.headers  # of a head that is not whole

    def __repr__(self) -> str:
        return f"<Connection {self._pool.origin.host}:{self._pool.origin.port} {self.phase}>"

    # The exchange, as the pool and the caller use it.

    def begin(self, method: bytes, head: bytes, body: bytes, first_byte: float) -> None:
        """Write one request, whose answer's head may take so many seconds."""
        self.phase = "head"
        self.status = self._size = 0
        self.headers = self._lines = []
        self._chunks = []
        self._error = None
        self._between = self._framed = False
        self._origin_method = method
        self.deadline = self._pool.loop.time() + first_byte
        self._pool.busy.add(self)
        transport = self._transport
        if len(body) < 65536:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def upload(self, upload: Upload, first_byte: float) -> None:
        """Send this as the body of what has begun."""
        try:
            await self._send(upload, first_byte)
        except BaseException:
            self._close()
            raise

    async def answered(self) -> None:
        """Wait for the final response head; cancelling closes the connection."""
        try:
            while self.phase == "head":
                self._waiter = waiter = self._pool.loop.create_future()
                await waiter
        except BaseException:
            self._close()
            raise
        finally:
            self._waiter = None
        if self.status == 0:
            self._give_up()

    def tell(self, waiter: Waiter | None) -> None:
        self._waiter = waiter

    async def _send(self, upload: Upload, first_byte: float) -> None:
        """Write an upload as the socket takes it, until its end, or until there is an answer or no connection."""
        loop = self._pool.loop
        sending = self._upload = _Sending()
        self.deadline = FOREVER
        self._transport.set_write_buffer_limits(high=1)  # one piece at a time
        self._waiter = over = loop.create_future()

        def strike(_: object) -> None:
            if self._waiter is over:
                scope.reschedule(0.0)

        over.add_done_callback(strike)
        try:
            async with asyncio.timeout(None) as scope:  # ends a read as well as the wait for room
                async for piece in Pieces(upload, framed=upload.size is None):
                    await self._hear()
                    if self.phase != "head":
                        break
                    await self._put(sending, piece)
                else:
                    sending.whole = True
        except TimeoutError:
            if not over.done():  # it is the upload's own
                raise
        finally:
            self._waiter = None
        if self.phase == "head":
            self.deadline = loop.time() + first_byte

    async def _hear(self) -> None:
        """Let the loop read what has come already: a write into a connection that was reset would throw it away."""
        for _ in range(4):
            if self.phase == "head" and self.unread:
                await asyncio.sleep(0)

    async def _put(self, sending: _Sending, piece: bytes) -> None:
        """Write a piece, and wait until the socket has taken it."""
        self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
        self._transport.write(piece)
        await asyncio.sleep(0)  # the client and the upstream may both be fast, but there are others
        while sending.full and self.phase == "head":
            sending.room = self._pool.loop.create_future()
            await sending.room
        if self.phase == "head":
            self.deadline = FOREVER

    def _give_up(self) -> NoReturn:
        # A new exception each time: a kept one would keep the frames it passed through, request bodies and all.
        if self._error is None:
            raise Unanswered("the connection was closed before the answer")
        raise type(self._error)(*self._error.args)

    @property
    def complete(self) -> bool:
        return self.phase == "done"

    @property
    def held(self) -> bytes:
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def full(self) -> bool:
        return self._paused

    async def read(self, direct: Callable[[bytes], bool] | None = None) -> bytes:
        while True:
            if self._chunks:
                data = self.held
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
            if self._between:
                self._direct = direct
            try:
                await self._wait()
            finally:
                self._direct = None

    def forget(self) -> None:
        """Nobody will read what is held."""
        self._chunks = []

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
        self._waiter = waiter = self._pool.loop.create_future()
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
        self._direct = None
        self._pool.forget(self)
        self._transport.abort()
        self._wake()

    def expire(self) -> None:
        """The deadline has passed; called by the pool's ticker."""
        if self.phase == "head" and self._upload is not None and not self._upload.whole:
            self._fail(Unanswered("the upstream stopped taking the request"))
        elif self.phase == "head":
            self._fail(FirstByteTimeout("no response head in time"))
        elif self.phase == "body":
            if self._paused:  # the client is slow, not the upstream
                self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
            else:
                self._fail(IdleTimeout("the upstream fell silent inside its answer"))

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            keep_alive(connection)

    def data_received(self, data: bytes) -> None:
        direct = self._direct
        if direct is not None:
            if direct(data):
                self.deadline = HEARD
                return
            self._direct = None
        phase = self.phase
        if phase == "body":
            pool = self._pool
            self.deadline = pool.loop.time() + pool.timeouts.idle
            self._between = False
        elif phase == "head":
            self._size += len(data)
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
            if self.phase == "head" and self._size > MAX_HEAD:
                self._broken("the upstream's response head is too large")
            elif self._between and not data.endswith(b"\r\n"):  # in the next one's size already
                self._between = False

    def _broken(self, reason: str) -> None:
        if self.phase == "done":  # the answer is whole; what follows it is not ours to judge
            self._framed = False
        elif self.phase != "closed":
            self._fail(Interrupted(reason) if self.phase == "body" else Unanswered(reason))

    def pause_writing(self) -> None:
        if self._upload is not None:
            self._upload.full = True

    def resume_writing(self) -> None:
        sending = self._upload
        if sending is not None:
            sending.full = False
            if sending.room is not None and not sending.room.done():
                sending.room.set_result(None)

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
            self._lines.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        if self.phase != "head":  # a second answer to one request
            return
        status = self._parser.get_status_code()
        headers, self._lines = self._lines, []
        if status < 200:
            return
        self.headers = headers
        values = dict(headers)
        if b"content-length" in values or b"chunked" in values.get(b"transfer-encoding", b"").lower():
            self._framed = True
        if self._origin_method == b"HEAD" or status in (204, 304):
            self._framed = True
        self.status = status
        self._size = 0
        self.phase = "body"
        self.deadline = self._pool.loop.time() + self._pool.timeouts.idle
        if self._origin_method == b"HEAD":
            self.phase = "done"  # whatever the head promises, no body follows
            self.deadline = FOREVER
            self._transport.abort()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

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

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        self._between = False
        if self.phase == "body":
            self.phase = "done"
            self.deadline = FOREVER
            if not self._parser.should_keep_alive():
                self._framed = False
            if self._waiter is not None:
                self._wake()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        whole = self._upload is None or self._upload.whole
        return self._framed and whole and not self._transport.is_closing()

    @property
    def unread(self) -> bool:
        """Whether the socket holds what the loop has not read: on an idle connection its end, as good as always."""
        if self._incoming is None:
            self._incoming = select.poll()
            self._incoming.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._incoming.poll(0))
