"""The composition root of a worker: what there is, put together in one visible place, and the way in.

Forwarded endpoints go straight to the proxy; everything that is not hot goes through Starlette.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config import Config
from gateway.core.document import PoolDocument
from gateway.data import load_catalogue
from gateway.edge import endpoints
from gateway.edge.admission import Admission, Callers
from gateway.edge.cycle import Receive, Scope, Send
from gateway.edge.exchange import new_request_id
from gateway.edge.pool import Pool
from gateway.edge.proxy import Proxy
from gateway.edge.settlement import Settlement
from gateway.edge.upkeep import Upkeep
from gateway.errors import TYPES, ApiError
from gateway.ops.logs import RequestLog
from gateway.ops.metrics import OTHER, WorkerMetrics
from gateway.records import Finished
from gateway.store.client import StoreClient

log = structlog.get_logger("gateway.worker")
STORE_WAIT = 1.0  # seconds a starting worker waits for the store


class Gateway:
    """One worker's application: an ASGI callable, and the handles that its process needs."""

    def __init__(self, config: Config, document: PoolDocument, store_url: str, request_log: RequestLog) -> None:
        catalogue = load_catalogue()

        def known(model: str) -> str:
            found = catalogue.find(model)
            return found.id if found is not None else OTHER

        self.config = config
        self.draining = False
        self.metrics = WorkerMetrics(known, lambda: len(self.proxy.live))
        self.store = StoreClient(store_url, on_change=self._store_changed)
        self.pool = Pool(config)
        self.pool.apply(document)
        self._request_log = request_log
        admission = Admission(config, self.pool, self.store)
        settlement = Settlement(admission, catalogue, self._observe)
        callers = Callers(config.keys)
        self.proxy = Proxy(config, self.pool, callers, admission, settlement, self.metrics.upstream_answered)
        self.upkeep = Upkeep(config, self.proxy.live, settlement)
        self._cold = Starlette(
            routes=[
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                Route("/api/hello", self._hello, methods=["GET"]),
            ],
            exception_handlers={HTTPException: cast(Callable[..., Response], self._not_served)},
        )
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the store (or note that it is away) and begin the upkeep."""
        await self.store.start(STORE_WAIT)
        self._ticker = asyncio.create_task(self._tick())

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        await self.store.close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = endpoints.find(scope["raw_path"])
        if endpoint is not None:
            return self.proxy.handle(endpoint, scope, receive, send)
        return self._cold(scope, receive, cast(Any, _named(send)))

    def _observe(self, record: Finished, admit_time: float) -> None:
        self._request_log.request(record)
        self.metrics.observe(record, admit_time)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                self.upkeep.tick()
            except Exception:
                log.exception("upkeep failed")

    def _store_changed(self, up: bool, reason: str) -> None:
        if up:
            log.info("store connected")
        else:
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
            "pool": {"epoch": self.pool.ring.epoch, "accounts": len(self.pool.ring.accounts)},
            "keys": sum(len(caller.digests) for caller in self.config.keys),
            "store": "connected" if self.store.up else "away",
        }

    async def _hello(self, request: Request) -> Response:
        return JSONResponse({"message": "hello"})

    async def _not_served(self, request: Request, error: HTTPException) -> Response:
        request_id = new_request_id()
        status = error.status_code if error.status_code in TYPES else 404
        words = "Not found" if status == 404 else error.detail
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
