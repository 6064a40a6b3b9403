"""The composition root of a worker: what there is, put together in one visible place, and the way in.

Forwarded endpoints go straight to the proxy; everything that is not hot goes through Starlette.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from time import monotonic, time
from typing import Any, cast

from gateway import log
from gateway.config.schema import Config
from gateway.core.routing import broadcast
from gateway.core.routing.document import PoolDocument
from gateway.core.routing.router import Router
from gateway.listen.asgi import AsgiClient
from gateway.listen.client import Client, Receive, Scope, Send
from gateway.listen.cors import Cors
from gateway.listen.cycle import Cycle
from gateway.store.client.client import StoreClient
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.owners import OwnersJournal
from gateway.telemetry.lag import Job, Lag
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import OTHER, WorkerMetrics
from gateway.telemetry.tracing import tracing_of
from gateway.worker.above import Above
from gateway.worker.accounts import Pool, readable_notes
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting, usage_folder
from gateway.worker.callers.own_view import OwnView
from gateway.worker.cold import Cold
from gateway.worker.endpoints import HOT, METERED, find
from gateway.worker.models import KnownModels
from gateway.worker.objects.batch_usage import BatchUsageMeter
from gateway.worker.objects.owners import Owners, objects_folder
from gateway.worker.observer import Observer
from gateway.worker.request.journey import new_request_id
from gateway.worker.request.proxy import Proxy
from gateway.worker.request.settlement import Settlement
from gateway.worker.revival import Revival
from gateway.worker.roll import Roll
from gateway.worker.upkeep import Upkeep

TICK = 0.9  # seconds between looks at the requests on their way, at least
REST_EVERY = 300.0  # seconds after which what was journaled may be compacted
LOOK_EVERY = 5.0  # seconds between looks at what there is to say of credentials
TELL_EVERY = 5.0  # seconds between two times that a store which refuses to count is to be told everything again
STORE_WAIT = 1.0  # seconds a starting worker waits for the store


class Gateway:
    """One worker's application: an ASGI callable, and the handles that its process needs. `document`, `keys`,
    `store_url` and `process` are as its supervisor says; `above` is the way to tell it something."""

    def __init__(
        self,
        config: Config,
        document: PoolDocument,
        keys: bytes,
        store_url: str,
        process: str,
        request_log: RequestLog,
        above: Above,
    ) -> None:
        self.config = config
        self.draining = False
        self._above = above
        models = self._models = KnownModels(config, OTHER)
        metrics = WorkerMetrics(models.label, self._in_flight, self._degraded, METERED)
        self.observer = Observer(metrics, request_log, tracing_of(config, process))
        self.store = StoreClient(
            store_url, budget=config.timeouts.store, on_change=self._store_changed, watch=metrics.store
        )
        self.pool = Pool(config)
        self.router = Router(models.limit_class, self._tell, self.pool.free, models.names)
        self.router.failing.process = process
        self.apply(document)
        self.revival = Revival(
            self.router, self.pool, self.store, process,
            lambda account, seconds: self._tell(broadcast.Unreachable(account, process, seconds)),
        )  # fmt: skip
        self.admission = Admission(config, self.store, metrics.moved, self._tell)
        self.owners = Owners(config, self.store, self.router, OwnersJournal(objects_folder(config)), self._tell)
        self.accounting = Accounting(
            config, self.store, models.catalogue, UsageJournal(usage_folder(config)), process,
            lambda: self.pool.processes,
        )  # fmt: skip
        observe = self.observer.observe
        self._batch_usage = BatchUsageMeter(self.store, self.owners, self.accounting, models.catalogue, observe)
        settlement = Settlement(self.admission, self.accounting, models.catalogue, observe)
        models.followers = (
            settlement.configure,
            self._batch_usage.configure,
            lambda _: self.observer.metrics.forget_models(),
        )
        own_view = OwnView(self.store, self.accounting.settling.flush)
        self.callers = Callers(config, lambda: self.admission.store_up)
        self.proxy = Proxy(
            config, self.pool, self.router, self.admission, self.accounting, settlement, self.owners,
            self._batch_usage, self.callers, own_view, metrics.upstream_answered, models.bound_thinking,
            self.observer.tracing.begin,
        )  # fmt: skip
        self.roll = Roll(
            config, keys, self.callers, self.proxy, self.accounting, own_view, self.owners, metrics
        )  # fmt: skip
        self.upkeep = Upkeep(config, self.proxy.live, settlement, self.accounting)
        self._cold = Cold(self.readiness, new_request_id)
        self._cors = Cors(self, config)
        self._lag = Lag(metrics.lag, self._jobs(process))

    @property
    def metrics(self) -> WorkerMetrics:
        return self.observer.metrics

    # What the supervisor says.

    def apply(self, document: PoolDocument, processes: int = 0) -> None:
        """Route over this document from now on; `processes` worker processes of every replica divide the slots."""
        kept = [entry.id for entry in document.accounts]
        self.pool.retire(kept, [account.id for account in self.config.accounts])
        if processes:
            self.pool.divide(processes)
        self._lend()
        self.router.apply(document, monotonic(), time())

    def _lend(self) -> None:
        """Let the router know what this process has of the accounts."""
        router, pool = self.router, self.pool
        router.held = pool.credentials
        router.offer.partial, router.offer.capabilities = pool.partial, pool.capabilities
        router.state_limits(pool.stated(self._models.catalogue), monotonic())

    def reload(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        if config.models != self.config.models:
            self._models.configure(config)
        self.config = config
        self._cors.configure(config)
        for account in self.pool.configure(config, self.router.ring.accounts):
            self.router.heard(broadcast.Back(account, wholly=True), monotonic())
        self._lend()
        self.router.offer.forget()
        self.admission.configure(config)
        self.accounting.configure(config, self._models.catalogue)
        self.owners.configure(config)
        self.proxy.configure(config)
        self.callers.configure(config)
        self.roll.configure(config)
        self.upkeep.configure(config)

    def heard(self, data: bytes) -> None:
        """A broadcast from another process."""
        heard = broadcast.decode(data)
        if isinstance(heard, broadcast.Forget):
            self.admission.forget(heard)
        elif isinstance(heard, broadcast.BoundConversations):
            self.admission.heard(heard)
        elif isinstance(heard, broadcast.Owned):
            self.owners.heard(heard)
        elif heard is not None:
            self.router.heard(heard, monotonic())

    def reseed(self) -> None:
        """The store has lost what it knew, or is back."""
        self.admission.reseed()
        self.owners.reseed()
        running = [x.reservation for x in self.proxy.live if x.reservation is not None]
        self.accounting.note([reservation for reservation in running if reservation.noted])

    def _tell(self, said: broadcast.Fact) -> None:
        self._above.tell(said)
        if isinstance(said, broadcast.Unreachable) and said.seconds:
            self.revival.lost(said.account)

    async def start(self) -> None:
        """Connect to the store (or note that it is away) and begin the upkeep."""
        await self.pool.start()
        await self.store.start(STORE_WAIT)
        self.callers.start()
        self._lag.start()
        self._tell(broadcast.Hello())

    async def close(self) -> None:
        self._lag.stop()
        await self.revival.aclose()
        await self.callers.close()
        await self.pool.forget_credentials()
        await self._batch_usage.close()
        self._rest()
        await self.store.close()
        self.observer.end()
        await asyncio.to_thread(self.observer.tracing.close)

    def serve(self, cycle: Cycle) -> Awaitable[None]:
        """Serve a request of the data listener."""
        if self._cors.on:
            return cast(Awaitable[None], self._cors(cycle.scope, cycle.receive, cycle.send))
        endpoint = HOT.get(cycle.target[0])
        if endpoint is not None:
            return self.proxy.handle(endpoint, cycle)
        return self._forward(cycle) or self._cold(cycle.scope, cycle.receive, cast(Send, cycle.send))

    def take(self, cycle: Cycle) -> bool:
        """Whether a whole request of the data listener goes the short way."""
        return not self._cors.on and self.proxy.warm.take(cycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as an ASGI application does."""
        client = AsgiClient(scope, receive, send)
        serving = self._forward(client)
        if serving is None:
            await self._cold(scope, receive, send)
            return
        try:
            await serving
        except asyncio.CancelledError:
            if not client.gone:
                raise
        finally:
            client.close()

    def _forward(self, client: Client) -> Awaitable[None] | None:
        """None for what is not forwarded."""
        endpoint = HOT.get(client.target[0])
        if endpoint is not None:
            return self.proxy.handle(endpoint, client)
        match = find(client.target[0], client.method)
        return None if match is None else self.proxy.handle(match.endpoint, client, match.object)

    def _in_flight(self) -> dict[str, float]:
        running = Counter(x.request.endpoint.name for x in self.proxy.live)
        return {endpoint.name: 0.0 for endpoint in HOT.values()} | dict(running)

    def _degraded(self) -> dict[str, float]:
        away = {"store": not self.store.up, "journal": self.accounting.journal.full, "issuers": self.callers.failing}
        return {mode: float(holds) for mode, holds in away.items()}

    def _jobs(self, process: str) -> list[Job]:
        """What is done now and then."""
        return [
            Job("a report to the other processes", 0.0, partial(self._report, process)),
            Job("upkeep", TICK, self.upkeep.tick),
            Job("the end of a boost", TICK, self.roll.look),
            Job("compaction of journals", REST_EVERY, self._rest),
            Job("telling the store again", TELL_EVERY, self._tell_again),
            Job("a look at credentials", LOOK_EVERY, self._look_at_credentials),
        ]

    def _report(self, process: str) -> None:
        report = self.router.report(process, monotonic())
        if report is not None:
            self._above.tell(report)

    def _look_at_credentials(self) -> None:
        for account in self.pool.look():
            self._tell(broadcast.Noted(account.id, readable_notes(account)))

    def _rest(self) -> None:
        self.owners.rest()
        self.accounting.rest()

    def _tell_again(self) -> None:
        """What the store has not counted although it is there."""
        since = self.accounting.take_refused()
        if since:
            self._above.not_counted(since)

    def _store_changed(self, up: bool, reason: str) -> None:
        if up:
            log.info("store connected")
            self.reseed()
            self.accounting.store_returned()
            self._above.store_back()
        else:
            self._above.store_away(reason)

    def readiness(self) -> dict[str, Any]:
        """The breakdown of `/readyz`: ready once pool and keys are loaded, until this process is asked to stop."""
        return {
            "ready": not self.draining,
            "draining": self.draining,
            "pool": {"epoch": self.router.ring.epoch, "accounts": len(self.router.ring.accounts)},
            "keys": self.roll.count(),
            "store": "connected" if self.store.up else "away",
        }
