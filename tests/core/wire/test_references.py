"""References: every id that a body needs at its account is found however it is spelled, and nothing else is."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.wire.peek import Peek, peek
from gateway.core.wire.references import MAX_ID, references
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
FILE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
TEXT = {"type": "text", "text": 'about "file_id": "file_9" and \\u0066ile_id'}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "claude-opus-5-5", "max_tokens": 9, "messages": [], **fields}).encode()


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def found(raw: bytes) -> set[str]:
    return set(references(peek(raw)))


def spelled(text: str, rnd: random.Random) -> str:
    """One of the many ways to write a string: any character may be an escape."""
    parts = []
    for char in text:
        code = f"\\u{ord(char):04x}"
        plain = code if char in '"\\' else char
        parts.append(rnd.choice([plain, plain, code, code[:2] + code[2:].upper()]))
    return '"' + "".join(parts) + '"'


def written(value: Any, rnd: random.Random) -> str:
    blank = rnd.choice(["", "", " ", "\n\t"])
    if isinstance(value, dict):
        inner = f",{blank}".join(f"{spelled(k, rnd)}{blank}:{blank}{written(v, rnd)}" for k, v in value.items())
        return "{" + blank + inner + "}"
    if isinstance(value, list):
        return "[" + f"{blank},".join(written(each, rnd) for each in value) + blank + "]"
    return spelled(value, rnd) if isinstance(value, str) else json.dumps(value)


ids = st.text(st.sampled_from("abcXYZ019_"), min_size=1, max_size=8).map("file_".__add__)
randoms = st.randoms(use_true_random=False)
silent = st.sampled_from([
    {"type": "text", "text": "hello"},
    TEXT,
    {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"source": {"file_id": "f"}, "container": "c"}},
    {"type": "code_execution_tool_result", "content": {"content": [{"type": "code_execution_output", "file_id": "f"}]}},
    {"type": "image", "source": {"type": "base64", "data": "QUJD"}},
    {"type": "image", "source": "file_1"},
    {"type": "container_upload", "file_id": 7},
    {"type": ["container_upload"], "file_id": ["f"]},
    "file_id",
    None,
])  # fmt: skip


@st.composite
def planted(draw: st.DrawFn) -> tuple[dict[str, Any], set[str]]:
    """A Messages body with ids in legal places, and those ids."""
    expected: set[str] = set()

    def one() -> str:
        name = draw(ids)
        expected.add(name)
        return name

    def block(depth: int) -> Any:
        kind = draw(st.integers(0, 8 if depth else 4))
        if kind == 0:
            return draw(silent)
        if kind == 1:
            return {"type": "container_upload", "file_id": one()}
        if kind in (2, 3):
            return {"type": ("image", "document")[kind - 2], "source": {"type": "file", "file_id": one()}}
        if kind == 4:
            return {"type": "file", "file": {"file_id": one()}}
        inner = [block(depth - 1) for _ in range(draw(st.integers(0, 2)))]
        if kind == 5:
            return {"type": "tool_result", "tool_use_id": "toolu_1", "content": inner}
        if kind == 6:
            return {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "content": inner}
        if kind == 7:
            page = {"type": "document", "source": {"type": "content", "content": inner}}
            fetched = {"type": "web_fetch_result", "url": "u", "content": page}
            return {"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_1", "content": fetched}
        if kind == 8 and draw(st.booleans()):
            return {"type": "document", "source": {"type": "content", "content": inner}}
        return {"type": "search_result", "source": "file_id", "title": "t", "content": inner}

    fields: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 9}
    roles = st.sampled_from(["user", "assistant", "system"])
    fields["messages"] = [
        {"role": draw(roles), "content": [block(2) for _ in range(draw(st.integers(0, 2)))]}
        for _ in range(draw(st.integers(0, 2)))
    ]
    if draw(st.booleans()):
        fields["system"] = [block(1)]
    shape = draw(st.integers(0, 3))
    if shape == 1:
        fields["container"] = one()
    elif shape:
        skills = [{"type": "anthropic", "skill_id": "xlsx"}, {"type": "custom", "skill_id": one()}, {"skill_id": one()}]
        fields["container"] = {"id": one() if shape == 2 else None, "skills": skills}
    if draw(st.booleans()):
        fields["thread"] = {"type": "continue", "previous_message_id": one()}
    fields["diagnostics"] = {"previous_message_id": "msg_diagnostics"}
    return fields, expected


@RUNS
@given(planted(), randoms)
def test_every_id_in_a_legal_place_is_found_however_keys_and_values_are_spelled(both, rnd):
    fields, expected = both
    assert found(json.dumps(fields).encode()) == expected
    assert found(written(fields, rnd).encode()) == expected


@RUNS
@given(st.lists(silent, max_size=4), st.lists(silent, max_size=2), randoms, st.booleans())
def test_nothing_is_found_where_no_id_stands_in_a_legal_place(blocks, system, rnd, escape):
    fields = {
        "model": "m",
        "messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "file_id"}, "file_id", 7],
        "system": system,
        "tools": [{"name": "read", "input_schema": {"properties": {"file_id": {"const": "file_1"}}}}],
        "metadata": {"source": {"type": "file", "file_id": "file_1"}},
        "diagnostics": {"previous_message_id": "msg_1"},
    }
    raw = written(fields, rnd) if escape else json.dumps(fields)
    assert found(raw.encode()) == set()


@pytest.mark.parametrize("place", ["messages", "system"])
@pytest.mark.parametrize("at", range(7))
@pytest.mark.parametrize("upper", [False, True])
def test_a_key_with_one_escaped_letter_does_not_slip_through(place, at, upper):
    code = f"{ord('file_id'[at]):02x}"
    key = "file_id"[:at] + "\\u00" + (code.upper() if upper else code) + "file_id"[at + 1 :]
    blocks = [{"type": "container_upload", "KEY": "file_7"}]
    fields = {"messages": user(*blocks)} if place == "messages" else {"system": blocks}
    assert found(body(**fields).replace(b"KEY", key.encode())) == {"file_7"}


def test_a_body_without_such_keys_is_not_decoded():
    twice = b'{"model":"m","messages":[{"role":"user","content":"a","content":"b \\u00e9"}],"n":' + b"9" * 5000 + b"}"
    assert found(twice) == set()
    untouched = Peek(b"file-id", {}, "m")
    assert references(untouched) == frozenset()


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'"messages":[{"content":[{"type":"image","source":{"file_id":"file_a","file_id":"file_b"}}]}]', "file_id"),
        (b'"messages":[{"content":[{"type":"image","source":{"file_id":"a","fil\\u0065_id":"b"}}]}]', "file_id"),
        (b'"system":[{"type":"document","source":{},"source":{"file_id":"a"}}]', "source"),
        (b'"container":{"id":"a","id":"b"}', "id"),
        (b'"thread":{"type":"continue","previous_message_id":"a","type":"create"}', "type"),
    ],
)
def test_an_object_with_a_key_twice_is_refused_by_its_name(raw, name):
    with pytest.raises(ApiError) as caught:
        found(b'{"model":"m",' + raw + b"}")
    assert caught.value.status == 400
    assert caught.value.message == f"{name}: this key stands more than once in one object"


def test_keys_may_stand_twice_where_no_references_are_read():
    raw = body(messages=user(FILE))[:-1] + b',"tools":[{"name":"a","name":"b"}]}'
    assert found(raw) == {"file_1"}


@pytest.mark.parametrize("name", ["messages", "container"])
def test_deep_nesting_is_refused_and_never_a_recursion_error(name):
    deep = b"[" * 100_000 + b"]" * 100_000
    fields = {name: msgspec.Raw(deep)}
    with pytest.raises(ApiError) as caught:
        references(Peek(b'"file_id"', fields, "m"))
    assert caught.value.status == 400
    assert caught.value.message == f"{name}: it is nested too deeply"


def test_nesting_as_deep_as_peeking_allows_is_read_or_refused():
    for depth in (50, 300, 900, 2000):
        block: dict[str, Any] = FILE
        raw = json.dumps(block)
        for _ in range(depth):
            raw = '{"type":"tool_result","content":[' + raw + "]}"
        whole = b'{"model":"m","messages":[{"content":[' + raw.encode() + b"]}]}"
        status = 0
        try:
            assert found(whole) == {"file_1"}
        except ApiError as error:
            status = error.status
        assert status in ((0,) if depth == 50 else (0, 400))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "file", "continue", "container_upload", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "source", "content", "file_id", "id", "skills", "skill_id", "previous_message_id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@RUNS
@given(ODD, ODD, ODD, ODD)
def test_whatever_stands_in_the_fields_only_strings_are_found_and_nothing_is_raised(
    messages, system, container, thread
):
    raw = body(messages=messages, system=system, container=container, thread=thread)
    assert all(type(each) is str and len(each) for each in found(raw))


@pytest.mark.parametrize("value", [None, "", 7, [], {}])
def test_a_container_that_names_nothing_is_none(value):
    assert found(body(container=value)) == set()


def test_a_thread_that_begins_anew_names_no_message():
    assert found(body(thread={"type": "create", "previous_message_id": "msg_1"})) == set()


@pytest.mark.parametrize("name", ["x" * (MAX_ID + 1), "file_\ud800", "file_\x00"])
def test_what_cannot_be_an_id_is_refused_since_no_owner_can_be_looked_up(name):
    with pytest.raises(ApiError) as caught:
        found(body(container=name))
    assert caught.value.status == 400


def test_bytes_that_are_no_utf8_are_refused_rather_than_read_in_one_way_of_several():
    with pytest.raises(ApiError) as caught:
        references(Peek(b'"file_id"', {"system": msgspec.Raw(b'["\xff"]')}, "m"))
    assert caught.value.status == 400


def test_more_objects_than_anybody_names_are_refused():
    blocks = [{"type": "container_upload", "file_id": f"file_{number}"} for number in range(1001)]
    assert len(found(body(messages=user(*blocks[:1000])))) == 1000
    with pytest.raises(ApiError) as refused:
        found(body(messages=user(*blocks)))
    assert refused.value.status == 400
