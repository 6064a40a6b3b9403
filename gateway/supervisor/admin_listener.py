"""The admin listener of a gateway: what stands behind its API and its dashboard, put together in one visible place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple, cast

import msgspec
from prometheus_client import CollectorRegistry, Gauge

import gateway
from gateway.admin.access import Access
from gateway.admin.admin import AdminApp
from gateway.admin.api import Desks, api_routes
from gateway.admin.audit import Audit, AuditFile
from gateway.admin.dashboard.browser import browser_routes
from gateway.admin.dashboard.live import Live
from gateway.admin.desks.accounts import Accounts
from gateway.admin.desks.boosts import Boosts
from gateway.admin.desks.callers import Callers
from gateway.admin.desks.conversations import Conversations
from gateway.admin.desks.cost_to_date import CostToDate
from gateway.admin.desks.keys import Keys
from gateway.admin.desks.levels import Levels
from gateway.admin.desks.teams import Teams
from gateway.admin.desks.usage import Usage
from gateway.admin.openapi import documented
from gateway.config.schema import Config, catalogue_of
from gateway.listen.bind import bind
from gateway.listen.server import Server, serve_asgi
from gateway.store.bindings import Bindings
from gateway.store.ledger.usage import UsageReader
from gateway.store.pool.binding_counts import BindingCounts
from gateway.store.pool.marks import Marks
from gateway.store.pool.shared_keys import SharedKeys
from gateway.supervisor.directory import Directory
from gateway.supervisor.ledger.keeper import LedgerKeeper
from gateway.supervisor.ledger.thresholds import Thresholds
from gateway.supervisor.metrics import Exposition, Gauges
from gateway.supervisor.overview import Watch
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.broadcast import Broadcaster
from gateway.supervisor.pool.membership import Membership
from gateway.supervisor.stopping import Stopping
from gateway.supervisor.workers import Workers
from gateway.telemetry.counters import Histograms, snapshot_of
from gateway.telemetry.lag import Lag
from gateway.telemetry.metric_table import LAG
from gateway.worker.request.journey import new_request_id

_OPERATORS = 512  # connections at most
_OWN = -1  # the supervisor's place among the workers' numbers
_END_WAIT = 3.0  # seconds that open requests get at the end


class Parts(NamedTuple):
    """The gateway that it shows and changes. `forget(fact)` makes every process forget what is broadcast; `address()`
    is where clients reach it."""

    config: Callable[[], Config]
    workers: Workers
    pool: Membership
    account_states: AccountStates
    binding_counts: BindingCounts
    keys: SharedKeys
    directory: Directory
    ledger: LedgerKeeper
    broadcaster: Broadcaster
    stopping: Stopping
    forget: Callable[[bytes], Awaitable[None]]
    address: Callable[[], tuple[str, int]]


class AdminListener:
    """Over the store at `store_url`; metrics of the supervisor's own are in `registry`. Raises Unstartable where the
    address is taken."""

    def __init__(self, parts: Parts, store_url: str, workers: int, registry: CollectorRegistry) -> None:
        config = parts.config()
        self._parts = parts
        self.socket = bind(config.admin.listen, 1)[0]
        self.access = Access(parts.config, time.time, parts.broadcaster.put)
        self._audit = Audit(store_url, AuditFile(config.data_dir))
        self._bindings = Bindings(store_url)
        self._usage = UsageReader(store_url)
        levels = Levels(
            parts.ledger.levels, lambda: parts.directory.callers().values(), lambda: parts.directory.teams().values(),
            time.time, parts.directory.boosts,
        )  # fmt: skip
        self._marks = Marks(store_url)
        self._thresholds = Thresholds(levels, self._marks, self._audit.record, new_request_id, time.time)
        watch = Watch(
            parts.workers, parts.account_states, parts.binding_counts, workers, lambda: parts.pool.up,
            lambda: accounts.all(),
        )  # fmt: skip
        accounts = Accounts(parts.pool, watch.view, parts.account_states.enable, time.time)
        self.live = Live(watch, CostToDate(self._usage, time.time), levels)
        parts.workers.ended, parts.workers.looked = self.live.finished, self.live.looked
        self.exposition = Exposition(parts.workers.totals, registry, watch.modes, self._refresh)
        self._lags = Histograms(LAG.name, LAG.help, LAG.labels, LAG.buckets, LAG.known)
        self.lag = Lag(self._lags.labels().observe)
        _register(registry, parts, levels, self.access)
        routes = documented([*browser_routes(self.access), *api_routes(self._desks(accounts), self.access)])
        self._app = AdminApp(routes, self.access, self._audit, new_request_id, time.time)
        few = msgspec.structs.replace(config.limits, max_connections=_OPERATORS)
        self._server = Server(serve_asgi(self._app), msgspec.structs.replace(config, limits=few), new_request_id)
        self._server.config.timeout_graceful_shutdown = 1
        self._serving: asyncio.Task[None] | None = None

    def _desks(self, accounts: Accounts) -> Desks:
        parts = self._parts
        keys, applied, config = parts.keys, parts.workers.refresh, parts.config
        callers = Callers(keys, config, applied, time.time, parts.ledger.carrier.carry)
        conversations = Conversations(
            self._bindings, config, parts.directory.callers, parts.account_states.router,
            lambda account: parts.account_states.view(account)["health"], parts.forget,
        )  # fmt: skip
        return Desks(
            scrape=self.exposition.encoded, readiness=self._readiness, pool=self._show_pool,
            accounts=accounts, conversations=conversations, callers=callers,
            keys=Keys(keys, callers, applied, time.time), teams=Teams(keys, callers, config, applied, time.time),
            boosts=Boosts(keys, callers, applied, time.time),
            usage=Usage(self._usage, time.time, applied, self._provider, self._names), live=self.live,
            audit=self._audit, metrics_open=lambda: config().admin.metrics_open, clients=self._for_clients,
        )  # fmt: skip

    def _provider(self, account: str) -> str | None:
        """Whose an account of the present configuration is."""
        accounts = self._parts.config().accounts
        return next((each.provider for each in accounts if each.id == account), None)

    def _names(self, model: str) -> Iterable[str]:
        """All names of the model that has this one."""
        return catalogue_of(self._parts.config()).names(model)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run until it is cancelled, beside the listener itself."""
        return [self._audit.run(), self.live.run(), self._thresholds.run()]

    def start(self) -> None:
        """Answer from now on."""
        self._serving = asyncio.create_task(self._server.serve([self.socket]))

    async def end(self) -> None:
        """Take nothing more, and end what still looks on."""
        self.live.close()
        self.lag.stop()
        self._server.end()
        await asyncio.sleep(0)

    async def close(self) -> None:
        if self._serving is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._serving), _END_WAIT)
        await self._app.finish()
        await self._marks.close()
        await self._bindings.close()
        await self._usage.close()
        await self._audit.close()

    async def _refresh(self) -> None:
        """Have all processes tell what they have counted."""
        self._parts.workers.totals.replace(_OWN, snapshot_of([self._lags.family()]))
        await self._parts.workers.refresh(whole=True)

    def _for_clients(self) -> dict[str, Any]:
        host, port = self._parts.address()
        config = self._parts.config()
        return {
            "listen": {"host": host, "port": port},
            "public_url": config.public_url,
            "affinity_header": config.affinity.header,
        }

    async def _readiness(self) -> dict[str, Any]:
        pool, workers = self._parts.pool, self._parts.workers.states()
        draining = self._parts.stopping.draining
        return {
            "ready": not draining and any(workers.values()),
            "draining": draining,
            "workers": workers,
            "pool": {"epoch": pool.document.epoch, "accounts": len(pool.document.accounts)},
            "keys": self._parts.directory.keyring().count(time.time()),
            "store": "connected" if pool.up else "away",
        }

    async def _show_pool(self) -> dict[str, Any]:
        return cast(dict[str, Any], msgspec.to_builtins(self._parts.pool.document))


def _register(registry: CollectorRegistry, parts: Parts, levels: Levels, access: Access) -> None:
    info = Gauge("gateway_build_info", "1; the version is in the label.", ("version",), registry=registry)
    info.labels(gateway.__version__).set(1)
    registry.register(access.failed_logins)
    counts = parts.binding_counts
    registry.register(Gauges(parts.account_states, parts.workers.in_flight, lambda: counts.counts, levels))
