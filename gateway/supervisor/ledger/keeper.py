"""All that keeps the ledger whole beside the requests: what journals have and the store lacks, what processes that died
have left, what callers who moved have spent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from gateway.config.schema import Config
from gateway.core.spending.keyring import Stored
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.ledger.level_reader import LevelReader
from gateway.store.owners import OwnersJournal
from gateway.supervisor.ledger.archive import Archive
from gateway.supervisor.ledger.carrier import Carrier
from gateway.supervisor.ledger.sweeper import Callers, Sweeper
from gateway.worker.callers.limits import usage_folder
from gateway.worker.objects.owners import objects_folder


class LedgerKeeper:
    """`members()` are all callers with their teams, `stored()` those made at run time; `running` and `alive` are those
    of `Processes`."""

    def __init__(
        self,
        config: Config,
        store_url: str,
        members: Callers,
        stored: Callable[[], Stored],
        running: Callable[[], set[str]],
        alive: Callable[[], set[str] | None],
    ) -> None:
        usage = UsageJournal(usage_folder(config))
        self.archive = Archive(store_url, OwnersJournal(objects_folder(config)), usage, running)
        self._sweeper = Sweeper(store_url, usage, members, alive)
        self.levels = LevelReader(store_url)
        self.carrier = Carrier(self.levels, stored)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run until it is cancelled."""
        return [self.archive.run(), self._sweeper.run(), self.carrier.run()]

    async def close(self) -> None:
        await self.levels.close()
        await self.archive.close()
        await self._sweeper.close()
