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


def reserved(model: str, tokens: int, warm: int = 0, **fields: Any) -> int:
    config: Config = config_of(budget_mode="strict")
    accounting = Accounting(
        config, cast(StoreClient, None), CATALOGUE, cast(UsageJournal, None), "p", lambda: 1
    )  # fmt: skip
    body = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}], **fields}
    match = find(b"/v1/messages", "POST")
    assert match is not None
    reservation = accounting.ask(ALICE, "req_1", 1e9, match.endpoint, peek(msgspec.json.encode(body)), tokens, warm)
    assert reservation is not None
    return reservation._cost


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
    assert reserved(OPUS, 1000, 400, system=system) == known.cost(0, 0, 600, 0, 1000)
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert reserved(OPUS, 1000, 400, system=system) == known.cost(0, 0, 0, 600, 1000)
    assert reserved(HAIKU, 150_000, system=system, speed="fast") > 150_000 * 1000


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
