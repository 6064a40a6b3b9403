"""The tick-batched store client: every script call of one loop tick leaves in one write, on one connection.

For the hot scripts alone; topology, pub/sub and administration use redis-py. An unreachable store is a state, not a
surprise: calls fail at once with StoreDown while it lasts, and the client reconnects by itself. It does not know what
the scripts mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from gateway.store.scripts import Script

BUDGET = 0.05  # seconds a caller waits for a reply before the store counts as away
MAX_WAITING = 50_000  # calls in flight beyond which the store counts as overloaded
_PROBE = 1.0  # seconds for connecting and the handshake
_BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)
Arg = str | bytes | int
_pack = cast(Callable[[tuple[Arg, ...]], bytes], hiredis.pack_command)


def redis_url(url: str) -> str:
    """The URL as redis-py reads it: valkey:// means redis://, valkeys:// means rediss://."""
    return "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url


class StoreDown(Exception):
    """The store cannot be asked now: not connected, too slow, or it refused (LOADING, READONLY, OOM ...)."""


class _Call:
    __slots__ = ("args", "future", "script", "sent")

    def __init__(self, script: Script, args: tuple[Arg, ...], future: asyncio.Future[Any] | None) -> None:
        self.script = script
        self.args = args
        self.future = future
        self.sent = 0.0  # loop time of the write that carried it, 0 before


