"""What operators are told of usage: the shape, the order, money to the last nano-dollar, and refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.admin.desks.usage import Usage, dollars
from gateway.data import load_catalogue
from gateway.store.client.connection import StoreDown
from gateway.store.ledger.ledger import Entry
from gateway.store.ledger.usage import HOUR, Group, Page, Span, Sums, TooManyRows, Totals
from tests.admin.admin_kit import TOKEN, admin_app

NOW = 1_795_356_034.5  # 2026-11-22T14:00:34.5Z
NOW_MS = int(NOW * 1000)
HERE = 1_795_305_600  # that day's first moment


class Store:
    """A ledger that answers what it is told to."""

    def __init__(self) -> None:
        self.rows: dict[Group, Totals] = {}
        self.unreadable = 0
        self.page = Page([], None, 0)
        self.error: Exception | None = None
        self.asked: Any = None
        self.told = 0

    async def sum(self, span: Span, groups: tuple[str, ...], only: Mapping[str, frozenset[str]]) -> Sums:
        assert self.told  # what has ended until now
        self.asked = (span, groups, dict(only))
        if self.error is not None:
            raise self.error
        return Sums(self.rows, self.unreadable)

    async def tell(self) -> None:
        self.told += 1

    async def records(self, tenant: str, span: Span, key: str, limit: int, before: str) -> Page:
        assert self.told
        self.asked = (tenant, span, key, limit, before)
        if self.error is not None:
            raise self.error
        return self.page


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def client(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    app = admin_app(
        usage=Usage(
            store,
            lambda: NOW,
            store.tell,
            {"aws-1": "bedrock", "aws-2": "bedrock", "a": "anthropic"}.get,
            load_catalogue().names,
        )
    )
    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as made:
        yield made


async def test_a_row_has_exactly_the_fields_that_others_rely_on(client, store):
    store.rows = {("alice",): Totals(7, 2, 100, 200, 30, 40, 50, 1_500_000_000, 20)}
    answer = await client.get("/admin/v1/usage")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "data": [
            {
                "key": "alice", "requests": 7, "input_tokens": 100, "cache_read_input_tokens": 200,
                "cache_creation_input_tokens": 70, "output_tokens": 50, "cost_usd": 1.5, "savings_usd": 0.00000002,
                "estimated_requests": 2,
            }
        ]
    }  # fmt: skip
    assert store.asked == (Span(HERE - 21 * 24 * HOUR, HERE + 24 * HOUR), ("key",), {})
    [row] = (await client.get("/admin/v1/usage?detail=true")).json()["data"]
    assert row["cache_creation"] == {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40}


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.0"), (1, "0.000000001"), (100_000_000, "0.1"), (3 * 10**9, "3.0"), (-1, "-0.000000001"),
     (-1_500_000_000, "-1.5"), (2**53 - 1, "9007199.254740991"), (10**20 + 1, "100000000000.000000001")],
)  # fmt: skip
async def test_money_is_a_number_with_every_nano_dollar_and_no_dust(client, store, nano, text):
    assert dollars(nano) == text
    store.rows = {("alice",): Totals(cost_nano=nano, savings_nano=nano)}
    body = (await client.get("/admin/v1/usage")).text
    assert f'"cost_usd":{text},"savings_usd":{text},' in body
    assert json.loads(body, parse_float=Decimal)["data"][0]["cost_usd"] * 10**9 == nano


async def test_the_most_expensive_come_first_and_days_in_their_order(client, store):
    def costs(**amounts: int) -> dict[Group, Totals]:
        return {tuple(name.split("_")): Totals(cost_nano=cost) for name, cost in amounts.items()}

    async def order(query: str, *groups: str) -> list[str]:
        rows = (await client.get(f"/admin/v1/usage?{query}")).json()["data"]
        return ["_".join(row[name] for name in groups) for row in rows]

    store.rows = costs(b=5, a=5, c=9)
    assert await order("group_by=model", "model") == ["c", "a", "b"]
    store.rows = costs(d2=9, d1=5, d3=7)
    assert await order("group_by=day", "day") == ["d1", "d2", "d3"]
    store.rows = costs(x_d2=9, x_d1=5, y_d1=7)
    assert await order("group_by=key,day", "key", "day") == ["y_d1", "x_d1", "x_d2"]
    assert store.asked[1] == ("key", "day")


async def test_callers_without_a_team_have_none(client, store):
    store.rows = {("research",): Totals(cost_nano=1), (None,): Totals(cost_nano=1)}
    rows = (await client.get("/admin/v1/usage?group_by=team")).json()["data"]
    assert [row["team"] for row in rows] == [None, "research"]


async def test_filters_and_times_are_passed_on_and_empty_ones_are_none(client, store):
    query = "group_by=&from=2026-11-20&to=2026-11-21&key=alice&key=bob&team=&model=claude-of-nobody&account=a"
    assert (await client.get(f"/admin/v1/usage?{query}")).status_code == 200
    span, groups, only = store.asked
    assert (span, groups) == (Span(HERE - 48 * HOUR, HERE - 24 * HOUR), ("key",))
    assert only == {"key": {"alice", "bob"}, "model": {"claude-of-nobody"}, "account": {"a"}}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("group_by=colour", "group_by must be one of key, team, model, account, day"),
        ("group_by=key,key", "group_by must be one of"),
        ("from=yesterday", "from must be a time"),
        ("from=1d&to=2d", "from must be before to"),
        ("from=1d&from=2d", "from must be given once"),
        ("grup_by=key", "Unknown parameters: grup_by; known are group_by"),
        ("limit=1", "Unknown parameters: limit"),
        ("detail=perhaps", "detail must be"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_with_its_reason(client, store, query, words):
    answer = await client.get(f"/admin/v1/usage?{query}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert words in answer.json()["error"]["message"]
    assert store.asked is None


async def test_more_rows_than_there_is_room_for_are_the_askers_fault(client, store):
    store.error = TooManyRows("more than 7 rows; group by less")
    answer = await client.get("/admin/v1/usage")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "That makes more than 7 rows; group by less",
    )


@pytest.mark.parametrize("path", ["usage", "usage/records?team=research"])
async def test_while_the_store_is_away_nothing_is_made_up(client, store, path):
    store.error = StoreDown("connection refused")
    answer = await client.get(f"/admin/v1/{path}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "api_error")
    assert answer.json()["error"]["message"] == "The store is away: connection refused"


async def test_totals_that_could_not_be_read_are_owned_up_to(client, store):
    store.unreadable = 3
    assert (await client.get("/admin/v1/usage")).json() == {"data": [], "unreadable": 3}


# -- Records ----------------------------------------------------------------------------------------------------------


async def test_records_are_those_of_one_tenant(client, store):
    for query, tenant, key in (
        ("team=research", "t:research", ""),
        ("key=bob", "c:bob", "bob"),
        ("team=research&key=alice", "t:research", "alice"),
    ):
        assert (await client.get(f"/admin/v1/usage/records?{query}&from=0d")).status_code == 200
        assert store.asked == (tenant, Span(HERE, HERE + 24 * HOUR), key, 100, "")
    await client.get("/admin/v1/usage/records?key=bob&limit=1000&before=17-3")
    assert store.asked[3:] == (1000, "17-3")


async def test_records_come_with_money_in_dollars_and_where_to_go_on(client, store):
    used = (1, 1, 10, 20, 30, 40, 50, 2**53 - 1, 1)
    entry = Entry("req_1", NOW_MS, NOW_MS + 1500, "alice", "research", "m", "a", "/v1/messages", False, *used)
    store.page = Page([entry], "17-3", 0)
    answer = await client.get("/admin/v1/usage/records?team=research")
    assert '"cost_usd":9007199.254740991,' in answer.text
    assert answer.json() == {
        "data": [
            {
                "request_id": "req_1", "at": "2026-11-22T14:00:34.500Z", "ended": "2026-11-22T14:00:36.000Z",
                "key": "alice", "team": "research", "model": "m", "account": "a", "endpoint": "/v1/messages",
                "requests": 1, "estimated": True, "provisional": False, "input_tokens": 10,
                "cache_read_input_tokens": 20, "output_tokens": 50, "cost_usd": 9007199.254740991, "savings_usd": 1e-9,
                "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
            }
        ],
        "next": "17-3",
    }  # fmt: skip
    store.page = Page([], None, 2)
    assert (await client.get("/admin/v1/usage/records?team=t")).json() == {"data": [], "next": None, "unreadable": 2}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "Give team, or key"),
        ("team=t&limit=0", "limit must be"),
        ("team=t&limit=1001", "limit must be"),
        ("team=t&limit=ten", "limit must be"),
        ("team=t&limit=9999999999999", "limit must be"),
        ("team=t&limit=000000001" + "9" * 4400, "limit must be"),
        ("team=t&team=u", "team must be given once"),
        ("team=t&model=m", "Unknown parameters: model"),
        ("team=t&to=never", "to must be a time"),
    ],
)
async def test_a_query_for_records_that_makes_no_sense_is_refused(client, store, query, words):
    answer = await client.get(f"/admin/v1/usage/records?{query}")
    assert (answer.status_code, store.asked) == (400, None)
    assert words in answer.json()["error"]["message"]


async def test_a_place_to_go_on_that_was_never_given_is_refused(client, store):
    store.error = ValueError("before must be what `next` was")
    answer = await client.get("/admin/v1/usage/records?team=t&before=x")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "before must be what `next` was")


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "claude-haiku-4-5-20251001"])
async def test_a_model_is_asked_for_by_any_of_its_names(client, store, name):
    assert (await client.get("/admin/v1/usage", params={"model": [name, "of-nobody"]})).status_code == 200
    assert store.asked[2] == {"model": {"claude-haiku-4-5", "claude-haiku-4-5-20251001", "of-nobody"}}


async def test_usage_is_summed_by_provider(client, store):
    store.rows = {
        ("2026-11-22", "aws-1"): Totals(1, cost_nano=10),
        ("2026-11-22", "aws-2"): Totals(2, cost_nano=20),
        ("2026-11-22", "a"): Totals(4, cost_nano=50),
        ("2026-11-22", "gone"): Totals(8, cost_nano=1),
        ("2026-11-22", ""): Totals(16),
    }
    answer = await client.get("/admin/v1/usage?group_by=day,provider")
    assert [(row["day"], row["provider"], row["requests"]) for row in answer.json()["data"]] == [
        ("2026-11-22", "anthropic", 4), ("2026-11-22", "bedrock", 3), ("2026-11-22", None, 24)
    ]  # fmt: skip
    assert store.asked[1] == ("day", "account")
