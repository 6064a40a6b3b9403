"""The operator's listener: who may look and change, whether the numbers are true, and what is written down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    KEYS,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    Within,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    message,
    request,
    until,
)

AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
FAMILIES = {
    "gateway_requests": "counter",
    "gateway_request_duration_seconds": "histogram",
    "gateway_requests_in_flight": "gauge",
    "gateway_time_to_first_token_seconds": "histogram",
    "gateway_overhead_seconds": "histogram",
    "gateway_tokens": "counter",
    "gateway_affinity_decisions": "counter",
    "gateway_upstream_requests": "counter",
    "gateway_build_info": "gauge",
}


@pytest.fixture(scope="module")
def fresh(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that nobody has asked anything yet."""
    gateway = Gateway(tmp_path_factory.mktemp("fresh"), {"accounts": accounts_of(simulator, 3)}).start()
    yield gateway
    gateway.stop()


def test_every_family_is_there_before_the_first_request(fresh: Gateway):
    series = fresh.metrics()
    assert series.families.items() >= FAMILIES.items()
    assert series.total("gateway_build_info") == 1
    assert series.total("gateway_requests_total") == 0


async def test_the_numbers_are_those_of_the_traffic(fresh: Gateway, sim: Simulator):
    since = sim.mark()
    names = [conversation() for _ in range(5)]
    for name in names * 2:
        await ask(fresh, message("Tell me", stream=name is names[0]), name)
    home = (await ask(fresh, message(), names[0])).account
    await ask(fresh, message(), names[0], fault={"kind": "status", "value": 500, "account": home})
    await ask(fresh, message(), key="sk-wrong")
    await ask(fresh, message(model="claude-none-1"))
    await ask(fresh, path="/v1/models")
    await ask(fresh, {"model": MODEL, "messages": message()["messages"]}, path="/v1/messages/count_tokens")
    series = fresh.metrics()

    def requests(**labels: str) -> float:
        return series.total("gateway_requests_total", **labels)

    assert requests(endpoint="messages", code="200", model=MODEL, team="research") == 12
    assert requests(endpoint="messages", code="401") == 1
    assert requests(endpoint="messages", code="404", model="other") == 1
    assert requests(endpoint="models", code="200") == requests(endpoint="count_tokens", code="200") == 1
    routes = {route: series.total("gateway_affinity_decisions_total", route=route) for route in ("new", "detour")}
    assert routes == {"new": 7, "detour": 1}  # the unknown model, and counting, have conversations too
    assert series.total("gateway_upstream_requests_total", account=home, code="500") == 1
    records = sim.records(since)
    assert series.total("gateway_upstream_requests_total") == len(records)
    usage = [record["usage"] for record in records if record["usage"]]
    for kind, field in (("input", "input_tokens"), ("output", "output_tokens")):
        assert series.total("gateway_tokens_total", type=kind) == sum(each[field] for each in usage) > 0
        for account in {record["account"] for record in records}:
            wanted = sum(
                record["usage"][field] for record in records if record["usage"] and record["account"] == account
            )
            assert series.total("gateway_tokens_total", type=kind, account=account, model=MODEL) == wanted
    assert series.total("gateway_requests_in_flight") == 0
    assert series.total("gateway_request_duration_seconds_count") == requests()
    assert series.total("gateway_time_to_first_token_seconds_count") == 12


async def test_no_client_can_make_new_series_or_be_read_from_them(fresh: Gateway, sim: Simulator):
    async def different(tag: str) -> None:
        body = message(f"canary {tag}", model=f"canary-model-{tag}", metadata={"user_id": f"canary-user-{tag}"})
        headers = {"X-Conversation-Id": f"canary-{tag}", "user-agent": f"canary/{tag}"}
        await ask(fresh, body, headers)
        await ask(fresh, body, headers, path=f"/v1/canary/{tag}")
        await ask(fresh, path=f"/v1/models/canary-{tag}")

    for number in range(30):  # until every account was asked for a model that it does not know
        await different(f"first-{number}")
    before = set(fresh.metrics())
    await at_once(different(str(number)) for number in range(40))
    text = fresh.get("/metrics", admin=True, headers=AUTHORIZED).body.decode()
    secrets = ("canary", *KEYS, *(account["api_key"] for account in sim.accounts))
    assert not [secret for secret in secrets if secret in text]
    assert set(fresh.metrics()) - before == set()


