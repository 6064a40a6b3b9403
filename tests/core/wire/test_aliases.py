"""Aliases: the model's bytes change, and no other byte does."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.wire.members import edited
from gateway.core.wire.peek import peek


def with_model(body: bytes, fields: Any, model: str) -> bytes:
    return edited(body, fields, put={"model": msgspec.json.encode(model)})


texts = st.text(st.sampled_from(list('ab"\\/\n\u0000\u00e9\u2028\U0001f600:,{}[] ')), max_size=6)
keys = texts | st.sampled_from(["messages", "tools", "mode", "model ", "metadata"])
scalars = (
    st.none()
    | st.booleans()
    | texts
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.just("model"), inner | st.just("fast"), max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(["fast", "größe/1", 'quo"te', "back\\slash", "\U0001f600"])


def spelled(text: str, rnd: random.Random) -> str:
    """A string with some of its characters escaped."""
    parts = []
    for character in text:
        if rnd.random() < 0.3:
            units = character.encode("utf-16-be")
            parts += [f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)]
        else:
            parts.append(json.dumps(character, ensure_ascii=False)[1:-1])
    return f'"{"".join(parts)}"'


def written(value: Any, rnd: random.Random) -> str:
    """One of the ways to write a value."""
    return json.dumps(value, ensure_ascii=rnd.random() < 0.5, indent=rnd.choice((None, "\t")))


@given(st.dictionaries(keys, values, max_size=5), names, names, st.integers(0, 5), st.randoms(use_true_random=False))
@example({"model ": "fast", "tools": [{"model": "fast", "x": '"model":"fast"'}]}, "fast", "claude-haiku-4-5", 2, random)
def test_only_the_models_value_changes(
    others: dict[str, Any], alias: str, model: str, place: int, rnd: random.Random
) -> None:
    def gap() -> str:
        return "".join(rnd.choices(" \t\r\n", k=rnd.choice((0, 0, 1, 3))))

    members = [(spelled(name, rnd), written(value, rnd)) for name, value in others.items()]
    place = min(place, len(members))
    members.insert(place, (spelled("model", rnd), spelled(alias, rnd)))
    pieces = [f"{gap()}{name}{gap()}:{gap()}{value}{gap()}" for name, value in members]
    value = members[place][1]
    before, _, after = pieces[place].rpartition(value)
    prefix = gap() + "{" + "".join(f"{piece}," for piece in pieces[:place]) + before
    suffix = after + "".join(f",{piece}" for piece in pieces[place + 1 :]) + "}" + gap()
    body = (prefix + value + suffix).encode()

    found = peek(body)
    assert found.model == alias
    changed = with_model(body, found.fields, model)

    assert changed.startswith(prefix.encode()) and changed.endswith(suffix.encode())
    assert json.loads(changed) == {**json.loads(body), "model": model}
    assert peek(changed).model == model
    assert len(changed) == len(prefix.encode()) + len(suffix.encode()) + len(
        json.dumps(model, ensure_ascii=False).encode()
    )


def test_a_model_within_a_tool_or_a_string_stays():
    body = b'{"tools":[{"model":"fast"}],"x\\"model":"fast","system":"\\"model\\":\\"fast\\"", "mod\\u0065l" : "fast" }'
    changed = with_model(body, peek(body).fields, "claude-haiku-4-5")
    assert changed == body[: body.rindex(b'"fast"')] + b'"claude-haiku-4-5" }'


@pytest.mark.parametrize(
    "other", [b"{}", b'{"model":1}', b'{"max_tokens":1,"model":"last"}', b'{"max_tokens":1,"modal":"fast"}']
)
def test_fields_of_another_body_are_refused(other: bytes):
    fields = peek(b'{"max_tokens":1,"model":"fast"}').fields
    with pytest.raises(ValueError, match="do not belong together"):
        with_model(other, fields, "claude-haiku-4-5")
