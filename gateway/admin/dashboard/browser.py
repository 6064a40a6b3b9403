"""What a browser is served: the dashboard's page and its files, and signing in and out. What the page shows, it asks
the admin API for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response

from gateway.admin.access import READ, Access
from gateway.admin.dashboard import pages
from gateway.admin.routes import OPEN, Call, Handler, Route
from gateway.errors import ApiError

FORM = "application/x-www-form-urlencoded"
_STATIC = {"cache-control": "private, no-cache"}  # kept, and asked for anew each time: names stay, contents change


def browser_routes(access: Access) -> list[Route]:
    async def main(call: Call) -> Response:
        return _page(pages.main_page())

    async def form(call: Call) -> Response:
        return _form() if call.who is None else RedirectResponse("/", 303)

    async def login(call: Call) -> Response:
        request = call.request
        if access.same_origin(request) is False:
            return _form("This form was sent by another site; sign in here.", 403)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise ApiError(415, f"A token is sent as {FORM}")
        token, call.who = _token(await call.body()), None
        await asyncio.sleep(access.failed_logins.pause)
        try:
            call.who = access.login(request, token)
        except ApiError as error:
            return _form(f"{error.message}.", error.status, {"retry-after": str(error.retry_after)})
        if call.who is None:
            return _form("This is not an admin token of this gateway.", 401)
        call.about("session")
        return _to("/", access.set_cookie(request, call.who))

    async def logout(call: Call) -> Response:
        access.logout(call.known)
        call.about("session")
        return _to("/login", access.set_cookie(call.request, None))

    def page(method: str, path: str, handler: Handler, role: str, action: str = "") -> Route:
        return Route(
            method=method, path=path, handler=handler, about="", role=role, action=action, api=False, page=True
        )

    return [
        page("GET", "/", main, READ),
        page("GET", "/login", form, OPEN),
        page("POST", "/login", login, OPEN, "session.begin"),
        page("POST", "/logout", logout, READ, "session.end"),
        *(_static(name, asset) for name, asset in pages.ASSETS.items()),
    ]


def _static(name: str, asset: pages.Asset) -> Route:
    async def serve(call: Call) -> Response:
        headers = {**_STATIC, "etag": asset.etag}
        if asset.etag in call.request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, 200, {**headers, "content-type": asset.media_type})

    role = OPEN if name in pages.LOGIN_ASSETS else READ
    return Route(method="GET", path=f"/static/{name}", handler=serve, about="", role=role, api=False)


def _form(message: str = "", status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    # Under no-referrer a browser does not say either that its own page sent the form.
    return _page(pages.login_page(message), status, {"referrer-policy": "same-origin", **headers})


def _page(body: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    kind = {"content-type": "text/html; charset=utf-8", "content-security-policy": pages.CSP}
    return Response(body, status, {**kind, **headers})


def _to(path: str, cookie: str) -> Response:
    return RedirectResponse(path, 303, {"set-cookie": cookie})


def _token(form: bytes) -> str:
    """The field `token` of a form; "" where it is missing, or no such form."""
    try:
        fields = parse_qs(form.decode(), max_num_fields=10)
    except ValueError:
        return ""
    values = fields.get("token", [])
    return values[0].strip() if len(values) == 1 else ""
