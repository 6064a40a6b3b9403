"""The data listener: uvicorn with a protocol that bounds what a client may take, and answers in Anthropic's JSON.

Head size, head time, body pace, idle time, unread output and the number of connections are bounded; deadlines are
compared once a second for all connections, so that no timer is made for a request. When a client goes, the task that
serves it is cancelled. It does not know endpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.config.schema import Config
from gateway.errors import ApiError
from gateway.listen.cycle import CHUNK, TASK, App, Cycle

FOREVER = float("inf")
MIN_RATE = 16 * 1024  # bytes a second of request body: what is slower than this is an attack, not a client
MAX_DISCARDED = 48 * 1024 * 1024  # bytes read and thrown away after an answer, so that it is seen
DEAF_LINGER = 5.0  # seconds that a client may still send what nobody asked for, once it has its answer
MAX_PIPELINED = 8  # requests waiting on one connection; beyond it reading pauses, and its end is not noticed
MAX_QUEUED = 1024 * 1024  # bytes of body of a request that waits there; the same
OTHER_FILES = 64  # descriptors of a process that are no connection of a client's or to an account
MAX_UNREAD = 192 * 1024  # bytes written and not yet taken by the client at which writing pauses


_SHORT = 256  # bytes of a request target that is remembered
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class _TooLarge(Exception):
    """The request head is beyond its bound."""


class Bounds:
    """What bounds the connections of one server, how to name a request, and who is told of a limit that refused one:
    its scope and its name. Clients get half of the descriptors at most: answers need the others."""

    def __init__(self, config: Config, request_id: Callable[[], str], throttled: Callable[[str, str], None]) -> None:
        self.head_bytes = config.limits.max_head_kb * 1024
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.connections = min(config.limits.max_connections, max(1, (files - OTHER_FILES) // 2))
        self.head = config.timeouts.client_head
        self.body = config.timeouts.client_body
        self.idle = config.timeouts.client_idle
        self.write = config.timeouts.write
        self.request_id = request_id
        self.throttled = throttled


@lru_cache(maxsize=256)
def _split(url: bytes) -> tuple[bytes, bytes, str]:
    """Path, query and decoded path of a request target. Raises HttpParserInvalidURLError."""
    raw_path, _, query = url.partition(b"?")
    if not raw_path.startswith(b"/") or b"#" in url:
        raise httptools.HttpParserInvalidURLError("origin-form expected")
    path = raw_path.decode("latin-1")
    return raw_path, query, urllib.parse.unquote(path) if "%" in path else path


class Connection(HttpToolsProtocol):
    """One client connection. Phases: `idle`, `head` (arriving), `body` (arriving), `busy` (being answered), `linger`
    (answered before its body had arrived)."""

    bounds: Bounds  # set on the subclass that a server makes
    server_draining = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        self.deaf = False
        self.discarded = 0
        self.serving: Cycle | None = None  # whose answer is due; later ones on this connection wait in the pipeline
        self.phase = "head"
        self.unparsed = 0
        self.wide = False
        self.write_deadline = FOREVER
        self.deadline = self.loop.time() + self.bounds.head
        if len(self.connections) > self.bounds.connections:
            self.bounds.throttled("gateway", "connections")
            self._refuse(ApiError(529, "The gateway has too many open connections.", retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.pipeline.clear()
        if self.serving is not None:
            self._abandon(self.serving)

    @staticmethod
    def _abandon(cycle: Cycle) -> None:
        """Nobody waits for this answer any more. Its task is told once: what it still does then must not be ended."""
        cycle.disconnected = True
        cycle.wake()
        task = cycle.task
        if task is not None and not cycle.response_complete:
            cycle.task = None
            task.cancel()
            cycle.connection.tasks.discard(task)  # one that has not begun will not do it itself

    def eof_received(self) -> None:
        """A half-close counts as gone: nobody would know whether the other half still listens."""
        if self.serving is not None and not self.serving.response_complete:
            self._abandon(self.serving)
        self.finish()

    # What arrives.

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.discarded += len(data)
            if self.discarded > MAX_DISCARDED:
                self.finish()
            return
        if self.phase == "idle":
            self.phase = "head"
            self.deadline = self.loop.time() + self.bounds.head
        self.wide = len(data) > self.bounds.head_bytes  # only then can one segment hold too large a head whole
        self.unparsed += len(data)  # until a callback takes it back: the parser holds unfinished fields by itself
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._ignore_upgrade(data[offer.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _TooLarge):
                self._refuse(ApiError(431, f"The request head is larger than {self.bounds.head_bytes} bytes."))
            elif isinstance(error.__context__, httptools.HttpParserError):
                self._refuse(ApiError(400, "Invalid request target."))
            else:
                raise
        except httptools.HttpParserError:
            if self.phase == "busy":
                self._ignore_rest()
            else:
                self._refuse(ApiError(400, "Invalid HTTP request."))
        else:
            if self.unparsed > self.bounds.head_bytes + 1024:
                self._refuse(ApiError(431, f"The request head is larger than {self.bounds.head_bytes} bytes."))

    def _ignore_rest(self) -> None:
        """What follows a request that is being answered is none: answer those that were whole, then close."""
        self.deaf = True
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self.serving
        if last is not None:
            last.keep_alive = False

    def _ignore_upgrade(self, rest: bytes) -> None:
        """An offer to speak another protocol (h2c, mostly) may be ignored. The parser takes what follows the head for
        that protocol, so another one reads the body, by the same framing; after it the connection closes."""
        self.cycle.keep_alive = False
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%b: %b\r\n" % header for header in self.cycle.scope["headers"] if header[0] in framing]
        self.parser = httptools.HttpRequestParser(_BodyOf(self))
        self.data_received(b"POST / HTTP/1.1\r\n%b\r\n%b" % (b"".join(lines), rest))

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.wide and sum(len(name) + len(value) + 4 for name, value in self.headers) > self.bounds.head_bytes:
            raise _TooLarge
        url = self.url
        raw_path, query, path = _split(url) if len(url) <= _SHORT else _split.__wrapped__(url)
        version = self.parser.get_http_version()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "method": self.parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
        }
        self.headers = []  # trailers end here, not among the headers
        self.unparsed = 0
        self.scope = cast(Any, scope)
        previous = cast(Cycle | None, cast(Any, self.cycle))
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        cycle = Cycle(self, scope, keep_alive, self.expect_100_continue and version == "1.1")
        self.cycle = cast(Any, cycle)
        if previous is None or previous.response_complete:
            self._begin(cycle)
        else:  # pipelined: its turn comes when the present answer is out
            if len(self.pipeline) >= MAX_PIPELINED:
                self.flow.pause_reading()
            self.pipeline.appendleft(cast(Any, (cycle, self.app)))

    def _begin(self, cycle: Cycle) -> None:
        self.serving = cycle
        self.phase = "body"
        self.body_began = self.loop.time()
        self.deadline = self.body_began + self.bounds.body
        self._start_asgi_task(cycle, self.app)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.scope[CHUNK] = cycle.pass_chunk
        task = cycle.task = cycle.scope[TASK] = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        cycle: Cycle = self.cycle  # type: ignore[assignment]
        self.unparsed = 0
        size = len(body)
        cycle.received += size
        if self.phase == "body":
            self.deadline = self.body_began + self.bounds.body + cycle.received / MIN_RATE
        if cycle.response_complete:
            if cycle.received > MAX_DISCARDED:
                self.finish()
            return
        chunks = cycle.chunks
        chunks.append(body)
        cycle.pending += size
        if len(chunks) > 1 and cycle.pending > (HIGH_WATER_LIMIT if cycle is self.serving else MAX_QUEUED):
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        self.unparsed = 0
        if self.parser.should_upgrade():
            return  # its body is still to come: see _ignore_upgrade
        cycle: Cycle = self.cycle  # type: ignore[assignment]
        cycle.more_body = False
        if self.phase == "body":
            self.phase = "busy"
            self.deadline = FOREVER
        if not cycle.response_complete:
            cycle.wake()
        elif cycle.keep_alive:
            self._rest()
        else:
            self.finish()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self.serving is None:
            return
        self.flow.resume_reading()
        if not self.serving.keep_alive:
            if self.serving.more_body and not self.serving.waiting_for_100_continue:
                self._linger(self.bounds.body)
            elif self.deaf:  # closing now would reset the connection, and the answer with it
                self._linger(DEAF_LINGER)
                with contextlib.suppress(OSError, RuntimeError):  # reset meanwhile: the answer is out
                    self.transport.write_eof()
            else:
                self.finish()
            return
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            self._begin(cast(Any, cycle))
            if not cycle.more_body:
                self.phase = "busy"
                self.deadline = FOREVER
        elif not self.cycle.more_body:
            self._rest()
        else:
            self._linger(self.bounds.body)

    def _linger(self, wait: float) -> None:
        """Answered early: let the client finish sending, within bounds, so that it reads the answer."""
        self.phase = "linger"
        self.deadline = self.loop.time() + wait

    def _rest(self) -> None:
        self.phase = "idle"
        self.deadline = self.loop.time() + self.bounds.idle

    # Bounds.

    def pause_writing(self) -> None:
        self.write_deadline = self.loop.time() + self.bounds.write
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.write_deadline = FOREVER
        self.flow.resume_writing()

    def expire(self, now: float) -> None:
        """A deadline has passed; called by the server's ticker."""
        if self.write_deadline <= now or self.transport.is_closing():
            self.transport.abort()
        elif self.phase in ("idle", "linger"):
            self.finish()
        else:
            self._refuse(ApiError(408, f"The request's {self.phase} took too long to arrive."))

    def _refuse(self, error: ApiError) -> None:
        """Answer what is no proper request, where an answer still can be given, and close."""
        cycle = self.serving
        if self.phase == "head" or (self.phase == "body" and cycle is not None and not cycle.response_started):
            request_id = self.bounds.request_id()
            body = error.body(request_id)
            lines = [b"%s: %s\r\n" % header for header in error.headers(request_id)]
            head = STATUS_LINE[error.status] + b"".join(lines)
            self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        if cycle is not None and not cycle.response_complete:
            self._abandon(cycle)
        self.finish()

    def finish(self) -> None:
        """Close once what was written is read, within the time that writing may take."""
        self.deadline = self.loop.time() + self.bounds.write
        self.transport.close()

    def shutdown(self) -> None:
        """The server stops: close when idle, else after the present answer."""
        if self.phase in ("idle", "head"):
            self.finish()
        else:
            for cycle in (self.serving, self.cycle):
                if cycle is not None:
                    cycle.keep_alive = False