@pytest.mark.parametrize("path", ["/metrics", "/admin/v1/pool", "/admin/v1/anything"])
def test_the_admin_listener_needs_the_token(path: str, fresh: Gateway):
    # Three of them are tries; ten a minute are answered so.
    wrong = ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, f"Bearer {ALICE}",
             f"Bearer {ADMIN_TOKEN}x"]  # fmt: skip
    for value in wrong:
        answer = fresh.get(path, admin=True, headers={"authorization": value} if value else {})
        assert answer.status == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert b"gateway_" not in answer.body
    assert fresh.get(path, admin=True, headers=AUTHORIZED).status == (404 if path.endswith("anything") else 200)


def test_the_gateway_key_of_a_caller_opens_nothing_here(fresh: Gateway):
    for headers in ({"x-api-key": ALICE}, {"x-api-key": ADMIN_TOKEN}):
        assert fresh.get("/metrics", admin=True, headers=headers).status == 401


def test_metrics_can_be_opened_and_nothing_else_with_them(open_metrics: Gateway):
    answer = open_metrics.get("/metrics", admin=True)
    assert answer.status == 200 and b"gateway_build_info" in answer.body
    assert open_metrics.get("/admin/v1/pool", admin=True).status == 401


@pytest.fixture
def open_metrics(tight: Gateway) -> Gateway:
    return tight


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_open_on_both_listeners(path: str, fresh: Gateway):
    for admin in (False, True):
        answer = fresh.get(path, admin=admin)
        assert answer.status == 200 and answer["content-type"].startswith("application/json")
        assert answer.json()
        for secret in (*KEYS, ADMIN_TOKEN):
            assert secret not in answer.body.decode()


def test_readiness_is_broken_down(fresh: Gateway):
    for admin in (False, True):
        body = fresh.get("/readyz", admin=admin).json()
        assert body["ready"] is True and body["draining"] is False
        assert body["pool"]["accounts"] == 3 and body["pool"]["epoch"] >= 1
        assert body["keys"] == len(KEYS) and body["store"] == "connected"


@pytest.mark.parametrize(
    "path",
    [
        "/metrics", "/admin/v1/pool", "/admin/v1/accounts", "/admin/v1/me", "/admin/v1/live", "/admin/v1/audit",
        "/admin/v1/openapi.json", "/admin", "/login", "/logout", "/static/style.css",
    ],
)  # fmt: skip
async def test_nothing_of_the_operators_is_on_the_data_listener(path: str, fresh: Gateway):
    for headers in ({}, AUTHORIZED, {"x-api-key": ALICE}):
        answer = await ask(fresh, path=path, headers=headers, key=None)
        assert answer.status == 404
        assert b"gateway_" not in answer.body


def test_nothing_of_the_clients_is_on_the_admin_listener(fresh: Gateway, sim: Simulator):
    since = sim.mark()
    for method, path in (("POST", "/v1/messages"), ("GET", "/v1/models")):
        assert fresh.get(path, admin=True, headers={"x-api-key": ALICE}, method=method).status == 401
        assert fresh.get(path, admin=True, headers=AUTHORIZED, method=method).status == 404
    assert sim.records(since) == []


def test_the_agreed_pool_is_shown_without_secrets(fresh: Gateway, sim: Simulator):
    pool = fresh.get("/admin/v1/pool", admin=True, headers=AUTHORIZED).json()
    assert [account["id"] for account in pool["accounts"]] == [account["id"] for account in sim.accounts[:3]]
    assert not [account for account in sim.accounts if account["api_key"] in json.dumps(pool)]


# -- Roles, sessions and what is written down -------------------------------------------------------------------------

