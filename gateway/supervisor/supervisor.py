"""The supervisor: starts the workers, keeps them and the pool agreed and alive, and ends them in order.

It serves no request of a client. Its main thread owns the embedded store (which dies with that thread), the listening
sockets, the pool document, the configuration file, the admin listener and the sum of the workers' metrics.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop
from prometheus_client import CollectorRegistry

from gateway import log
from gateway.config.schema import Config, encode, parse_listen
from gateway.listen.bind import bind
from gateway.store.pool.binding_counts import BindingCounts
from gateway.store.pool.key_file import KeyFile
from gateway.store.pool.keys import KeyStore
from gateway.store.pool.pool_store import PoolStore
from gateway.store.pool.shared_keys import SharedKeys
from gateway.supervisor.admin_listener import AdminListener, Parts
from gateway.supervisor.directory import Directory
from gateway.supervisor.ledger.keeper import LedgerKeeper
from gateway.supervisor.pool.account_states import AccountStates
from gateway.supervisor.pool.broadcast import Broadcaster
from gateway.supervisor.pool.membership import Membership
from gateway.supervisor.pool.processes import Processes
from gateway.supervisor.pool.snapshot import Snapshot
from gateway.supervisor.reload import Reloader
from gateway.supervisor.stopping import Stopping
from gateway.supervisor.workers import Spawn, Workers, processes
from gateway.worker.accounts import entry_of
from gateway.worker.control import Broadcast, Document, Keys, NotReady, Reload, Reseed, Start


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
        self._revive = revive
        self._store_url = store_url
        self._tasks: list[asyncio.Task[Any]] = []
        self._stopping = Stopping()
        self._processes = Processes(self.id, lambda: self._workers.names(), lambda: self.pool)
        self.account_states = AccountStates(config, self.tell, self.id, self._processes.running)
        self._pool_store = PoolStore(store_url)
        self._broadcaster = Broadcaster(self.id, self._pool_store.publish)
        self.keys = SharedKeys(KeyStore(store_url), KeyFile(config.data_dir), self._keys_changed)
        directory = self._directory = Directory(lambda: self.config, self.keys)
        self._ledger = LedgerKeeper(
            config, store_url, directory.members, lambda: self.keys.stored, self._processes.running,
            self._processes.alive,
        )  # fmt: skip
        registry = CollectorRegistry(auto_describe=False)
        self._reloader = Reloader(source, lambda: self.config, self._reload, registry)
        self.listeners = bind(config.listen, config.workers) if spawn is None else []
        workers = len(self.listeners) or 1
        self.pool = Membership(
            self.id, workers, tuple(map(entry_of, config.accounts)), self._pool_store, Snapshot(config.data_dir),
            changed=self._agreed, reseed=self._reseed, outdated=self._stop_soon,
        )  # fmt: skip
        self._workers = Workers(
            workers, spawn or processes(self.listeners), self._order, self._told, self._ledger.archive.ask
        )  # fmt: skip
        self._binding_counts = BindingCounts(store_url)
        parts = Parts(
            lambda: self.config, self._workers, self.pool, self.account_states, self._binding_counts, self.keys,
            directory, self._ledger, self._broadcaster, self._stopping, self._forget, lambda: self.address,
        )  # fmt: skip
        self.admin = AdminListener(parts, store_url, workers, registry)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the data listener, as it is configured where that is another's."""
        if not self.listeners:
            return parse_listen(self.config.listen)
        return cast(tuple[str, int], self.listeners[0].getsockname()[:2])

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin listener."""
        return cast(tuple[str, int], self.admin.socket.getsockname()[:2])

    async def run(self, serving: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. `serving` is called once everything answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        if self._reloader.follows:
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
        self._directory.warn()
        self.account_states.apply(self.pool.document)
        self.admin.start()
        work = (
            self.pool.keep(self._revive), self.keys.keep(), self._pool_store.follow(self._changed, self._heard),
            self._broadcaster.run(), self._binding_counts.run(), *self._ledger.work(), *self.admin.work(),
        )  # fmt: skip
        self._tasks = [asyncio.create_task(each) for each in work]
        await self._workers.start()
        self._tasks.append(asyncio.create_task(self._reloader.run()))
        # What lives now lives on. To look at it again while metrics are added up would keep all else waiting.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self.admin.lag.start()
        host, port = self.address
        log.info(
            "serving", address=f"{host}:{port}", workers=len(self.listeners) or 1, accounts=len(self.config.accounts)
        )

    def _asked_to_stop(self) -> None:
        if self._stopping.asked:
            log.warning("asked again: stopping at once")
            self._stopping.hurry()
            self._workers.kill()
        self._stop_soon()

    def _stop_soon(self) -> None:
        self._stopping.ask()
        self._workers.stop()

    def _order(self) -> Start:
        return Start(
            encode(self.config),
            self.pool.document,
            self.pool.processes,
            self._store_url,
            self.keys.usable(),
            self._processes.new_name(),
        )

    def _changed(self) -> None:
        self.pool.poke()
        self.keys.poke()

    def _keys_changed(self) -> None:
        self._workers.tell(Keys(self.keys.usable()))

    def _agreed(self) -> None:
        self.account_states.apply(self.pool.document)
        self._workers.tell(Document(self.pool.document, self.pool.processes))

    def _reseed(self) -> None:
        self._workers.tell(Reseed())
        self._ledger.archive.ask()

    async def _reload(self, config: Config) -> None:
        """Serve by this configuration from now on. Workers learn of accounts before the document names them."""
        self.config = config
        self._directory.warn()
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
            self.admin.access.heard(data)

    # The end.

    async def stop(self, delay: float | None = None) -> None:
        """Not ready first; after the delay (seconds; None: as configured) no more connections; then the drain limit."""
        timeouts = self.config.timeouts
        delay = timeouts.drain_delay if delay is None else delay
        self._stopping.draining = True
        self._stop_soon()
        log.info("draining", delay_seconds=delay, limit_seconds=timeouts.drain)
        self._workers.tell(NotReady())
        await self._stopping.delay(delay)
        for listener in self.listeners:
            listener.close()
        await self._workers.drain(timeouts.drain)
        await self.pool.leave()
        await self.account_states.aclose()
        await self.admin.end()
        self._workers.close()
        for task in self._tasks:
            task.cancel()
        await self.admin.close()
        await self._binding_counts.close()
        await self._ledger.close()
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
