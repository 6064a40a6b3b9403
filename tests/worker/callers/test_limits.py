"""What a request reserves, by its body alone; what the store does with it is tested with a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from gateway.config.schema import Budget, Caller, CallerLimits, Config, Team
from gateway.core.wire.peek import peek
from gateway.data import load_catalogue
from gateway.errors import ApiError
from gateway.records import Finished
from gateway.store.client.client import StoreClient
from gateway.store.ledger.ledger import Cancelled, Entry, Intent, UsageJournal, unpack
from gateway.store.scripts import Script
from gateway.worker.callers.limits import Accounting, Reservation
from gateway.worker.endpoints import find
from tests.admin.admin_kit import config_of

CATALOGUE = load_catalogue()
ALICE = Caller(id="alice", limits=CallerLimits(budget_usd=Budget(day=10.0)))
OPUS, HAIKU, OLD = "claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5"


def price(model: str, tokens: int, warm: int = 0, mode: str = "strict", **fields: Any) -> tuple[int, int]:
    """What a request reserves, and how much of that it may not need."""
    config: Config = config_of(budget_mode=mode)
    accounting = Accounting(
        config, cast(StoreClient, None), CATALOGUE, cast(UsageJournal, None), "p", lambda: 1
    )  # fmt: skip
    body = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}], **fields}
    match = find(b"/v1/messages", "POST")
    assert match is not None
    peeked, plan = peek(msgspec.json.encode(body)), accounting.plan(ALICE)
    reservation = accounting.ask(ALICE, plan, "req_1", 1e9, match.endpoint, peeked, tokens, warm)
    assert reservation is not None
    return reservation.cost, reservation.discount


def reserved(model: str, tokens: int, **fields: Any) -> int:
    return price(model, tokens, **fields)[0]


@pytest.mark.parametrize(
    ("model", "tokens", "fields", "usage"),
    [
        (OPUS, 1000, {}, {}),
        (OPUS, 1000, {"speed": "fast"}, {"fast": True}),
        (OPUS, 1000, {"speed": "standard", "inference_geo": "us"}, {"us": True}),
        (OPUS, 1000, {"speed": "fast", "inference_geo": "us"}, {"us": True, "fast": True}),
        (OLD, 1000, {"speed": "fast", "inference_geo": "us"}, {"us": True, "fast": True}),
        (HAIKU, 99_999, {}, {}),
        (HAIKU, 150_000, {}, {}),
        (HAIKU, 150_000, {"speed": ["fast"], "inference_geo": "global"}, {}),
    ],
)
def test_a_request_reserves_what_it_would_cost(model, tokens, fields, usage):
    known = CATALOGUE.find(model)
    assert known is not None
    assert reserved(model, tokens, **fields) == known.cost(tokens, 0, 0, 0, 1000, **usage)


def test_what_may_be_written_to_a_cache_is_reserved_at_the_price_of_that():
    known = CATALOGUE.find(OPUS)
    assert known is not None
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    assert reserved(OPUS, 1000, system=system) == known.cost(0, 0, 1000, 0, 1000)
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert reserved(OPUS, 1000, system=system) == known.cost(0, 0, 0, 1000, 1000)
    assert reserved(HAIKU, 150_000, system=system, speed="fast") > 150_000 * 1000


def test_what_a_cache_has_may_not_be_needed_unless_budgets_are_strict():
    known = CATALOGUE.find(OPUS)
    assert known is not None
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    cost, discount = price(OPUS, 1000, 400, "capped", system=system)
    assert cost == known.cost(0, 0, 1000, 0, 1000)
    assert cost - discount == known.cost(0, 400, 600, 0, 1000)
    assert price(OPUS, 1000, 10**9, "capped", inference_geo="us") == (
        known.cost(1000, 0, 0, 0, 1000, us=True), known.in_us(1000 * (known.price.input - known.price.read)),
    )  # fmt: skip
    assert price(OPUS, 1000, 400, "strict", system=system) == (cost, 0)


def test_content_by_reference_is_reserved_as_if_it_were_long():
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    image = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    known, old = CATALOGUE.find(HAIKU), CATALOGUE.find(OLD)
    assert known is not None and old is not None
    body = {"messages": [{"role": "user", "content": [document, image]}]}
    assert reserved(HAIKU, 1000, **body) == known.cost(106_000, 0, 0, 0, 1000)  # at the price of long prompts
    assert reserved(OLD, 1000, container="container_1") == old.cost(101_000, 0, 0, 0, 1000)
    many = {"messages": [{"role": "user", "content": [document] * 50}]}
    assert reserved(OLD, 1000, **many) == old.cost(1000 + old.context, 0, 0, 0, 1000)


def test_searches_and_other_models_are_reserved_too():
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    known, other = CATALOGUE.find(OPUS), CATALOGUE.find("claude-fable-5")
    assert known is not None and other is not None
    plain = known.cost(1000, 0, 0, 0, 1000)
    assert reserved(OPUS, 1000, tools=[search]) == plain + 5 * 10_000_000
    assert reserved(OPUS, 1000, tools=[search], inference_geo="us") == known.in_us(plain) + 5 * 10_000_000
    fallbacks = [{"model": "claude-fable-5"}]
    assert reserved(OPUS, 1000, fallbacks=fallbacks) == plain + other.cost(1000, 0, 0, 0, 1000)


def test_with_strict_teams_a_caller_of_a_team_that_is_not_defined_is_refused():
    teams = (Team(id="research"),)
    accounting = Accounting(
        config_of(teams=teams, teams_strict=True), cast(StoreClient, None), CATALOGUE, cast(UsageJournal, None), "p",
        lambda: 1,
    )  # fmt: skip
    assert accounting.plan(Caller(id="bob", team="research")).subjects == ("c:bob", "t:research")
    assert accounting.plan(Caller(id="bob")).subjects == ("c:bob",)
    with pytest.raises(ApiError) as caught:
        accounting.plan(Caller(id="carol", team="reserch"))
    assert caught.value.status == 403
    accounting.configure(config_of(teams=teams), CATALOGUE)
    assert accounting.plan(Caller(id="carol", team="reserch")).subjects == ("c:carol", "t:reserch")


# -- What is written down before an upstream has a request -------------------------------------------------------------


class Written:
    """A journal's records, unless its disk is full."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.full = False

    def extend(self, packed: list[bytes]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.records += map(unpack, packed)


class Posted:
    """A store that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Script, tuple[Any, ...]]] = []

    def post(self, script: Script, args: tuple[Any, ...], refused: Callable[[], None] | None = None) -> None:
        self.calls.append((script, args))


class Desk:
    """One process's limits, over these two."""

    def __init__(self, config: Config | None = None) -> None:
        self.disk, self.store = Written(), Posted()
        self.accounting = Accounting(
            config or config_of(),
            cast(StoreClient, self.store),
            CATALOGUE,
            cast(UsageJournal, self.disk),
            "p",
            lambda: 1,
        )

    def ask(self, request_id: str, caller: Caller = ALICE) -> Reservation:
        body = {"model": OPUS, "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
        match = find(b"/v1/messages", "POST")
        assert match is not None
        peeked = peek(msgspec.json.encode(body))
        plan = self.accounting.plan(caller)
        reservation = self.accounting.ask(caller, plan, request_id, 1.8e9, match.endpoint, peeked, 100, 0)
        assert reservation is not None
        return reservation


async def test_the_intent_is_written_in_the_tick_that_asks_the_store():
    desk = Desk()
    one, two = desk.ask("r1"), desk.ask("r2")
    assert desk.disk.records == []
    one.call(None), two.call(None)
    await asyncio.sleep(0)
    assert [(type(each), each.id) for each in desk.disk.records] == [(Intent, "r1"), (Intent, "r2")]
    held = desk.disk.records[0].held
    assert (held.process, held.caller, held.input, held.reserved) == ("p", "alice", 100, (1,))
    assert held.cost_nano == one.cost > held.input_nano > 0


@pytest.mark.parametrize(
    ("asked", "answered", "provider", "counted"),
    [
        (HAIKU, HAIKU, "", HAIKU),
        (HAIKU, f"{HAIKU}-20251001", "", HAIKU),
        (f"{HAIKU}-20251001", "", "", HAIKU),  # estimated: nobody said which
        (HAIKU, f"us.anthropic.{HAIKU}-20251001-v1:0", "bedrock", HAIKU),
        (HAIKU, "my-deployment", "foundry", HAIKU),
        (OPUS, HAIKU, "", HAIKU),  # another one answered in its place
        (OPUS, "claude-next-1", "", "claude-next-1"),
        ("own-model", "my-deployment", "foundry", "my-deployment"),
        ("own-model", "", "", "other"),
    ],
)
async def test_a_model_is_counted_under_its_id_whatever_name_it_answers_by(asked, answered, provider, counted):
    desk = Desk()
    reservation = desk.ask("r1")
    record = Finished(
        "r1", 1.8e9, "messages", "POST", 200, "ok", caller="alice", model=asked, answered_model=answered,
        provider=provider,
    )  # fmt: skip
    desk.accounting.settlement(record, reservation, True, None)
    await asyncio.sleep(0)
    (entry,) = [each for each in desk.disk.records if type(each) is Entry]
    assert entry.model == counted


async def test_what_a_limit_refuses_is_taken_back():
    desk = Desk()
    reservation = desk.ask("r1")
    reservation.call(None)
    await asyncio.sleep(0)
    with pytest.raises(ApiError):
        reservation.answered([2, 1, -1, []])
    await asyncio.sleep(0)
    assert [type(each) for each in desk.disk.records] == [Intent, Cancelled]
    assert not reservation.noted


@pytest.mark.parametrize("asked", [False, True])
async def test_without_a_store_a_request_goes_on_once_its_intent_is_written_and_not_before(asked):
    desk = Desk()
    late = desk.ask("r1")
    late.call(None)
    late.without_store()  # in the same tick
    assert [each.id for each in desk.disk.records] == ["r1"] and late.local
    desk.disk.full = True
    reservation = desk.ask("r2")
    reservation.call(None)
    reservation.asked = asked
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        reservation.without_store()
    assert (caught.value.status, caught.value.retry_after, caught.value.limit) == (529, 1, ("gateway", "journal"))
    assert not reservation.taken and reservation.noted == asked  # what the store may have must hear of the end


async def test_with_a_store_a_full_disk_stops_nobody():
    desk = Desk()
    desk.disk.full = True
    reservation = desk.ask("r1")
    reservation.call(None)
    await asyncio.sleep(0)
    reservation.answered([0, None, 1_800_000_000_000])
    reservation.without_store()  # its binding could not be read
    assert reservation.taken and not reservation.local


def settle(desk: Desk, reservation: Reservation) -> None:
    record = Finished(reservation.request_id, 1.8e9, "messages", "POST", 200, "ok", caller="alice", model=OPUS)
    desk.accounting.settlement(record, reservation, True, None)


def settled(desk: Desk) -> list[int]:
    """How many requests each batch of settlements told of."""
    batches = [args for script, args in desk.store.calls if script.name == "settle"]
    return [sum(isinstance(each, bytes) and b"entry" in each for each in args) for args in batches]


TIGHT: list[Any] = [0, None, 1_800_000_000_000, [], 1]
EASY = [*TIGHT[:4], 0]


@pytest.mark.parametrize(
    ("caller", "mode", "reply", "at_once"),
    [
        (ALICE, "capped", EASY, False),
        (ALICE, "capped", TIGHT, True),
        (ALICE, "strict", EASY, True),
        (Caller(id="alice", limits=CallerLimits(concurrency=5)), "capped", EASY, True),
        (Caller(id="alice", limits=CallerLimits(requests_per_minute=5)), "strict", EASY, False),
        (Caller(id="alice"), "strict", EASY, False),
    ],
)
async def test_where_little_is_left_what_has_ended_is_told_in_the_same_tick(caller, mode, reply, at_once):
    desk = Desk(config_of(budget_mode=mode))
    reservation = desk.ask("r1", caller)
    reservation.call(None)
    reservation.answered(reply)
    settle(desk, reservation)
    assert settled(desk) == []
    await asyncio.sleep(0)
    assert settled(desk) == [1] * at_once
    desk.accounting.flush()
    assert settled(desk) == [1]


async def test_an_admission_sends_what_waits_of_its_tenant_ahead_of_itself():
    desk = Desk()
    one, two, others = desk.ask("r1"), desk.ask("r2"), desk.ask("r3", Caller(id="bob"))
    for each in (one, two, others):
        each.call(None)
        each.answered(EASY)
    settle(desk, one)
    settle(desk, two)
    desk.ask("r4", Caller(id="bob")).call(None)
    assert settled(desk) == []
    desk.ask("r5").call(None)
    assert settled(desk) == [2]
    await asyncio.sleep(0)
    assert [type(each) for each in desk.disk.records[-3:]] == [Intent, Entry, Entry]  # in the same tick


async def test_money_is_short_until_an_admission_finds_more():
    desk = Desk()
    for reply, expected in ((TIGHT, [1]), (EASY, [1])):
        reservation = desk.ask("r1")
        reservation.call(None)
        reservation.answered(reply)
        settle(desk, reservation)
        await asyncio.sleep(0)
        assert settled(desk) == expected


async def test_what_is_on_its_way_is_noted_again_by_tenant_and_hour():
    desk = Desk()
    running = [desk.ask("r1"), desk.ask("r2", Caller(id="bob", team="research")), desk.ask("r3")]
    for each in running:
        each.call(None)
        each.without_store()
    waiting = desk.ask("r4")
    desk.accounting.note([*running, waiting])
    told = {args[args[0] + 3 :: 2] for _, args in desk.store.calls}
    assert [script.name for script, _ in desk.store.calls] == ["note", "note"]
    assert told == {("r1", "r3"), ("r2",)}
    assert [each.stored for each in (*running, waiting)] == [True, True, True, False]
