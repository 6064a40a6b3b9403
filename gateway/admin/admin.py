"""The operator's listener: leads each request to its route, once it is known who asks and whether they may.

It does not know processes, nor what is behind a route. Whatever it answers, nobody keeps and no other page frames;
errors are Anthropic's JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from gateway import log
from gateway.admin.access import Access, Who
from gateway.admin.audit import Audit, Entry
from gateway.admin.routes import Call, Route, Table
from gateway.config.rules import instant_text
from gateway.errors import ApiError
from gateway.telemetry.repeats import Repeats

SAFE = ("GET", "HEAD")
_UNNAMED = "?"  # in the audit log: an id that was not found to be one may be a secret in the wrong place
_WINDOW = 60.0  # seconds in which refusals of one token are said once
_FINISH = 5.0  # seconds for changes to end when the gateway stops
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


class AdminApp:
    """The application of the admin listener, as ASGI has it. Changes are told to `audit`, if there is one; `now()`
    gives Unix seconds. Await `finish` before what it works with is closed."""

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
        self._acting: set[asyncio.Task[Response]] = set()
        self._lacking = Repeats[str](_WINDOW, _say_lacking, now)  # by who it was that has not the role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._access.failed_logins.look()
        self._lacking.look()
        request = Request(scope, receive, send)
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        rows, params = self._table.find(raw_path.decode("latin-1"))
        route = rows.get(request.method)
        call = Call(request, self._new_request_id(), params)
        try:
            response = await self._response(call, route, self._answer(call, rows, route))
        except ClientDisconnect:
            return
        if response.status_code == 405:
            response.headers["allow"] = ", ".join(sorted(rows))
        response.headers["x-gateway-request-id"] = call.request_id
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def finish(self) -> None:
        """Wait until what was begun is done and written down, though perhaps nobody waits for the answer any more."""
        if self._acting:
            await asyncio.wait(self._acting, timeout=_FINISH)
        for task in self._acting:
            task.cancel()
        await asyncio.gather(*self._acting, return_exceptions=True)

    async def _response(self, call: Call, route: Route | None, answer: Awaitable[Response]) -> Response:
        """The answer, or how it is refused."""
        try:
            return await answer
        except ApiError as error:
            return refusal(error, call.request_id)
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("unhandled error", request_id=call.request_id, route=route.path if route else "")
            return refusal(ApiError(500, "The gateway failed to handle this request."), call.request_id)

    async def _answer(self, call: Call, rows: Mapping[str, Route], route: Route | None) -> Response:
        request = call.request
        who = call.who = self._access.who(request)
        is_open = route.open() if route is not None else any(each.open() for each in rows.values())
        if not is_open and who is None:
            if route is not None and route.page and "authorization" not in request.headers:
                return RedirectResponse("/login", 303)
            raise self._access.turned_away(request)
        if not rows:
            raise ApiError(404, "Not found")
        if route is None:
            raise ApiError(405, f"{request.method} is not allowed here")
        if not is_open and who is not None and not who.may(route.role):
            raise self._lacks(call, who, route)
        if request.method in SAFE:
            return await route.handler(call)
        if route.body is not None:
            await call.arrived()  # whoever goes before that has asked for nothing
        task = asyncio.get_running_loop().create_task(self._act(call, route, None if is_open else who))
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)
        return await asyncio.shield(task)  # whoever goes now leaves neither half of it, nor a change without a record

    def _lacks(self, call: Call, who: Who, route: Route) -> ApiError:
        # Not in the audit log: those who may change nothing must not fill it.
        if self._lacking.add(who.id) == 1:
            log.warning(
                "admin action refused", who=who.id, role=who.role, action=route.action,
                address=self._access.address(call.request), request_id=call.request_id,
            )  # fmt: skip
        return ApiError(403, f"This needs the role {route.role}; {who.id} has the role {who.role}")

    async def _act(self, call: Call, route: Route, who: Who | None) -> Response:
        """Do it and write it down. A session of `who` must come from our page."""
        status = 503  # of what is ended half way nobody knows whether it was done
        try:
            response = await self._response(call, route, self._checked(call, route, who))
            status = response.status_code
            return response
        finally:
            await self._record(call, route, status)

    async def _checked(self, call: Call, route: Route, who: Who | None) -> Response:
        if who is not None:
            self._access.check_change(call.request, who)
        return await route.handler(call)

    async def _record(self, call: Call, route: Route, status: int) -> None:
        who = call.who
        if self._audit is None or who is None or not route.action:
            return
        kind, named, _ = route.path.removeprefix("/admin/v1/").partition("{")
        resource = call.resource or (kind + _UNNAMED if named else kind)
        entry = Entry(
            id=call.request_id, at=instant_text(self._now()), who=who.id, role=who.role,
            by="session" if who.session else "token", address=self._access.address(call.request), action=route.action,
            method=call.request.method, resource=resource, status=status, changes=call.changes if status < 400 else {},
        )  # fmt: skip
        await self._audit.record(entry)


def _say_lacking(who: str, times: int) -> None:
    log.warning("more admin actions refused", who=who, times=times)


def refusal(error: ApiError, request_id: str) -> Response:
    """The answer that says so."""
    headers = {"content-type": "application/json", "request-id": request_id}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(error.body(request_id), error.status, headers)
