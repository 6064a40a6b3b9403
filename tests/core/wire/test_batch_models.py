"""Models of a batch: those that it asks for, however it is written and cut, and nothing that is merely called so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.wire.batch_models import BatchModels
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
CALL = {"type": "tool_use", "id": "t", "name": "pick", "input": {"model": "fast", "fallbacks": [{"model": "fast"}]}}
SCHEMA = {"name": "t", "input_schema": {"properties": {}, "examples": [{"model": "fast"}]}}
LONG = 'he said \\"model": "fast" }]{[ ' * 200


def run(pieces: list[bytes]) -> set[str]:
    models = BatchModels()
    for piece in pieces:
        models.feed(piece)
    return models.found


def batch(*items: dict[str, Any]) -> dict[str, Any]:
    return {"requests": [{"custom_id": f"c{n}", "params": item} for n, item in enumerate(items)]}


def test_models_are_those_that_the_items_ask_for():
    messages = [{"role": "assistant", "content": [CALL]}, {"role": "user", "content": LONG}]
    item = {"system": LONG, "messages": messages, "model": "a", "max_tokens": 5, "metadata": {"model": "fast"}}
    advised = {
        "tools": [SCHEMA, {"type": "advisor_20260301", "model": "c"}],
        "fallbacks": [{"model": "d"}, {"max_tokens": 5, "model": "e"}],
        "model": "b",
    }
    body = {"model": "fast", "params": {"model": "fast"}, **batch(item, advised), "tools": [{"model": "fast"}]}
    for style in ({}, {"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}):
        text = json.dumps(body, **style).encode()
        for size in (1, 7, 1000, len(text)):
            assert run([text[at : at + size] for at in range(0, len(text), size)]) == {"a", "b", "c", "d", "e"}


def test_a_key_that_stands_twice_tells_both():
    assert run([b'{"requests":[{"params":{"model":"a","model":"b"},"params":{"model":"c"}}],"requests":[]}']) == set(
        "abc"
    )
    assert run([b'{"requests":[],"requests":[{"params":{"model":"a"}}]}']) == {"a"}


@pytest.mark.parametrize("blanks", [b"", b" " * 100, b"\n" * 1500])
def test_blanks_hide_nothing(blanks):
    text = b'{"requests":[{"params":{"x":1,"model"%b:%b"a"%b}}]}' % (blanks, blanks * 10, blanks)
    for size in (100, len(text)):
        assert run([text[at : at + size] for at in range(0, len(text), size)]) == {"a"}


def test_more_blanks_than_are_held_are_refused():
    text = b'{"requests":[{"params":{"model"' + b" " * 100_000
    with pytest.raises(ApiError) as refused:
        run([text[at : at + 1000] for at in range(0, len(text), 1000)] + [b':"a"}}]}'])
    assert refused.value.status == 400


def test_what_is_held_is_little_however_long_a_string():
    models = BatchModels()
    models.feed(b'{"requests":[{"custom_id":"')
    for _ in range(100):
        models.feed(b'\\"x]' * 1000)
        assert len(models._rest) < 4096
    models.feed(b'\\\\","params":{"model":"a"}}]}')
    assert models.found == {"a"}


words = st.sampled_from(
    ["model", "params", "requests", "tools", "fallbacks", "default", "input", "a", "b", "", LONG, 'x"', "é\\"]
)
documents = st.recursive(
    words | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


def strings(values: list[Any], key: str = "model") -> set[str]:
    named = [value.get(key) for value in values if isinstance(value, dict)]
    return {value for value in named if isinstance(value, str)}


def lists(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def expected(body: Any) -> set[str]:
    """What a whole parse of the body finds."""
    items = [each.get("params") for each in lists(body, "requests") if isinstance(each, dict)]
    beside = [each for item in items for name in ("tools", "fallbacks") for each in lists(item, name)]
    left = {"default" for item in items if isinstance(item, dict) and item.get("fallbacks") == "default"}
    return {each for each in strings(items + beside) if each != LONG} | left


@RUNS
@given(documents, st.lists(st.dictionaries(words, documents, max_size=4), max_size=3), st.lists(st.integers(0, 10_000)))
def test_the_same_is_found_as_by_a_whole_parse(other, items, where):
    for body in (other, {"a": other, **batch(*items)}):
        text = json.dumps(body).encode()
        points = sorted({each * len(text) // 10_000 for each in where} - {0})
        pieces = [text[a:b] for a, b in zip([0, *points], [*points, len(text)], strict=True)]
        assert {each for each in run(pieces) if each != LONG} == expected(body)
