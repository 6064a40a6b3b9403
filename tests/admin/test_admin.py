"""The admin listener's door: who may pass it, by which method, and what every answer says to browsers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.admin import admin
from gateway.admin.access import COOKIE, OPERATE, READ, Access
from gateway.admin.audit import Entry
from gateway.admin.dashboard import pages
from gateway.admin.dashboard.browser import FORM
from gateway.admin.failed_logins import MOST_OF_ALL, PAUSE
from gateway.admin.routes import OPEN, Route
from gateway.config.schema import Admin, AdminToken, Config
from gateway.errors import ApiError
from gateway.log import captured
from gateway.telemetry.scrapes import Encode
from tests.admin.admin_kit import NOW, TOKEN, admin_app, config_of, routes_of
from tests.admin.test_access import VIEWER, sha256

CONFIG = config_of(admin=Admin(token=TOKEN, tokens=(AdminToken(id="viewer", digests=(sha256(VIEWER),)),)))
ROUTES = routes_of(Access(lambda: CONFIG, lambda: NOW))
OURS = {"sec-fetch-site": "same-origin"}


def path_of(route: Route) -> str:
    return re.sub(r"\{\w+(\.\.\.)?\}", "x", route.path)


class Accounts:
    """A desk with one account."""

    def __init__(self) -> None:
        self.state = "active"
        self.error: Exception | None = None
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.may_go_on.set()

    def all(self) -> list[dict[str, Any]]:
        return [self.one("a")]

    def one(self, name: str) -> dict[str, Any]:
        if name != "a":
            raise ApiError(404, f"There is no account of the id {name}")
        return {"id": name, "state": self.state, "weight": 1, "drain_until": None}

    async def change(self, name: str, body: bytes) -> dict[str, Any]:
        self.begun.set()
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.state = json.loads(body)["state"]
        return self.one(name)


class Book:
    """An audit log to look into."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.begun, self.may_write = asyncio.Event(), asyncio.Event()
        self.may_write.set()

    async def record(self, entry: Entry) -> None:
        self.begun.set()
        await self.may_write.wait()
        self.entries.append(entry)


