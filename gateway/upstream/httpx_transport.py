"""HTTP to one origin through httpx: the way out over a proxy (http, https, SOCKS5), or by HTTP/2.

Every connection is an httpx transport of its own, and this module keeps the idle ones: so that giving up one exchange
closes one connection and nothing beside it, by HTTP/2 too, where httpx would neither reset the stream nor return its
window. Of httpx the transport alone is used, beneath the client: no redirects, cookies, default headers, environment.
A request counts as sent from the moment httpx starts to write it; its trace tells. Nothing is sent twice: httpx would
repeat by itself what an HTTP/2 upstream did not take (see `httpx_farewell`), and is stopped before it writes again.

httpx reads nothing before it has written the request. So an upload goes on after an early answer, which is returned if
the upstream takes the upload to its end; one that answers early and then closes, or takes nothing for `Timeouts.idle`,
leaves the request unanswered. A connection lost while the upload's next piece is waited for is noticed when it comes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import httpx

from gateway.upstream.connection import HIGH_WATER
from gateway.upstream.http1 import UNSAFE
from gateway.upstream.httpx_farewell import Farewell, Unprocessed, farewell
from gateway.upstream.httpx_feed import Feed
from gateway.upstream.keepalive import keep_alive
from gateway.upstream.transport import (
    FirstByteTimeout,
    IdleTimeout,
    Interrupted,
    NotSent,
    Origin,
    Timeouts,
    TransportError,
    Unable,
    Unanswered,
    Upload,
    not_connected,
)

_REFUSED_STREAM = 7  # by RFC 9113, 8.7: nothing was done with it


class Target(httpx.URL):
    """A URL whose path goes out as it came; httpx would resolve its dots and quote what it finds odd."""

    def __init__(self, base: httpx.URL, target: bytes) -> None:
        super().__init__(base)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


class Line:
    """One httpx transport with at most one connection: by its trace, how far a request has come on it."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.idle_since = 0.0
        self._stream: Any = None  # what httpx calls the network stream: the TCP connection below TLS and tunnels
        self._first_byte = 0.0
        self._deadline = asyncio.timeout(None)
        self._event = ""
        self._sent = False
        self._feed: Feed | None = None
        self._farewell: Farewell | None = None

    @property
    def leaving(self) -> bool:
        """Whether the upstream has said that it takes no further request on this connection."""
        return self._farewell is not None and self._farewell.leaving

    async def left(self) -> bool:
        """Whether the upstream has left while nothing was asked; over HTTP/1.1 httpx sees to that and connects anew."""
        return self._farewell is not None and await self._farewell.left()

    async def send(self, request: httpx.Request, connect: float, first_byte: float) -> httpx.Response:
        """The response to one request, its body unread. Raises NotSent or Unanswered, and closes itself then."""
        self._sent = False
        self._first_byte = first_byte
        self._feed = request.stream if isinstance(request.stream, Feed) else None
        request.extensions["trace"] = self._trace
        try:
            async with asyncio.timeout(connect) as self._deadline:
                if self._feed is not None:
                    self._feed.deadline = self._deadline
                response = await self.transport.handle_async_request(request)
            if response.status_code == 101:
                raise Unanswered("the upstream changed the protocol unasked")
        except BaseException as problem:
            await self.close()
            if isinstance(problem, TransportError) or not isinstance(problem, Exception):
                raise
            if self._feed is not None and problem is self._feed.problem:
                raise
            # What comes up through httpx from its parsers and its network layer has no common base.
            raise self._translate(problem) from problem
        self._feed = None  # an idle connection keeps no upload
        return response

    def _translate(self, problem: Exception) -> TransportError:
        reason = str(problem) or type(problem).__name__
        late = isinstance(problem, TimeoutError)
        if not self._sent:
            return NotSent("connecting took too long") if late else not_connected(problem)
        if late and self._feed is not None and self._event != "send_request_body.complete":
            return Unanswered("the upstream stopped taking the request")
        if late:
            return FirstByteTimeout("no response head in time")
        if isinstance(problem, httpx.LocalProtocolError) and self._event == "send_request_headers.failed":
            return NotSent(f"the request is not HTTP: {reason}")  # it was judged before anything was written
        if isinstance(problem, Unprocessed) or _refused(problem):
            if self._feed is not None and self._feed.begun:
                return Unanswered("the upstream has not taken the upload, of which a part is gone")
            return NotSent("the upstream has not taken the request")
        return Unanswered(f"the upstream did not answer: {reason}")

    async def _trace(self, name: str, info: dict[str, Any]) -> None:
        event = name.partition(".")[2]
        if self._sent and event in ("connect_tcp.started", "send_request_headers.started"):
            raise Unanswered("httpx was about to send the request again")
        if event == "connect_tcp.complete":
            self._stream = info["return_value"]
            keep_alive(self._stream.get_extra_info("socket"))  # httpx has no option for connections to proxies
        elif event == "start_tls.complete":
            self._farewell = farewell(info["return_value"])
        elif event == "send_request_headers.started" and info["request"].method != b"CONNECT":
            self._sent = True  # not so the proxy's CONNECT, which still is part of connecting
            if self._farewell is not None:
                self._farewell.expect(info["stream_id"])
        if not self._sent:
            return
        if event in ("send_request_headers.started", "send_request_body.complete"):
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._first_byte)
        if event.startswith("send_request_"):
            self._event = event

    async def close(self) -> None:
        """Abort the connection. httpx alone would forget one whose TLS or SOCKS handshake was given up."""
        if self._stream is not None:
            await self._stream.aclose()


