"""What the items of batches used: metered when their results are read, each line once, however often they are read.

A mark in the store says how many lines of a batch's results were metered. It does not know where results come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import time

from gateway import log
from gateway.core.spending.pricing import Catalogue
from gateway.core.wire.decoding import Decoder
from gateway.core.wire.results import ResultsTap
from gateway.errors import ApiError
from gateway.records import ITEMS, Finished
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.owners import Owner, to_meter
from gateway.worker.callers.limits import Accounting
from gateway.worker.endpoints import LIFETIMES
from gateway.worker.objects.owners import Owners
from gateway.worker.request.journey import Journey

_MOST_DECODED = 8 * 1024 * 1024 * 1024  # bytes of results
_SLICE = 16 * 1024  # bytes of encoded ones that are decoded at once
_MARKS = 10_000  # batches whose marks this process keeps for itself


class Decoded:
    """Has a tap read the results of `batch` that the upstream has encoded although it was asked not to. What nobody can
    decode is not read."""

    def __init__(self, tap: ResultsTap, batch: str, encoding: bytes) -> None:
        self._tap = tap
        self._batch = batch
        self._decoder: Decoder | None = None
        try:
            self._decoder = Decoder(encoding, _MOST_DECODED)
        except ApiError as error:
            self._give_up(error)

    def feed(self, data: bytes) -> None:
        """Read the lines that `data` completes once it is decoded."""
        for start in range(0, len(data), _SLICE):
            if self._decoder is None:
                return
            try:
                text = self._decoder.feed(data[start : start + _SLICE])
            except ApiError as error:
                self._give_up(error)
                return
            self._tap.feed(text)

    def _give_up(self, error: ApiError) -> None:
        self._decoder = None
        log.warning("results of a batch could not be decoded", batch=self._batch, why=error.code)


class BatchUsageMeter:
    """`observe` gets a record for each model of each stretch of results that is read for the first time."""

    def __init__(
        self,
        store: StoreClient,
        owners: Owners,
        accounting: Accounting,
        catalogue: Catalogue,
        observe: Callable[[Finished, float], None],
    ) -> None:
        self._accounting = accounting
        self._store = store
        self._owners = owners
        self._observe = observe
        self._tasks: set[asyncio.Task[None]] = set()
        self._marks: dict[str, int] = {}  # of batches that were read while the store was away
        self.configure(catalogue)

    def configure(self, catalogue: Catalogue) -> None:
        """Other prices from now on."""
        self._catalogue = catalogue

    def tap(self, skipped: int) -> ResultsTap:
        """What reads results as they pass, of which the first `skipped` lines are metered already."""
        return ResultsTap(partial(self._catalogue.bill, batch=True), skipped)

    async def metered(self, batch: str) -> int:
        """Lines of its results that were metered before."""
        try:
            _, mark = await self._store.call(*to_meter(batch, 0, 0, 0))
        except StoreDown:
            mark = 0
        return max(int(mark), self._marks.get(batch, 0))

    async def close(self) -> None:
        """Let what was read be metered."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    def settle_soon(self, x: Journey, tap: ResultsTap, skipped: int) -> None:
        """Results of the batch that `x` names were read: meter those beyond the `skipped` lines that were metered when
        the reading began, unless somebody else has been faster. Nobody waits for it."""
        task = asyncio.get_running_loop().create_task(self._settle(x, tap, skipped))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, x: Journey, tap: ResultsTap, skipped: int) -> None:
        batch, lines, mark = x.request.object, tap.lines, skipped
        lifetime = LIFETIMES["batches"]
        if tap.unread:
            log.warning("results of a batch could not be read", batch=batch, lines=tap.unread)
        while lines > mark:
            try:
                advanced, present = await self._store.call(*to_meter(batch, mark, lines, lifetime))
            except StoreDown:
                if self._marks.get(batch, 0) > mark or len(self._marks) >= _MARKS:
                    return
                self._marks[batch] = lines
                self._owners.owe(to_meter(batch, None, lines, lifetime))
                advanced, present = 1, lines
            if advanced:
                self._owners.write(lambda journal: journal.metered(batch, lines, lifetime, int(time() * 1000)))
                owner = (await self._owners.find([batch]))[0]
                self._record(x, tap, mark, owner)
                return
            mark = int(present)  # another reader was faster: the rest is ours if we got further

    def _record(self, x: Journey, tap: ResultsTap, mark: int, owner: Owner | None) -> None:
        """One record for each model of the lines beyond `mark`: whose batch it is has used it, whoever reads it."""
        batch, lines = x.request.object, tap.lines
        caller, account = x.request.caller, x.attempt.account
        for model, metered in tap.metered(mark).items():
            record = Finished(
                request_id=f"{batch}/{mark}-{lines}/{model}",  # the same whoever reads it
                at=x.request.at,
                endpoint=ITEMS,
                status=200,
                caller=owner.caller if owner is not None else caller.id if caller is not None else "",
                team=owner.team if owner is not None else (caller.team or "") if caller is not None else "",
                model=model,
                answered_model=model,
                account=account.id if account is not None else "",
                workspace=account.workspace if account is not None else "",
                route="pinned",
                usage=metered.usage,
                cost_nano_usd=metered.cost,
                savings_nano_usd=metered.savings,
                priced_by_default=self._catalogue.find(model) is None,
            )
            self._accounting.items(record)
            self._observe(record, 0.0)
