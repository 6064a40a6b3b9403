"""What a request reserves, by its body alone; what the store does with it is tested with a store."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from gateway.config.schema import Budget, Caller, CallerLimits, Config, Team
from gateway.core.wire.peek import peek
from gateway.data import load_catalogue
from gateway.errors import ApiError
from gateway.store.client.client import StoreClient
from gateway.store.ledger.ledger import UsageJournal
from gateway.worker.callers.limits import Accounting
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
    reservation = accounting.ask(ALICE, "req_1", 1e9, match.endpoint, peek(msgspec.json.encode(body)), tokens, warm)
    assert reservation is not None
    return reservation._cost, reservation._discount


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