class _BodyOf:
    """Callbacks for a parser that reads only the body of a connection's request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_body(self, body: bytes) -> None:
        if not self._connection.deaf:
            self._connection.on_body(body)

    def on_message_complete(self) -> None:
        if not self._connection.deaf:
            self._connection.deaf = True  # to whatever follows
            self._connection.on_message_complete()


class Server(uvicorn.Server):
    """One worker's data listener. Signals are its owner's business."""

    def __init__(
        self,
        app: App,
        config: Config,
        request_id: Callable[[], str],
        throttled: Callable[[str, str], None] = lambda scope, reason: None,
    ) -> None:
        bounds = Bounds(config, request_id, throttled)
        self.protocol = cast(type[Connection], type("BoundedConnection", (Connection,), {"bounds": bounds}))
        super().__init__(
            uvicorn.Config(
                cast(Any, app),
                http=self.protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                date_header=False,
                server_header=False,
                proxy_headers=False,
                backlog=4096,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self.listening = asyncio.Event()
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._bounds = asyncio.get_running_loop().create_task(self._keep_bounds())
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        """Accept no more, close what is idle, and let `serve` return when the answers under way are whole."""
        self.should_exit = True
        self._ending.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            self._bounds.cancel()

    async def _keep_bounds(self) -> None:
        """Compare every connection's deadlines once a second, while draining too."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            for connection in [c for c in self.server_state.connections if isinstance(c, Connection)]:
                if connection.deadline <= now or connection.write_deadline <= now:
                    connection.expire(now)

    def drain(self) -> None:
        """From now on every answer closes its connection, so that clients move on to another process."""
        self.protocol.server_draining = True
