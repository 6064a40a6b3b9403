"""A cluster: one link to each primary, and the map that says which of them has a key's slot.

The map comes from any node; it is asked for again when a node redirects a call and, until all is well again, when a
node is away. All keys of one call lie in one slot.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.store.client.connection import Again, Arg, Call, Connection, Nobody, StoreDown, connect
from gateway.store.client.link import PROBE, FixedLink, Link
from gateway.store.client.replies import Meaning, named, redirection
from gateway.store.client.topology import Access, Address

SLOTS = 16_384
REDIRECTIONS = 2  # of one call: to the slot's new owner, and from there to the one it is moving to
_AGAIN = 0.5  # seconds between two looks at the map of a cluster that is not whole
_PAUSE = 0.05  # seconds between two looks at most
_ASK_WAIT = 0.5  # seconds for the map from one node
Map = dict[tuple[str, int], list[tuple[int, int]]]  # address of a primary: its ranges of slots, both ends included


class Cluster:
    """The cluster that some of `seeds` belong to. `on_change(up, reason)` is called at each transition."""

    def __init__(self, seeds: tuple[Address, ...], access: Access, on_change: Callable[[bool, str], None]) -> None:
        self._seeds = seeds
        self._access = access
        self._on_change = on_change
        self._links: dict[tuple[str, int], Link] = {}
        self._owners: list[Link | None] = [None] * SLOTS
        self._serving: set[Link] = set()  # those that own slots
        self._whole = False  # every slot has an owner
        self._told: bool | None = None
        self._stale = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether every slot has a primary and all of these are connected; calls may be accepted without."""
        return self._whole and all(link.up for link in self._serving)

    def route(self, args: tuple[Arg, ...]) -> Connection | None:
        """The connection to the primary that has the first key; to any, for a call without keys."""
        if args[0] == 0:
            return next((link.connection for link in self._serving if link.up), None)
        key = args[1]
        link = self._owners[slot_of(key if isinstance(key, bytes) else str(key).encode())]
        return None if link is None else link.connection

    def start(self) -> None:
        """Connect, in the background."""
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Wait until what was posted is answered (bounded), then disconnect."""
        if self._follower is not None:
            self._follower.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PROBE)
        await asyncio.gather(*(link.close() for link in self._links.values()))

    # Calls that belong elsewhere.

    def _redirect(self, connection: Connection, call: Call, what: Meaning, error: str) -> None:
        try:
            slot, address = redirection(error, connection.host)
        except ValueError:
            call.fail(error)
            return
        if call.redirections >= REDIRECTIONS:
            call.fail(f"sent from node to node ({error})")
            return
        link = self._link(address)
        if what is Meaning.MOVED:
            self._stale.set()
            self._owners[slot] = link
            self._serving.add(link)
        again = Again(call, redirected=True, asking=what is Meaning.ASK)
        if link.connection is None:
            self._spawn(self._repeat(link, again))
        else:
            try:
                link.connection.put(again, True)
            except StoreDown as problem:
                again.fail(str(problem))

    async def _repeat(self, link: Link, call: Call) -> None:
        """Send the call as soon as its node is connected, within the time a caller waits."""
        try:
            async with asyncio.timeout(self._access.budget):
                (await link.connected()).put(call, True)
        except (TimeoutError, StoreDown) as error:
            call.fail(str(error) or "the node that has the slot cannot be reached")

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The map.

    async def _follow(self) -> None:
        """Keep the map in step with the cluster."""
        while True:
            self._stale.clear()
            try:
                await self._apply(await self._read())
            except StoreDown as error:
                self._judge(f"cannot connect ({error})")
            else:
                self._judge("not every slot has a reachable primary")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.up else _AGAIN):
                    await self._stale.wait()
            await asyncio.sleep(_PAUSE)

    async def _read(self) -> Map:
        """The map of the first node that knows an owner for every slot, else the fullest. Raises StoreDown."""
        best: Map = {}
        problem = "no node knows any slots"
        linked = [address for address, link in self._links.items() if link.up]
        random.shuffle(linked)
        for address in [*linked, *(seed for seed in self._seeds if seed not in linked)]:
            try:
                async with asyncio.timeout(_ASK_WAIT):
                    found = await self._ask(address)
            except (OSError, StoreDown, UnicodeError) as error:
                problem = str(error) or "timed out"
                continue
            if _size(found) > _size(best):
                best = found
            if _size(best) == SLOTS:
                break
        if not best:
            raise StoreDown(problem)
        return best

    async def _ask(self, address: Address) -> Map:
        link = self._links.get(address) if isinstance(address, tuple) else None
        if link is not None and link.connection is not None:
            return _map(await link.connection.ask("CLUSTER", "SLOTS"), link.connection.host)
        connection = await connect(address, self._access, Nobody())
        try:
            return _map(await connection.ask("CLUSTER", "SLOTS"), connection.host)
        finally:
            connection.end("asked")

    async def _apply(self, found: Map) -> None:
        links = {address: self._link(address) for address in found}
        new = [asyncio.ensure_future(link.connected()) for link in links.values() if not link.up]
        if new:  # a node that has just joined should not look as if it were away
            await asyncio.wait(new, timeout=_ASK_WAIT)
            for each in new:
                each.cancel()
        owners: list[Link | None] = [None] * SLOTS
        for address, ranges in found.items():
            for first, last in ranges:
                owners[first : last + 1] = [links[address]] * (last + 1 - first)
        self._owners = owners
        self._serving = set(links.values())
        self._whole = _size(found) == SLOTS
        for address in self._links.keys() - links.keys():
            self._spawn(self._links.pop(address).close())

    def _link(self, address: tuple[str, int]) -> Link:
        link = self._links.get(address)
        if link is None:
            changed = functools.partial(self._link_changed, "{}:{}".format(*address))
            link = FixedLink(address, self._access, changed, redirect=self._redirect, master=False)
            self._links[address] = link
            link.start()
        return link

    def _link_changed(self, node: str, up: bool, reason: str) -> None:
        if not up:
            self._stale.set()
        self._judge(f"{node}: {reason}", first=False)

    def _judge(self, reason: str, *, first: bool = True) -> None:
        """Tell, if the cluster as a whole has come or gone; with `first` also if it has not come at all."""
        up = self.up
        if up is self._told or (self._told is None and not up and not first):
            return
        self._told = up
        self._on_change(up, "connected" if up else reason)


def _map(reply: Any, asked: str) -> Map:
    """The map in the answer to CLUSTER SLOTS of the node at host `asked`. Raises StoreDown."""
    found: Map = {}
    try:
        for first, last, (host, port, *_), *_ in reply:
            address = named(None if host is None else host.decode(), asked), int(port)
            found.setdefault(address, []).append((int(first), int(last)))
    except (TypeError, ValueError, AttributeError):
        raise StoreDown("it does not answer as a node of a cluster does") from None
    return found


def _size(found: Map) -> int:
    return sum(last + 1 - first for ranges in found.values() for first, last in ranges)


def slot_of(key: bytes) -> int:
    """The slot of a key: of what stands between its first braces, if anything does."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    tag = key[begin + 1 : end] if begin >= 0 and end > begin + 1 else key
    return binascii.crc_hqx(tag, 0) % SLOTS
