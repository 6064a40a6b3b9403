"""Searches that a request may make, and other models that may read its prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.wire.peek import peek
from gateway.core.wire.server_tools import MOST_MODELS, SEARCHES, Extras, extras

SEARCH = {"type": "web_search_20260318", "name": "web_search"}
FETCH = {"type": "web_fetch_20260318", "name": "web_fetch", "max_uses": 9}
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"}
OWN = {"name": "web_search_2026", "description": 'like "web_search_20260318"', "input_schema": {"type": "object"}}


def found(**fields: Any) -> Extras:
    return extras(peek(json.dumps({"model": "claude-haiku-4-5", "messages": [], **fields}).encode()))


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([{**SEARCH, "max_uses": 5}], 5),
        ([SEARCH], SEARCHES),
        ([{**SEARCH, "type": "web_search_20250305", "max_uses": None}], SEARCHES),
        ([OWN, FETCH, {**SEARCH, "max_uses": 3}, {**SEARCH, "max_uses": 4}], 7),
        ([{**SEARCH, "max_uses": 0}], 0),
        ([{**SEARCH, "max_uses": -5}], 0),
        ([{**SEARCH, "max_uses": "many"}], 0),  # the upstream refuses it
        ([OWN, FETCH, {"type": "custom", **OWN}], 0),
        ({"type": "web_search_20260318"}, 0),
        ([5, None], 0),
        ([], 0),
    ],
)
def test_searches_are_as_many_as_the_tools_may_be_used(tools, searches):
    assert found(tools=tools) == Extras(searches)


def test_a_request_without_tools_makes_none():
    assert found() == Extras() == found(messages=[{"role": "user", "content": json.dumps(SEARCH)}])


def test_models_that_answer_in_place_of_the_first_or_advise_it_may_read_the_prompt():
    assert found(fallbacks=[{"model": "claude-opus-4-8"}, {"model": "m"}]).models == ("claude-opus-4-8", "m")
    assert found(fallbacks="default").models == ("claude-haiku-4-5",)
    assert found(tools=[ADVISOR]).models == ("claude-opus-5",)
    assert found(tools=[{**ADVISOR, "max_uses": 2}], fallbacks=[{"model": "m"}]).models == ("m", *["claude-opus-5"] * 2)
    assert found(tools=[{**ADVISOR, "max_uses": 10**9}]).models == ("claude-opus-5",) * MOST_MODELS
    for odd in ("none", [], [5], {"model": "m"}, None, [{"model": 7}]):
        assert found(fallbacks=odd) == Extras()
