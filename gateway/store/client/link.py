"""One server, kept connected: whenever its connection ends, another is made, however often that takes.

It decides what becomes of a call that the server refused. Where the server is may change with each attempt; who knows
where is its `locate`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from gateway import log
from gateway.store.client.connection import Again, Arg, Call, Connection, StoreDown, connect
from gateway.store.client.replies import Meaning, code, meaning
from gateway.store.client.topology import Access, Address

PROBE = 1.0  # seconds for finding the server, connecting and the handshake
_BACKOFF = (0.05, 0.1, 0.2, 0.5)

Redirect = Callable[[Connection, Call, Meaning, str], None]


class Link:
    """The server at `locate()`, with which `access` is had.

    `on_change(up, reason)` is called at each transition. `redirect` takes the calls that must be repeated at another
    server; without it, such a server is of no use. `master`: a server that says it is a replica is not the one.
    """

    def __init__(
        self,
        access: Access,
        locate: Callable[[], Awaitable[Address]],
        on_change: Callable[[bool, str], None],
        *,
        redirect: Redirect | None = None,
        master: bool = True,
    ) -> None:
        self.connection: Connection | None = None
        self._access = access
        self._locate = locate
        self._on_change = on_change
        self._redirect = redirect
        self._master = master
        self._loop = asyncio.get_running_loop()
        self._up_since = 0.0
        self._connected = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._complained: set[tuple[str, str]] = set()

    @property
    def up(self) -> bool:
        """Whether calls are accepted now."""
        return self.connection is not None

    def route(self, args: tuple[Arg, ...]) -> Connection | None:
        """The connection for a call with these arguments."""
        return self.connection

    def start(self) -> None:
        """Connect, in the background."""
        self._keeper = self._loop.create_task(self._keep(0, new=True))

    async def connected(self) -> Connection:
        """The connection, as soon as there is one."""
        while self.connection is None:
            await self._connected.wait()
        return self.connection

    async def close(self) -> None:
        """Wait until what was posted is answered (bounded), then disconnect."""
        self._closing = True
        connection = self.connection
        if connection is not None:
            with contextlib.suppress(TimeoutError, StoreDown):
                async with asyncio.timeout(PROBE):
                    await connection.drain()
        if self._keeper is not None:
            self._keeper.cancel()
        if connection is not None:
            connection.end("closed")

    # What a connection tells its owner.

    def refused(self, connection: Connection, call: Call, error: str) -> None:
        """Repeat the call where that helps, else fail it; leave a server that is not the master any more."""
        what = meaning(error)
        if what is Meaning.UNKNOWN_SCRIPT and not call.by_text:
            with contextlib.suppress(StoreDown):
                connection.put(Again(call, by_text=True), True)
                return
        if what in (Meaning.MOVED, Meaning.ASK):
            if self._redirect is not None:
                self._redirect(connection, call, what, error)
                return
            error += " (a cluster needs a redis+cluster:// URL)"
        call.fail(error)
        if call.refused is not None:
            call.refused(error)
        if what is Meaning.DEMOTED:
            connection.end(error)
        elif what not in (Meaning.REFUSED, Meaning.UNKNOWN_SCRIPT):
            self._complain(call.script.name, error)

    def _complain(self, script: str, error: str) -> None:
        if (script, code(error)) not in self._complained:
            self._complained.add((script, code(error)))
            log.error("a script fails; every call of it counts as store away", script=script, error=error[:300])

    def lost(self, connection: Connection, reason: str) -> None:
        """Start over."""
        if connection is not self.connection:
            return
        self.connection = None
        self._connected.clear()
        if not self._closing:
            self._on_change(False, reason)
            # A server that hangs up at once is not asked again at once.
            self._keeper = self._loop.create_task(self._keep(int(self._loop.time() - self._up_since < 1.0)))

    async def _keep(self, attempt: int, *, new: bool = False) -> None:
        """Connect, however often it takes."""
        if attempt:
            await asyncio.sleep(_BACKOFF[attempt])
        while not self._closing:
            try:
                async with asyncio.timeout(PROBE):
                    connection = await self._connect()
            except (OSError, StoreDown, UnicodeError) as error:  # the last of a host that is no name
                if new:
                    self._on_change(False, f"cannot connect ({str(error) or 'timed out'})")
                    new = False
                await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
                attempt += 1
                continue
            if connection.closed:  # between its last reply and now
                continue
            self.connection = connection
            self._connected.set()
            self._up_since = self._loop.time()
            self._on_change(True, "connected")
            return

    async def _connect(self) -> Connection:
        connection = await connect(await self._locate(), self._access, self)
        try:
            if self._master and await _is_replica(connection):
                raise StoreDown("the server is a replica")
        except BaseException:
            connection.end("not the master")
            raise
        return connection


class FixedLink(Link):
    """A link to the server at one address."""

    def __init__(
        self,
        address: Address,
        access: Access,
        on_change: Callable[[bool, str], None],
        *,
        redirect: Redirect | None = None,
        master: bool = True,
    ) -> None:
        async def locate() -> Address:
            return address

        super().__init__(access, locate, on_change, redirect=redirect, master=master)


async def _is_replica(connection: Connection) -> bool:
    try:
        role = await connection.ask("ROLE")
    except StoreDown:
        if connection.closed:
            raise
        return False  # who may not ask believes
    return isinstance(role, list) and role[:1] == [b"slave"]
