"""What operators see of now: over a real gateway of two workers, its store and its upstream."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    BOB,
    SECRET,
    Answer,
    Gateway,
    Simulator,
    Store,
    accounts_of,
    ask,
    at_once,
    conversation,
    eventually,
    free_port,
    message,
    runs,
    until,
)

HEADERS = {"authorization": f"Bearer {ADMIN_TOKEN}"}
LIMITS = {"requests_per_minute": 1000, "budget_usd": {"day": 5}}
CONFIG = {
    "workers": 2,
    "keys": [{"id": "alice", "key": ALICE, "team": "research", "limits": LIMITS}, {"id": "bob", "key": BOB}],
    "teams": [{"id": "research", "limits": {"concurrency": 50, "budget_usd": {"month": 10}}}],
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """An upstream whose answers tell of limits."""
    simulator = Simulator(tmp_path_factory.mktemp("limited"), 3, "--rpm", "100000", "--itpm", "10000000")
    yield simulator
    assert simulator.end() == 0


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("live-store")).start()
    yield store
    if store.alive():
        store.end()


@pytest.fixture(scope="module")
def shared(limited: Simulator, own_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {**CONFIG, "redis": own_store.url, "accounts": accounts_of(limited)}
    gateway = Gateway(tmp_path_factory.mktemp("live"), config).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def live(shared: Gateway, limited: Simulator) -> Gateway:
    limited.clear()
    shared.mend()
    return shared


def show(gateway: Gateway, path: str) -> Any:
    answer = gateway.get(f"/admin/v1/{path}", admin=True, headers=HEADERS)
    assert answer.status == 200, answer.body
    return answer.json()


def requests_of(gateway: Gateway, *answers: Answer, query: str = "limit=500") -> dict[str, dict[str, Any]]:
    """The requests that gave these answers, once they are all there, by id."""
    wanted = {answer.request_id for answer in answers}

    def found() -> dict[str, dict[str, Any]]:
        rows = {row["request_id"]: row for row in show(gateway, f"requests?{query}")["data"]}
        return {name: rows[name] for name in wanted} if wanted <= rows.keys() else {}

    rows: dict[str, dict[str, Any]] = until(found, f"requests {wanted}")
    return rows


class Events:
    """One reader of the stream."""

    def __init__(self, gateway: Gateway, last: str = "", token: str = ADMIN_TOKEN) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=20)
        headers = {"authorization": f"Bearer {token}", "last-event-id": last}
        self.connection.request("GET", "/admin/v1/live", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.getheader("content-type") == "text/event-stream"

    def next(self, name: str) -> tuple[Any, str]:
        """Data and id of the next event of that name."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            if line == "\n":
                if fields.get("event") == name:
                    return json.loads(fields["data"]), fields.get("id", "")
                fields = {}
            else:
                key, _, value = line.rstrip("\n").partition(": ")
                fields[key] = value

    def rest(self) -> bytes:
        return self.response.read()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


async def test_requests_of_all_workers_are_seen_without_what_is_nobodys_business(live):
    said = "Quite a private matter"
    headers = conversation()
    answers = [await ask(live, message(said, stream=stream), headers, key=ALICE) for stream in (True, False) * 4]
    refused = await ask(live, message("x"), key="sk-nobody")
    other = await ask(live, message("x"), conversation(), key=BOB)
    rows = requests_of(live, *answers, refused, other)
    row = rows[answers[0].request_id]
    assert (row["key"], row["team"], row["endpoint"], row["status"]) == ("alice", "research", "messages", 200)
    assert (row["outcome"], row["account"], row["attempts"], row["stream"]) == ("ok", answers[0].account, 1, True)
    assert row["tokens"]["output"] == 32 and row["cost_usd"] > 0 and row["ttft_seconds"] > 0
    assert row["upstream_request_id"] and row["at"].endswith("Z")
    assert (rows[refused.request_id]["status"], rows[refused.request_id]["key"]) == (401, None)
    text = json.dumps(show(live, "requests?limit=500"))
    for secret in (said, headers["X-Conversation-Id"], ALICE, BOB, SECRET, "sk-nobody", ADMIN_TOKEN):
        assert secret not in text
    only = show(live, "requests?limit=2&key=alice")["data"]
    assert [each["request_id"] for each in only] == [each.request_id for each in reversed(answers)][:2]
    assert {each["key"] for each in show(live, "requests?key=bob")["data"]} == {"bob"}
    assert {each["status"] for each in show(live, "requests?outcome=401")["data"]} == {401}


