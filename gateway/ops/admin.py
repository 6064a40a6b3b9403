"""The operator's listener: health and metrics. Everything but health needs the bearer token.

It does not know processes: it is given functions that answer.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config import Admin
from gateway.errors import ApiError

Answer = Callable[[], Awaitable[dict[str, Any]]]


def admin_app(
    config: Admin, registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]], readiness: Answer, pool: Answer
) -> Starlette:
    """`refresh` is awaited before each scrape; `readiness` and `pool` give the bodies of their paths."""
    token = config.token.encode()

    def refused(request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), token):
            return None
        error = ApiError(401, "The admin listener needs the header: Authorization: Bearer <admin.token>")
        return Response(error.body(""), 401, {"content-type": "application/json", "www-authenticate": "Bearer"})

    async def metrics(request: Request) -> Response:
        if not config.metrics_open and (refusal := refused(request)):
            return refusal
        await refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        body = await readiness()
        return JSONResponse(body, 200 if body["ready"] else 503)

    async def show_pool(request: Request) -> Response:
        return refused(request) or JSONResponse(await pool())

    async def anything(request: Request) -> Response:
        error = ApiError(404, "Not found")
        return refused(request) or Response(error.body(""), 404, {"content-type": "application/json"})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/admin/v1/pool", show_pool),
            Route("/{path:path}", anything, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]
    )
