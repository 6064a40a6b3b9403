"""The master that sentinels name, kept connected.

All sentinels are asked whenever it must be found; one of them is asked now and then whether it is still the same: after
a failover by hand the old master goes on taking writes for seconds, and they are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from gateway.store.client.connection import Connection, Nobody, StoreDown, connect
from gateway.store.client.link import PROBE, Link
from gateway.store.client.topology import Address, Topology

_LOOK = 0.5  # seconds between two looks whether the master is still the same
_PATIENCE = 0.25  # seconds for one sentinel, and for the slower ones once one has answered


class MasterLink(Link):
    """The link to the master of `topology`, wherever that is."""

    def __init__(self, topology: Topology, on_change: Callable[[bool, str], None]) -> None:
        super().__init__(topology.access, self._find, on_change)
        self._sentinels = Sentinels(topology)
        self._address: Address | None = None
        self._follower: asyncio.Task[None] | None = None

    def start(self) -> None:
        super().start()
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
        await super().close()

    async def _find(self) -> Address:
        self._address = await self._sentinels.locate()
        return self._address

    async def _follow(self) -> None:
        """Leave a master that is none any more, even if it does not know that yet."""
        try:
            while True:
                await asyncio.sleep(_LOOK)
                with contextlib.suppress(StoreDown, TimeoutError):
                    if await self._sentinels.one_says() != self._address is not None:
                        await self._compare(self.connection)
        finally:
            self._sentinels.close()

    async def _compare(self, connection: Connection | None) -> None:
        async with asyncio.timeout(PROBE):
            found = await self._sentinels.locate()
        if connection is not None and connection is self.connection and found != self._address:
            connection.end("the sentinels name another master")


class Sentinels:
    """The sentinels of `topology`."""

    def __init__(self, topology: Topology) -> None:
        self._nodes = list(topology.nodes)
        self._master = topology.master
        self._access = topology.sentinels
        self._asked: Connection | None = None

    async def locate(self) -> Address:
        """Where the master is, as the one says that knows of the latest failover. Raises StoreDown.

        The first to answer may be the last to have heard."""
        waiting = {asyncio.create_task(self._ask(node)) for node in self._nodes}
        best: tuple[int, Address] | None = None
        problems: list[str] = []
        try:
            while waiting:
                patience = None if best is None else _PATIENCE
                done, waiting = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                for answer in [task.result() for task in done]:
                    if isinstance(answer, str):
                        problems.append(answer)
                    elif best is None or answer[0] > best[0]:
                        best = answer
        finally:
            for task in waiting:
                task.cancel()
        if best is None:
            raise StoreDown(f"no sentinel knows the master: {problems[0]}")
        return best[1]

    async def _ask(self, node: Address) -> tuple[int, Address] | str:
        """(epoch of the last failover, address of the master) as one sentinel knows them, or why it does not."""
        try:
            connection = await connect(node, self._access, Nobody())
            try:
                fields = await connection.ask("SENTINEL", "MASTER", self._master)
                epoch = int(dict(zip(fields[::2], fields[1::2], strict=True))[b"config-epoch"])
                # Asked last: while a replica is being promoted this names it already, what is above does not.
                return epoch, await self._address(connection)
            finally:
                connection.end("asked")
        except (OSError, StoreDown, UnicodeError) as error:
            return str(error)
        except (LookupError, TypeError, ValueError):
            return "it does not answer as a sentinel does"

    async def one_says(self) -> Address:
        """Where the master is according to any one of them. Raises StoreDown."""
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._asked is None or self._asked.closed:
                    self._asked = await connect(self._nodes[0], self._access, Nobody())
                return await self._address(self._asked)
        except (OSError, StoreDown, UnicodeError, LookupError, TypeError, ValueError) as error:
            self.close()
            self._nodes.append(self._nodes.pop(0))
            raise StoreDown(str(error)) from None

    async def _address(self, connection: Connection) -> Address:
        found = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        if found is None:
            raise StoreDown("it has no master of that name")
        return str(found[0], "utf-8"), int(found[1])

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._asked is not None:
            self._asked.end("closed")
            self._asked = None
