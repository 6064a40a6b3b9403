"""The tick-batched store client: every script call of one loop tick leaves in one write a connection.

For the hot scripts alone; subscriptions and administration use redis-py. An unreachable store is a state, not a
surprise: calls fail at once with StoreDown while it lasts, and the client reconnects by itself, to wherever the master
or the slot is by then. It does not know what the scripts mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from gateway.store.client.cluster import Cluster
from gateway.store.client.connection import Arg, Asker, Call, StoreDown, Watch
from gateway.store.client.link import PROBE, FixedLink, Link
from gateway.store.client.sentinels import MasterLink
from gateway.store.client.topology import read_url, redis_url
from gateway.store.scripts import Script

__all__ = ["StoreClient", "StoreDown", "redis_url"]


class StoreClient:
    """The store at `url` for one event loop: one server (redis://, rediss://, unix://), the master that sentinels name
    (redis+sentinel://) or a cluster (redis+cluster://). Raises ValueError for another URL.

    A server that owes a reply for `budget` seconds (None: as many as usual) counts as away. `on_change(up, reason)` is
    called at each transition; `watch(name)` gives what is told of the calls of the script of that name.
    """

    def __init__(
        self,
        url: str,
        *,
        budget: float | None = None,
        on_change: Callable[[bool, str], None] | None = None,
        watch: Callable[[str], Watch] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._watch = watch
        self._watches: dict[str, Watch] = {}
        self._on_change = on_change or (lambda up, reason: None)
        self._first = asyncio.Event()
        topology = read_url(url)
        if budget is not None:
            topology.access.budget = budget
        self._backend: Link | Cluster
        if topology.kind == "cluster":
            topology.access.slots = True
            self._backend = Cluster(topology.nodes, topology.access, self._changed)
        elif topology.kind == "sentinel":
            self._backend = MasterLink(topology, self._changed)
        else:
            self._backend = FixedLink(topology.nodes[0], topology.access, self._changed)
        self._route = self._backend.route

    @property
    def up(self) -> bool:
        """Whether every call is accepted now. A cluster of which some nodes are away still takes calls of others."""
        return self._backend.up

    async def start(self, wait: float = PROBE) -> bool:
        """Connect, for at most `wait` seconds, and go on trying in the background; True if the store is up."""
        self._backend.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._first.wait()
        return self.up

    async def close(self) -> None:
        """Wait until what was posted is answered (bounded), then disconnect."""
        await self._backend.close()

    def call(self, script: Script, args: tuple[Arg, ...]) -> asyncio.Future[Any]:
        """Run `script`; `args` are the number of keys, the keys (all in one slot), the arguments.

        Raises StoreDown, or the future does."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.ask(script, args, future)
        return future

    def post(self, script: Script, args: tuple[Arg, ...], refused: Callable[[str], None] | None = None) -> None:
        """Run `script`; nobody waits for the reply. Raises StoreDown; where a store that is there answers with an
        error, `refused` is told that."""
        self.ask(script, args, None, refused)

    def ask(
        self,
        script: Script,
        args: tuple[Arg, ...],
        asker: Asker | None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """As `call`; the asker is told the reply, or StoreDown, at once. Raises StoreDown."""
        watch = self._watches.get(script.name) or self._watched(script)
        connection = self._route(args)
        try:
            if connection is None:
                raise StoreDown("the store is away")
            connection.put(Call(script, args, asker, watch, refused))
        except StoreDown:
            if watch is not None:
                watch.failed()
            raise

    def _watched(self, script: Script) -> Watch | None:
        if self._watch is None:
            return None
        watch = self._watches[script.name] = self._watch(script.name)
        return watch

    def _changed(self, up: bool, reason: str) -> None:
        if up:
            self._first.set()
        self._on_change(up, reason)
