"""The operator's listener: health, metrics, accounts, keys and conversations. Everything but health needs the bearer
token.

It does not know processes: it is given functions that answer.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config import Admin
from gateway.errors import ApiError
from gateway.ops.accounts import Accounts
from gateway.ops.conversations import Conversations, wanted
from gateway.ops.keys import Keys
from gateway.ops.usage import Usage, usage_routes

MAX_BODY = 64 * 1024  # bytes that an operator's request may have
_SECRET = {"cache-control": "no-store"}
Answer = Callable[[], Awaitable[dict[str, Any]]]
Handler = Callable[[Request], Awaitable[Response]]


class _Anything(Convertor[str]):
    """The rest of a path, whatever is in it: `path` stops at a line's end."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def admin_app(
    config: Admin,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]],
    readiness: Answer,
    pool: Answer,
    accounts: Accounts,
    conversations: Conversations,
    new_request_id: Callable[[], str],
    keys: Keys | None = None,
    usage: Usage | None = None,
) -> Starlette:
    """`refresh` is awaited before each scrape; `readiness` and `pool` give the bodies of their paths. Without `keys`
    or `usage` there are none of theirs."""
    token = config.token.encode()

    def authorize(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1", "replace"), token):
            raise ApiError(401, "The admin listener needs the header: Authorization: Bearer <admin.token>")

    def answering(handler: Handler, check: Callable[[Request], None] = authorize) -> Handler:
        async def answer(request: Request) -> Response:
            request_id = new_request_id()
            try:
                check(request)
                response = await handler(request)
            except ApiError as error:
                response = Response(error.body(request_id), error.status, {"content-type": "application/json"})
                response.headers["request-id"] = request_id
                if error.status == 401:
                    response.headers["www-authenticate"] = "Bearer"
            response.headers["x-gateway-request-id"] = request_id
            return response

        return answer

    def open_to_all(request: Request) -> None:
        return

    async def metrics(request: Request) -> Response:
        await refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        body = await readiness()
        return JSONResponse(body, 200 if body["ready"] else 503)

    async def show_pool(request: Request) -> Response:
        return JSONResponse(await pool())

    async def list_accounts(request: Request) -> Response:
        return JSONResponse({"data": accounts.all()})

    async def show_account(request: Request) -> Response:
        return JSONResponse(accounts.one(request.path_params["id"]))

    async def change_account(request: Request) -> Response:
        return JSONResponse(await accounts.change(request.path_params["id"], await _body(request)))

    async def flush_account(request: Request) -> Response:
        return JSONResponse(await conversations.flush_account(request.path_params["id"]))

    async def show_conversation(request: Request) -> Response:
        return JSONResponse(await conversations.show(wanted(request.scope["raw_path"], request.query_params)))

    async def flush_conversation(request: Request) -> Response:
        return JSONResponse(await conversations.flush(wanted(request.scope["raw_path"], request.query_params)))

    async def nothing(request: Request) -> Response:
        raise ApiError(404, "Not found")

    def key_routes(keys: Keys) -> list[Route]:
        async def list_keys(request: Request) -> Response:
            return JSONResponse({"data": keys.all()})

        async def create_key(request: Request) -> Response:
            return JSONResponse(await keys.create(await _body(request)), 201, _SECRET)

        async def rotate_key(request: Request) -> Response:
            return JSONResponse(await keys.rotate(request.path_params["id"], await _body(request)), 201, _SECRET)

        async def revoke_key(request: Request) -> Response:
            return JSONResponse(await keys.revoke(request.path_params["id"]))

        return [
            Route("/admin/v1/keys", answering(list_keys)),
            Route("/admin/v1/keys", answering(create_key), methods=["POST"]),
            Route("/admin/v1/keys/{id}", answering(revoke_key), methods=["DELETE"]),
            Route("/admin/v1/keys/{id}/rotate", answering(rotate_key), methods=["POST"]),
        ]

    return Starlette(
        routes=[
            Route("/healthz", answering(healthz, open_to_all)),
            Route("/readyz", answering(readyz, open_to_all)),
            Route("/metrics", answering(metrics, open_to_all if config.metrics_open else authorize)),
            Route("/admin/v1/pool", answering(show_pool)),
            Route("/admin/v1/accounts", answering(list_accounts)),
            Route("/admin/v1/accounts/{id}", answering(show_account)),
            Route("/admin/v1/accounts/{id}", answering(change_account), methods=["PATCH"]),
            Route("/admin/v1/accounts/{id}/bindings", answering(flush_account), methods=["DELETE"]),
            Route("/admin/v1/conversations/{path:anything}", answering(show_conversation)),
            Route("/admin/v1/conversations/{path:anything}", answering(flush_conversation), methods=["DELETE"]),
            *([] if keys is None else key_routes(keys)),
            *([] if usage is None else usage_routes(usage, answering)),
            Route("/{path:anything}", answering(nothing), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]
    )


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise ApiError(413, f"A request to the admin listener may have {MAX_BODY} bytes")
    return body