class _Connection(asyncio.Protocol):
    def __init__(self, client: StoreClient) -> None:
        self.client = client
        self.reader = hiredis.Reader()
        self.waiting: deque[_Call | asyncio.Future[Any]] = deque()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        try:
            while (reply := self.reader.gets()) is not False:
                self.client.answered(self.waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.client.lost(self, f"connection lost ({exc or 'closed by the server'})")


class StoreClient:
    """One connection to the store at `url` (redis://, rediss://, unix://), for one event loop.

    `on_change(up, reason)` is called at each transition.
    """

    def __init__(self, url: str, *, on_change: Callable[[bool, str], None] | None = None) -> None:
        self._url = cast(dict[str, Any], parse_url(redis_url(url)))
        self._on_change = on_change or (lambda up, reason: None)
        self._connection: _Connection | None = None
        self._out: list[bytes] = []
        self._unsent: list[_Call] = []
        self._armed = False
        self._up_since = 0.0
        self._watching = False
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self.loop = asyncio.get_running_loop()
        self._first: asyncio.Future[None] = self.loop.create_future()

    @property
    def up(self) -> bool:
        """Whether calls are accepted now."""
        return self._connection is not None

    async def start(self, wait: float = _PROBE) -> bool:
        """Connect, for at most `wait` seconds, and go on trying in the background; True if the store is up."""
        self._keeper = self.loop.create_task(self._keep())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._first), wait)
        return self.up

    async def close(self) -> None:
        """Wait until what was posted is answered (bounded), then disconnect."""
        self._closing = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(TimeoutError, StoreDown):
                async with asyncio.timeout(_PROBE):
                    while connection.waiting:  # replies come in order; what the server did not know was sent again
                        await self._ask(connection, "PING")
        if self._keeper is not None:
            self._keeper.cancel()
        if connection is not None:
            connection.transport.close()
        self._connection = None

    # Calls.

    def call(self, script: Script, args: tuple[Arg, ...]) -> asyncio.Future[Any]:
        """Run `script`; `args` are the number of keys, the keys, the arguments. The future may raise StoreDown."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._put(_Call(script, args, future), b"")
        return future

    def post(self, script: Script, args: tuple[Arg, ...]) -> None:
        """Run `script`; nobody waits for the reply. Raises StoreDown."""
        self._put(_Call(script, args, None), b"")

    def _put(self, call: _Call, evaluate: bytes) -> None:
        connection = self._connection
        if connection is None or len(connection.waiting) > MAX_WAITING:
            raise StoreDown("the store is away" if connection is None else "the store is overloaded")
        if evaluate:
            self._out.append(_pack((evaluate, call.script.text, *call.args)))
        else:
            self._out.append(_pack(("EVALSHA", call.script.sha, *call.args)))
        connection.waiting.append(call)
        self._unsent.append(call)
        if not self._armed:
            self._armed = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._armed = False
        out, self._out = self._out, []
        calls, self._unsent = self._unsent, []
        if self._connection is not None:
            now = self.loop.time()
            for call in calls:
                call.sent = now
            self._connection.transport.write(b"".join(out))
            if not self._watching:
                self._watching = True
                self.loop.call_later(BUDGET / 2, self._watch)

    def answered(self, asked: _Call | asyncio.Future[Any], reply: Any) -> None:
        """A reply has come for the oldest question of the connection."""
        if not isinstance(asked, _Call):  # of the handshake
            if not asked.done():
                asked.set_result(reply)
            return
        future = asked.future
        if type(reply) is hiredis.ReplyError:
            if str(reply).startswith("NOSCRIPT"):
                with contextlib.suppress(StoreDown):
                    self._put(asked, b"EVAL")
                    return
            if future is not None and not future.done():
                future.set_exception(StoreDown(str(reply)))
        elif future is not None and not future.done():
            future.set_result(reply)

    def _watch(self) -> None:
        """Look whether the oldest call is within its budget, as long as anything is in flight."""
        connection = self._connection
        if connection is None or not connection.waiting:
            self._watching = False
            return
        if self._late(connection):
            # This process itself may have been busy: let it read what has arrived before judging the store.
            self.loop.call_later(0.005, self._judge, connection)
        else:
            self.loop.call_later(BUDGET / 2, self._watch)

    def _judge(self, connection: _Connection) -> None:
        if connection is self._connection and self._late(connection):
            self.lost(connection, f"no reply within {BUDGET * 1000:.0f} ms")
        self._watch()

    def _late(self, connection: _Connection) -> bool:
        oldest = connection.waiting[0] if connection.waiting else None
        return isinstance(oldest, _Call) and oldest.sent > 0 and self.loop.time() - oldest.sent > BUDGET

    # The connection.

    def lost(self, connection: _Connection, reason: str) -> None:
        """The connection is unusable: fail what waits on it and start over."""
        connection.transport.abort()
        waiting, connection.waiting = connection.waiting, deque()
        for asked in waiting:
            future = asked.future if isinstance(asked, _Call) else asked
            if future is not None and not future.done():
                future.set_exception(StoreDown(reason))
        if connection is self._connection:
            self._connection = None
            self._out = []
            self._unsent = []
            if not self._closing:
                self._on_change(False, reason)
                # A server that hangs up at once is not asked again at once.
                self._keeper = self.loop.create_task(self._keep(attempt=int(self.loop.time() - self._up_since < 1.0)))

    async def _keep(self, attempt: int = 0) -> None:
        """Connect, however often it takes."""
        if attempt:
            await asyncio.sleep(_BACKOFF[attempt])
        while not self._closing:
            try:
                async with asyncio.timeout(_PROBE):
                    connection = await self._connect()
            except (OSError, TimeoutError, StoreDown) as error:
                if attempt == 0 and not self._first.done():
                    self._on_change(False, f"cannot connect ({str(error) or 'timed out'})")
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
                attempt += 1
                continue
            if connection.closed:  # between its last reply and now
                continue
            self._connection = connection
            self._up_since = self.loop.time()
            self._on_change(True, "connected")
            if not self._first.done():
                self._first.set_result(None)
            return

    async def _connect(self) -> _Connection:
        url = self._url
        if "path" in url:
            _, connection = await self.loop.create_unix_connection(lambda: _Connection(self), url["path"])
        else:
            host, port = url.get("host", "localhost"), url.get("port", 6379)
            _, connection = await self.loop.create_connection(lambda: _Connection(self), host, port, ssl=_tls(url))
        try:
            if url.get("password"):
                user = (url["username"],) if url.get("username") else ()
                await self._ask(connection, "AUTH", *user, url["password"])
            if url.get("db"):
                await self._ask(connection, "SELECT", str(url["db"]))
            await self._ask(connection, "PING")
        except BaseException:
            connection.transport.abort()
            raise
        return connection

    async def _ask(self, connection: _Connection, *command: str) -> Any:
        if connection.closed:
            raise StoreDown("connection lost")
        future: asyncio.Future[Any] = self.loop.create_future()
        if self._armed:
            self._flush()
        connection.waiting.append(future)
        connection.transport.write(_pack(command))
        reply = await future
        if isinstance(reply, hiredis.ReplyError):
            raise StoreDown(str(reply))
        return reply


def _tls(url: dict[str, Any]) -> ssl.SSLContext | None:
    """The TLS context that redis-py would make of the same URL."""
    if "connection_class" not in url or "SSL" not in url["connection_class"].__name__:
        return None
    context = ssl.create_default_context(cafile=url.get("ssl_ca_certs"))
    if url.get("ssl_certfile"):
        context.load_cert_chain(url["ssl_certfile"], url.get("ssl_keyfile"))
    if url.get("ssl_cert_reqs") in ("none", "optional") or url.get("ssl_check_hostname") in (False, "false", "False"):
        context.check_hostname = False
    if url.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
