"""The dashboard in a real browser before a real gateway: what it shows, what it changes, and who may."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, expect
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright as start_playwright

from gateway.admin.dashboard.viewers import MOST_OF_ONE
from tests.e2e.rig import ADMIN_TOKEN, ALICE, BOB, CALLERS, MODEL, Gateway, Simulator, accounts_of, free_port, until

VIEWER_TOKEN = "token-of-the-test-viewer"
CROWD_TOKEN = "token-of-many-test-viewers"
SECTIONS = ("overview", "accounts", "conversations", "keys", "spending", "requests", "audit", "connect")
WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
CHAT_PORT = free_port()  # of a company's own page, which calls the API
AXE = Axe().axe_script
HOSTILE = "<img/src=x/onerror=window.hurt=1>"
WAIT = 15_000  # milliseconds; a loaded machine may take its time
# What a page's own policy refuses is said to the page; scripts of the test come before any of its own.
WATCH = """
    window.refused = [];
    addEventListener("securitypolicyviolation", ({ blockedURI, effectiveDirective }) =>
        refused.push(`${effectiveDirective} ${blockedURI}`));
"""
# The browser says of each request that was refused, or could not be made, in the console.
MEANT = re.compile(r"Failed to load resource: (.+ status of (401|403|503)|net::ERR_INTERNET_DISCONNECTED)")

expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def watched(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that had some traffic, with a token for each role, and limits."""
    simulator.clear()
    callers: list[dict[str, Any]] = [*CALLERS]  # type: ignore[list-item]
    limits = {"requests_per_minute": 600, "concurrency": 20}
    tokens = [
        {"id": "viewer", "token": VIEWER_TOKEN, "role": "read"},
        {"id": "crowd", "token": CROWD_TOKEN, "role": "read"},
    ]
    config = {
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN, "tokens": tokens},
        "accounts": accounts_of(simulator, 3),
        "keys": [dict(each, limits=limits) if "alice" in each.values() else each for each in callers],
        "teams": [{"id": "research", "limits": {"budget_usd": {"day": 50, "month": 1000}}}],
        "cors": {"origins": [f"http://127.0.0.1:{CHAT_PORT}"]},
    }
    gateway = Gateway(tmp_path_factory.mktemp("dashboard"), config).start()
    for number in range(6):
        send(gateway, f"conversation-{number % 3}", stream=number % 2 == 0)
    yield gateway
    gateway.stop()


def send(gateway: Gateway, name: str, key: str = ALICE, model: str = MODEL, **fields: Any) -> str:
    """One message in the conversation of that name; the id of the request."""
    body = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello " * 50}], **fields}
    headers = {"x-api-key": key, "X-Conversation-Id": name, "content-type": "application/json"}
    return gateway.get("/v1/messages", method="POST", headers=headers, body=json.dumps(body).encode()).request_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with start_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield found
        found.close()


def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.admin_port}"


class Watched:
    """A page of which nothing may be complained: by its scripts, its console, or its policy."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(WAIT)
        self.page = context.new_page()
        self.page.add_init_script(WATCH)
        self._said: list[str] = []
        self.page.on("pageerror", lambda error: self._said.append(str(error)))
        self.page.on("console", lambda it: self._said.append(it.text) if it.type in ("error", "warning") else None)
        self.page.on("dialog", lambda dialog: self._said.append(f"dialog: {dialog.message}"))

    def check(self) -> None:
        """Of all since the last check."""
        said, self._said = self._said, []
        assert [line for line in said if not MEANT.match(line)] == []
        assert self.page.evaluate("window.refused") == []
        assert self.page.evaluate("window.hurt") is None


@contextmanager
def watching(context: BrowserContext) -> Iterator[Page]:
    """A page of that context, checked at its end."""
    watched = Watched(context)
    yield watched.page
    watched.check()


def signed_in(page: Page, gateway: Gateway, token: str = ADMIN_TOKEN) -> Page:
    page.goto(base(gateway))
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#live")).to_have_text("Live")
    return page


@contextmanager
def session(browser: Browser, gateway: Gateway, token: str = ADMIN_TOKEN) -> Iterator[BrowserContext]:
    """A browser's profile with a session that was begun with this token."""
    context = browser.new_context(viewport=WIDE)
    assert context.request.post(f"{base(gateway)}/login", form={"token": token}).ok
    yield context
    context.close()


@pytest.fixture(scope="module")
def shared(browser: Browser, watched: Gateway) -> Iterator[Watched]:
    """The page of somebody who may operate, for all tests that can tidy up after themselves by loading it anew."""
    with session(browser, watched) as context:
        yield Watched(context)


@pytest.fixture
def page(shared: Watched, watched: Gateway) -> Iterator[Page]:
    """The dashboard of somebody who may operate, as on the first visit."""
    page = opened(shared.page, watched)
    yield page
    try:
        shared.check()
    finally:
        page.unroute_all(behavior="ignoreErrors")
        page.context.set_offline(False)
        page.set_viewport_size(WIDE)
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        page.goto("about:blank")


@pytest.fixture
def own(browser: Browser, watched: Gateway) -> Iterator[Page]:
    """The same, for tests that change what a profile keeps."""
    with session(browser, watched) as context, watching(context) as page:
        yield opened(page, watched)


@pytest.fixture
def viewer(browser: Browser, watched: Gateway) -> Iterator[Page]:
    """The dashboard of somebody who may look."""
    with session(browser, watched, VIEWER_TOKEN) as context, watching(context) as page:
        yield opened(page, watched)


def opened(page: Page, gateway: Gateway) -> Page:
    page.goto(base(gateway))
    expect(page.locator("#live")).to_have_text("Live")
    return page


def open_section(page: Page, name: str) -> None:
    page.evaluate("(name) => { location.hash = name; }", name)
    expect(page.locator(f"section#at-{name.partition('?')[0]}")).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def row(page: Page, name: str) -> Any:
    """The line of an account, of a team or of a key holder."""
    return page.locator("table.dense tr").filter(has=page.get_by_role("button", name=name, exact=True))


def opened_row(page: Page, name: str) -> Any:
    """All that is shown of it below its line."""
    button = page.get_by_role("button", name=name, exact=True)
    expect(button).to_be_visible()
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    return page.locator(f"[id='more-{name}']")


def card(page: Page, account: str) -> Any:
    return opened_row(page, account).get_by_role("article", name=f"Account {account}")