async def test_the_overview_says_how_it_goes(live):
    answers = await at_once(ask(live, message(f"about {n} " + "x" * 400), conversation()) for n in range(40))
    assert {answer.status for answer in answers} == {200}

    def busy() -> Any:
        overview = show(live, "overview")
        return overview if overview["requests_per_second"] and overview["history"] else None

    overview = await eventually(busy)
    assert overview["workers"] == {"alive": 2, "configured": 2}
    assert 0 < overview["ttft_seconds"]["p50"] <= overview["ttft_seconds"]["p95"]
    assert 0 < overview["overhead_seconds"]["p50"] <= overview["overhead_seconds"]["p99"]
    assert overview["tokens_per_second"]["output"] > 0
    assert overview["cache_hit_rate"] is not None
    assert overview["degraded"] == []
    assert overview["accounts"] == {"available": 3, "limited": 0, "draining": 0, "disabled": 0, "out": 0, "failing": 0}
    await eventually(lambda: (show(live, "overview")["spent"]["today_usd"] or 0) > 0)


async def test_limits_say_what_is_left_of_them(live):
    answer = await ask(live, message("Hello"), conversation())
    assert answer.status == 200

    def used() -> Any:
        rows = {(row["kind"], row["id"]): row for row in show(live, "limits")["data"]}
        money = {each["limit"]: each for each in rows["team", "research"]["limits"]}["budget_usd_month"]
        return rows if money["remaining"] < money["of"] else None

    rows = await eventually(used)
    assert set(rows) == {("team", "research"), ("caller", "alice")}
    assert [each["limit"] for each in rows["caller", "alice"]["limits"]] == ["requests_per_minute", "budget_usd_day"]
    await eventually(lambda: live.metrics().total("gateway_team_budget_remaining_ratio", team="research") > 0)


async def test_accounts_tell_what_they_have_and_what_is_left(live):
    async def slow() -> Answer:
        return await ask(live, message("Slowly", stream=True), conversation(), fault={"kind": "silence", "value": 3})

    running = asyncio.create_task(slow())
    account = await eventually(
        lambda: next((each for each in show(live, "accounts")["data"] if each["in_flight"] == 1), None)
    )
    assert live.metrics().total("gateway_account_in_flight", account=account["id"]) == 1
    assert (await running).account == account["id"]
    await eventually(lambda: not any(each["in_flight"] for each in show(live, "accounts")["data"]))
    account = await eventually(
        lambda: next((each for each in show(live, "accounts")["data"] if each["headroom"] and each["bindings"]), None)
    )
    assert {row["limit"] for row in account["headroom"]} >= {"requests", "input_tokens"}
    metrics = live.metrics()
    assert metrics.total("gateway_account_bindings", account=account["id"]) > 0
    assert metrics.total("gateway_account_ratelimit_remaining_ratio", account=account["id"], limit="requests") > 0.9
    assert metrics.total("gateway_account_ratelimit_reset_timestamp_seconds", account=account["id"]) > 1.7e9


async def test_an_account_that_is_out_says_why_until_when_and_what_it_last_did(live, limited):
    limited.fault("status", 401, account="sim-account-1")

    async def provoked() -> Any:
        for _ in range(30):
            await ask(live, message("Hello"), conversation())
        account = show(live, "accounts/sim-account-1")
        return account if account["health"]["state"] == "out" and account["last_error"] else None

    async with asyncio.timeout(20):
        while (account := await provoked()) is None:
            continue
    health = account["health"]
    assert health["reason"] == "credential"
    assert "key" in health["why"]
    assert health["since"] < health["until"]
    assert account["last_error"]["at"] >= health["since"][:10]
    assert "not accepted" in account["last_error"]["what"]
    assert show(live, "overview")["accounts"]["out"] == 1
    limited.clear()
    live.mend()
    account = show(live, "accounts/sim-account-1")
    assert (account["health"]["state"], account["health"]["until"]) == ("available", None)
    assert account["health"]["since"] >= health["since"]
    assert account["last_error"]


