"""The supervisor: starts the store and the workers, keeps them agreed and alive, and ends them in order.

It serves no request of a client. Its main thread owns the embedded store (which dies with that thread), the listening
sockets, the pool document, the admin listener and the sum of the workers' metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import structlog
import uvicorn
from prometheus_client import CollectorRegistry, Gauge

import gateway
from gateway.config import Config, encode, parse_listen
from gateway.core.document import Announcement, reconcile
from gateway.edge.control import Channel, Document, Drain, NotReady, Numbers, Ready, Scrape, Start
from gateway.edge.pool import entry_of
from gateway.ops.admin import admin_app
from gateway.ops.metrics import Totals
from gateway.store.client import StoreDown
from gateway.store.pool_store import NewerSchema, PoolStore

log = structlog.get_logger("gateway.supervisor")
HEARTBEAT = 2.0  # seconds
_AGREE_WAIT = 1.5  # seconds a starting gateway waits for the store before it goes by its own file
_START_WAIT = 30.0  # seconds a worker may take until it serves
_SCRAPE_WAIT = 1.0  # seconds a worker may take to tell its numbers
_PULL_EVERY = 2.0  # seconds between unasked looks at them, so that little is lost when a worker is killed
_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before a worker that died is replaced


class Unstartable(Exception):
    """The gateway cannot start as it is configured; the message says what to do."""


def bind(listen: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address. The kernel spreads connections over them; the supervisor keeps them
    open, so that the queue of a worker that died waits for its successor."""
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind((host, port))
            port = each.getsockname()[1]
            each.set_inheritable(True)
            each.listen(4096)
    except OSError as error:
        for each in sockets:
            each.close()
        hint = "choose another address or stop what uses it"
        raise Unstartable(f"cannot listen on {listen}: {error.strerror}; {hint}") from None
    return sockets