def listed(page: Page, place: str) -> list[str]:
    """The names in a dense table, from the top."""
    return page.locator(f"#{place} button.disclose").all_inner_texts()


def operator(gateway: Gateway, path: str) -> Any:
    """What the admin API says there."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    return gateway.get(f"/admin/v1/{path}", admin=True, headers=headers).json()


def operate(gateway: Gateway, method: str, path: str, **body: Any) -> Any:
    """Change something by the admin API."""
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"}
    answer = gateway.get(
        f"/admin/v1/{path}", method=method, admin=True, headers=headers, body=json.dumps(body).encode()
    )
    assert answer.status in (200, 201), answer.body
    return answer.json()


def state_of(gateway: Gateway, account: str) -> str:
    return str(operator(gateway, f"accounts/{account}")["state"])


# -- Who ------------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused_in_words_and_the_right_one_opens_the_page(browser: Browser, watched: Gateway):
    context = browser.new_context(viewport=WIDE)
    with watching(context) as page:
        page.goto(base(watched))
        assert page.url.endswith("/login")
        page.get_by_label("Admin token").fill("not-the-token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not an admin token")
        assert violations(page) == []
        signed_in(page, watched)
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        expect(page.locator("#who")).to_have_text("admin · may operate")
    context.close()


def test_a_session_that_ends_leads_to_the_login_and_back_to_where_one_was(own: Page, watched: Gateway):
    open_section(own, "accounts")
    own.context.clear_cookies()
    own.evaluate("location.hash = 'audit'")
    own.wait_for_url("**/login")
    own.get_by_label("Admin token").fill(ADMIN_TOKEN)
    own.keyboard.press("Enter")
    expect(own.get_by_role("heading", name="Audit")).to_be_visible()
    own.get_by_role("button", name="Sign out").click()
    own.wait_for_url("**/login")
    own.goto(base(watched))
    assert own.url.endswith("/login")


def test_who_may_look_sees_everything_and_can_change_nothing(viewer: Page, watched: Gateway):
    for name in SECTIONS:
        open_section(viewer, name)
    open_section(viewer, "accounts")
    account = watched.config["accounts"][0]["id"]
    expect(row(viewer, account)).to_contain_text("available")
    expect(viewer.locator("#at-accounts .readonly")).to_contain_text("role read")
    expect(card(viewer, account).get_by_role("button")).to_have_count(0)
    operate(watched, "POST", "keys", caller="nora")
    open_section(viewer, "keys")
    nora = opened_row(viewer, "nora")
    expect(nora).to_contain_text("its limits may change")
    expect(nora.get_by_role("button")).to_have_count(0)
    expect(viewer.get_by_role("button", name="Create a key")).to_have_count(0)
    expect(viewer.locator("#at-keys .readonly")).to_be_visible()
    refused = viewer.evaluate(
        "async (id) => { const api = await import('/static/api.js');"
        " try { await api.patch('accounts/' + id, {state: 'disabled'}); } catch (error) { return error.message; } }",
        account,
    )
    assert "role operate" in refused
    assert state_of(watched, account) == "active"


def test_whoever_opens_one_token_many_times_leaves_room_for_others(watched: Gateway):
    def answer(token: str) -> HTTPConnection:
        held.append(connection := HTTPConnection("127.0.0.1", watched.admin_port, timeout=20))
        connection.request("GET", "/admin/v1/live", headers={"authorization": f"Bearer {token}"})
        return connection

    held: list[HTTPConnection] = []
    try:
        assert [answer(CROWD_TOKEN).getresponse().status for _ in range(MOST_OF_ONE)] == [200] * MOST_OF_ONE
        refused = answer(CROWD_TOKEN).getresponse()
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        assert answer(ADMIN_TOKEN).getresponse().status == 200
    finally:
        for connection in held:
            connection.close()


# -- What is shown --------------------------------------------------------------------------------------------------


def test_a_list_of_requests_can_be_held_still_and_filters_are_in_the_address(page: Page, watched: Gateway):
    open_section(page, "requests?key=alice&outcome=ok")
    rows = page.locator("#requests-table tbody tr")
    expect(rows.first).to_contain_text("alice")
    assert "bob" not in " ".join(rows.all_inner_texts())
    page.get_by_label("Key or team").fill("nobody-of-that-name")
    expect(page.locator("#requests-table")).to_contain_text("No recent request fits this filter")
    page.get_by_label("Key or team").fill("")
    assert page.evaluate("location.hash") == "#requests?outcome=ok"
    page.get_by_role("button", name="Pause").click()
    before = rows.first.get_by_role("button").inner_text().rpartition(" ")[2]
    send(watched, "while-paused", BOB)
    expect(page.locator("#requests-count")).to_contain_text("came since")
    expect(rows.first).to_contain_text(before)
    page.get_by_role("button", name="Go on").click()
    expect(rows.first).not_to_contain_text(before)
    expect(rows.first).to_contain_text("bob")


def test_a_conversation_is_explained_and_forgotten(page: Page, watched: Gateway):
    name = f"said/by a client & {uuid.uuid4().hex}"
    send(watched, name)
    open_section(page, "conversations")
    page.get_by_label("Key id").fill("alice")
    page.get_by_label("Conversation id").fill(name)
    page.get_by_role("button", name="Explain").click()
    answer = page.get_by_role("article", name=f"Binding for {MODEL}")
    expect(answer).to_contain_text("Served now by")
    expect(answer).to_contain_text("sim-account-")
    expect(answer).to_contain_text(re.compile("At its home|Not at its home"))
    page.get_by_role("button", name="Forget this conversation").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.locator("#conversation-answer")).to_contain_text("The conversation is forgotten")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_spending_adds_up_and_leads_deeper(page: Page):
    open_section(page, "spending?by=team")
    table = page.locator("#spending-table")
    expect(table).to_contain_text("research")
    expect(page.locator("#spending-sum")).to_contain_text(re.compile(r"\$[\d.]+ for \d+ requests"))
    table.get_by_role("link", name="research").click()
    expect(table.locator("tbody")).to_contain_text("alice")
    assert page.evaluate("location.hash") == "#spending?by=key&team=research"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "usage-by-key.csv"
    assert download.value.path().read_text().startswith("key,requests,input_tokens")


def test_snippets_name_this_gateway_and_work(page: Page, watched: Gateway):
    open_section(page, "connect")
    for name in ("Python", "TypeScript", "Go", "curl", "Claude Code"):
        example = page.get_by_role("region", name=f"{name} example")
        expect(example).to_contain_text(f"127.0.0.1:{watched.port}")
        if name != "Claude Code":
            expect(example).to_contain_text("X-Conversation-Id")
    page.locator("#at-connect").get_by_label("Model").fill(MODEL)
    code = page.get_by_role("region", name="Python example").inner_text()
    env = {"PATH": os.environ["PATH"], "GATEWAY_KEY": ALICE}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    page.get_by_label("Base URL").fill('https://llm.example"; evil("')
    expect(page.get_by_role("region", name="Python example")).to_contain_text('base_url="https://llm.example;evil("')


def test_snippets_name_the_address_that_an_operator_gave(page: Page, watched: Gateway):
    file = watched.folder / "gateway.yaml"
    before = file.read_text()
    file.write_text(f"{before}public_url: https://llm.acme.test/claude\n")
    try:
        until(lambda: "public_url" in watched.line("config reloaded")["changed"], "the reload")
        page.reload()
        open_section(page, "connect")
        expect(page.get_by_label("Base URL")).to_have_value("https://llm.acme.test/claude")
        expect(page.get_by_role("region", name="curl example")).to_contain_text(
            "https://llm.acme.test/claude/v1/messages"
        )
        expect(page.locator("#connect-hint")).not_to_contain_text("load balancer")
    finally:
        file.write_text(before)


def test_live_numbers_move_with_the_traffic(page: Page, watched: Gateway):
    requests = page.get_by_role("group", name="Requests", exact=True)
    latest = page.locator("#brief-requests tbody tr").first
    expect(latest).to_contain_text("alice")
    wanted = send(watched, "from-bob", BOB)
    expect(latest).to_contain_text("bob")
    expect(requests.locator(".number")).not_to_have_text("0")
    expect(page.get_by_role("img", name=re.compile("Requests a second. requests: .+, highest"))).to_be_visible()
    open_section(page, "requests")
    page.get_by_label("Request id").fill(wanted)
    row = page.locator("#requests-table tbody tr")
    expect(row).to_have_count(1)
    row.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text(wanted)
    expect(page.get_by_role("dialog")).to_contain_text("first of its conversation")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_each_account_says_what_it_waits_for_and_one_out_of_service_why(page: Page, watched: Gateway):
    key, credit = "The upstream does not accept its key. Give it a valid key.", "It is out of credit. It is tried then."
    told = [
        standing("drains", "draining", until=3600, drain=3600),
        standing("drained", "draining", drain=-90),
        standing("key", "out", why=key, until=600),
        standing("credit", "out", why=credit, until=-5),
        standing("limit", "limited", until=60),
    ]
    tell(page, watched, told)
    open_section(page, "accounts")
    said = {each["id"]: card(page, each["id"]).locator(".times") for each in told}
    expect(said["drains"]).to_have_text(
        re.compile(r"^for \d+ s\s*drain ends in (1 h|59 min \d+ s)$"), use_inner_text=True
    )
    expect(said["drained"]).to_have_text(re.compile(r"^for \d+ s\s*drain ended \d min ago$"), use_inner_text=True)
    expect(said["key"]).to_have_text(
        re.compile(r"^for \d+ s\s*tried again in (10|9) min( \d+ s)?$"), use_inner_text=True
    )
    expect(said["credit"]).to_have_text(re.compile(r"^for \d+ s$"), use_inner_text=True)
    expect(said["limit"]).to_have_text(re.compile(r"^for \d+ s\s*back in (1 min|\d+ s)$"), use_inner_text=True)
    open_section(page, "overview")
    brief = {each["id"]: page.locator("#brief-accounts li").filter(has_text=each["id"]) for each in told}
    expect(page.locator("#brief-accounts .why:visible")).to_have_text(
        ["It is out of credit.", "The upstream does not accept its key."]
    )
    assert {name: row.get_by_role("meter").count() for name, row in brief.items()} == {
        "drains": 1, "drained": 0, "key": 0, "credit": 0, "limit": 1
    }  # fmt: skip
    assert violations(page, of="#brief-accounts") == []


def test_a_failing_account_says_what_it_did_who_judged_when_it_is_tried_and_who_cannot_reach_it(
    page: Page, watched: Gateway
):
    why = (
        "It fails where other accounts do not: errors of the upstream's in 3 conversations within a minute. New "
        "conversations go elsewhere; one of them tries it then. Judged by gateway-host-of-some-length-4711-0a1b2c.1."
    )
    bad = standing("bad", "failing", why=why, until=30)
    lacking = {"model": "claude-opus-4-6", "features": ["beta:x", "mcp"], "closed_for": 500}
    bad["health"] |= {"unreachable_from": ["gateway-there-2"], "features_closed": [lacking]}
    well = standing("a-well-one", "available")
    tell(page, watched, [well, bad, standing("gone", "out", why="No connection to it can be had. It is tried.")])
    expect(page.locator("#brief-accounts li .id")).to_have_text(["gone", "bad", "a-well-one"])
    expect(page.locator("#brief-accounts .why:visible")).to_have_text(
        ["No connection to it can be had.", why.partition(" New")[0]]
    )
    expect(page.locator("#nav-trouble")).to_have_text("2 in need")
    expect(page).to_have_title(re.compile(r"^\(2 in need\)"))
    open_section(page, "accounts")
    expect(page.locator("#accounts-states button")).to_have_text(
        ["All 3", "1 out of service", "1 failing", "1 available"]
    )
    shown = card(page, "bad")
    for words in (
        why, "Gateway gateway-there-2 cannot reach it.", "Not for: claude-opus-4-6 with beta:x and mcp (for 8 min",
        "tried again in ",
    ):  # fmt: skip
        expect(shown).to_contain_text(words)
    expect(card(page, "a-well-one").get_by_text("cannot reach")).to_be_hidden()
    enable = shown.get_by_role("button", name="Say it is in order")
    expect(enable).to_be_visible()
    page.set_viewport_size(NARROW)
    assert shown.evaluate("(it) => it.scrollWidth <= it.clientWidth")
    assert violations(page, of="#accounts-list") == []
    told = operator(watched, "conversations/alice/conversation-0")
    told["bindings"][0]["avoided"] = [
        {"account": "bad", "workspace": "elsewhere", "state": "failing", "why": why, "until": at(30)}
    ]
    page.route("**/admin/v1/conversations/**", lambda route: route.fulfill(json=told))
    open_section(page, "conversations?key=alice&id=conversation-0")
    avoided = page.locator("#conversation-answer dl > div").filter(has_text="Avoided")
    expect(avoided).to_contain_text(f"bad at its home elsewhere is failing. {why}")
    expect(avoided).to_contain_text("(tried again in ")


def test_of_many_classes_of_models_a_card_shows_the_tightest_and_the_others_on_demand(page: Page, watched: Gateway):
    rows = [
        {"class": f"class-{number:02}", "limit": limit, "remaining": 100 - number, "of": 100, "resets_at": None}
        for number in range(60)
        for limit in ("requests", "input_tokens", "output_tokens")
    ]
    tell(
        page, watched, [standing("many", "available", headroom=rows), standing("few", "available", headroom=rows[:18])]
    )
    open_section(page, "accounts")
    levels = card(page, "many").get_by_role("listitem")
    expect(levels).to_have_count(18)
    expect(levels.first).to_contain_text("class-59 · requests")
    more = card(page, "many").get_by_text("and 54 more")
    more.focus()
    page.keyboard.press("Enter")
    expect(levels).to_have_count(180)
    expect(levels.last).to_contain_text("class-00 · output tokens")
    assert violations(page, of="#accounts-list") == []
    page.keyboard.press("Enter")
    expect(levels).to_have_count(18)
    expect(card(page, "few").get_by_role("listitem").first).to_contain_text("class-00")
    expect(card(page, "few").get_by_text("more classes")).to_be_hidden()


def test_many_accounts_fit_and_those_that_need_somebody_stand_first(page: Page, watched: Gateway):
    states = {4: "limited", 9: "out", 17: "disabled", 23: "draining", 31: "out", 38: "of a new kind", 12: "failing"}
    flight: list[dict[str, Any]] = [
        {"in_flight": (number * 7) % 40, "workspace": f"wrkspc_{number:02}"} for number in range(40)
    ]
    names = [f"account-{number:02}" for number in range(40)]
    told = [
        standing(name, states.get(number, "available"), why="It is so. And more." if number in states else "", **more)
        for number, (name, more) in enumerate(zip(names, flight, strict=True))
    ]
    tell(page, watched, told)
    expect(page.locator("#brief-accounts li").first).to_contain_text("account-38")
    expect(page.get_by_role("link", name="and 28 more, all available")).to_be_visible()
    open_section(page, "accounts")
    sick = [38, 9, 31, 12, 4, 23, 17]
    by_need = [names[number] for number in (*sick, *(each for each in range(40) if each not in sick))]
    assert listed(page, "accounts-list") == by_need
    assert tallest(page, "accounts-list") <= 27
    expect(row(page, "account-09")).to_contain_text(re.compile(r"out of service\s*It is so\.\d"))
    page.get_by_role("button", name="2 out of service").click()
    assert listed(page, "accounts-list") == ["account-09", "account-31"]
    page.get_by_role("button", name="All 40").click()
    head = page.get_by_role("columnheader", name="In flight")
    for said, first in (("descending", "account-17"), ("ascending", "account-00"), (None, "account-38")):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == said
        assert listed(page, "accounts-list")[0] == first
    page.locator("#at-accounts").get_by_label("Filter").fill("wrkspc_3")
    assert listed(page, "accounts-list") == [names[number] for number in (38, 31, 30, *range(32, 38), 39)]
    page.locator("#at-accounts").get_by_label("Filter").fill("nothing of the kind")
    expect(page.locator("#accounts-list")).to_have_text("No account fits this filter.")


def tallest(page: Page, place: str) -> float:
    """Pixels of the highest line of a dense table, which is as wide as its place."""
    assert page.locator(f"#{place} .scroller").evaluate_all("([it]) => it.scrollWidth > it.clientWidth") is False
    lines = page.locator(f"#{place} tbody tr")
    return float(lines.evaluate_all("(all) => Math.max(...all.map((each) => each.getBoundingClientRect().height))"))


def test_hundreds_of_keys_fit_and_those_that_need_somebody_stand_first(page: Page):
    def holder(number: int) -> dict[str, Any]:
        name = f"person-{number:03}" + ("@a.very.long.domain.example" if number % 2 else "")
        state = "unowned" if number == 250 else "active"
        key = {"id": f"key_{number:03}", "hint": None, "created_at": at(-60), "expires_at": None, "state": state}
        team = None if number % 5 else "of-many"
        models = [f"claude-model-{each}" for each in range(number % 7)] or ["*"]
        return {"caller": name, "team": team, "models": models, "limits": {}, "source": "store", "keys": [key]}

    def left(number: int, remaining: float) -> dict[str, Any]:
        limits = [{"limit": "budget_usd_month", "of": 100, "remaining": remaining, "resets_at": at(600)}]
        return {"kind": "caller", "id": holder(number)["caller"], "limits": limits}

    holders = [holder(number) for number in range(300)]
    used = {"requests": 1, "savings_usd": 0}
    spent = [{**used, "key": holder(number)["caller"], "cost_usd": number} for number in (5, 6)]
    limits = [left(77, 90), left(200, 2), left(100, 11)]
    page.route("**/admin/v1/keys", lambda route: route.fulfill(json={"data": holders}))
    page.route("**/admin/v1/limits", lambda route: route.fulfill(json={"data": limits}))
    page.route("**/admin/v1/usage?group_by=key", lambda route: route.fulfill(json={"data": spent}))
    open_section(page, "keys")
    expect(page.locator("#callers-list button.disclose")).to_have_count(300)
    first = ["person-200", "person-100", "person-250", "person-000", "person-001@a.very.long.domain.example"]
    assert listed(page, "callers-list")[:5] == first
    assert tallest(page, "callers-list") <= 27
    expect(row(page, "person-200")).to_contain_text(re.compile("2 % left.*dollars a UTC month"))
    page.get_by_role("columnheader", name="Spent").last.get_by_role("button").click()
    assert listed(page, "callers-list")[:2] == ["person-006", "person-005@a.very.long.domain.example"]
    page.locator("#at-keys").get_by_label("Filter").fill("key_07")
    assert len(listed(page, "callers-list")) == 10
    page.set_viewport_size(NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert tallest(page, "callers-list") <= 50


@pytest.mark.parametrize("width", [1440, 1439, 1361, 1024, 390])
def test_no_label_of_the_overview_is_cut(page: Page, width: int):
    dear = dict.fromkeys(("today_usd", "month_usd", "saved_today_usd", "saved_month_usd"), 1234.56)
    overview = {"at": at(0), "spent": dear, "in_flight": 12, "refused_per_second": 12.3}
    told = f"event: overview\ndata: {json.dumps(overview)}\n\n"
    page.route("**/admin/v1/live", lambda route: route.fulfill(content_type="text/event-stream", body=told))
    page.route("**/admin/v1/overview", lambda route: route.fulfill(json=overview))
    page.set_viewport_size(ViewportSize(width=width, height=900))
    page.reload()
    expect(page.locator(".tile .more").nth(5)).to_have_text("month $1,234.56")
    names = page.locator(".tile .name")
    expect(names).to_have_text(
        ["Requests /s", "Errors /s", "First token p50", "Tokens /s", "Cache hit rate", "Spent today UTC",
         "Saved by cache", "Own overhead p50"]
    )  # fmt: skip
    assert (
        page.locator(".tile .name, .tile .more").evaluate_all(
            "(all) => all.filter((each) => { const range = document.createRange(); range.selectNodeContents(each);"
            " return range.getBoundingClientRect().right > each.parentNode.getBoundingClientRect().right"
            " || each.scrollWidth > each.clientWidth; }).map((each) => each.textContent)"
        )
        == []
    )


@pytest.mark.parametrize(("section", "place"), [("keys", "teams"), ("spending?by=team", "spending-table")])
def test_bars_of_teams_begin_at_one_line_and_are_of_one_length(page: Page, section: str, place: str):
    sums = {"requests": 1, "input_tokens": 0, "cache_write_tokens": 0, "cache_read_tokens": 0, "output_tokens": 0}
    costs = {"research": 123_456.5, "platform": 61_728.25, "web": 0.0004}
    rows = [{**sums, "team": team, "cost_usd": cost, "savings_usd": 0} for team, cost in costs.items()]
    total = {**sums, "cost_usd": sum(costs.values()), "savings_usd": 0}
    limits = [{"kind": "team", "id": team, "limits": []} for team in costs]
    usage = {"data": rows, "total": total}
    page.route("**/admin/v1/usage?*group_by=team*", lambda route: route.fulfill(json=usage))
    page.route("**/admin/v1/limits", lambda route: route.fulfill(json={"data": limits}))
    page.reload()
    open_section(page, section)
    bars = page.locator(f"#{place} .share")
    expect(bars).to_have_count(3)
    most = page.locator(f"#{place} .share > span").first
    expect(most).to_have_attribute("style", re.compile(r"width: 100%"))  # once the costs have come
    boxes = bars.evaluate_all("(all) => all.map((each) => each.getBoundingClientRect().toJSON())")
    assert len({(box["left"], box["width"]) for box in boxes}) == 1
    fills = page.locator(f"#{place} .share > span").evaluate_all("(all) => all.map((each) => each.style.width)")
    assert [round(float(each.rstrip("%"))) for each in fills] == [100, 50, 0]


def standing(name: str, state: str, why: str = "", until: float = 0, drain: float = 0, **fields: Any) -> dict[str, Any]:
    """An account as the API has it, with moments in seconds from now, 0 for none."""
    account = {"id": name, "state": state if state == "draining" else "active", "weight": 1, "models": ["*"]}
    health = {"state": state, "why": why, "since": at(-3), "until": at(until) if until else None}
    headroom = [{"class": "haiku", "limit": "requests", "remaining": 9, "of": 9, "resets_at": None}]
    times = {"drain_until": at(drain) if drain else None}
    return {**account, **times, "health": health, "headroom": headroom, "in_flight": 0, "bindings": 0, **fields}


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def tell(page: Page, gateway: Gateway, accounts: list[dict[str, Any]]) -> None:
    """Load the page anew, and let it hear of these accounts alone, over and over."""
    overview = json.dumps(operator(gateway, "overview"))
    told = f"event: overview\ndata: {overview}\n\nevent: accounts\ndata: {json.dumps({'data': accounts})}\n\n"
    page.route("**/admin/v1/live", lambda route: route.fulfill(content_type="text/event-stream", body=told))
    page.reload()
    expect(page.locator("#brief-accounts li")).to_have_count(min(len(accounts), 12))


def test_a_dialog_ends_where_one_goes_elsewhere(page: Page):
    open_section(page, "connect")
    open_section(page, "requests")
    page.locator("#requests-table tbody button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Connect a client")).to_be_focused()
    expect(page.get_by_role("dialog")).to_have_count(0)


# -- What is changed ------------------------------------------------------------------------------------------------


def test_an_account_is_drained_and_enabled_by_keyboard_alone(page: Page, watched: Gateway):
    account = watched.config["accounts"][1]["id"]
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    to(page, page.get_by_role("link", name="Accounts", exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Accounts", exact=True)).to_be_focused()
    to(page, page.get_by_role("button", name=account, exact=True))
    page.keyboard.press("Enter")
    to(page, page.get_by_role("button", name=f"Drain {account}"))
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name=f"Drain {account}")).to_be_focused()
    assert state_of(watched, account) == "active"
    page.keyboard.press("Enter")
    to(page, page.get_by_role("dialog").get_by_role("button", name="Drain"))
    page.keyboard.press("Enter")
    expect(row(page, account)).to_contain_text("draining")
    expect(card(page, account)).to_contain_text("drain ends in")
    assert state_of(watched, account) == "draining"
    to(page, page.get_by_role("button", name=f"Enable {account}"))
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("dialog").get_by_role("button", name="Enable")).to_be_focused()
    page.keyboard.press("Enter")
    expect(row(page, account)).to_contain_text("available")
    assert state_of(watched, account) == "active"
    open_section(page, "audit")
    expect(page.locator("#audit-table tbody tr").first).to_contain_text(f"accounts/{account}")
    expect(page.locator("#audit-table tbody tr").first).to_contain_text("draining → active")


def to(page: Page, wanted: Any) -> None:
    """Go there by Tab."""
    for _ in range(60):
        if wanted.evaluate("(node) => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached by Tab")


def test_a_change_is_refused_in_words(page: Page, watched: Gateway):
    open_section(page, "accounts")
    account = watched.config["accounts"][2]["id"]
    card(page, account).get_by_role("button", name=f"Weight {account}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Weight").fill("2.5")
    dialog.get_by_role("button", name="Change").click()
    expect(card(page, account)).to_contain_text("2.5 (file: 1)")

    def store_away(route: Route) -> None:
        error = {
            "type": "error",
            "error": {"type": "api_error", "message": "The store is away, so nothing was changed"},
        }
        route.fulfill(status=503, json=error)

    page.route("**/admin/v1/accounts/*", store_away)
    page.get_by_role("button", name=f"Disable {account}").click()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Disable").click()
    expect(dialog.get_by_role("alert")).to_have_text("The store is away, so nothing was changed.")
    dialog.get_by_role("button", name="Cancel").click()
    assert state_of(watched, account) == "active"


def test_a_key_is_shown_once_works_and_ends(page: Page, watched: Gateway):
    open_section(page, "keys")
    page.get_by_role("button", name="Create a key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key holder").fill("dana")
    dialog.get_by_label("Team").fill("research")
    dialog.get_by_role("button", name="Create").click()
    key = dialog.get_by_label("The key").input_value()
    assert re.fullmatch(r"sk-\w{48}", key)
    page.keyboard.press("Escape")
    page.go_back()
    expect(page.get_by_role("heading", name="Overview", include_hidden=True)).to_be_visible()
    expect(dialog.get_by_label("The key")).to_be_visible()  # one does not lose it by a slip
    page.go_forward()
    dialog.get_by_role("button", name="I have stored it").click()
    expect(dialog).to_have_count(0)
    assert key not in page.content()
    until(lambda: ask_models(watched, key) == 200, "the new key")
    page.locator("#more-dana").get_by_role("button", name=re.compile("^Revoke (?!all)")).click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(page.locator("#more-dana")).to_contain_text("revoked")
    until(lambda: ask_models(watched, key) == 401, "the end of the key")


def test_limits_change_of_those_whom_no_file_defines_and_only_those_that_were_named(page: Page, watched: Gateway):
    limits = {"concurrency": 5, "requests_per_minute": 7, "output_tokens_per_minute": 900}
    operate(watched, "POST", "keys", caller="erin", limits=limits)
    open_section(page, "keys")
    expect(opened_row(page, "alice")).to_contain_text("Defined in the configuration file")
    expect(page.locator("#more-alice").get_by_role("button")).to_have_count(0)
    more, dialog = opened_row(page, "erin"), page.get_by_role("dialog")
    more.get_by_role("button", name="Change limits").click()
    expect(dialog.get_by_label("At the same time")).to_have_value("5")
    dialog.get_by_role("button", name="Change").click()
    expect(dialog.get_by_role("alert")).to_have_text("Nothing has been changed yet.")
    operate(watched, "PATCH", "callers/erin", limits={"output_tokens_per_minute": 800})  # by somebody else meanwhile
    dialog.get_by_label("At the same time").fill("")
    dialog.get_by_label("Requests a minute").fill("9")
    dialog.get_by_label("Dollars a day").fill("2.5")
    assert violations(page, of="dialog") == []
    dialog.get_by_role("button", name="Change").click()
    expect(dialog).to_have_count(0)
    expect(more).to_contain_text("of $2.50")
    expect(more).to_contain_text("of 9")
    [erin] = [each for each in operator(watched, "keys")["data"] if each["caller"] == "erin"]
    left = {"requests_per_minute": 9, "output_tokens_per_minute": 800, "budget_usd": {"day": 2.5}}
    assert erin["limits"] == left
    open_section(page, "audit")
    expect(page.locator("#audit-table tbody tr").first).to_contain_text(re.compile("changed callers/erin.*done"))


def test_a_teams_budget_is_raised_a_services_key_made_and_its_spend_seen(page: Page, watched: Gateway):
    open_section(page, "keys")
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Create a team").click()
    dialog.get_by_label("Team").fill("platform")
    dialog.get_by_label("Dollars a week").fill("20")
    dialog.get_by_label("A refusal also says").fill("Ask Ann.")
    assert violations(page, of="dialog") == []
    dialog.get_by_role("button", name="Create").click()
    team = opened_row(page, "platform")
    expect(team).to_contain_text("of $20.00")

    # A service's key, and what it spends.
    page.get_by_role("button", name="Create a key").click()
    dialog.get_by_label("Key holder").fill("nightly-bot")
    dialog.get_by_label("Team").fill("platform")
    dialog.get_by_role("button", name="Create").click()
    key = dialog.get_by_label("The key").input_value()
    dialog.get_by_role("button", name="I have stored it").click()
    until(lambda: ask_models(watched, key) == 200, "the new key")
    send(watched, "nightly", key=key)
    page.reload()
    spent = row(page, "nightly-bot").locator("td.num").nth(1)
    expect(spent).not_to_have_text(re.compile("^(–|\\$0.00)$"))

    # Its team's budget is raised, for good and for a while.
    team = opened_row(page, "platform")
    team.get_by_role("button", name="Change budgets and limits").click()
    expect(dialog.get_by_label("Dollars a week")).to_have_value("20")
    expect(dialog.get_by_label("A refusal also says")).to_have_value("Ask Ann.")
    dialog.get_by_label("Dollars a week").fill("30")
    dialog.get_by_role("button", name="Change").click()
    expect(team).to_contain_text("of $30.00")
    team.get_by_role("button", name="Raise for a while").click()
    dialog.get_by_label("Dollars more").fill("12.5")
    dialog.get_by_label("Reason").fill("launch week")
    assert violations(page, of="dialog") == []
    page.set_viewport_size(NARROW)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    page.set_viewport_size(WIDE)
    dialog.get_by_role("button", name="Raise", exact=True).click()
    expect(team).to_contain_text("of $42.50")
    expect(team).to_contain_text("Raised by $12.50 until")
    expect(team).to_contain_text("by admin: launch week")
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]

    # The service is suspended, moved, and goes with its team.
    more = opened_row(page, "nightly-bot")
    more.get_by_role("button", name="Suspend").click()
    dialog.get_by_role("button", name="Suspend").click()
    expect(row(page, "nightly-bot")).to_contain_text("suspended")
    until(lambda: ask_models(watched, key) == 403, "the suspension")
    more.get_by_role("button", name="Resume").click()
    dialog.get_by_role("button", name="Resume").click()
    until(lambda: ask_models(watched, key) == 200, "its end")
    team.get_by_role("button", name="Delete the team").click()
    expect(dialog).to_contain_text("1 caller and all their keys end")
    dialog.get_by_role("button", name="Delete").click()
    expect(row(page, "platform")).to_have_count(0)
    until(lambda: ask_models(watched, key) == 401, "the end of its key")


def test_all_keys_of_somebody_end_and_then_the_holder_is_deleted(page: Page, watched: Gateway):
    name = "frida@acme.example"
    keys = [str(operate(watched, "POST", "keys", caller=name)["key"]) for _ in range(2)]
    until(lambda: [ask_models(watched, key) for key in keys] == [200, 200], "the new keys")
    open_section(page, "keys")
    more, dialog = opened_row(page, name), page.get_by_role("dialog")
    more.get_by_role("button", name="Revoke all keys").click()
    assert violations(page, of="dialog") == []
    dialog.get_by_role("button", name="Revoke them").click()
    expect(page.get_by_text(f"2 keys of {name} revoked")).to_be_visible()
    expect(row(page, name)).to_contain_text("0 of 2")
    expect(more.get_by_role("button", name="Revoke all keys")).to_have_count(0)
    until(lambda: [ask_models(watched, key) for key in keys] == [401, 401], "the end of the keys")
    more.get_by_role("button", name="Delete the key holder").click()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Delete").click()
    expect(row(page, name)).to_have_count(0)
    assert name not in [each["caller"] for each in operator(watched, "keys")["data"]]
    open_section(page, "audit")
    expect(page.locator("#audit-table tbody tr").first).to_contain_text(f"callers/{name}")


def ask_models(gateway: Gateway, key: str) -> int:
    return gateway.get("/v1/models", headers={"x-api-key": key}).status


# -- Whatever comes -------------------------------------------------------------------------------------------------


ROWS = "tbody tr:nth-child(n+7), ul.brief li:nth-child(n+5)"  # the others of a long table: what holds for some, holds


def violations(page: Page, *rules: str, of: str = "html") -> list[str]:
    """What axe has to say of that part of the page as it stands, by some rules or all."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE)
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found: list[str] = page.evaluate(
        "([of, rows, options]) => axe.run({include: of, exclude: [...document.querySelectorAll(rows)]}, options).then("
        "({ violations }) => violations.map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)}`))",
        [of, ROWS, options],
    )
    return found


