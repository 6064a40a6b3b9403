"""The sentinels that watch a master: they are asked where it is, all at once, whenever a connection to it is needed."""

from __future__ import annotations

import asyncio

from gateway.store.connection import Nobody, StoreDown, connect
from gateway.store.topology import Access, Address

_PATIENCE = 0.25  # seconds for the slower ones, once one has answered


class Sentinels:
    """The sentinels at `nodes` that know a master by the name `master`."""

    def __init__(self, nodes: tuple[Address, ...], master: str, access: Access) -> None:
        self._nodes = nodes
        self._master = master
        self._access = access

    async def locate(self) -> Address:
        """Where the master is, as the one says that knows of the latest failover. Raises StoreDown.

        The first to answer may be the last to have heard."""
        asked = {asyncio.create_task(self._ask(node)) for node in self._nodes}
        waiting = asked
        best: tuple[int, tuple[str, int]] | None = None
        problems: list[str] = []
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=None if best is None else _PATIENCE,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for task in done:
                    error = task.exception()
                    if error is None:
                        best = task.result() if best is None else max(best, task.result())
                    elif isinstance(error, (OSError, StoreDown, UnicodeError)):
                        problems.append(str(error))
                    else:
                        raise error
        finally:
            for task in waiting:
                task.cancel()
        if best is None:
            raise StoreDown(f"no sentinel knows the master: {problems[0]}")
        return best[1]

    async def _ask(self, node: Address) -> tuple[int, tuple[str, int]]:
        """(epoch of the last failover, address of the master) as one sentinel knows them."""
        connection = await connect(node, self._access, Nobody())
        try:
            fields = await connection.ask("SENTINEL", "MASTER", self._master)
            epoch = int(dict(zip(fields[::2], fields[1::2], strict=True))[b"config-epoch"])
            # Asked last: while a replica is being promoted this names it already, what is above does not.
            found = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
            if found is None:
                raise StoreDown("no such master")
            return epoch, (found[0].decode(), int(found[1]))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise StoreDown("it does not answer as a sentinel does") from None
        finally:
            connection.end("asked")