async def test_events_tell_of_numbers_accounts_and_requests(live):
    events = Events(live)
    overview, _ = events.next("overview")
    assert "history" not in overview
    accounts, _ = events.next("accounts")
    assert [each["id"] for each in accounts["data"]] == ["sim-account-1", "sim-account-2", "sim-account-3"]
    answer = await ask(live, message("Hello"), conversation(), key=BOB)
    seen: list[str] = []
    while answer.request_id not in seen:
        told, mark = events.next("requests")
        seen += [row["request_id"] for row in told["data"]]
    events.close()
    missed = await ask(live, message("Hello"), conversation(), key=BOB)
    requests_of(live, missed)
    again = Events(live, mark)
    told, _ = again.next("requests")
    assert missed.request_id in [row["request_id"] for row in told["data"]]
    path = "/admin/v1/accounts/sim-account-2"
    assert live.get(path, admin=True, headers=HEADERS, method="PATCH", body=b'{"state": "draining"}').status == 200
    while True:
        accounts, _ = again.next("accounts")
        if accounts["data"][1]["health"]["state"] == "draining":
            break
    again.close()


async def test_a_worker_that_dies_makes_no_rate_negative_and_is_missed(live):
    answers = await at_once(ask(live, message("Hello"), conversation()) for _ in range(20))
    requests_of(live, *answers)
    before = live.metrics().total("gateway_requests_total")
    victim = live.workers()[0]
    events = Events(live)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not runs(victim), "its end")
    rates: list[float] = []
    alive: list[int] = []
    while not (alive and alive[-1] == 2 and len(rates) > 1):
        overview, _ = events.next("overview")
        rates += [overview["requests_per_second"], *overview["tokens_per_second"].values()]
        alive.append(overview["workers"]["alive"])
    events.close()
    assert min(rates) >= 0
    assert live.metrics().total("gateway_requests_total") >= before
    assert all(name in requests_of(live, *answers) for name in [each.request_id for each in answers])
    await eventually(lambda: show(live, "overview")["degraded"] == [])
    assert live.metrics().total("gateway_degraded", mode="workers") == 0


def test_while_the_store_is_away_what_it_knows_is_null_and_all_else_goes_on(live, own_store):
    own_store.end(signal.SIGKILL)
    until(lambda: "store" in show(live, "overview")["degraded"], "the outage to be seen")
    until(lambda: show(live, "overview")["spent"]["today_usd"] is None, "the ledger to be away")
    limits = until(
        lambda: [row for row in show(live, "limits")["data"] if row["limits"][0]["remaining"] is None],
        "the limits to be away",
    )
    assert len(limits) == 2 and limits[0]["limits"][0]["of"] == 50
    until(lambda: show(live, "accounts/sim-account-1")["bindings"] is None, "the bindings to be away")
    assert live.metrics().total("gateway_degraded", mode="store") >= 1
    events = Events(live)
    assert events.next("overview")[0]["spent"]["month_usd"] is None
    events.close()
    own_store.start()
    until(lambda: show(live, "overview")["degraded"] == [], "the store to be back")
    until(lambda: show(live, "overview")["spent"]["today_usd"] is not None, "the ledger to be back")
    until(lambda: show(live, "accounts/sim-account-1")["bindings"] is not None, "the bindings to be back")


def test_watching_is_for_some_and_ends_with_the_gateway(limited, launch):
    port, tokens = free_port(), [f"the-token-of-viewer-{number}" for number in range(4)]
    admin = {
        "listen": f"127.0.0.1:{port}", "token": ADMIN_TOKEN,
        "tokens": [{"id": f"viewer-{number}", "token": token} for number, token in enumerate(tokens)],
    }  # fmt: skip
    gateway = launch(**CONFIG, accounts=accounts_of(limited), admin=admin)
    watching = [Events(gateway, token=token) for token in tokens for _ in range(16)]
    assert gateway.get("/admin/v1/live", admin=True, headers=HEADERS).status == 503
    watching.pop().close()
    until(lambda: _one_more(gateway, watching), "room")
    gateway.stop()
    for events in watching:
        assert events.rest().endswith(b"\n\n")
        events.close()


def _one_more(gateway: Gateway, watching: list[Events]) -> bool:
    try:
        watching.append(Events(gateway, token="the-token-of-viewer-3"))
    except AssertionError:
        return False
    return True