def test_every_section_is_accessible_in_light_and_dark(page: Page, watched: Gateway):
    account = watched.config["accounts"][0]["id"]
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    found = {}
    for name in (*SECTIONS[:2], "conversations?key=alice&id=conversation-0", *SECTIONS[3:], "accounts?id=a dialog"):
        open_section(page, name)
        if name == "keys":
            opened_row(page, "alice")
            opened_row(page, "research")
        if name == "accounts" or "dialog" in name:
            opened_row(page, account)
        if "dialog" in name:
            page.get_by_role("button", name=re.compile("^Drain")).first.click()
        found[name] = violations(page)
        page.emulate_media(color_scheme="dark")
        found[f"{name} in dark"] = violations(page, "color-contrast")  # all else is as it was
        page.emulate_media(color_scheme="light")
    assert {name: said for name, said in found.items() if said} == {}


def test_the_theme_can_be_chosen_and_is_remembered(page: Page):
    background = "getComputedStyle(document.body).backgroundColor"
    system = page.evaluate(background)
    button = page.locator("#theme")
    button.click()
    expect(button).to_have_text("Theme: light")
    button.click()
    expect(button).to_have_text("Theme: dark")
    assert page.evaluate(background) != system
    page.reload()
    expect(button).to_have_text("Theme: dark")
    assert page.evaluate(background) != system


