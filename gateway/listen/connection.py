"""One client connection of the data listener: bytes to requests, and the bounds of what a client may take.

Head size, head time, body pace, idle time and unread output are bounded; deadlines are compared once a second for all
connections, so that no timer is made for a request. When a client goes, the task that serves it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from gateway import log
from gateway.config.schema import Config
from gateway.core.wire.short_way import ShortWay
from gateway.errors import ApiError
from gateway.listen.cycle import STATUS_LINE, Cycle
from gateway.listen.parser import Parser
from gateway.listen.plain_head import PlainHead, PlainHeads, Shape

if TYPE_CHECKING:
    from uvicorn.server import ServerState

FOREVER = float("inf")
MIN_RATE = 16 * 1024  # bytes a second of request body: what is slower than this is an attack, not a client
DUE_FOR = 1.0  # seconds in which a body of at most SHORT bytes comes, or its request is served without waiting for it
MAX_DISCARDED = 48 * 1024 * 1024  # bytes read and thrown away after an answer, so that it is seen
DEAF_LINGER = 5.0  # seconds that a client may still send what nobody asked for, once it has its answer
MAX_PIPELINED = 8  # requests waiting on one connection; beyond it reading pauses, and its end is not noticed
MAX_QUEUED = 1024 * 1024  # bytes of body of a request that waits there; the same
MAX_UNREAD_BODY = 64 * 1024  # bytes of body that nobody has asked for yet, beside the first piece
OTHER_FILES = 64  # descriptors of a process that are no connection of a client's or to an account
SHORT = MAX_UNREAD_BODY  # bytes of body of a request that is served when it is whole
MAX_UNREAD = 192 * 1024  # bytes written and not yet taken by the client at which writing pauses

Serve = Callable[[Cycle], Awaitable[None]]
Take = Callable[[Cycle], bool]


class Listener:
    """What the connections of one listener share: who serves what they ask, their bounds, how to name a request, and
    who is told of a limit that refused one: its scope and its name. Clients get half of the descriptors at most:
    answers need the others. While it is `draining`, every answer closes its connection. A plain request of a few
    kilobytes is offered to `take` when it is whole; what that does not take, and all else, is served by a task."""

    draining = False

    def __init__(
        self,
        serve: Serve,
        config: Config,
        request_id: Callable[[], str],
        throttled: Callable[[str, str], None],
        take: Take | None = None,
    ) -> None:
        self.serve = serve
        self.take = take
        self._whole: list[Connection] = []  # with a request that is to be served
        self.plain = PlainHeads(config.affinity.header)
        self.head_bytes = config.limits.max_head_kb * 1024
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.connections = min(config.limits.max_connections, max(1, (files - OTHER_FILES) // 2))
        self.head = config.timeouts.client_head
        self.body = config.timeouts.client_body
        self.idle = config.timeouts.client_idle
        self.write = config.timeouts.write
        self.request_id = request_id
        self.throttled = throttled

    def whole(self, connection: Connection) -> None:
        """A request that was waited for is whole. Those that come together are served together: one after the other,
        each step for all, costs a good part less. What comes in the turn of the loop after this one still goes with it,
        which costs a request nothing while the loop has nothing else to do."""
        if not self._whole:
            connection.loop.call_soon(connection.loop.call_soon, self._serve_due)
        self._whole.append(connection)

    def _serve_due(self) -> None:
        whole, self._whole = self._whole, []
        for connection in whole:
            try:
                connection.serve_due()
            except Exception:  # it costs no other one
                log.exception("unhandled error")
                connection.transport.abort()


class Connection(asyncio.Protocol):
    """Phases: `idle`, `head` (arriving), `body` (arriving), `busy` (being answered), `linger` (answered before its body
    had arrived). `writable` is set while the client does not take what was written."""

    transport: asyncio.Transport
    cycle: Cycle | None = None  # the latest
    serving: Cycle | None = None  # whose answer is due; later ones on this connection wait in the pipeline
    writable: asyncio.Future[None] | None = None
    way: ShortWay | None = None  # of the latest stream
    shape: Shape | None = None  # of the latest plain head
    due: Cycle | None = None  # one that is served when it is whole

    def __init__(self, listener: Listener, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self.loop = loop
        self.pipeline: deque[Cycle] = deque()
        self.phase = "head"
        self.deadline = self.write_deadline = FOREVER
        self.deaf = False
        self.discarded = 0
        self.body_began = 0.0
        self.state = state
        self._parser: Parser | None = None  # once something has come that is not plain
        self._left = 0  # bytes of body to come of a request that the parser has not seen
        self._reading = True

    # Where it is, as ASGI has it.

    @property
    def server(self) -> tuple[str, int | None] | None:
        return _address(self.transport.get_extra_info("sockname"))

    @property
    def client(self) -> tuple[str, int | None] | None:
        return _address(self.transport.get_extra_info("peername"))

    @property
    def scheme(self) -> str:
        return "https" if self.transport.get_extra_info("sslcontext") else "http"

    # Beginning and end.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=MAX_UNREAD)
        connections = self.state.connections
        connections.add(cast(Any, self))
        self.deadline = self.loop.time() + self.listener.head
        if len(connections) > self.listener.connections:
            self.listener.throttled("gateway", "connections")
            self.refuse(ApiError(529, "The gateway has too many open connections.", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(cast(Any, self))
        if self.cycle is not None and not self.cycle.complete:
            self.cycle.disconnected = True
            self.cycle.wake()
        self.resume_writing()
        if exc is None:
            self.transport.close()
        self._parser = None  # it refers back to us
        self.pipeline.clear()
        if self.serving is not None:
            self._abandon(self.serving)

    def _abandon(self, cycle: Cycle) -> None:
        """Nobody waits for this answer any more. Its task is told once: what it still does then must not be ended. One
        that has not begun finds out by itself."""
        cycle.disconnected = True
        cycle.wake()
        task = cycle.task
        if cycle is self.due:  # there is to be a record of it
            self.due = None
            self.serve(cycle, self.listener.serve)
        elif task is not None and not cycle.complete and not task.cancelling():
            task.cancel()

    def eof_received(self) -> None:
        """A half-close counts as gone: nobody would know whether the other half still listens."""
        if self.serving is not None and not self.serving.complete:
            self._abandon(self.serving)
        self.finish()

    # What arrives.

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.discarded += len(data)
            if self.discarded > MAX_DISCARDED:
                self.finish()
            return
        if self._left:
            if self.due is not None and len(data) == self._left:
                self._whole(self.due, data)
                return
            data = self._take_body(data)
            if not data:
                return
        if self.phase == "idle" or self.phase == "head":
            if self._parser is None or not self._parser.within:
                head = self.listener.plain.read(data, self.listener.head_bytes, self.shape)
                if head is not None:
                    self.shape = head.shape if head.shape.known.kept else None
                    self._begin_plain(head, data)
                    return
            if self.phase == "idle":
                self.phase = "head"
                self.deadline = self.loop.time() + self.listener.head
        if self._parser is None:
            self._parser = Parser(self)
        self._parser.feed(data)

    def _begin_plain(self, head: PlainHead, data: bytes) -> None:
        """A request whose head needs no parser; what follows it in `data` is of its body."""
        cycle = self.cycle = Cycle(self, "POST", head.shape.known.target, "1.1", head.headers, True)
        cycle.plain = head
        self._left = head.length
        listener = self.listener
        if listener.take is not None and head.length <= SHORT and not listener.draining:
            self.due = cycle
        self._begin(cycle)
        if len(data) > head.size:
            self.data_received(data[head.size :])
        elif not head.length:
            self.on_message_complete()

    def _whole(self, cycle: Cycle, data: bytes) -> None:
        """The rest of the body of one that was waited for."""
        self._left = 0
        cycle.chunks.append(data)
        size = len(data)
        cycle.received += size
        cycle.pending += size
        cycle.more_body = False
        self.phase = "busy"
        self.deadline = FOREVER
        self.listener.whole(self)

    def serve_due(self) -> None:
        """Have the request served that was waited for, if its client is still there; by a task, if it is not whole."""
        cycle, self.due = self.due, None
        take = self.listener.take
        if cycle is not None and cycle.more_body:
            self.deadline = self.body_began + self.listener.body
            self.serve(cycle, self.listener.serve)
        elif cycle is not None and (take is None or not take(cycle)):
            self.serve(cycle, self.listener.serve)

    def _take_body(self, data: bytes) -> bytes:
        """Take what is of the present body; returns the rest."""
        piece = data[: self._left]
        self._left -= len(piece)
        self.on_body(piece)
        if not self._left:
            self.on_message_complete()
        return data[len(piece) :]

    def misunderstood(self) -> None:
        """What has come is no HTTP. While a request is being answered, answer those that were whole, then close."""
        if self.phase != "busy":
            self.refuse(ApiError(400, "Invalid HTTP request."))
            return
        self.deaf = True
        if self.pipeline and self.pipeline[0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0] if self.pipeline else self.serving
        if last is not None:
            last.keep_alive = False

    def asked(self, cycle: Cycle) -> None:
        """The head of a request is whole."""
        previous, self.cycle = self.cycle, cycle
        if previous is None or previous.complete:
            self._begin(cycle)
        else:  # pipelined: its turn comes when the present answer is out
            if len(self.pipeline) >= MAX_PIPELINED:
                self._pause_reading()
            self.pipeline.appendleft(cycle)

    def _begin(self, cycle: Cycle) -> None:
        self.serving = cycle
        self.phase = "body"
        self.body_began = self.loop.time()
        self.deadline = self.body_began + self.listener.body
        if cycle is self.due:
            self.deadline = min(self.deadline, self.body_began + DUE_FOR)
        else:
            self.serve(cycle, self.listener.serve)

    def serve(self, cycle: Cycle, serve: Serve) -> None:
        """Have it served by a task."""
        self.state.tasks.add(self.loop.create_task(cycle.run(serve)))

    def served(self, cycle: Cycle) -> None:
        """The task that served it has come to its end."""
        task, cycle.task = cycle.task, None
        self.state.tasks.discard(cast(Any, task))

    def on_body(self, body: bytes) -> None:
        """A piece of the body of the latest request."""
        cycle = cast(Cycle, self.cycle)
        size = len(body)
        cycle.received += size
        if self.phase == "body" and self.due is None:
            allowed = min(self.loop.time(), self.body_began + cycle.received / MIN_RATE)
            self.deadline = allowed + self.listener.body
        if cycle.complete:
            if cycle.received > MAX_DISCARDED:
                self.finish()
            return
        chunks = cycle.chunks
        chunks.append(body)
        cycle.pending += size
        if len(chunks) > 1 and cycle.pending > (MAX_UNREAD_BODY if cycle is self.serving else MAX_QUEUED):
            self._pause_reading()
        if cycle.waiter is not None:
            cycle.wake()

    def on_message_complete(self) -> None:
        """The latest request is whole."""
        cycle = cast(Cycle, self.cycle)
        cycle.more_body = False
        if self.phase == "body":
            self.phase = "busy"
            self.deadline = FOREVER
        if cycle is self.due:
            self.listener.whole(self)
        elif not cycle.complete:
            if cycle.waiter is not None:
                cycle.wake()
        elif cycle.keep_alive:
            self.phase = "idle"
            self.deadline = self.loop.time() + self.listener.idle
        else:
            self.finish()

    def answered(self) -> None:
        """The answer that was due is out."""
        self.state.total_requests += 1
        serving = self.serving
        if self.transport.is_closing() or serving is None:
            return
        if not self._reading:
            self.resume_reading()
        if not serving.keep_alive:
            if serving.more_body and not serving.waiting_for_100_continue:
                self._linger(self.listener.body)
            elif self.deaf:  # closing now would reset the connection, and the answer with it
                self._linger(DEAF_LINGER)
                with contextlib.suppress(OSError, RuntimeError):  # reset meanwhile: the answer is out
                    self.transport.write_eof()
            else:
                self.finish()
            return
        if self.pipeline:
            cycle = self.pipeline.pop()
            self._begin(cycle)
            if not cycle.more_body:
                self.phase = "busy"
                self.deadline = FOREVER
        elif self.cycle is not None and not self.cycle.more_body:
            self.phase = "idle"
            self.deadline = self.loop.time() + self.listener.idle
        else:
            self._linger(self.listener.body)

    def _linger(self, wait: float) -> None:
        """Answered early: let the client finish sending, within bounds, so that it reads the answer."""
        self.phase = "linger"
        self.deadline = self.loop.time() + wait

    # Flow.

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()
            if self.phase == "body":
                self.deadline = FOREVER  # it is not the client who is slow now

    def resume_reading(self) -> None:
        """More of a body is wanted, or the next request."""
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
            if self.phase == "body" and self.cycle is not None:
                now = self.loop.time()
                self.body_began = max(self.body_began, now - self.cycle.received / MIN_RATE)
                self.deadline = now + self.listener.body

    def pause_writing(self) -> None:
        self.write_deadline = self.loop.time() + self.listener.write
        if self.writable is None:
            self.writable = self.loop.create_future()
        if self.way is not None:
            self.way.full = True

    def resume_writing(self) -> None:
        self.write_deadline = FOREVER
        if self.way is not None:
            self.way.full = False
        writable, self.writable = self.writable, None
        if writable is not None:
            writable.set_result(None)

    def short_way(self) -> ShortWay:
        """One for the answer that is being written."""
        transport = self.transport
        way = self.way = ShortWay(transport.write, transport.is_closing, self.writable is not None)
        return way

    async def drained(self) -> None:
        """Wait until the client takes more, or has gone."""
        if self.writable is not None:
            await asyncio.wait((self.writable,))

    # Bounds.

    def expire(self, now: float) -> None:
        """A deadline has passed; called by the server's ticker."""
        if self.write_deadline <= now or self.transport.is_closing():
            self.transport.abort()
        elif self.phase in ("idle", "linger"):
            self.finish()
        elif self.due is not None:  # of a slow client, which may not be let in at all
            self.serve_due()
        else:
            self.refuse(ApiError(408, f"The request's {self.phase} took too long to arrive."))

    def refuse(self, error: ApiError) -> None:
        """Answer what is no proper request, where an answer still can be given, and close."""
        cycle = self.serving
        if self.phase == "head" or (self.phase == "body" and cycle is not None and not cycle.started):
            request_id = self.listener.request_id()
            body = error.body(request_id)
            lines = [b"%s: %s\r\n" % header for header in error.headers(request_id)]
            head = STATUS_LINE[error.status] + b"".join(lines)
            self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        if cycle is not None and not cycle.complete:
            self._abandon(cycle)
        self.finish()

    def finish(self) -> None:
        """Close once what was written is read, within the time that writing may take."""
        self.deadline = self.loop.time() + self.listener.write
        self.transport.close()

    def shutdown(self) -> None:
        """The server stops: close when idle, else after the present answer."""
        if self.phase in ("idle", "head"):
            self.finish()
        else:
            for cycle in (self.serving, self.cycle):
                if cycle is not None:
                    cycle.keep_alive = False


def _address(found: Any) -> tuple[str, int | None] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, list | tuple) and len(found) >= 2 else None