class Worker:
    """One worker process, as its supervisor sees it."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.index = index
        self.process = process
        self.channel = channel
        self.started = time.monotonic()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.told = asyncio.Event()  # set whenever numbers have come

    def __repr__(self) -> str:
        return f"<Worker {self.index} pid={self.process.pid} ready={self.ready.is_set()}>"


class Supervisor:
    """Runs one gateway with this configuration against the store at `store_url`; `revive` is called now and then to
    start that store again should it have died and be ours."""

    def __init__(self, config: Config, store_url: str, revive: Callable[[], object]) -> None:
        self.config = config
        self._revive = revive
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store_url = store_url
        self._announcement = Announcement(self.id, time.time(), tuple(sorted(map(entry_of, config.accounts))))
        self.document = reconcile(None, [self._announcement])
        self._pool_store = PoolStore(store_url)
        self._store_up = False
        self._draining = False
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._agreeing = asyncio.Lock()
        self._stillborn = False  # a worker has died before it served
        self._workers: dict[int, Worker] = {}
        self._totals = Totals()
        self._tasks: list[asyncio.Task[Any]] = []
        self.listeners = bind(config.listen, config.workers)
        self._admin_socket = bind(config.admin.listen, 1)[0]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the data listener."""
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
        await self._agree(_AGREE_WAIT)
        admin = self._admin_server()
        self._task(admin.serve([self._admin_socket]))
        self._task(self._heartbeat())
        self._task(self._pool_store.follow(self._agree))
        await self._all_ready()
        self._task(self._pull())
        host, port = self.address
        log.info("serving", address=f"{host}:{port}", workers=self.config.workers, accounts=len(self.config.accounts))
        serving()
        await self._stopping.wait()
        await self._stop(admin)

    def _asked_to_stop(self) -> None:
        if self._stopping.is_set():
            log.warning("asked again: stopping at once")
            self._hurry.set()
            for worker in self._workers.values():
                worker.process.kill()
        self._stopping.set()

    def _task(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    # The pool document.

    async def _agree(self, wait: float = 5.0) -> None:
        async with self._agreeing:  # one at a time: a slower, older answer must not undo a newer one
            await self._agree_now(wait)

    async def _agree_now(self, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                document = await self._pool_store.agree(self._announcement, self.document)
        except (StoreDown, TimeoutError) as error:
            if self._store_up:
                log.warning("store away; the pool stays as it was agreed last", reason=str(error))
            self._store_up = False
            return
        except NewerSchema as error:
            if not self._tasks:
                raise Unstartable(f"{error}; upgrade this gateway or give it a store of its own") from None
            log.error("a newer version owns the store; stopping", reason=str(error))
            self._stopping.set()
            return
        self._store_up = True
        if document.epoch != self.document.epoch or document.accounts != self.document.accounts:
            self.document = document
            log.info("pool agreed", epoch=document.epoch, accounts=len(document.accounts))
            for worker in self._workers.values():
                worker.channel.send(Document(document))

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            try:
                self._revive()
                await self._agree()
            except Exception:  # whatever it was, the next beat must come
                log.exception("heartbeat failed")

    # Workers.

    async def _keep(self, index: int) -> None:
        """Worker `index`, however often it dies."""
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code: int | str
            try:
                worker = await self._start(index)
                code = await self._watch(worker)
                self._stillborn = self._stillborn or not worker.ready.is_set()
            except OSError as error:  # no process or descriptor to be had now
                code = str(error)
            if self._stopping.is_set():
                return
            lived = time.monotonic() - began
            deaths = deaths + 1 if lived < 10 else 0
            log.error("worker died; starting another", worker=index, exit=code, lived_seconds=round(lived, 1))
            await asyncio.sleep(_BACKOFF[min(deaths, len(_BACKOFF) - 1)])

    async def _watch(self, worker: Worker) -> int | str:
        """Wait until the worker is gone; one that does not begin to serve in time is ended."""
        try:
            async with asyncio.timeout(_START_WAIT) as limit:
                ready = asyncio.create_task(worker.ready.wait())
                gone = asyncio.create_task(worker.gone.wait())
                await asyncio.wait((ready, gone), return_when=asyncio.FIRST_COMPLETED)
                limit.reschedule(None)
        except TimeoutError:
            worker.process.kill()
        finally:
            ready.cancel()
            gone.cancel()
        await worker.gone.wait()
        return worker.process.returncode

    async def _start(self, index: int) -> Worker:
        ours, theirs = socket.socketpair()
        listener = self.listeners[index]
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - it must be forked by this thread; our own interpreter
            [sys.executable, "-m", "gateway.edge.worker", str(theirs.fileno()), str(listener.fileno())],
            pass_fds=(theirs.fileno(), listener.fileno()),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        ours.setblocking(False)
        try:
            channel = Channel(*await asyncio.open_connection(sock=ours))
        except OSError:
            process.kill()
            await asyncio.to_thread(process.wait)
            raise
        worker = self._workers[index] = Worker(index, process, channel)
        worker.channel.send(Start(encode(self.config), self.document, self._store_url))
        self._task(self._listen_to(worker))
        return worker

    async def _listen_to(self, worker: Worker) -> None:
        while (message := await worker.channel.receive()) is not None:
            if isinstance(message, Ready):
                worker.ready.set()
            elif isinstance(message, Numbers):
                self._totals.replace(worker.index, message.metrics)
                worker.told.set()
        worker.channel.close()
        await asyncio.to_thread(worker.process.wait)
        self._totals.end(worker.index)
        del self._workers[worker.index]
        worker.gone.set()

    async def _all_ready(self) -> None:
        """Wait until every worker serves. Raises Unstartable if one cannot."""
        for index in range(self.config.workers):
            self._task(self._keep(index))
        await asyncio.sleep(0)
        deadline = time.monotonic() + _START_WAIT
        while not self._stopping.is_set():
            workers = self._workers.values()
            if len(workers) == self.config.workers and all(worker.ready.is_set() for worker in workers):
                return
            if self._stillborn or time.monotonic() > deadline:
                for worker in workers:
                    worker.process.kill()
                raise Unstartable("a worker process does not start; the log above says why")
            await asyncio.sleep(0.01)

    async def _pull(self) -> None:
        while True:
            await asyncio.sleep(_PULL_EVERY)
            for worker in list(self._workers.values()):
                worker.channel.send(Scrape())

    async def refresh(self) -> None:
        """Fresh numbers from every worker, or its last ones if it does not answer in time."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.told.clear()
            worker.channel.send(Scrape())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SCRAPE_WAIT):
                await asyncio.gather(*(worker.told.wait() for worker in workers))

    # The admin listener.

    def _admin_server(self) -> uvicorn.Server:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._totals)
        info = Gauge("gateway_build_info", "1; the version is in the label.", ("version",), registry=registry)
        info.labels(gateway.__version__).set(1)
        app = admin_app(self.config.admin, registry, self.refresh, self._readiness, self._show_pool)
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none", proxy_headers=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        cast(Any, server).capture_signals = contextlib.nullcontext
        return server

    async def _readiness(self) -> dict[str, Any]:
        workers = {str(worker.index): worker.ready.is_set() for worker in self._workers.values()}
        return {
            "ready": not self._draining and any(workers.values()),
            "draining": self._draining,
            "workers": workers,
            "pool": {"epoch": self.document.epoch, "accounts": len(self.document.accounts)},
            "keys": sum(len(caller.digests) for caller in self.config.keys),
            "store": "connected" if self._store_up else "away",
        }

    async def _show_pool(self) -> dict[str, Any]:
        return cast(dict[str, Any], msgspec.to_builtins(self.document))

    # The end.

    async def _stop(self, admin: uvicorn.Server) -> None:
        """Not ready first; after the delay no more connections; then the drain limit."""
        timeouts = self.config.timeouts
        self._draining = True
        log.info("draining", delay_seconds=timeouts.drain_delay, limit_seconds=timeouts.drain)
        for worker in self._workers.values():
            worker.channel.send(NotReady())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), timeouts.drain_delay)
        for listener in self.listeners:
            listener.close()
        workers = list(self._workers.values())
        for worker in workers:
            worker.channel.send(Drain(timeouts.drain))
        for worker in workers:
            await asyncio.to_thread(worker.process.wait)
        await self._pool_store.leave(self.id)
        admin.should_exit = True
        await asyncio.sleep(0)
        for task in self._tasks[1:]:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._tasks[0]), 3)
        await self._pool_store.close()
        log.info("stopped")


def run(
    config: Config, store_url: str, revive: Callable[[], object], serving: Callable[[Supervisor], None] = lambda _: None
) -> None:
    """Run a gateway in this thread, which must be the main one, until it is asked to stop."""

    async def main() -> None:
        supervisor = Supervisor(config, store_url, revive)
        await supervisor.run(lambda: serving(supervisor))

    asyncio.run(main())