def test_nothing_scrolls_sideways_on_a_narrow_screen(page: Page):
    page.set_viewport_size(NARROW)
    for name in (*SECTIONS, "conversations?key=alice&id=conversation-0"):
        open_section(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], name
        assert page.evaluate("scrollY") == 0, name  # the navigation is in sight


def test_nothing_is_cut_on_a_narrow_screen(page: Page, watched: Gateway):
    page.set_viewport_size(NARROW)
    cut = "(all) => all.filter((each) => each.scrollWidth > each.clientWidth).length"
    expect(page.locator("#brief-requests tbody tr").first).to_be_visible()
    now = datetime.now(UTC)
    long = {"account": "account-of-production-1", "key": "somebody", "outcome": "interrupted", "duration_seconds": 754}
    listed = [{**long, "request_id": "long", "at": (now - timedelta(hours=3, minutes=30)).isoformat()}]
    page.evaluate(
        "(listed) => import('/static/requests.js').then("
        "(requests) => requests.list(document.getElementById('brief-requests'), listed))",
        listed,
    )
    expect(page.locator("#brief-requests")).to_contain_text("12 min 34 s")
    assert page.locator("#brief-requests .scroller").evaluate_all(cut) == 0
    open_section(page, "spending")
    for name in ("Hit rate", "Saved", "Cost"):
        expect(page.get_by_role("columnheader", name=name)).to_be_visible()
    assert page.locator("#spending-table .scroller").evaluate_all(cut) == 0
    page.context.set_offline(True)
    page.evaluate("import('/static/live.js').then((live) => live.connect())")
    expect(page.locator("#live")).to_contain_text("Reconnecting")
    right = page.get_by_role("button", name="Sign out").evaluate("(it) => it.getBoundingClientRect().right")
    assert right <= NARROW["width"]


