"""What operators see of accounts, and what their requests mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from gateway.admin.desks.accounts import Accounts, override_of
from gateway.admin.routes import MAX_BODY
from gateway.core.routing.document import Announcement, Entry, Overrides, PoolDocument, definitions, reconcile
from gateway.errors import ApiError
from gateway.store.client.client import StoreDown
from tests.admin.admin_kit import TOKEN, admin_app

NOW = 1_800_000_000.0


def entry(name: str, **fields: Any) -> Entry:
    return Entry(name, "w", "o", **fields)


class Pool:
    """What a store would agree on, with one other gateway."""

    def __init__(self, own: tuple[Entry, ...], others: tuple[Entry, ...] | None = None) -> None:
        self.own = Announcement("me", 1.0, own)
        self.live = [self.own] if others is None else [self.own, Announcement("other", 0.5, others)]
        self.overrides: Overrides = {}
        self.document: PoolDocument = reconcile(None, self.live)
        self.away = False
        self.enabled: list[str] = []

    @property
    def defined(self) -> dict[str, Entry]:
        return definitions(self.live)

    async def override(self, account: str, values: Mapping[str, object]) -> None:
        if self.away:
            raise StoreDown("connection refused")
        merged = {**self.overrides.get(account, {}), **values}
        self.overrides = {**self.overrides, account: {name: v for name, v in merged.items() if v is not None}}
        self.document = reconcile(self.document, self.live, self.overrides)


def accounts_of(pool: Pool) -> Accounts:
    return Accounts(pool, lambda name: {"health": f"of {name}"}, pool.enabled.append, lambda: NOW)


def meaning(body: Any, state: str = "active", configured: str = "active") -> dict[str, object]:
    return override_of(json.dumps(body).encode(), state, configured, NOW)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ({"state": "disabled"}, {"state": "disabled", "drain_until": None}),
        ({"state": "active"}, {"state": None, "drain_until": None}),
        ({"state": None}, {"state": None, "drain_until": None}),
        ({"state": "draining"}, {"state": "draining", "drain_until": NOW + 3600}),
        ({"state": "draining", "drain_seconds": 0.5}, {"state": "draining", "drain_until": NOW + 0.5}),
        ({"state": "draining", "drain_seconds": None}, {"state": "draining", "drain_until": 0.0}),
        ({"state": "draining", "drain_until": None}, {"state": "draining", "drain_until": 0.0}),
        (
            {"state": "draining", "drain_until": "2030-01-31T20:00:00+02:00"},
            {"state": "draining", "drain_until": 1_896_112_800.0},
        ),
        ({"weight": 2}, {"weight": 2.0}),
        ({"weight": None}, {"weight": None}),
        ({"weight": 0.5, "state": "active"}, {"weight": 0.5, "state": None, "drain_until": None}),
    ],
)
def test_what_a_request_means(body, values):
    assert meaning(body) == values


def test_a_drain_that_runs_can_be_given_another_deadline_alone():
    assert meaning({"drain_seconds": 60}, state="draining") == {"state": "draining", "drain_until": NOW + 60}
    assert meaning({"weight": 2}, state="draining") == {"weight": 2.0}


@pytest.mark.parametrize("configured", ["draining", "disabled"])
def test_active_wins_over_a_file_that_says_otherwise(configured):
    assert meaning({"state": "active"}, configured, configured) == {"state": "active", "drain_until": None}
    assert meaning({"state": None}, "active", configured) == {"state": None, "drain_until": None}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Nothing to change"),
        ({"mood": 1, "colour": 2, "weight": 1}, "Unknown fields: colour, mood; known are state"),
        ({"state": "resting"}, "state must be one of: active, draining, disabled"),
        ({"state": 1}, "state expected a string, got a number"),
        ({"state": ["active"]}, "state expected a string, got a list"),
        ({"weight": 0}, "weight must be greater than 0"),
        ({"weight": -1}, "weight must be greater than 0"),
        ({"weight": "2"}, "weight expected a number, got a string; take the quotes off"),
        ({"weight": True}, "weight expected a number, got a boolean"),
        ({"weight": 1e300}, "weight must be at most 1,000,000,000"),
        ({"drain_seconds": 5}, "need the state draining"),
        ({"state": "active", "drain_until": None}, "need the state draining"),
        ({"state": "draining", "drain_seconds": -1}, "drain_seconds must be at least 0"),
        ({"state": "draining", "drain_seconds": "60"}, "drain_seconds expected a number"),
        ({"state": "draining", "drain_seconds": 1e12}, "drain_seconds must be at most 31,622,400"),
        ({"state": "draining", "drain_until": "tomorrow"}, "drain_until must be a time with its offset"),
        ({"state": "draining", "drain_until": 1_800_000_000}, "drain_until expected a string, got a number"),
        ({"state": "draining", "drain_until": "2030-01-31T18:00:00"}, "drain_until must be a time"),
        ({"state": "draining", "drain_until": None, "drain_seconds": 5}, "not both"),
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
        ("text", "must be a JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(body, words):
    with pytest.raises(ApiError, match=words) as caught:
        meaning(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON: Input data was truncated"),
        (b'{"state":"active"', "not valid JSON: Input data was truncated"),
        (b'{"weight":NaN}', "not valid JSON: invalid character"),
        (b'{"weight":1,}', "not valid JSON: trailing comma in object"),
        (b'{"weight":1e400}', "not valid JSON: Number out of range$"),
        (b'{"weight":%s}' % (b"1" * 5000), "not valid JSON: Integer value out of range$"),
        (b'{"state":"\\ud800"}', "not valid JSON: unexpected end of escaped utf-16 surrogate pair"),
        (b'{"state":"\\udc00 at the end"}', "not valid JSON: invalid utf-16 surrogate pair"),
        (b'{"state":"\xff"}', "not valid JSON: it is not UTF-8$"),
        (b'{"\xff":1}', "not valid JSON: it is not UTF-8$"),
        ('{"weight":1}'.encode("utf-16"), "not valid JSON: invalid character"),
        (b"[" * 100_000, "not valid JSON: it is nested too deeply$"),
        (b'{"state":' * 5000, "not valid JSON: it is nested too deeply$"),
        (b"", "must be a JSON object"),
    ],
)
def test_what_is_no_json_is_refused_with_what_is_wrong_in_it(body, words):
    with pytest.raises(ApiError, match=words) as caught:
        override_of(body, "active", "active", NOW)
    assert caught.value.status == 400


async def test_an_account_is_shown_as_it_is_and_as_its_file_has_it():
    pool = Pool((entry("a", weight=2.0, models=("x", "y")),))
    accounts = accounts_of(pool)
    assert accounts.all() == [accounts.one("a")] == [
        {
            "id": "a", "workspace": "w", "organization": "o", "weight": 2, "state": "active", "drain_until": None,
            "configured": {"weight": 2, "state": "active", "drain_until": None}, "overridden": {},
            "models": ["x", "y"], "in_pool": True, "held": True, "since": None, "health": "of a",
        }
    ]  # fmt: skip
    changed = await accounts.change("a", b'{"state":"draining","drain_seconds":60,"weight":0.5}')
    assert changed == accounts.one("a")
    assert (changed["state"], changed["weight"], changed["drain_until"]) == ("draining", 0.5, "2027-01-15T08:01:00Z")
    assert changed["configured"] == {"weight": 2, "state": "active", "drain_until": None}
    assert changed["overridden"] == {"state": "draining", "weight": 0.5, "drain_until": "2027-01-15T08:01:00Z"}
    back = await accounts.change("a", b'{"state":"active"}')
    assert (back["state"], back["overridden"]) == ("active", {"weight": 0.5})


async def test_an_operator_who_enables_an_account_is_heard_even_if_nothing_was_overridden():
    pool = Pool((entry("a"), entry("b", state="disabled")))
    accounts = accounts_of(pool)
    for body in (b'{"weight":2}', b'{"state":"draining"}', b'{"drain_seconds":5}', b'{"state":"disabled"}'):
        await accounts.change("a", body)
    await accounts.change("b", b'{"state":null}')
    assert pool.enabled == []
    await accounts.change("a", b'{"state":"active"}')
    await accounts.change("a", b'{"state":"active"}')
    await accounts.change("b", b'{"state":"active"}')
    assert pool.enabled == ["a", "a", "b"]


async def test_accounts_of_others_and_those_not_agreed_yet_are_shown_too():
    pool = Pool((entry("a"), entry("mine")), (entry("a"), entry("theirs")))
    pool.document = reconcile(reconcile(None, [Announcement("p", 0.0, (entry("a"), entry("theirs")))]), pool.live)
    shown = {each["id"]: (each["in_pool"], each["held"]) for each in accounts_of(pool).all()}
    assert shown == {"a": (True, True), "mine": (False, True), "theirs": (True, False)}
    changed = await accounts_of(pool).change("mine", b'{"state":"disabled"}')
    assert (changed["state"], changed["in_pool"]) == ("disabled", False)


async def test_an_account_of_the_snapshot_that_nobody_announces_has_no_file():
    pool = Pool((entry("a"),))
    pool.document = PoolDocument(3, (entry("a"), entry("gone", state="disabled")))
    assert accounts_of(pool).one("gone")["configured"] is None
    with pytest.raises(ApiError):  # agreeing finds out that nobody has it
        await accounts_of(pool).change("gone", b'{"weight":2}')


# -- Over HTTP --------------------------------------------------------------------------------------------------------


class Console:
    def __init__(self) -> None:
        self.pool = Pool((entry("a"), entry("b")))
        app = admin_app(accounts=accounts_of(self.pool))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")

    async def ask(self, method: str, path: str, content: bytes = b"", token: str = TOKEN) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.request(method, f"/admin/v1/{path}", content=content, headers=headers)


@pytest.fixture
async def console():
    console = Console()
    async with console.client:
        yield console


async def test_the_list_one_account_and_a_change(console):
    listed = await console.ask("GET", "accounts")
    assert (listed.status_code, [each["id"] for each in listed.json()["data"]]) == (200, ["a", "b"])
    assert (await console.ask("GET", "accounts/a")).json() == listed.json()["data"][0]
    changed = await console.ask("PATCH", "accounts/a", b'{"state":"disabled"}')
    assert (changed.status_code, changed.json()["state"]) == (200, "disabled")
    assert changed.headers["x-gateway-request-id"]
    assert (await console.ask("GET", "accounts/a")).json() == changed.json()


@pytest.mark.parametrize(
    ("method", "path", "content", "token", "status", "kind"),
    [
        ("GET", "accounts/z", b"", TOKEN, 404, "not_found_error"),
        ("PATCH", "accounts/z", b'{"state":"active"}', TOKEN, 404, "not_found_error"),
        ("PATCH", "accounts", b'{"state":"active"}', TOKEN, 405, "invalid_request_error"),
        ("DELETE", "accounts/a", b"", TOKEN, 405, "invalid_request_error"),
        ("PATCH", "accounts/a", b'{"mood":1}', TOKEN, 400, "invalid_request_error"),
        ("PATCH", "accounts/a", b" " * (MAX_BODY + 1), TOKEN, 413, "request_too_large"),
        ("PATCH", "accounts/a", b'{"state":"disabled"}', "wrong", 401, "authentication_error"),
        ("GET", "accounts", b"", "", 401, "authentication_error"),
    ],
)
async def test_a_refusal_is_anthropics_json_and_changes_nothing(console, method, path, content, token, status, kind):
    answer = await console.ask(method, path, content, token)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.json()["request_id"] == answer.headers["request-id"] == answer.headers["x-gateway-request-id"] != ""
    assert console.pool.overrides == {}


async def test_while_the_store_is_away_nothing_can_be_changed_and_all_be_seen(console):
    console.pool.away = True
    answer = await console.ask("PATCH", "accounts/a", b'{"state":"disabled"}')
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "api_error")
    assert "may or may not be done" in answer.json()["error"]["message"]
    assert (await console.ask("GET", "accounts/a")).json()["state"] == "active"