class Console:
    """A browser and other clients, without cookies of their own."""

    def __init__(self) -> None:
        self.config: Config = CONFIG
        self.accounts, self.book = Accounts(), Book()
        self.now = NOW
        self.app = admin_app(lambda: self.config, lambda: self.now, accounts=self.accounts, audit=self.book)
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway.example:8081")

    async def ask(self, method: str, path: str, token: str = "", **options: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        self.client.cookies.clear()
        return await self.client.request(method, path, headers=headers, **options)

    async def login(self, token: str = TOKEN) -> dict[str, str]:
        """Headers of a browser that has signed in, on a page of ours."""
        answer = await self.ask("POST", "/login", data={"token": token}, headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        me = (await self.ask("GET", "/admin/v1/me", headers=cookie)).json()
        return {**cookie, **OURS, "x-csrf-token": me["csrf"]}


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    console = Console()
    async with console.client:
        yield console


# -- Who may pass -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_without_a_token_only_what_is_meant_to_be_open_answers(console: Console, route: Route):
    answer = await console.ask(route.method, path_of(route))
    if route.path in ("/healthz", "/readyz", "/login") or route.path.removeprefix("/static/") in pages.LOGIN_ASSETS:
        assert answer.status_code in (200, 415)
    elif route.path in ("/", "/logout"):
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    else:
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("route", [each for each in ROUTES if each.action and each.api], ids=lambda route: route.action)
async def test_the_role_read_changes_nothing_by_token_or_session(console: Console, route: Route):
    assert route.role == OPERATE and route.method not in ("GET", "HEAD")
    by_session = await console.login(VIEWER)
    console.book.entries.clear()
    for token, headers in ((VIEWER, {}), ("", by_session)):
        answer = await console.ask(
            route.method, path_of(route), token, headers=headers, content=b'{"state":"disabled"}'
        )
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        assert "needs the role operate" in answer.json()["error"]["message"]
    assert console.book.entries == []  # or it could fill the list with nothing


async def test_who_has_not_the_role_is_said_in_the_log_once_a_minute(console: Console):
    with captured() as logs:
        for _ in range(30):
            await console.ask("POST", "/admin/v1/keys", VIEWER)
        console.now += 60
        await console.ask("GET", "/healthz")
    first, others = logs
    assert (first["event"], first["who"], first["action"]) == ("admin action refused", "viewer", "key.create")
    assert (others["event"], others["who"], others["times"]) == ("more admin actions refused", "viewer", 29)


def test_whatever_is_not_a_look_needs_the_role_operate_and_is_written_down():
    for route in ROUTES:
        if route.method == "GET":
            assert route.role in (READ, OPEN) and not route.action
        else:
            assert route.action
            assert route.role == OPERATE or route.path in ("/login", "/logout")


async def test_metrics_open_to_all_need_no_token_from_the_moment_they_are(console: Console):
    assert (await console.ask("GET", "/metrics")).status_code == 401
    app = admin_app(lambda: CONFIG, metrics_open=lambda: True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/admin/v1/me")).status_code == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_a_method_that_is_not_allowed_is_told_which_are(console: Console, method: str):
    answer = await console.ask(method, "/admin/v1/me", TOKEN)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (await console.ask(method, "/admin/v1/me")).status_code == 401
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/admin", "/admin/v1/", "/admin//v1/me", "/admin/v1/me/", "/Admin/v1/me", "/static/..%2fpages.py"]
)
async def test_a_path_that_leads_nowhere_says_so_to_those_who_may_know(console: Console, path: str):
    assert (await console.ask("GET", path)).status_code == 401
    assert (await console.ask("GET", path, TOKEN)).status_code == 404


async def test_a_failure_says_nothing_of_itself_but_in_the_log(console: Console):
    console.accounts.error = RuntimeError("the innards")
    with captured() as logs:
        answer = await console.ask("PATCH", "/admin/v1/accounts/a", TOKEN, content=b"{}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")
    assert "innards" not in answer.text and [line["event"] for line in logs] == ["unhandled error"]


# -- What every answer says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/login", "/admin/v1/me", "/admin/v1/accounts", "/metrics", "/none", "/healthz"])
async def test_nobody_keeps_frames_or_guesses_what_is_answered(console: Console, path: str):
    for token in (TOKEN, ""):
        headers = (await console.ask("GET", path, token)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == ("same-origin" if path == "/login" and not token else "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-gateway-request-id"].startswith("req_")


async def test_files_of_the_dashboard_are_kept_by_their_tag(console: Console):
    name = min(pages.LOGIN_ASSETS)
    first = await console.ask("GET", f"/static/{name}")
    assert (first.status_code, first.content) == (200, pages.ASSETS[name].body)
    assert first.headers["content-type"] == pages.ASSETS[name].media_type
    assert first.headers["cache-control"] == "private, no-cache"
    again = await console.ask("GET", f"/static/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


# -- Browsers ---------------------------------------------------------------------------------------------------------


async def test_a_browser_signs_in_looks_changes_and_signs_out(console: Console):
    assert (await console.ask("GET", "/login")).headers["content-security-policy"] == pages.CSP
    browser = await console.login()
    main = await console.ask("GET", "/", headers=browser)
    assert (main.status_code, main.content) == (200, pages.main_page())
    assert main.headers["content-security-policy"] == pages.CSP
    assert (await console.ask("GET", "/login", headers=browser)).headers["location"] == "/"
    changed = await console.ask("PATCH", "/admin/v1/accounts/a", headers=browser, content=b'{"state":"disabled"}')
    assert (changed.status_code, console.accounts.state) == (200, "disabled")
    gone = await console.ask("POST", "/logout", headers=browser)
    assert (gone.status_code, gone.headers["location"]) == (303, "/login")
    assert gone.headers["set-cookie"].startswith(f"{COOKIE}=; ")
    assert (await console.ask("GET", "/admin/v1/me", headers=browser)).status_code == 401


async def test_me_says_who_asks(console: Console):
    by_token = (await console.ask("GET", "/admin/v1/me", VIEWER)).json()
    assert by_token.items() >= {"id": "viewer", "role": "read", "csrf": None, "expires_at": None}.items()
    browser = await console.login()
    by_session = (await console.ask("GET", "/admin/v1/me", headers=browser)).json()
    assert (by_session["id"], by_session["role"], by_session["csrf"]) == ("admin", "operate", browser["x-csrf-token"])
    assert by_session["expires_at"] == "2027-01-15T20:00:00Z" and by_session["version"]


@pytest.mark.parametrize("left_out", ["x-csrf-token", "sec-fetch-site"])
async def test_another_page_changes_nothing_by_the_session(console: Console, left_out: str):
    browser = await console.login()
    del browser[left_out]
    for method, path in (("PATCH", "/admin/v1/accounts/a"), ("POST", "/logout")):
        answer = await console.ask(method, path, headers=browser, content=b'{"state":"disabled"}')
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert console.accounts.state == "active"
    assert (await console.ask("GET", "/admin/v1/me", headers=browser)).status_code == 200


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"token": "wrong-token"}, 401), ({"token": ""}, 401), ({}, 401), ({"token": ["wrong", TOKEN]}, 401),
        ({"password": TOKEN}, 401), ({"token": "<script>\r\nset-cookie: x=y"}, 401),
        ({str(number): "x" for number in range(99)}, 401),
    ],
)  # fmt: skip
async def test_a_wrong_token_is_a_page_that_says_so(console: Console, form: dict[str, Any], status: int):
    answer = await console.ask("POST", "/login", data=form, headers={**OURS, "content-type": FORM})
    assert answer.status_code == status and "not an admin token" in answer.text
    assert answer.headers["content-type"].startswith("text/html") and "set-cookie" not in answer.headers
    assert "script>\r\n" not in answer.text and console.book.entries == []