def test_what_strangers_wrote_stays_text(page: Page, watched: Gateway):
    send(watched, "hostile", BOB, model=HOSTILE)
    open_section(page, "requests")
    expect(page.locator("#requests-table")).to_contain_text(HOSTILE)

    def hostile(route: Route) -> None:
        if "/live" in route.request.url:
            accounts = json.dumps(poisoned(operator(watched, "accounts")))
            overview = json.dumps({**operator(watched, "overview"), "degraded": [HOSTILE]})
            events = f"event: accounts\ndata: {accounts}\n\nevent: overview\ndata: {overview}\n\n"
            route.fulfill(content_type="text/event-stream", body=events)
        else:
            answer = route.fetch()
            route.fulfill(response=answer, json=poisoned(answer.json()))

    page.route("**/admin/v1/**", hostile)
    page.goto("about:blank")
    page.goto(f"{base(watched)}/#overview")
    expect(page.locator("#banners")).to_contain_text(HOSTILE)
    for name in (*SECTIONS, "conversations?key=alice&id=conversation-1", "spending?by=model"):
        open_section(page, name)
        if name not in ("conversations", "connect"):
            expect(page.locator(f"section#at-{name.partition('?')[0]}")).to_contain_text(HOSTILE)
    assert page.locator("main img, main iframe, main script").count() == 0


