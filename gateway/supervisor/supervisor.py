"""The supervisor: starts the workers, keeps them and the pool agreed and alive, and ends them in order.

It serves no request of a client. Its main thread owns the embedded store (which dies with that thread), the listening
sockets, the pool document, the configuration file, the admin listener and the sum of the workers' metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from prometheus_client import CollectorRegistry, Gauge

import gateway
from gateway import log
from gateway.admin.access import Access
from gateway.admin.admin import AdminApp
from gateway.admin.api import Desks, api_routes
from gateway.admin.audit import Audit, AuditFile
from gateway.admin.dashboard.browser import browser_routes
from gateway.admin.dashboard.live import Live
from gateway.admin.desks.accounts import Accounts
from gateway.admin.desks.boosts import Boosts
from gateway.admin.desks.callers import Callers as CallerDesk
from gateway.admin.desks.conversations import Conversations
from gateway.admin.desks.cost_to_date import CostToDate
from gateway.admin.desks.keys import Keys as KeyDesk
from gateway.admin.desks.levels import Levels
from gateway.admin.desks.teams import Teams
from gateway.admin.desks.usage import Usage
from gateway.admin.openapi import documented
from gateway.config.schema import Caller, Config, Team, encode, parse_listen, undefined_team
from gateway.core.spending.keyring import Keyring, Stored
from gateway.listen.bind import bind
from gateway.listen.server import Server, serve_asgi
from gateway.store.bindings import Bindings
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.ledger.level_reader import LevelReader
from gateway.store.ledger.usage import UsageReader
from gateway.store.owners import OwnersJournal
from gateway.store.pool.binding_counts import BindingCounts
from gateway.store.pool.key_file import KeyFile
from gateway.store.pool.keyring import boosts_of, keyring_of, teams_of
from gateway.store.pool.keys import KeyStore
from gateway.store.pool.marks import Marks
from gateway.store.pool.pool_store import PoolStore
from gateway.store.pool.shared_keys import SharedKeys
from gateway.supervisor.ledger.archive import Archive
from gateway.supervisor.ledger.carrier import Carrier
from gateway.supervisor.ledger.sweeper import Sweeper
from gateway.supervisor.ledger.thresholds import Thresholds
from gateway.supervisor.metrics import Exposition, Gauges
from gateway.supervisor.overview import Watch
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.broadcast import Broadcaster
from gateway.supervisor.pool.membership import Membership
from gateway.supervisor.pool.snapshot import Snapshot
from gateway.supervisor.reload import Reloader
from gateway.supervisor.workers import Spawn, Workers, processes
from gateway.telemetry.counters import Histograms, snapshot_of
from gateway.telemetry.lag import Lag
from gateway.telemetry.metric_table import LAG
from gateway.worker.accounts import entry_of
from gateway.worker.callers.limits import usage_folder
from gateway.worker.control import Broadcast, Document, Keys, NotReady, Reload, Reseed, Start
from gateway.worker.objects.owners import objects_folder
from gateway.worker.request.journey import new_request_id

_OPERATORS = 512  # connections to the admin listener at most
_OWN = -1  # its place among the workers' numbers
_SILENT = 15.0  # seconds after which a process of which nothing is heard is gone


class Supervisor:
    """Runs one gateway with this configuration against the store at `store_url`; `revive` is called now and then to
    start that store again should it have died and be ours. `source` is the file of the configuration, which is
    followed; None for a configuration that is in no file. `spawn` starts its one worker; None for processes, as many as
    are configured.
    """

    def __init__(
        self,
        config: Config,
        store_url: str,
        revive: Callable[[], object],
        source: Path | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self.config = config
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.account_states = AccountStates(config, self.tell, self.id, self._running)
        self._revive = revive
        self._store_url = store_url
        self._pool_store = PoolStore(store_url)
        self._bindings = Bindings(store_url)
        self._usage = UsageReader(store_url)
        usage = UsageJournal(usage_folder(config))
        self._archive = Archive(store_url, OwnersJournal(objects_folder(config)), usage, self._running)
        self._sweeper = Sweeper(store_url, usage, self._callers, self._alive)
        self._names = itertools.count(1)
        self._seen: dict[str, float] = {}  # processes of all gateways, and when they were last heard of
        self._broadcaster = Broadcaster(self.id, self._pool_store.publish)
        self._access = Access(lambda: self.config, time.time, self._broadcaster.put)
        self._registry = CollectorRegistry(auto_describe=False)
        self._source = source
        self._reloader = Reloader(source, lambda: self.config, self._reload, self._registry)
        self.listeners = bind(config.listen, config.workers) if spawn is None else []
        workers = len(self.listeners) or 1
        self.pool = Membership(
            self.id, workers, tuple(map(entry_of, config.accounts)), self._pool_store, Snapshot(config.data_dir),
            changed=self._agreed, reseed=self._reseed, outdated=self._stop_soon,
        )  # fmt: skip
        self.keys = SharedKeys(KeyStore(store_url), KeyFile(config.data_dir), self._keys_changed)
        self._known: tuple[tuple[Caller, ...], Stored, Keyring[Caller]] | None = None  # of what, and the keyring
        self._draining = False
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._admin_socket = bind(config.admin.listen, 1)[0]
        self._workers = Workers(
            workers, spawn or processes(self.listeners), self._order, self._told, self._archive.ask
        )  # fmt: skip
        self._audit = Audit(store_url, AuditFile(config.data_dir))
        self._binding_counts = BindingCounts(store_url)
        self._level_reader = LevelReader(store_url)
        self._carrier = Carrier(self._level_reader, lambda: self.keys.stored)
        levels = Levels(
            self._level_reader, lambda: self._keyring().callers.values(), lambda: self._teams().values(), time.time,
            lambda: boosts_of(self.keys.stored, time.time() * 1000),
        )  # fmt: skip
        self._marks = Marks(store_url)
        self._thresholds = Thresholds(levels, self._marks, self._audit.record, new_request_id, time.time)
        watch = Watch(
            self._workers, self.account_states, self._binding_counts, workers, lambda: self.pool.up,
            lambda: self._accounts.all(),
        )  # fmt: skip
        self._accounts = Accounts(self.pool, watch.view, self.account_states.enable, time.time)
        self.live = Live(watch, CostToDate(self._usage, time.time), levels)
        self._workers.ended, self._workers.looked = self.live.finished, self.live.looked
        self._exposition = Exposition(self._workers.totals, self._registry, watch.modes, self._refresh)
        self._lags = Histograms(LAG.name, LAG.help, LAG.labels, LAG.buckets, LAG.known)
        self._lag = Lag(self._lags.labels().observe)
        self._registry.register(
            Gauges(self.account_states, self._workers.in_flight, lambda: self._binding_counts.counts, levels)
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the data listener, as it is configured where that is another's."""
        if not self.listeners:
            return parse_listen(self.config.listen)
        return cast(tuple[str, int], self.listeners[0].getsockname()[:2])

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener."""
        return cast(tuple[str, int], self._admin_socket.getsockname()[:2])

    async def run(self, serving: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. `serving` is called once everything answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        if self._source is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        await self.start()
        serving()
        await self.asked_to_stop()
        await self.stop()

    async def asked_to_stop(self) -> None:
        """Wait until somebody has asked, or this gateway must not go on."""
        await self._stopping.wait()

    async def start(self) -> None:
        """Serve from now on. Raises Unstartable."""
        await self.pool.join()
        await self.keys.join()
        self._warn_of_teams()
        self.account_states.apply(self.pool.document)
        self._admin_server = self._open_admin()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                self._admin_server.serve([self._admin_socket]),
                self.pool.keep(self._revive),
                self.keys.keep(),
                self._pool_store.follow(self._changed, self._heard),
                self._broadcaster.run(),
                self._archive.run(),
                self._sweeper.run(),
                self._carrier.run(),
                self._thresholds.run(),
                self._audit.run(),
                self._binding_counts.run(),
                self.live.run(),
            )
        ]
        await self._workers.start()
        self._tasks.append(asyncio.create_task(self._reloader.run()))
        # What lives now lives on. To look at it again while metrics are added up would keep all else waiting.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._lag.start()
        host, port = self.address
        log.info(
            "serving", address=f"{host}:{port}", workers=len(self.listeners) or 1, accounts=len(self.config.accounts)
        )

    def _asked_to_stop(self) -> None:
        if self._stopping.is_set():
            log.warning("asked again: stopping at once")
            self._hurry.set()
            self._workers.kill()
        self._stop_soon()

    def _stop_soon(self) -> None:
        self._stopping.set()
        self._workers.stop()

    def _order(self) -> Start:
        return Start(
            encode(self.config),
            self.pool.document,
            self.pool.processes,
            self._store_url,
            self.keys.usable(),
            f"{self.id}.{next(self._names)}",
        )

    def _changed(self) -> None:
        self.pool.poke()
        self.keys.poke()

    def _keyring(self) -> Keyring[Caller]:
        """Who may call now. Made again when the file or the store says otherwise, for anybody may ask about it."""
        configured, stored = self.config.keys, self.keys.stored
        if self._known is None or self._known[0] is not configured or self._known[1] is not stored:
            now = time.time() * 1000
            self._known = configured, stored, keyring_of(configured, stored, self.config.teams, now)
        return self._known[2]

    def _teams(self) -> dict[str, Team]:
        return teams_of(self.config.teams, self.keys.stored)

    def _keys_changed(self) -> None:
        self._workers.tell(Keys(self.keys.usable()))

    def _agreed(self) -> None:
        self.account_states.apply(self.pool.document)
        self._workers.tell(Document(self.pool.document, self.pool.processes))

    def _warn_of_teams(self) -> None:
        """Of callers made at run time, whom no check of the file has seen, and of what the file hides."""
        stored, defined = self.keys.stored, self._teams()
        in_file = {"caller": {each.id for each in self.config.keys}, "team": {each.id for each in self.config.teams}}
        for kind, made in (("caller", stored.present), ("team", stored.present_teams)):
            for name in sorted(in_file[kind] & made.keys()):
                log.warning(f"the {kind} {name} of the configuration file hides one that was made at run time")
        for team in sorted({caller.team for caller in self.keys.stored.present.values() if caller.team is not None}):
            problem = undefined_team(team, defined)
            if problem and all(caller.team != team for caller in self.config.keys):
                log.warning(problem)

    def _callers(self) -> set[tuple[str, str]]:
        return {(caller.id, caller.team or "") for caller in self._keyring().callers.values()}

    def _running(self) -> set[str]:
        """The names of the processes that are not known to have ended."""
        others = [each for each in self.pool.live if each.process != self.id]
        return set(self._workers.names()).union(*(each.names for each in others))

    def _alive(self) -> set[str] | None:
        """The names of all processes that settle their own requests; None while a gateway has not said."""
        now = time.monotonic()
        own = self._workers.names()
        self.pool.name(own)
        others = [each for each in self.pool.live if each.process != self.id]
        for name in (*own, *(name for each in others for name in each.names)):
            self._seen[name] = now
        for each in others:
            first = self._seen.setdefault(each.process, now)
            if not each.names and now - first < _SILENT:
                return None
        # One that has just gone may be back with its gateway's next heartbeat.
        self._seen = {name: at for name, at in self._seen.items() if now - at < 10 * _SILENT}
        return {name for name, at in self._seen.items() if now - at < _SILENT}

    def _reseed(self) -> None:
        self._workers.tell(Reseed())
        self._archive.ask()

    async def _reload(self, config: Config) -> None:
        """Serve by this configuration from now on. Workers learn of accounts before the document names them."""
        self.config = config
        self._workers.tell(Reload(encode(config)))
        self.account_states.configure(config)
        self.pool.announce(tuple(map(entry_of, config.accounts)))
        await self.pool.agree()

    # Broadcast.

    def tell(self, data: bytes) -> None:
        """Tell all workers of all gateways, within milliseconds while the store is there, as if a worker said it."""
        self._workers.tell(Broadcast(data))
        self._broadcaster.put(data)

    async def _forget(self, data: bytes) -> None:
        """Tell it, and wait for the own workers: they read in order, so that one that then gives numbers has heard."""
        self.tell(data)
        self._binding_counts.heard(data)
        await self._workers.refresh()

    def _told(self, data: bytes) -> None:
        """A worker said it, and the other workers know."""
        self._broadcaster.put(data)
        self.account_states.heard(data)

    def _heard(self, message: bytes) -> None:
        """A gateway said it, perhaps this one."""
        data = self._broadcaster.read(message)
        if data is not None:
            self._workers.tell(Broadcast(data))
            self.account_states.heard(data)
            self._binding_counts.heard(data)
            self._access.heard(data)

    # The admin listener.

    def _open_admin(self) -> Server:
        registry = self._registry
        info = Gauge("gateway_build_info", "1; the version is in the label.", ("version",), registry=registry)
        info.labels(gateway.__version__).set(1)
        conversations = Conversations(
            self._bindings,
            lambda: self.config,
            lambda: self._keyring().callers,
            self.account_states.router,
            lambda account: self.account_states.view(account)["health"],
            self._forget,
        )
        access, applied = self._access, self._workers.refresh
        callers = CallerDesk(self.keys, lambda: self.config, applied, time.time, self._carrier.carry)
        registry.register(access.failed_logins)
        desks = Desks(
            scrape=self._exposition.encoded, readiness=self._readiness, pool=self._show_pool,
            accounts=self._accounts, conversations=conversations,
            callers=callers, keys=KeyDesk(self.keys, callers, applied, time.time),
            teams=Teams(self.keys, callers, lambda: self.config, applied, time.time),
            boosts=Boosts(self.keys, callers, applied, time.time),
            usage=Usage(self._usage, time.time, self._workers.refresh), live=self.live, audit=self._audit,
            metrics_open=lambda: self.config.admin.metrics_open, clients=self._for_clients,
        )  # fmt: skip
        routes = documented([*browser_routes(access), *api_routes(desks, access)])
        app = self._admin = AdminApp(routes, access, self._audit, new_request_id, time.time)
        few = msgspec.structs.replace(self.config.limits, max_connections=_OPERATORS)
        server = Server(serve_asgi(app), msgspec.structs.replace(self.config, limits=few), new_request_id)
        server.config.timeout_graceful_shutdown = 1
        return server

    async def _refresh(self) -> None:
        """Have all processes tell what they have counted."""
        self._workers.totals.replace(_OWN, snapshot_of([self._lags.family()]))
        await self._workers.refresh(whole=True)

    def _for_clients(self) -> dict[str, Any]:
        host, port = self.address
        return {
            "listen": {"host": host, "port": port},
            "public_url": self.config.public_url,
            "affinity_header": self.config.affinity.header,
        }

    async def _readiness(self) -> dict[str, Any]:
        workers = self._workers.states()
        return {
            "ready": not self._draining and any(workers.values()),
            "draining": self._draining,
            "workers": workers,
            "pool": {"epoch": self.pool.document.epoch, "accounts": len(self.pool.document.accounts)},
            "keys": self._keyring().count(time.time()),
            "store": "connected" if self.pool.up else "away",
        }

    async def _show_pool(self) -> dict[str, Any]:
        return cast(dict[str, Any], msgspec.to_builtins(self.pool.document))

    # The end.

    async def stop(self, delay: float | None = None) -> None:
        """Not ready first; after the delay (seconds; None: as configured) no more connections; then the drain limit."""
        timeouts = self.config.timeouts
        delay = timeouts.drain_delay if delay is None else delay
        self._draining = True
        self._stop_soon()
        log.info("draining", delay_seconds=delay, limit_seconds=timeouts.drain)
        self._workers.tell(NotReady())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), delay)
        for listener in self.listeners:
            listener.close()
        await self._workers.drain(timeouts.drain)
        await self.pool.leave()
        await self.account_states.aclose()
        self.live.close()
        self._lag.stop()
        self._admin_server.end()
        await asyncio.sleep(0)
        self._workers.close()
        for task in self._tasks[1:]:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._tasks[0]), 3)
        await self._admin.finish()
        await self._binding_counts.close()
        await self._level_reader.close()
        await self._marks.close()
        await self._bindings.close()
        await self._usage.close()
        await self._audit.close()
        await self._archive.close()
        await self._sweeper.close()
        await self.keys.close()
        await self._pool_store.close()
        log.info("stopped")


def run(
    config: Config,
    store_url: str,
    revive: Callable[[], object],
    serving: Callable[[Supervisor], None] = lambda _: None,
    source: Path | None = None,
) -> None:
    """Run a gateway in this thread, which must be the main one, until it is asked to stop."""

    async def main() -> None:
        supervisor = Supervisor(config, store_url, revive, source)
        await supervisor.run(lambda: serving(supervisor))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