async def test_a_form_that_is_none_signs_nobody_in(console: Console):
    async def post(content: bytes, **headers: str) -> int:
        return (await console.ask("POST", "/login", content=content, headers=headers)).status_code

    good = f"token={TOKEN}".encode()
    assert await post(good, **{"content-type": FORM, "sec-fetch-site": "cross-site"}) == 403
    assert await post(good, **{"content-type": FORM, "origin": "http://evil.example"}) == 403
    assert await post(good, **{"content-type": "text/plain"}) == 415
    assert await post(good) == 415
    assert await post(b"x" * 70_000, **{"content-type": FORM}) == 413
    assert await post(good, **{"content-type": FORM, "content-length": "0" * 4400 + "5"}) == 400
    assert await post(b"token=\xff\xfe", **{"content-type": FORM}) == 401
    assert await post(good, **{"content-type": f"{FORM}; charset=utf-8"}) == 303


async def test_too_many_wrong_tokens_are_a_page_that_says_when_to_come_back(console: Console):
    for _ in range(10):
        await console.ask("POST", "/login", data={"token": "wrong"}, headers=OURS)
    answer = await console.ask("POST", "/login", data={"token": "wrong"}, headers=OURS)
    assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 60
    assert "Too many wrong tokens" in answer.text and "set-cookie" not in answer.headers
    assert (await console.ask("GET", "/admin/v1/me", TOKEN)).status_code == 200
    await console.login()


async def test_tokens_are_not_guessed_by_header_without_bound_or_unseen(console: Console):
    async def guess(path: str = "/metrics", token: str = "wrong") -> int:
        return (await console.ask("GET", path, token)).status_code

    with captured() as logs:
        assert [await guess(token=f"guess-{number}") for number in range(20)] == [401] * 10 + [429] * 10
        assert [await guess(path) for path in ("/", "/admin/v1/me", "/none")] == [429] * 3
    assert [(line["event"], line["address"]) for line in logs] == [("admin token refused", "127.0.0.1")]
    answer = await console.ask("GET", "/metrics", "wrong")
    assert answer.json()["error"]["type"] == "rate_limit_error" and 0 < int(answer.headers["retry-after"]) <= 60
    assert await guess(token=TOKEN) == await guess(token=VIEWER) == 200
    assert (await console.ask("GET", "/metrics")).status_code == 401
    assert await guess("/healthz") == 200
    console.now += 60
    assert await guess() == 401