def poisoned(value: Any, field: str = "") -> Any:
    """The same answer as if strangers had chosen every name in it."""
    if isinstance(value, dict):
        return {name: poisoned(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, field) for each in value]
    kept = field in ("role", "csrf", "at", "since", "until", "warm_until", "created_at", "day", "kind")
    return value if kept or not isinstance(value, str) else HOSTILE + value


def test_a_lost_connection_is_said_and_comes_back(page: Page, watched: Gateway):
    expect(page.locator("#live")).to_have_text("Live")
    page.context.set_offline(True)
    page.evaluate("import('/static/live.js').then((live) => live.connect())")
    expect(page.locator("#live")).to_contain_text("Reconnecting")
    expect(page.locator("#banners")).to_contain_text("connection to the gateway is lost")
    page.context.set_offline(False)
    expect(page.locator("#live")).to_have_text("Live")
    expect(page.locator("#banners p")).to_have_count(0)


def test_what_is_not_normal_is_said_once_and_each_mode_that_there_is_explained(page: Page, watched: Gateway):
    scrape = watched.get("/metrics", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).body.decode()
    modes = set(re.findall(r'^gateway_degraded\{mode="(\w+)"\}', scrape, re.MULTILINE))
    assert modes >= {"store", "workers"}
    assert set(page.evaluate("import('/static/words.js').then((words) => Object.keys(words.DEGRADED))")) == modes
    overview = operator(watched, "overview")
    overview |= {"degraded": sorted(modes), "workers": {"alive": 1, "configured": 2}}
    told = f"event: overview\ndata: {json.dumps(overview)}\n\n"
    page.route("**/admin/v1/live", lambda route: route.fulfill(content_type="text/event-stream", body=told))
    page.reload()
    expect(page.locator("#banners")).to_contain_text("1 of 2 worker processes are alive")
    expect(page.locator("#banners")).to_contain_text("cannot be written to data_dir")
    expect(page.locator("#banners p", has_not_text="connection to the gateway")).to_have_count(len(modes))