def _refused(problem: Exception) -> bool:
    """Whether an HTTP/2 peer has given the stream back untouched."""
    event = problem.__cause__.args[0] if problem.__cause__ is not None and problem.__cause__.args else None
    return getattr(event, "stream_id", 0) > 0 and getattr(event, "error_code", 0) == _REFUSED_STREAM


class Exchange:
    """A response, read ahead of the caller by a task of its own up to the high-water mark."""

    def __init__(self, pool: HttpxTransport, line: Line, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._pool = pool
        self._line = line
        self._response = response
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._error: TransportError | None = None
        self._complete = False  # the body has arrived
        self._over = False  # and the connection is back: who has read the end may use it
        self._closed = False
        self._running = False
        self._task = pool.start(self._pump())

    def __repr__(self) -> str:
        return f"<Exchange {self.status} {'complete' if self._complete else 'closed' if self._closed else 'body'}>"

    @property
    def complete(self) -> bool:
        return self._complete

    async def read(self, direct: Callable[[bytes], bool] | None = None) -> bytes:
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks = []
                self._size = 0
                self._room.set()
                return data
            if self._error is not None:
                raise self._error
            if self._over:
                return b""
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None

    def interrupt(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._chunks = []
            self._stop(Interrupted(reason))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._complete:
                self._stop(Interrupted("the exchange was closed before its end"))

    def _stop(self, error: TransportError) -> None:
        if self._error is None:
            self._error = error
        if self._running and not self._complete:
            self._task.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _pump(self) -> None:
        """Read the body to its end, then hand the connection back: kept if the body was whole."""
        self._running = True  # a task cancelled before it first ran would leave the connection behind
        clean = False
        try:
            if self._error is None:
                await self._receive()
                self._complete = True
                spare = surplus(self._response)
                await self._response.stream.aclose()  # type: ignore[union-attr]  # by httpx's transport, always async
                clean = not spare and not self._line.leaving
        except TimeoutError:
            self._fail(IdleTimeout("the upstream fell silent inside its answer"))
        except asyncio.CancelledError:
            self._fail(Interrupted("the exchange was given up"))
        except Exception as problem:  # see Line.send
            reason = str(problem) or type(problem).__name__
            self._fail(Interrupted(f"the upstream broke off inside its answer: {reason}"))
        finally:
            await self._pool.release(self._line, clean)
            self._over = self._complete
            self._wake()

    def _fail(self, error: TransportError) -> None:
        if self._error is None and not self._complete:
            self._error = error

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        idle = self._pool.timeouts.idle
        async with (
            asyncio.timeout(idle) as deadline,
            aclosing(self._response.stream.__aiter__()) as parts,  # type: ignore[union-attr, type-var]
        ):
            async for part in parts:
                if part:
                    self._chunks.append(part)
                    self._size += len(part)
                    self._wake()
                if self._size > HIGH_WATER:  # the client is slow, not the upstream
                    deadline.reschedule(None)
                    self._room.clear()
                    await self._room.wait()
                deadline.reschedule(loop.time() + idle)


def surplus(response: httpx.Response) -> bool:
    """Whether an HTTP/1.1 upstream has sent more than its answer.

    httpx would take what is left over for the answer to the next request. It offers no way to ask; where its insides
    are not the known ones, the connection is not trusted. What still lies in the socket httpx finds by itself.
    """
    if response.extensions["http_version"] == b"HTTP/2":
        return False
    network = response.extensions["network_stream"]
    try:
        parser = response.stream._httpcore_stream._stream._connection._h11_state  # type: ignore[union-attr]
        stream = network._stream
        while not hasattr(stream, "_protocol"):
            stream = stream.transport_stream
        if parser.trailing_data[0] or stream._protocol.read_queue:
            return True
    except AttributeError:
        return True
    tls: ssl.SSLObject | None = network.get_extra_info("ssl_object")
    if tls is None:
        return False
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True


class HttpxTransport:
    """Connections to one origin by httpx; a `Transport`. Idle ones are used last in, first out."""

    def __init__(self, origin: Origin, timeouts: Timeouts) -> None:
        self.origin = origin
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self.idle: list[Line] = []
        self.busy: set[Line] = set()
        scheme = "https" if origin.secure else "http"
        self._base = httpx.URL(scheme=scheme, host=origin.host, port=origin.port)
        self._context = origin.context() or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the latter trusts nobody
        self._proxy = None if origin.proxy is None else self._way_out(origin.proxy)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<HttpxTransport {self.origin.host}:{self.origin.port} idle={len(self.idle)} busy={len(self.busy)}>"

    def _way_out(self, url: str) -> httpx.Proxy:
        """The proxy; one reached by TLS may be known to the system or to the origin's trust anchors."""
        if not url.lower().startswith("https:"):
            return httpx.Proxy(url)
        context = ssl.create_default_context()
        if self.origin.ca_file is not None:
            context.load_verify_locations(self.origin.ca_file)
        return httpx.Proxy(url, ssl_context=context)

    ready = False

    def begin(self, method: bytes, path: bytes, headers: bytes, body: bytes, first_byte: float) -> None:
        return None  # it always waits

    async def send(
        self, method: bytes, path: bytes, headers: bytes, body: bytes | Upload, *, first_byte: float | None = None
    ) -> Exchange:
        target = self.origin.prefix + path
        if UNSAFE.search(target):
            raise NotSent("the request target holds bytes that HTTP does not allow")
        request = self._request(method, target, headers, body)
        limit = self.timeouts.first_byte
        line = await self._pick()
        if line is None:
            if self._closing:
                raise Unable("the transport is closed")
            line = self._line()
            self.busy.add(line)
        try:
            response = await line.send(
                request, self.timeouts.connect, limit if first_byte is None else min(limit, first_byte)
            )
        except BaseException:
            self._forget(line)
            raise
        return Exchange(self, line, response)

    def _request(self, method: bytes, target: bytes, headers: bytes, body: bytes | Upload) -> httpx.Request:
        lines = [(b"host", self.origin.authority)]
        for line in headers.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                lines.append((name, value.strip(b" \t")))
        stream: httpx.AsyncByteStream
        if isinstance(body, bytes):
            stream = httpx.ByteStream(body)
            if body or method != b"GET":
                lines.append((b"content-length", b"%d" % len(body)))
        else:
            stream = Feed(body, self.timeouts.idle)
            size = body.size
            lines.append((b"transfer-encoding", b"chunked") if size is None else (b"content-length", b"%d" % size))
        request = httpx.Request(method.decode("ascii"), self._base, headers=lines, stream=stream)
        request.url = Target(self._base, target)
        return request

    def _line(self) -> Line:
        return Line(
            httpx.AsyncHTTPTransport(
                verify=self._context,
                trust_env=False,
                http2=self.origin.http2,
                limits=httpx.Limits(keepalive_expiry=None),
                proxy=self._proxy,
                retries=0,
            )
        )

    async def _pick(self) -> Line | None:
        """An idle connection that the upstream has not left; it is busy from now on."""
        self._expire()
        while self.idle:
            line = self.idle.pop()
            self.busy.add(line)
            left = True
            try:
                left = await line.left()
            finally:
                if left:
                    self._drop(line)
            if not left:
                return line
        return None

    def _drop(self, line: Line) -> None:
        self.start(line.close())
        self._forget(line)

    def _expire(self) -> None:
        """Close what was idle for too long, and look again when the next one will have been."""
        now = self.loop.time()
        while self.idle and self.idle[0].idle_since + self.timeouts.keep_alive <= now:
            self.start(self.idle.pop(0).close())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.idle and not self._closing:
            self._timer = self.loop.call_at(self.idle[0].idle_since + self.timeouts.keep_alive, self._expire)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what nobody waits for; `aclose` does."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def release(self, line: Line, reusable: bool) -> None:
        """Take back a connection whose exchange is over."""
        if reusable and not self._closing:
            line.idle_since = self.loop.time()
            self.idle.append(line)
            self._forget(line)
            if self._timer is None:
                self._expire()
        else:
            self._forget(line)
            await line.close()

    def _forget(self, line: Line) -> None:
        self.busy.discard(line)
        if not self.busy:
            self._quiet.set()

    async def aclose(self) -> None:
        self._closing = True
        while self.idle:
            self.start(self.idle.pop().close())
        self._expire()
        while self.busy:
            self._quiet.clear()
            await self._quiet.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)
