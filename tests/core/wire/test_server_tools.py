"""Searches that a request may make, and other models that may read its prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.wire.peek import Peek, peek
from gateway.core.wire.server_tools import MOST_MODELS, MOST_SEARCHES, SEARCHES, Extras, extras, models_beside
from gateway.errors import ApiError

SEARCH = {"type": "web_search_20260318", "name": "web_search"}
FETCH = {"type": "web_fetch_20260318", "name": "web_fetch", "max_uses": 9}
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"}
OWN = {"name": "web_search_2026", "description": 'like "web_search_20260318"', "input_schema": {"type": "object"}}


MORE = "claude-opus-4-7"


def written(members: str) -> Peek:
    """A body with these members, as a client may write them."""
    return peek(b'{"model":"claude-haiku-4-5","messages":[],%b}' % members.encode("latin-1"))


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
        ([{**SEARCH, "max_uses": 10**15}], MOST_SEARCHES),
        ([{**SEARCH, "max_uses": 2}, {"name": "own", "type": 5, "model": 7, "since": "_2026"}], 2),
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


@pytest.mark.parametrize(
    "members",
    [
        '"fallbacks":[{"model":"claude-opus-4-7"},{"model":"claude-haiku-4-5","x":1e999}]',
        '"fallbacks":[{"model":"claude-opus-4-7","max_tokens":%s}]' % ("9" * 5000),
        '"fallbacks":["claude-opus-4-7"]',
        '"fallbacks":[{"\\u006dodel":"claude-\\u006fpus-4-7"}]',
        '"tools":[{"type":"advisor_20260301","model":"claude-opus-4-7"},{"input_schema":{"maximum":1e999}}]',
        '"tools":[{"type":"advisor\\u005f\\u0032026","\\u006dodel":"claude-opus-4-7"}]',
        '"tools" : [ { "type" : "advisor_20260301", "model" : "claude-opus-4-7", "x" : 1e999 } ]',
    ],
)
def test_models_are_found_however_they_are_written(members):
    assert MORE in models_beside(written(members))
    assert MORE in extras(written(members)).models


@pytest.mark.parametrize(
    "members",
    [
        '"fallbacks":[{"model":"claude-opus-4-7","model":"claude-haiku-4-5"}]',
        '"fallbacks":[{"\\u006dodel":"claude-opus-4-7","model":"claude-haiku-4-5"}]',
        '"fallbacks":[{"model":"claude-opus-4-7\xff"}]',
        '"tools":[{"type":"advisor_20260301","model":"claude-opus-4-7", "model":"claude-haiku-4-5"}]',
        '"tools":[{"type":"advisor_20260301","model":"claude-haiku-4-5","model":null}]',
        '"tools":[{"type":"advisor_20260301","model":"claude-opus-4-7\xff"}]',
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused_and_what_nobody_can(members):
    for read in (models_beside, extras):
        with pytest.raises(ApiError) as refused:
            read(written(members))
        assert refused.value.status == 400


@pytest.mark.parametrize("bound", ['"many"', "1e999", "9" * 5000, "2.5"])
def test_a_bound_that_is_no_number_is_refused(bound):
    with pytest.raises(ApiError, match=r"tools\.max_uses"):
        extras(written(f'"tools":[{{"type":"web_search_20260318","max_uses":{bound}}}]'))


def test_models_of_a_schema_are_no_models_of_the_request():
    schema = {"properties": {"model": {"type": "string", "default": "claude-opus-4-7"}}}
    body = {"model": "m", "tools": [{"name": "car", "input_schema": schema}], "fallbacks": "default"}
    assert models_beside(peek(json.dumps(body).encode())) == ["default"]