def test_keys_are_looked_at_again_when_the_look_before_has_ended_and_sums_once_a_minute(own: Page):
    asked: list[str] = []
    held: list[Route] = []
    own.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    own.route("**/admin/v1/keys", lambda route: held.append(route))
    own.clock.install()
    with own.expect_request("**/admin/v1/keys"):  # which may be told of later than the section is seen
        open_section(own, "keys")
    own.clock.run_for(15_000)  # less than a request may take
    expect(own.locator("#callers-list table")).to_have_count(0)
    assert asked.count("keys") == 1
    held[0].continue_()
    own.unroute("**/admin/v1/keys")
    expect(own.locator("#callers-list table")).to_be_visible()
    with own.expect_response("**/admin/v1/keys"):
        own.clock.run_for(6_000)
    assert [asked.count(f"usage?group_by={name}") for name in ("key", "team")] == [1, 1]
    with own.expect_response("**/admin/v1/usage?group_by=key"), own.expect_response("**/usage?group_by=team"):
        own.clock.fast_forward(60_000)
    own.evaluate("location.hash = 'connect'")
    expect(own.get_by_role("heading", name="Connect a client")).to_be_visible()
    before = len(asked)
    own.clock.run_for(15_000)
    assert "keys" not in asked[before:]


def test_numbers_are_told_as_people_read_them(page: Page):
    wanted = {
        "count(12345)": "12,345", "count(1234567)": "1.23 M", "count(null)": "–", "brief(9500)": "9,500",
        "brief(143910)": "144 k", "brief(1230000)": "1.23 M", "brief(null)": "–",
        "rate(0)": "0", "rate(0.003)": "<0.01", "rate(11.26)": "11.3", "rate(45678)": "45.7 k",
        "percent(0.884)": "88 %", "percent(0.004)": "0.4 %", "percent(0.9961)": "99.6 %", "percent(1)": "100 %",
        "dollars(0)": "$0.00", "dollars(0.0042)": "$0.0042", "dollars(12.3)": "$12.30",
        "dollars(123456.7)": "$123,457", "dollars(-1)": "−$1.00", "dollars(1e-9)": "<$0.0001",
        "seconds(0.00042)": "0.4 ms", "seconds(0.84)": "840 ms", "seconds(2.314)": "2.31 s",
        "seconds(185)": "3 min 5 s", "seconds(0.9999)": "1.00 s", "span(7800)": "2 h 10 min", "span(86400)": "1 d",
        "relative(0, 500)": "just now", "relative(0, 65000)": "1 min ago", "relative(65000, 0)": "in 1 min 5 s",
        "plural(1, 'key')": "1 key", "plural(2, 'key')": "2 keys", "exact(NaN)": "–",
    }  # fmt: skip
    module = "import('/static/format.js')"
    assert {call: page.evaluate(f"{module}.then((format) => format.{call})") for call in wanted} == wanted


