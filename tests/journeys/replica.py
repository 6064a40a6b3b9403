"""One process that serves, made as a worker makes it, with what its supervisor does for it.

The one place that knows how the gateway is made, and where it keeps what a request must not leave behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn

from gateway.config.schema import Config
from gateway.core.routing.broadcast import encode
from gateway.core.routing.document import PoolDocument
from gateway.core.spending.keyring import Stored
from gateway.listen.server import Server
from gateway.records import Finished
from gateway.store.client.client import StoreDown
from gateway.store.ledger.journal import read as read_journal
from gateway.store.ledger.ledger import Entry, UsageJournal, unpack
from gateway.store.owners import OwnersJournal
from gateway.store.pool.keyring import encode as encode_keys
from gateway.telemetry.counters import families_of
from gateway.telemetry.logs import RequestLog
from gateway.worker.above import Above
from gateway.worker.app import Gateway
from gateway.worker.request.journey import new_request_id
from tests.journeys.world import World

AGAIN = 5.0  # seconds after which a store that was away meanwhile is told once more


class Replica:
    """`tell` spreads what it broadcasts to the others; `share` processes divide slots and limits. With `asgi` it is
    served by uvicorn, else by its own listener."""

    def __init__(
        self, name: str, config: Config, document: PoolDocument, share: int, tell: Callable[[bytes], None],
        world: World, asgi: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.world = world
        self.asgi = asgi
        self._drain: Callable[[], None] = lambda: None
        self.lines: list[bytes] = []  # of the log of requests
        self._folder = Path(config.data_dir)
        log = RequestLog(cast(Any, _Lines(self.lines)), human=False, least=logging.INFO)
        above = Above(lambda fact: tell(encode(fact)), self.replay_soon)
        self.gateway = Gateway(config, document, encode_keys(Stored()), config.redis, name, log, above)
        self.gateway.apply(document, share)
        self._config = config

    async def start(self) -> None:
        await self.gateway.start()
        if self.asgi:
            await self._start_uvicorn()
            return
        gateway = self.gateway
        server = Server(gateway.serve, self._config, new_request_id, gateway.metrics.throttled, gateway.take)
        self._drain = server.drain
        self._serving = asyncio.create_task(server.serve([cast(Any, _Socket())]))
        await server.listening.wait()

    async def _start_uvicorn(self) -> None:
        """Another ASGI server, as it is."""
        settings = uvicorn.Config(self.gateway, http="httptools", lifespan="off", log_config=None, server_header=False)
        server = uvicorn.Server(settings)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._serving = asyncio.create_task(server.serve([cast(Any, _Socket())]))
        while not server.started:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.gateway.close()
        for account in self.gateway.pool.accounts.values():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(account.transport.aclose(), 1.0)

    def stop(self) -> None:
        """The process ends: what still runs is told so."""
        self.gateway.draining = True
        self._drain()
        self.gateway.upkeep.interrupt("drain")

    # What its supervisor does.

    def reseed(self) -> None:
        """The store may have lost something: give it back."""
        self.gateway.reseed()
        self.replay_soon(0)

    def replay_soon(self, since: int) -> None:
        """Tell the store what was journaled since then."""
        self._replaying = asyncio.create_task(self._replay(since))

    async def _replay(self, since: int) -> None:
        async def run(script: Any, args: Any) -> Any:
            return await self.gateway.store.call(script, args)

        while True:
            now = int(self.world.clock.wall * 1000)
            try:
                await OwnersJournal(self._folder / "objects").replay(run, now)
                await UsageJournal(self._folder / "usage").replay(run, now, since)
                return
            except StoreDown:
                await asyncio.sleep(AGAIN)

    # What can be seen of it.

    @property
    def records(self) -> list[Finished]:
        """Of all requests that have ended."""
        return list(self.gateway.observer.ended)

    @property
    def journal(self) -> list[Entry]:
        return entries(read_journal(self._folder / "usage"))

    @property
    def counted(self) -> int:
        """Requests in its metrics."""
        families = families_of(self.gateway.metrics.snapshot())
        return int(
            sum(value for each in families if each.name == "gateway_requests" for _, (value, *_) in each.children)
        )

    def state(self, account: str, model: str) -> str:
        """How an account stands: `open`, or why not and for how many seconds."""
        router, now = self.gateway.router, self.world.clock.now
        entry = router.ring.accounts.get(account)
        if entry is None:
            return "gone"
        why, wait = router.state(entry, model, router.classify(model), 0.0, True, now)
        return f"{why} {wait:.0f}" if why and wait < 1e9 else why or "open"

    def left_behind(self) -> Iterator[str]:
        """What requests have left in it, or on its connections."""
        gateway = self.gateway
        if gateway.proxy.live:
            yield "requests are still on their way"
        for account in gateway.pool.accounts.values():
            if "in_flight=0 waiting=0" not in repr(account):
                yield f"{account!r}"
            if "busy=0" not in repr(account.transport):
                yield f"{account.transport!r}"
        if gateway.router.waiting:
            yield f"{gateway.router.waiting} wait for a limit"
        report = gateway.router.report(self.name, self.world.clock.now)
        for seen in report.domains if report is not None else ():
            if seen.asked or seen.reserved:
                yield f"{seen.asked} requests and {seen.reserved} tokens reserved of {seen.organization}'s limits"
        if gateway.proxy.holding.bytes:
            yield f"{gateway.proxy.holding.bytes} bytes of bodies are held"
        if gateway.proxy.home.flights._leaders:
            yield "somebody still leads"


def entries(packed: Iterable[bytes]) -> list[Entry]:
    """Records of the ledger, totals left out."""
    return [each for each in map(unpack, packed) if isinstance(each, Entry)]


class _Lines:
    """Where lines of a log go."""

    def __init__(self, lines: list[bytes]) -> None:
        self.write = lines.append


class _Socket:
    def close(self) -> None:
        pass
