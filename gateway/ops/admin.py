"""The operator's listener: leads each request to its route, once it is known who asks and whether they may.

It does not know processes, nor what is behind a route. Whatever it answers, nobody keeps and no other page frames;
errors are Anthropic's JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from gateway.config_rules import moment_text
from gateway.errors import ApiError
from gateway.ops.access import SIGN_IN, Access
from gateway.ops.audit import Audit, Entry
from gateway.ops.routes import Call, Route, Table

SAFE = ("GET", "HEAD")
_UNNAMED = "?"  # in the audit log: an id that was not found to be one may be a secret in the wrong place
# Of every answer, unless its handler says otherwise.
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = structlog.get_logger("gateway.admin")


class AdminApp:
    """The application of the admin listener, as ASGI has it. Changes are told to `audit`, if there is one; `now()`
    gives Unix seconds."""

    def __init__(
        self,
        routes: Iterable[Route],
        access: Access,
        audit: Audit | None,
        new_request_id: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._table = Table(routes)
        self._access = access
        self._audit = audit
        self._new_request_id = new_request_id
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        request_id = self._new_request_id()
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        rows, params = self._table.find(raw_path.decode("latin-1"))
        call = Call(request, request_id, params)
        route = rows.get(request.method)
        try:
            response = await self._answer(call, rows, route)
        except ApiError as error:
            response = refusal(error, request_id)
            if error.status == 405:
                response.headers["allow"] = ", ".join(sorted(rows))
        except ClientDisconnect:
            return
        except Exception:
            log.exception("unhandled error", request_id=request_id, route=route.path if route else "")
            response = refusal(ApiError(500, "The gateway failed to handle this request."), request_id)
        if route is not None and route.action and call.who is not None:
            await self._record(call, route, response.status_code)
        response.headers["x-gateway-request-id"] = request_id
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _answer(self, call: Call, rows: dict[str, Route] | Any, route: Route | None) -> Response:
        request = call.request
        call.who = self._access.who(request)
        is_open = route.open() if route is not None else any(each.open() for each in rows.values())
        if not is_open and call.who is None:
            if route is not None and route.page and "authorization" not in request.headers:
                return RedirectResponse("/login", 303)
            raise ApiError(401, SIGN_IN)
        if not rows:
            raise ApiError(404, "Not found")
        if route is None:
            raise ApiError(405, f"{request.method} is not allowed here")
        if not is_open and call.who is not None:
            if not call.who.may(route.role):
                raise ApiError(403, f"This needs the role {route.role}; {call.who.id} has the role {call.who.role}")
            if request.method not in SAFE:
                self._access.check_change(request, call.who)
        return await route.handler(call)

    async def _record(self, call: Call, route: Route, status: int) -> None:
        who = call.who
        if self._audit is None or who is None:
            return
        kind, named, _ = route.path.removeprefix("/admin/v1/").partition("{")
        resource = call.resource or (kind + _UNNAMED if named else kind)
        entry = Entry(
            id=call.request_id, at=moment_text(round(self._now(), 3)), who=who.id, role=who.role,
            by="session" if who.session else "token", address=self._access.address(call.request), action=route.action,
            method=call.request.method, resource=resource, status=status, changes=call.changes if status < 400 else {},
        )  # fmt: skip
        await self._audit.record(entry)


def refusal(error: ApiError, request_id: str) -> Response:
    """The answer that says so."""
    headers = {"content-type": "application/json", "request-id": request_id}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(error.body(request_id), error.status, headers)