# -- Pages of other origins -------------------------------------------------------------------------------------------

CALL = """
    async ([url, key, body]) => {
        const answer = await fetch(url, {
            method: "POST",
            headers: {"x-api-key": key, "content-type": "application/json", "x-conversation-id": "from a page"},
            body: JSON.stringify(body),
        });
        return [answer.status, answer.headers.get("request-id"), answer.headers.get("x-gateway-route")];
    }
"""


@contextmanager
def page_at(port: int) -> Iterator[None]:
    """A server of one empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Chat</title>")

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_page_of_a_configured_origin_may_call_the_api_and_no_other(watched: Gateway, browser: Browser):
    body = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}
    context = browser.new_context()
    page = context.new_page()
    with page_at(CHAT_PORT):
        page.goto(f"http://127.0.0.1:{CHAT_PORT}/")
        status, request_id, route = page.evaluate(CALL, [f"{watched.base_url}/v1/messages", ALICE, body])
        assert (status, route) == (200, "new") and request_id
        assert page.evaluate(CALL, [f"{watched.base_url}/v1/messages", "sk-nobody", body])[0] == 401  # it may read why
    other = free_port()
    with page_at(other):
        page.goto(f"http://127.0.0.1:{other}/")
        with pytest.raises(PlaywrightError, match="Failed to fetch"):
            page.evaluate(CALL, [f"{watched.base_url}/v1/messages", ALICE, body])
    context.close()