VIEWER = "token-of-a-test-viewer"
VIEWING = {"authorization": f"Bearer {VIEWER}"}
TOKENS = [{"id": "viewer", "token": VIEWER, "role": "read"}]
SITE = {"sec-fetch-site": "same-origin"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
FORBIDDEN = "permission_error"


def change(gateway: Gateway, method: str, path: str, headers: dict[str, str], body: Any = None) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    return gateway.get(f"/admin/v1/{path}", admin=True, headers=headers, method=method, body=data)


def audit(gateway: Gateway, query: str = "limit=1000") -> list[dict[str, Any]]:
    answer = gateway.get(f"/admin/v1/audit?{query}", admin=True, headers=VIEWING)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def login(gateway: Gateway, token: str = ADMIN_TOKEN) -> dict[str, str]:
    """What a browser sends along once it has signed in."""
    headers = {**FORM, **SITE}
    body = urlencode({"token": token}).encode()
    answer = gateway.get("/login", admin=True, headers=headers, method="POST", body=body)
    assert (answer.status, answer["location"]) == (303, "/"), answer.body
    browser = {"cookie": answer["set-cookie"].partition(";")[0], **SITE}
    me = gateway.get("/admin/v1/me", admin=True, headers=browser).json()
    return {**browser, "x-csrf-token": me["csrf"]}


def reload(gateway: Gateway, **admin: Any) -> None:
    """Give the gateway another `admin` section and wait until it goes by it."""
    gateway.config["admin"] = {**gateway.config["admin"], **admin}
    before = len([line for line in gateway.lines() if line["event"] == "config reloaded"])
    (gateway.folder / "gateway.yaml").write_text(yaml.safe_dump(gateway.config, sort_keys=False))
    until(lambda: len([line for line in gateway.lines() if line["event"] == "config reloaded"]) > before, "the reload")


@pytest.fixture(scope="module")
def pair(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways on one store, with a token that may only look."""
    gateways = []
    for number in range(2):
        gateway = Gateway(
            tmp_path_factory.mktemp(f"admin{number}"),
            {"redis": f"{store.url}/10", "accounts": accounts_of(simulator, 2)},
        )
        gateway.config["admin"]["tokens"] = TOKENS
        gateways.append(gateway.launch())
    for gateway in gateways:
        gateway.ready()
    until(lambda: all(len(change(g, "GET", "pool", VIEWING).json()["accounts"]) == 2 for g in gateways), "the pool")
    yield gateways
    for gateway in gateways:
        gateway.stop()


def test_a_token_that_may_look_changes_nothing(pair: list[Gateway], sim: Simulator):
    gateway, account = pair[0], sim.accounts[0]["id"]
    for path in ("me", "accounts", "keys", "pool", "usage", "overview", "requests", "limits", "audit", "openapi.json"):
        assert change(gateway, "GET", path, VIEWING).status == 200, path
    for method, path in (
        ("PATCH", f"accounts/{account}"), ("DELETE", f"accounts/{account}/bindings"), ("POST", "keys"),
        ("DELETE", "keys/key_x"), ("POST", "keys/key_x/rotate"), ("DELETE", "conversations/alice/x"),
    ):  # fmt: skip
        answer = change(gateway, method, path, VIEWING, {"state": "disabled"})
        assert_error(answer, 403, "permission_error")
    assert change(gateway, "GET", f"accounts/{account}", VIEWING).json()["state"] == "active"


async def test_a_session_of_one_gateway_counts_at_all_and_what_it_changes_is_known_to_all(
    pair: list[Gateway], sim: Simulator, within: Within
):
    one, other = pair
    account = sim.accounts[0]["id"]
    browser = login(one)
    assert change(other, "PATCH", f"accounts/{account}", browser, {"weight": 3}).status == 200
    changed = time.monotonic()
    await eventually(lambda: change(one, "GET", f"accounts/{account}", browser).json()["weight"] == 3, "the weight")
    took = time.monotonic() - changed
    await eventually(lambda: audit(one) == audit(other) != [], "one list")
    latest = audit(one)[0]
    assert latest.items() >= {
        "who": "admin", "role": "operate", "by": "session", "action": "account.change", "status": 200,
        "resource": f"accounts/{account}", "changes": {"weight": [1, 3]}, "address": "127.0.0.1",
    }.items()  # fmt: skip
    assert change(other, "PATCH", f"accounts/{account}", browser, {"weight": None}).status == 200
    within(took, 1.0)


def test_who_signs_out_of_one_gateway_is_out_of_all(pair: list[Gateway]):
    one, other = pair
    browser, stays = login(one), login(other)
    assert change(other, "GET", "me", browser).status == 200
    assert one.get("/logout", admin=True, headers=browser, method="POST").status == 303
    assert change(one, "GET", "me", browser).status == 401
    until(lambda: change(other, "GET", "me", browser).status == 401, "the end of the session")
    assert change(one, "GET", "me", stays).status == 200


async def test_no_secret_is_written_down(pair: list[Gateway], sim: Simulator):
    one, other = pair
    made = change(one, "POST", "keys", AUTHORIZED, {"caller": "mallory", "team": "red", "metadata": {"note": "canary"}})
    rotated = change(other, "POST", f"keys/{made.json()['id']}/rotate", AUTHORIZED, {"overlap": 0})
    change(one, "DELETE", f"keys/{rotated.json()['id']}", AUTHORIZED)
    change(one, "DELETE", f"keys/{made.json()['key']}", AUTHORIZED)  # a key in the place of its id
    change(one, "PATCH", f"accounts/{ALICE}", AUTHORIZED, {"state": "active"})
    name = conversation()["X-Conversation-Id"]
    await ask(one, message(), {"X-Conversation-Id": name})
    await eventually(
        lambda: change(one, "DELETE", f"conversations/alice/{name}", AUTHORIZED).status == 200, "the conversation"
    )
    browser = login(one)
    done = ("key.create", "key.rotate", "key.revoke", "conversation.flush", "session.begin")
    await eventually(lambda: {entry["action"] for entry in audit(other)} >= set(done), "all of it")
    created = next(entry for entry in audit(one) if entry["action"] == "key.create" and entry["status"] == 201)
    assert created["resource"] == f"keys/{made.json()['id']}"
    assert created["changes"]["caller"] == [None, "mallory"] and created["changes"]["team"] == [None, "red"]
    texts = [json.dumps(audit(one)), *(gateway.text() for gateway in pair)]
    texts += [(gateway.folder / "data" / "audit.jsonl").read_text() for gateway in pair]
    session = browser["cookie"].partition("=")[2]
    secrets = [made.json()["key"], rotated.json()["key"], name, session, browser["x-csrf-token"], "canary", VIEWER]
    for secret in (*secrets, ADMIN_TOKEN, *KEYS, *(account["api_key"] for account in sim.accounts)):
        assert not [text for text in texts if secret in text], secret


async def test_who_hangs_up_changes_nothing_that_is_not_written_down(pair: list[Gateway]):
    gateway = pair[0]

    async def hang_up(number: int) -> None:
        body = json.dumps({"caller": f"gone-{number}"}).encode()
        async with Wire.open(gateway.admin_port) as wire:
            await wire.send(request(body, AUTHORIZED, path="/admin/v1/keys", method="POST", key=None))
            await asyncio.sleep(number % 6 * 0.002)  # now before it is done, now after

    for number in range(40):
        await hang_up(number)

    def made() -> set[str]:
        rows = change(gateway, "GET", "keys", VIEWING).json()["data"]
        return {row["caller"] for row in rows if row["caller"].startswith("gone-")}

    def written() -> set[str]:
        rows = [
            row["changes"]["caller"][1] for row in audit(gateway) if row["action"] == "key.create" and row["changes"]
        ]
        return {name for name in rows if name.startswith("gone-")}

    await eventually(lambda: len(made()) > 10 and made() == written(), "a record of each change")


def test_who_may_only_look_cannot_fill_the_list(pair: list[Gateway]):
    gateway = pair[0]
    before = audit(gateway)
    for number in range(30):
        assert change(gateway, "DELETE", f"keys/key_{number}", VIEWING).status == 403
        assert gateway.get("/logout", admin=True, headers=VIEWING, method="POST").status == 303
    assert len(audit(gateway)) <= len(before) + 10
    assert "key.revoke" not in {entry["action"] for entry in audit(gateway) if entry["who"] == "viewer"}
    assert gateway.line("admin action refused")["who"] == "viewer"
    assert [line["event"] for line in gateway.lines()].count("admin action refused") <= 2


def test_the_list_is_read_in_pages_and_outlives_its_gateway(pair: list[Gateway]):
    one, other = pair
    for _ in range(5):
        login(one, VIEWER)
    whole = audit(one)
    pages: list[dict[str, Any]] = []
    before: str | None = ""
    while before is not None:
        answer = change(other, "GET", f"audit?limit=2&before={before}", VIEWING).json()
        pages += answer["data"]
        before = answer["next"]
    assert pages == whole and len({entry["id"] for entry in whole}) == len(whole) >= 5
    one.stop()
    one.start()
    assert audit(one) == whole
    for bad in ("limit=0", "limit=1001", "limit=x", "before=x", "before=1-0&before=1-0", "colour=red"):
        assert change(one, "GET", f"audit?{bad}", VIEWING).status == 400


async def test_a_removed_token_ends_what_was_begun_with_it_at_once(pair: list[Gateway]):
    gateway = pair[1]
    browser = login(gateway, VIEWER)
    async with Wire.open(gateway.admin_port) as stream, Wire.open(gateway.admin_port) as other:
        await stream.send(request(path="/admin/v1/live", headers=browser, key=None))
        await other.send(request(path="/admin/v1/live", headers=AUTHORIZED, key=None))
        for wire in (stream, other):
            head = await wire.head()
            assert (head.status, head["content-type"].partition(";")[0]) == (200, "text/event-stream")
            assert b"event: " in await wire.until_events(1)
        await asyncio.to_thread(reload, gateway, tokens=[])
        assert change(gateway, "GET", "me", VIEWING).status == 401
        assert change(gateway, "GET", "me", browser).status == 401
        async with asyncio.timeout(15):
            while await stream.piece():
                pass
        assert await other.piece()  # whoever has another token goes on
    await asyncio.to_thread(reload, gateway, tokens=[{**TOKENS[0], "role": "operate"}])
    assert change(gateway, "GET", "me", browser).status == 401  # it was one to look
    assert change(gateway, "GET", "me", VIEWING).json()["role"] == "operate"
    await asyncio.to_thread(reload, gateway, tokens=TOKENS)


async def test_who_watches_does_not_keep_a_gateway_from_stopping(launch: Callable[..., Gateway], simulator: Simulator):
    gateway = launch(accounts=accounts_of(simulator, 1), timeouts={"drain": 600})
    async with Wire.open(gateway.admin_port) as wire:
        await wire.send(request(path="/admin/v1/live", headers=AUTHORIZED, key=None))
        assert (await wire.head()).status == 200
        await asyncio.to_thread(gateway.stop)
        assert await wire.closed()


async def test_other_pages_can_make_a_browser_do_nothing(pair: list[Gateway], sim: Simulator):
    gateway, account = pair[0], sim.accounts[1]["id"]
    browser = login(gateway)
    for headers in (
        {**browser, "sec-fetch-site": "cross-site"},
        {**browser, "sec-fetch-site": "same-site", "origin": f"http://127.0.0.1:{gateway.port}"},
        {"cookie": browser["cookie"], "origin": "http://evil.example", "x-csrf-token": browser["x-csrf-token"]},
        {"cookie": browser["cookie"], "x-csrf-token": browser["x-csrf-token"]},
        {**browser, "x-csrf-token": "guessed"},
        {"cookie": browser["cookie"], **SITE, "x-http-method-override": "PATCH"},
    ):
        assert_error(change(gateway, "PATCH", f"accounts/{account}", headers, {"state": "disabled"}), 403, FORBIDDEN)
    preflight = {"origin": "http://evil.example", "access-control-request-method": "PATCH"}
    answer = change(gateway, "OPTIONS", f"accounts/{account}", preflight)
    assert answer.status == 401 and not answer["access-control-allow-origin"]
    assert change(gateway, "GET", f"accounts/{account}", browser).json()["state"] == "active"


def test_head_is_get_without_a_body(pair: list[Gateway]):
    gateway = pair[0]
    for path in ("/", "/admin/v1/me", "/admin/v1/accounts", "/metrics", "/healthz", "/static/style.css", "/none"):
        answers = [gateway.get(path, admin=True, headers=AUTHORIZED, method=method) for method in ("GET", "HEAD")]
        assert answers[0].status == answers[1].status and answers[1].body == b""
        assert answers[0]["content-type"] == answers[1]["content-type"]


# -- Bad manners ------------------------------------------------------------------------------------------------------


async def test_a_body_or_a_head_that_never_comes_is_given_up(tight: Gateway):
    form, account = FORM["content-type"], tight.config["accounts"][0]["id"]
    slow = [
        request(b'{"state": "active"}', AUTHORIZED, path=f"/admin/v1/accounts/{account}", method="PATCH", key=None)[
            :-5
        ],
        b"POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: %s\r\ncontent-length: 20\r\n\r\ntok" % form.encode(),
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ]

    async def one(data: bytes) -> int:
        async with Wire.open(tight.admin_port) as wire:
            await wire.send(data)
            answer = await wire.answer()
            assert await wire.closed()
            return answer.status

    assert await asyncio.gather(*map(one, slow)) == [408, 408, 408]


async def test_a_huge_body_is_refused_before_it_is_read(fresh: Gateway):
    for headers, body in (({}, b"x" * 100_000), ({"transfer-encoding": "chunked"}, b"")):
        async with Wire.open(fresh.admin_port) as wire:
            head = {**AUTHORIZED, **headers}
            if body:
                await wire.send(request(body, head, path="/admin/v1/keys", method="POST", key=None))
            else:
                await wire.send(request(None, head, path="/admin/v1/keys", method="POST", key=None))
                for _ in range(20):
                    await wire.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            assert_error(await wire.answer(), 413, "request_too_large")
    answer = fresh.get("/healthz", admin=True, headers={"x-large": "x" * 200_000})
    assert_error(answer, 431, "request_too_large")


def test_wrong_tokens_are_bounded_at_the_form(launch: Callable[..., Gateway], simulator: Simulator):
    gateway = launch(accounts=accounts_of(simulator, 1))
    headers = {**FORM, **SITE}

    def enter(token: str) -> int:
        body = urlencode({"token": token}).encode()
        return gateway.get("/login", admin=True, headers=headers, method="POST", body=body).status

    assert [enter("wrong-token") for _ in range(11)] == [401] * 10 + [429]
    assert enter(ADMIN_TOKEN) == 303
    answers = [change(gateway, "GET", "me", {"authorization": f"Bearer guess-{number}"}) for number in range(5)]
    assert_error(answers[0], 429, "rate_limit_error")
    assert {answer.status for answer in answers} == {429} and 0 < int(answers[0]["retry-after"]) <= 60
    assert change(gateway, "GET", "me", AUTHORIZED).status == 200
    assert gateway.line("admin token refused")["address"] == "127.0.0.1"
    assert [line["event"] for line in gateway.lines()].count("admin token refused") == 1
    assert gateway.metrics().total("gateway_admin_refused_total") == 16


async def test_while_the_store_is_away_what_is_done_is_written_down_and_told_later(
    launch: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
):
    store = Store(tmp_path / "store").start()
    try:
        gateway = launch(redis=store.url, accounts=accounts_of(simulator, 1))
        gateway.config["admin"]["tokens"] = TOKENS
        reload(gateway)
        account = simulator.accounts[0]["id"]
        assert change(gateway, "PATCH", f"accounts/{account}", AUTHORIZED, {"weight": 2}).status == 200
        store.end()
        await eventually(lambda: gateway.get("/readyz", admin=True).json()["store"] == "away", "the outage")
        browser = login(gateway)  # operators must be let in now of all times
        assert_error(change(gateway, "PATCH", f"accounts/{account}", browser, {"weight": 5}), 503, "api_error")
        assert_error(change(gateway, "GET", "audit", VIEWING), 503, "api_error")
        lines = [json.loads(line) for line in (gateway.folder / "data" / "audit.jsonl").read_text().splitlines()]
        told = [("account.change", 200), ("session.begin", 303), ("account.change", 503)]
        assert [(line["action"], line["status"]) for line in lines] == told
        store.start()

        def list_is_whole() -> bool:
            answer = change(gateway, "GET", "audit", VIEWING)
            return answer.status == 200 and answer.json()["data"][::-1] == lines

        await eventually(list_is_whole, "the list")
    finally:
        if store.alive():
            store.end()
