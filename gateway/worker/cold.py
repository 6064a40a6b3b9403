"""What of the data listener is not hot: health, a word at the root, and paths that lead nowhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import TYPES, ApiError
from gateway.listen.client import Receive, Scope, Send
from gateway.worker.endpoints import nowhere

_ROOT = {
    "message": "This is a gateway to the Anthropic API: point a client's base URL here, without /v1.",
    "messages": "/v1/messages",
    "ready": "/readyz",
}


class Cold:
    """An ASGI application. `readiness()` is the breakdown of `/readyz`; `name()` makes ids of requests."""

    def __init__(self, readiness: Callable[[], dict[str, Any]], name: Callable[[], str]) -> None:
        self._readiness = readiness
        self._name = name
        self._app = Starlette(
            routes=[
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                Route("/api/hello", self._hello, methods=["GET"]),
                Route("/", self._root, methods=["GET"]),
            ],
            exception_handlers={HTTPException: cast(Callable[..., Response], self._not_served)},
        )
        self._app.router.redirect_slashes = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, cast(Any, self._named(send)))

    def _named(self, send: Send) -> Send:
        """Every answer carries a request id of the gateway's, these too."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [header for header in message.get("headers", ()) if header[0] != b"x-gateway-request-id"]
                given = next((value for name, value in headers if name == b"request-id"), None)
                message["headers"] = [*headers, (b"x-gateway-request-id", given or self._name().encode())]
            await send(message)

        return sending

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        body = self._readiness()
        return JSONResponse(body, status_code=200 if body["ready"] else 503)

    async def _hello(self, request: Request) -> Response:
        return JSONResponse({"message": "hello"})

    async def _root(self, request: Request) -> Response:
        return JSONResponse(_ROOT)

    async def _not_served(self, request: Request, error: HTTPException) -> Response:
        request_id = self._name()
        status = error.status_code if error.status_code in TYPES else 404
        words = nowhere(request.url.path) if status == 404 else error.detail
        own = ApiError(status, words)
        headers = {name.decode(): value.decode() for name, value in own.headers(request_id)}
        return Response(own.body(request_id), status, headers)
