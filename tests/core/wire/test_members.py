"""Editing a body's top level at byte positions: what is not named stays, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.wire.members import edited
from gateway.core.wire.peek import peek

BLANKS = st.text(" \t\r\n", max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("stream", "metadata", "messages", "système", 'quo"te', "a\\b", "tools", "anthropic_beta")


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A body in any dress JSON allows, and what it says."""
    members = draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
    members = dict(draw(st.permutations([("model", "m"), *members.items()])))
    said = []
    for name, value in members.items():
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        said.append(f"{draw(BLANKS)}{key}{draw(BLANKS)}:{draw(BLANKS)}{text}{draw(BLANKS)}")
    return f"{draw(BLANKS)}{{{','.join(said)}}}{draw(BLANKS)}".encode(), members


@settings(max_examples=300)
@given(bodies(), st.sets(st.sampled_from([*NAMES, "model", "absent"])), st.dictionaries(
    st.sampled_from(["model", "stream", "anthropic_version"]), VALUES))  # fmt: skip
def test_an_edited_body_says_what_it_said_but_for_what_is_named(
    given_body: tuple[bytes, dict[str, Any]], cut: set[str], put: dict[str, Any]
):
    body, members = given_body
    found = edited(body, peek(body).fields, cut, {name: json.dumps(value).encode() for name, value in put.items()})
    wanted = {name: value for name, value in members.items() if name not in cut or name in put} | put
    assert json.loads(found) == wanted
    kept = [name for name in members if name in wanted]
    assert [name for name in json.loads(found) if name in members] == kept, "in the order in which it came"


@settings(max_examples=200)
@given(bodies(), st.sets(st.sampled_from([*NAMES, "model"])))
def test_what_stays_stays_byte_for_byte(given_body: tuple[bytes, dict[str, Any]], cut: set[str]):
    body, _ = given_body
    peeked = peek(body)
    found = edited(body, peeked.fields, cut)
    assert not set(found) - set(body)
    position = 0
    for name, raw in peeked.fields.items():
        if name not in cut:
            position = found.index(bytes(raw), position) + len(raw)
    if not cut & peeked.fields.keys():
        assert found == body


@pytest.mark.parametrize(
    ("body", "cut", "put", "wanted"),
    [
        (b'{"model":"a","stream":true}', {"stream"}, {}, b'{"model":"a"}'),
        (b'{"model":"a","stream":true}', {"model"}, {}, b'{"stream":true}'),
        (b'{"model":"a"}', {"model"}, {}, b"{}"),
        (b'{"model":"a"}', {"model"}, {"v": b"1"}, b'{"v":1}'),
        (b'{ "x" : [1, 2] , "model" : "a" }', (), {"model": b'"b"'}, b'{ "x" : [1, 2] , "model" : "b" }'),
        (b'{"model":"a","x":{"model":"b"}}', {"model"}, {"v": b"1"}, b'{"v":1,"x":{"model":"b"}}'),
    ],
)
def test_some_bodies(body: bytes, cut: set[str], put: dict[str, bytes], wanted: bytes):
    assert edited(body, peek(body).fields, cut, put) == wanted


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    st.sets(st.sampled_from([*NAMES, "model", "absent"])),
    st.sets(st.sampled_from(["model", "stream", "anthropic_version"])),
)
def test_a_body_without_blanks_is_edited_like_any_other(members: dict[str, Any], cut: set[str], put: set[str]):
    body = json.dumps({"messages": [], "model": "m", **members}, separators=(",", ":")).encode()
    blank = b" " + body  # which is walked
    new = dict.fromkeys(put, b"[7]")
    assert edited(blank, peek(blank).fields, cut, new) == b" " + edited(body, peek(body).fields, cut, new)


def test_an_empty_body_takes_members():
    assert edited(b" { } ", {}, (), {"v": b"1", "w": b"2"}) == b' {"v":1,"w":2 } '
    assert edited(b"{ }", {}) == b"{ }"


def test_members_of_another_body_are_refused():
    with pytest.raises(ValueError):
        edited(b'{"a":1}', peek(b'{"model":"m","b":2}').fields)
    with pytest.raises(ValueError):
        edited(b'{"model":"m","b":2}', peek(b'{"model":"m"}').fields)
