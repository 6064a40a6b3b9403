"""How this process finds out that an account which it avoids is well again.

One that cannot be reached is probed every few seconds; one that fails gets a trial by a new conversation, after its
free probe and once no other process makes one. It judges nothing: the router does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import monotonic

from gateway import log
from gateway.core.routing.conduct import TRIAL
from gateway.core.routing.health import Cause
from gateway.core.routing.router import Router
from gateway.store.client.client import StoreClient
from gateway.store.client.connection import StoreDown
from gateway.store.scripts import CLAIM
from gateway.upstream.transport import NotSent, TransportError, Unable
from gateway.worker.accounts import Account, Pool

PROBE_WAIT = 10.0  # seconds for a probe's answer
UNREACHABLE_EVERY = 5.0  # seconds between probes of an account that cannot be reached
KEY_REFUSED = (401, 403)
_LOOK_EVERY = 5.0  # seconds between preparations of an account's trial


async def probe(account: Account) -> int:
    """The status of a request that costs nothing, with the account's credential where its provider has such a request;
    0 if there was no answer. Raises Unable where this machine lacks the means to ask."""
    try:
        outgoing = account.provider.probe(1)
        async with asyncio.timeout(PROBE_WAIT):
            response = await account.transport.send(
                outgoing.method, outgoing.path, outgoing.headers, outgoing.body, first_byte=PROBE_WAIT
            )
            try:
                while await response.read():
                    continue
                return response.status
            finally:
                response.close()
    except Unable:
        raise
    except (NotSent, TransportError, TimeoutError):
        return 0


class Revival:
    """Of the accounts that the router of this process, called `process`, avoids. `unreachable(account, seconds)` is
    told each time that an account still cannot be reached, and is not asked for so long."""

    def __init__(
        self,
        router: Router,
        pool: Pool,
        store: StoreClient,
        process: str,
        unreachable: Callable[[str, float], None],
    ) -> None:
        self._router = router
        self._pool = pool
        self._store = store
        self._process = process
        self._unreachable = unreachable
        self._look_at: dict[str, float] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        router.failing.due = self.due

    def due(self, account: str) -> None:
        """A new conversation could be the trial of a failing account: see whether it should, now and then."""
        now = monotonic()
        if now < self._look_at.get(account, 0.0):
            return
        self._look_at[account] = now + _LOOK_EVERY
        self._begin("trial", account, self._prepare_trial)

    def lost(self, account: str) -> None:
        """No connection to an account can be had: ask until there is one."""
        self._begin("connection", account, self._reach)

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, what: str, account: str, work: Callable[[Account], Coroutine[None, None, None]]) -> None:
        found, running = self._pool.accounts.get(account), self._tasks.get((what, account))
        if found is not None and (running is None or running.done()):
            self._tasks[what, account] = asyncio.get_running_loop().create_task(work(found))

    async def _prepare_trial(self, account: Account) -> None:
        failing = self._router.failing
        try:
            status = 0
            with contextlib.suppress(Unable):
                status = await probe(account)
            if not status or status >= 500 or status == 401:
                failing.postpone(account.id, monotonic())
                return
            claimed = await self._claim(account.id)
        except Exception:
            log.exception("a trial of a failing account could not be prepared, and is made all the same")
            claimed = True
        if claimed:
            failing.grant(account.id, monotonic())

    async def _claim(self, account: str) -> bool:
        """Whether the next trial is this process's; without the store each process makes its own."""
        args = (1, f"{{pool}}:trial:{account}", self._process, int(TRIAL * 1000))
        try:
            return bool(await self._store.call(CLAIM, args))
        except StoreDown:
            return True

    async def _reach(self, account: Account) -> None:
        outage = self._router.health(account.id).outage
        while True:
            await asyncio.sleep(UNREACHABLE_EVERY)
            if outage.cause is not Cause.UNREACHABLE or outage is not self._router.health(account.id).outage:
                return
            if self._pool.accounts.get(account.id) is not account:
                return
            with contextlib.suppress(Unable):
                if await probe(account):
                    log.info("account can be reached again", account=account.id)
                    self._router.reached(account.id)
                    return
            outage.begin(Cause.UNREACHABLE, monotonic())
            self._unreachable(account.id, outage.wait(monotonic()))
