"""The operator's listener: who may look, and whether the numbers are true."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    KEYS,
    MODEL,
    Gateway,
    Simulator,
    accounts_of,
    ask,
    at_once,
    conversation,
    message,
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
    wrong = ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, f"Bearer {ALICE}",
             f"Bearer {ADMIN_TOKEN}x", f"Bearer {ADMIN_TOKEN[:-1]}"]  # fmt: skip
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


@pytest.mark.parametrize("path", ["/metrics", "/admin/v1/pool", "/admin/v1/accounts", "/admin", "/login", "/"])
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