async def test_signing_in_is_slow_while_many_guess_and_not_refused(console: Console, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(MOST_OF_ALL):
        await console.ask("GET", "/admin/v1/me", "wrong")
    await console.login()
    assert slept == [PAUSE]


# -- What is written down ---------------------------------------------------------------------------------------------


async def test_a_change_is_written_down_with_who_and_what(console: Console):
    browser = await console.login()
    answer = await console.ask("PATCH", "/admin/v1/accounts/a", headers=browser, content=b'{"state":"disabled"}')
    await console.ask("PATCH", "/admin/v1/accounts/a", TOKEN, content=b'{"state":"disabled"}')
    await console.ask("GET", "/admin/v1/accounts", TOKEN)
    begun, changed, same = console.book.entries
    assert (begun.action, begun.resource, begun.status) == ("session.begin", "session", 303)
    assert changed == Entry(
        id=answer.headers["x-gateway-request-id"], at="2027-01-15T08:00:00.000Z", who="admin",
        role="operate", by="session",
        address="127.0.0.1", action="account.change", method="PATCH", resource="accounts/a", status=200,
        changes={"state": ("active", "disabled")},
    )  # fmt: skip
    assert (same.by, same.changes) == ("token", {})


async def test_what_was_refused_is_written_down_without_what_may_be_a_secret(console: Console):
    secret = "sk-pasted-in-the-wrong-place"
    await console.ask("PATCH", f"/admin/v1/accounts/{secret}", TOKEN, content=b'{"state":"disabled"}')
    browser = await console.login()
    del browser["x-csrf-token"]
    console.book.entries.pop()
    await console.ask("DELETE", f"/admin/v1/conversations/alice/{secret}", headers=browser)
    await console.ask("POST", "/admin/v1/keys", headers=browser, content=secret.encode())
    console.accounts.error = ApiError(503, "The store is away")
    await console.ask("PATCH", "/admin/v1/accounts/a", TOKEN, content=b'{"state":"disabled"}')
    assert [(entry.resource, entry.status) for entry in console.book.entries] == [
        ("accounts/?", 404), ("conversations/?", 403), ("keys", 403), ("accounts/a", 503),
    ]  # fmt: skip
    assert secret not in repr(console.book.entries)


# -- Whoever hangs up -------------------------------------------------------------------------------------------------


async def disable(console: Console) -> asyncio.Task[httpx.Response]:
    """A change under way, which waits until it may go on."""
    console.accounts.may_go_on.clear()
    body = b'{"state":"disabled"}'
    asked = asyncio.create_task(console.ask("PATCH", "/admin/v1/accounts/a", TOKEN, content=body))
    await console.accounts.begun.wait()
    return asked


async def test_who_hangs_up_leaves_no_change_half_done_or_unwritten(console: Console):
    asked = await disable(console)
    asked.cancel()
    await asyncio.wait((asked,))
    assert (console.accounts.state, console.book.entries) == ("active", [])
    console.accounts.may_go_on.set()
    await console.app.finish()
    assert console.accounts.state == "disabled"
    assert [(entry.action, entry.status, entry.changes) for entry in console.book.entries] == [
        ("account.change", 200, {"state": ("active", "disabled")})
    ]


async def test_who_hangs_up_while_it_is_written_down_does_not_keep_it_from_being(console: Console):
    console.book.may_write.clear()
    asked = asyncio.create_task(console.ask("PATCH", "/admin/v1/accounts/a", TOKEN, content=b'{"state":"disabled"}'))
    await console.book.begun.wait()
    asked.cancel()
    await asyncio.wait((asked,))
    console.book.may_write.set()
    await console.app.finish()
    assert [entry.status for entry in console.book.entries] == [200]


async def test_who_hangs_up_before_all_of_it_was_sent_has_asked_for_nothing(console: Console):
    began = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"state":'
        began.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        request = httpx.Request(
            "PATCH", "http://gateway.example/admin/v1/accounts/a", headers={"authorization": f"Bearer {TOKEN}"},
            content=body(),
        )  # fmt: skip
        asked = group.create_task(console.client.send(request))
        await began.wait()
        asked.cancel()
    await console.app.finish()
    assert not console.accounts.begun.is_set() and console.book.entries == []


async def test_what_does_not_end_when_the_gateway_does_is_written_down_as_unknown(
    console: Console, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(admin, "_FINISH", 0.01)
    asked = await disable(console)
    await console.app.finish()
    await asyncio.wait((asked,))
    assert [(entry.resource, entry.status) for entry in console.book.entries] == [("accounts/a", 503)]


# -- Metrics ----------------------------------------------------------------------------------------------------------


async def test_metrics_are_scraped_once_for_many_and_anew_for_who_wants_those_of_now():
    scraped: list[Encode] = []

    async def scrape(encode: Encode) -> bytes:
        scraped.append(encode)
        return b"%d" % len(scraped)

    app = admin_app(lambda: CONFIG, metrics_open=lambda: True, scrape=scrape)
    of_now = {"cache-control": "no-cache"}
    known = {"authorization": f"Bearer {VIEWER}", **of_now}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as client:
        answers = await asyncio.gather(*(client.get("/metrics", headers=of_now) for _ in range(20)))
        assert {answer.text for answer in answers} == {"1"}
        assert (await client.get("/metrics")).text == "1"
        assert (await client.get("/metrics", headers=of_now)).text == "1"  # that is for those who are known
        assert (await client.get("/metrics", headers=known)).text == "2"
