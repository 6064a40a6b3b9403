"""The composition root of a worker: what there is, put together in one visible place, and the way in.

Forwarded endpoints go straight to the proxy; everything that is not hot goes through Starlette.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache, partial
from time import monotonic, time
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import log
from gateway.config.schema import Config, catalogue_of
from gateway.core.routing import broadcast
from gateway.core.routing.document import PoolDocument
from gateway.core.routing.router import Router
from gateway.errors import TYPES, ApiError
from gateway.listen.asgi import AsgiClient
from gateway.listen.client import Client, Receive, Scope, Send
from gateway.listen.cors import Cors
from gateway.listen.cycle import Cycle
from gateway.records import Finished
from gateway.store.client.client import StoreClient
from gateway.store.ledger.ledger import UsageJournal
from gateway.store.owners import OwnersJournal
from gateway.store.pool.keyring import boosts_of, keyring_of, teams_of
from gateway.store.pool.keyring import decode as decode_keys
from gateway.telemetry.lag import Lag
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import OTHER, WorkerMetrics
from gateway.telemetry.recent import MOST
from gateway.telemetry.tracing import tracing_of
from gateway.worker.accounts import Pool
from gateway.worker.affinity.bindings import Admission, renews
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting, usage_folder
from gateway.worker.callers.own_view import OwnView
from gateway.worker.endpoints import HOT, find, nowhere
from gateway.worker.objects.batch_usage import BatchUsageMeter
from gateway.worker.objects.owners import Owners, objects_folder
from gateway.worker.request.journey import new_request_id
from gateway.worker.request.proxy import Proxy
from gateway.worker.request.settlement import Settlement
from gateway.worker.revival import Revival
from gateway.worker.upkeep import Upkeep

TICK = 0.9  # seconds between looks at the requests on their way, at least
REST_EVERY = 300.0  # seconds after which what was journaled may be compacted
_MARGIN = 60_000  # ms before a store was found away in which it may have lost what it was told
TELL_EVERY = 5.0  # seconds between two times that a store which refuses to count is to be told everything again
STORE_WAIT = 1.0  # seconds a starting worker waits for the store


class Gateway:
    """One worker's application: an ASGI callable, and the handles that its process needs."""

    def __init__(
        self,
        config: Config,
        document: PoolDocument,
        keys: bytes,
        store_url: str,
        process: str,
        request_log: RequestLog,
    ) -> None:
        self.config = config
        self._made = decode_keys(keys)
        self.keyring = keyring_of(config.keys, self._made)
        self.catalogue = catalogue_of(config)

        def known(model: str) -> str:
            found = self.catalogue.find(model)
            return found.id if found is not None else OTHER

        @lru_cache(4096)
        def bound_thinking(model: str) -> bool:
            found = self.catalogue.find(model)
            return found is not None and found.account_bound_thinking

        @lru_cache(4096)
        def limit_class(model: str) -> str:
            return self.catalogue.limit_class(model)

        self.draining = False
        self.ended: deque[Finished] = deque(maxlen=MOST)  # requests, until the supervisor takes them
        self.metrics = WorkerMetrics(known, self._in_flight, self._degraded)
        self._lag = Lag(self.metrics.lag, self._beat)
        self.tracing = tracing_of(config, process)
        self.store = StoreClient(
            store_url, budget=config.timeouts.store, on_change=self._store_changed, watch=self.metrics.store
        )
        self.tell: Callable[[bytes], None] = lambda data: None  # broadcasts to the other processes
        self.store_returned: Callable[[int], None] = lambda since: None  # what was journaled meanwhile is to be told
        self._away_since = 0  # of the store (Unix ms); 0 while it is there, or was never seen
        self.pool = Pool(config)
        self.router = Router(limit_class, self._tell, self.pool.free, lambda model: self.catalogue.names(model))
        self.router.failing.process = process
        self.apply(document)
        self._process = process
        self.revival = Revival(self.router, self.pool, self.store, process, self._unreachable)
        self._request_log = request_log
        self.admission = Admission(config, self.store, self.metrics.moved, self._tell)
        self.owners = Owners(config, self.store, self.router, OwnersJournal(objects_folder(config)), self._tell)
        self.accounting = Accounting(
            config,
            self.store,
            self.catalogue,
            UsageJournal(usage_folder(config)),
            process,
            lambda: self.pool.processes,
        )
        self._batch_usage = BatchUsageMeter(self.store, self.owners, self.accounting, self.catalogue, self._observe)
        self._settlement = Settlement(self.admission, self.accounting, self.catalogue, self._observe)
        self.own_view = OwnView(self.store, self.accounting.settling.flush)
        self.callers = Callers(config, self.keyring, lambda: self.admission.store_up)
        self.proxy = Proxy(
            config, self.pool, self.router, self.admission, self.accounting, self._settlement, self.owners,
            self._batch_usage, self.callers, self.own_view, self.metrics.upstream_answered, bound_thinking,
            self.tracing.begin,
        )  # fmt: skip
        self._enrol()
        self.upkeep = Upkeep(config, self.proxy.live, self._settlement, self.accounting)
        self._by_model = (
            bound_thinking.cache_clear, limit_class.cache_clear, self.metrics.forget_models, self.router.forget_models
        )  # fmt: skip
        self._cors = Cors(self, config)
        self._cold = Starlette(
            routes=[
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                Route("/api/hello", self._hello, methods=["GET"]),
                Route("/", self._root, methods=["GET"]),
            ],
            exception_handlers={HTTPException: cast(Callable[..., Response], self._not_served)},
        )
        self._cold.router.redirect_slashes = False
        self._tick_at = monotonic() + TICK
        self._rest_at = monotonic() + REST_EVERY
        self._tell_at = 0.0

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
        router.held, router.partial, router.capabilities = pool.credentials, pool.partial, pool.capabilities

    def reload(self, config: Config) -> None:
        """Follow a new configuration from the next request on."""
        if config.models != self.config.models:
            self.catalogue = catalogue_of(config)
            self._settlement.configure(self.catalogue)
            self._batch_usage.configure(self.catalogue)
            for forget in self._by_model:
                forget()
        self.config = config
        self._cors.configure(config)
        for account in self.pool.configure(config, self.router.ring.accounts):
            self.router.heard(broadcast.Back(account, wholly=True), monotonic())
        self._lend()
        self.router.forget_models()
        self.admission.configure(config)
        self.accounting.configure(config, self.catalogue)
        self.owners.configure(config)
        self.proxy.configure(config)
        self.callers.configure(config)
        self._enrol()
        self.upkeep.configure(config)

    def know(self, keys: bytes) -> None:
        """These are the callers and keys made at run time (`SharedKeys.usable`'s)."""
        before = self._made.present.keys() & self.keyring.callers.keys()
        self._made = decode_keys(keys)
        self._enrol()
        self.proxy.end(before - self.keyring.callers.keys())

    def _enrol(self) -> None:
        now = time() * 1000
        teams = teams_of(self.config.teams, self._made)
        self.keyring = keyring_of(self.config.keys, self._made, self.config.teams, now)
        self.callers.know(self.keyring, teams)
        self.proxy.know(teams)
        boosts = boosts_of(self._made, now)
        self.accounting.know(teams, boosts, self.keyring.moved)
        in_file = {caller.id for caller in self.config.keys}
        made = {name: record for name, record in self._made.present.items() if name not in in_file}
        self.own_view.know(teams, boosts, made)
        self._enrol_at = min((each.until for each in self._made.boosts.values() if each.counts(now)), default=math.inf)
        self._introduce(teams)

    def _introduce(self, teams: Iterable[str]) -> None:
        callers = self.keyring.callers
        self.owners.know(callers)
        self.metrics.know_teams(caller.team for caller in callers.values() if caller.team)
        if self.config.issuers:
            self.metrics.know_teams(teams)

    def heard(self, data: bytes) -> None:
        """A broadcast from another process."""
        heard = broadcast.decode(data)
        if isinstance(heard, broadcast.Forget):
            self.admission.forget(heard)
            self.accounting.settling.forget(partial(renews, heard))
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
        self.tell(broadcast.encode(said))
        if isinstance(said, broadcast.Unreachable) and said.seconds:
            self.revival.lost(said.account)

    def _unreachable(self, account: str, seconds: float) -> None:
        self._tell(broadcast.Unreachable(account, self._process, seconds))

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
        self.owners.rest()
        self.accounting.rest()
        await self.store.close()
        await asyncio.to_thread(self.tracing.close)

    def serve(self, cycle: Cycle) -> Awaitable[None]:
        """Serve a request of the data listener."""
        if self._cors.on:
            return cast(Awaitable[None], self._cors(cycle.scope, cycle.receive, cycle.send))
        return self._forward(cycle) or self._cold(cycle.scope, cycle.receive, cast(Any, _named(cycle.send)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as an ASGI application does."""
        client = AsgiClient(scope, receive, send)
        serving = self._forward(client)
        if serving is None:
            await self._cold(scope, receive, cast(Any, _named(send)))
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
        endpoint = HOT.get(client.path)
        if endpoint is not None:
            return self.proxy.handle(endpoint, client)
        match = find(client.path, client.method)
        return None if match is None else self.proxy.handle(match.endpoint, client, match.object)

    def _observe(self, record: Finished, admit_time: float) -> None:
        self.ended.append(record)
        try:
            self.metrics.observe(record, admit_time)
        finally:
            self._request_log.request(record)
        if record.span_id:
            self.tracing.finished(record)

    def _in_flight(self) -> dict[str, float]:
        running = Counter(x.request.endpoint.name for x in self.proxy.live)
        return {endpoint.name: 0.0 for endpoint in HOT.values()} | dict(running)

    def _degraded(self) -> dict[str, float]:
        away = {"store": not self.store.up, "journal": self.accounting.journal.full, "issuers": self.callers.failing}
        return {mode: float(holds) for mode, holds in away.items()}

    def _beat(self) -> None:
        now = monotonic()
        report = self.router.report(self._process, now)
        if report is not None:
            self._tell(report)
        if now < self._tick_at:
            return
        self._tick_at = now + TICK
        if time() * 1000 >= self._enrol_at:  # a boost has ended
            self._enrol()
        if now >= self._rest_at:
            self._rest_at = now + REST_EVERY
            self.owners.rest()
            self.accounting.rest()
        if now >= self._tell_at and (since := self.accounting.take_refused()):
            self._tell_at = now + TELL_EVERY
            self.store_returned(since - _MARGIN)
        try:
            self.upkeep.tick()
        except Exception:
            log.exception("upkeep failed")

    def _store_changed(self, up: bool, reason: str) -> None:
        if up:
            log.info("store connected")
            self.reseed()
            self.accounting.store_returned()
            if self._away_since:
                self.store_returned(self._away_since - _MARGIN)
            self._away_since = 0
        else:
            self._away_since = self._away_since or int(time() * 1000)
            log.warning("store away; conversations stay where remembered, else go by hash", reason=reason)

    # What is not hot.

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        body = self.readiness()
        return JSONResponse(body, status_code=200 if body["ready"] else 503)

    def readiness(self) -> dict[str, Any]:
        """The breakdown of `/readyz`: ready once pool and keys are loaded, until this process is asked to stop."""
        return {
            "ready": not self.draining,
            "draining": self.draining,
            "pool": {"epoch": self.router.ring.epoch, "accounts": len(self.router.ring.accounts)},
            "keys": self.keyring.count(time()),
            "store": "connected" if self.store.up else "away",
        }

    async def _root(self, request: Request) -> Response:
        return JSONResponse(
            {
                "message": "This is a gateway to the Anthropic API: point a client's base URL here, without /v1.",
                "messages": "/v1/messages",
                "ready": "/readyz",
            }
        )

    async def _hello(self, request: Request) -> Response:
        return JSONResponse({"message": "hello"})

    async def _not_served(self, request: Request, error: HTTPException) -> Response:
        request_id = new_request_id()
        status = error.status_code if error.status_code in TYPES else 404
        words = nowhere(request.url.path) if status == 404 else error.detail
        own = ApiError(status, words)
        headers = {name.decode(): value.decode() for name, value in own.headers(request_id)}
        return Response(own.body(request_id), status, headers)


def _named(send: Send) -> Send:
    """Every answer carries a request id of the gateway's, these too."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0] != b"x-gateway-request-id"]
            given = next((value for name, value in headers if name == b"request-id"), None)
            message["headers"] = [*headers, (b"x-gateway-request-id", given or new_request_id().encode())]
        await send(message)

    return sending
