"""Conversation keys: the same conversation, the same key, from turn to turn; and never another caller's."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.core.routing.conversation import KEY_BYTES, MAX_ID, check_id, identify, key
from gateway.core.wire.peek import peek
from gateway.errors import ApiError

RUNS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
SECRET = b"a secret of more than thirty-two characters"
SESSION = "0f8b1c9e-1a2b-4c3d-8e4f-5a6b7c8d9e0f"
LEGACY = f"user_{'ab' * 32}_account__session_{SESSION}"
MODERN = json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": SESSION})


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello, who are you?"}]
    return {"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": messages, **fields}


def of(
    fields: dict[str, Any] | None,
    *,
    caller: str = "alice",
    header: bytes = b"",
    session: bytes = b"",
    agent: bytes = b"",
    secret: bytes = SECRET,
) -> bytes | None:
    """The key of a request with this body; None for one without a body."""
    seen = None if fields is None else peek(json.dumps(fields).encode())
    return identify(secret, caller, header, session, agent, seen)


# Precedence.


def test_the_affinity_header_decides_before_everything_else():
    plain = of(body(), header=b"conversation 7")
    assert plain is not None and len(plain) == KEY_BYTES
    assert (
        plain
        == of(body(messages=[]), header=b"conversation 7", session=b"s", agent=b"a")
        == of(None, header=b"conversation 7")
    )
    assert plain == of(body(metadata={"user_id": MODERN}, system="other"), header=b"conversation 7")
    assert plain != of(body(), header=b"conversation 8")


def test_the_session_header_decides_before_the_body():
    plain = of(body(), session=SESSION.encode())
    assert plain == of(body(metadata={"user_id": LEGACY.replace("0f8b", "ffff")}), session=SESSION.encode())
    assert plain == of(None, session=SESSION.encode())
    assert plain != of(body())


def test_agents_of_one_session_are_conversations_of_their_own():
    keys = {of(None, session=b"s", agent=agent) for agent in (b"", b"a", b"b")} | {of(None, session=b"sa")}
    assert len(keys) == 4


def test_an_agent_without_a_session_is_no_identity():
    assert of(None, agent=b"a") is None
    assert of(body(), agent=b"a") == of(body())


@pytest.mark.parametrize("user_id", [MODERN, LEGACY, json.dumps({"session_id": SESSION})])
def test_the_session_inside_the_user_id_is_the_one_of_the_header(user_id):
    found = of(body(metadata={"user_id": user_id}))
    assert found == of(body(messages=[{"role": "user", "content": "something else"}], metadata={"user_id": user_id}))
    assert found == of(None, session=SESSION.encode())


@pytest.mark.parametrize(
    "user_id",
    ["plain", "user_1_session_", "a_session_xyz", '{"session_id":', '{"session_id":""}', '{"session_id":5}', "{}",
     '{"a":1}',
     "[" * 5000, "{" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, f'{{"session_id":{"9" * 6000}}}',
     '{"session_id":"\\ud800"}']
)  # fmt: skip
def test_a_user_id_without_a_session_is_part_of_the_digest_and_never_all_of_it(user_id):
    one = of(body(metadata={"user_id": user_id}))
    assert one is not None
    assert one != of(body())
    assert one != of(body(metadata={"user_id": user_id}, messages=[{"role": "user", "content": "another"}]))


def test_without_identity_and_messages_there_is_no_conversation():
    assert of(None) is None
    assert of({"model": "claude-sonnet-4-5"}) is None
    assert of({"model": "claude-sonnet-4-5", "system": "be kind", "metadata": {"user_id": MODERN}}) is None
    odd: tuple[Any, ...] = ([], None, "hello", 7, {}, {"role": "user", "content": "x"})
    assert all(of(body(messages=messages)) is None for messages in odd)


# Callers.

CALLERS = st.text(min_size=1, max_size=8)
VALUES = st.binary(min_size=1, max_size=12)
KINDS = st.sampled_from([b"header", b"session", b"prefix", b"", b"1:x"])


@RUNS
@given(st.tuples(CALLERS, KINDS, VALUES), st.tuples(CALLERS, KINDS, VALUES))
def test_keys_are_equal_only_where_caller_kind_and_value_are(one, other):
    assert (key(SECRET, *one) == key(SECRET, *other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", b"c", b"d"), ("a", b"bc", b"d")),
        (("a", b"b", b"cd"), ("a", b"bc", b"d")),
        (("a1:b", b"", b""), ("a", b"b", b"")),
        (("a", b"", b"1:b"), ("a", b"1:b", b"")),
        (("1", b"1:1", b""), ("11:1", b"", b"")),
        (("\u00e9", b"", b""), ("\u00c3\u00a9", b"", b"")),
    ],
)
def test_fields_that_run_together_do_not_make_one_key(one, other):
    assert key(SECRET, *one) != key(SECRET, *other)


@RUNS
@given(st.sampled_from(["ab", "a", "abc"]), st.sampled_from([b"c", b"bc", b"bcd"]))
def test_a_chosen_id_never_reaches_into_another_callers_conversations(caller, header):
    everyone = [(name, value) for name in ("ab", "a", "abc") for value in (b"c", b"bc", b"bcd")]
    same = [
        each for each in everyone if of(None, caller=each[0], header=each[1]) == of(None, caller=caller, header=header)
    ]
    assert same == [(caller, header)]


def test_the_same_body_of_two_callers_is_two_conversations():
    for fields in (body(), body(metadata={"user_id": MODERN}), body(metadata={"user_id": LEGACY}, system="x")):
        assert of(fields, caller="alice") != of(fields, caller="bob")


def test_another_secret_makes_other_keys():
    assert of(body(), secret=SECRET) != of(body(), secret=SECRET + b"!")
    assert of(body(), secret=SECRET) == of(body(), secret=SECRET)


def test_a_header_and_a_session_of_one_value_are_two_conversations():
    assert of(None, header=b"x") != of(None, session=b"x")


# The digest of what stays the same.

CONTROL = {"type": "ephemeral", "ttl": "1h"}


def agent_body() -> dict[str, Any]:
    return body(
        tools=[
            {"name": "read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}},
            {"name": "write", "input_schema": {"type": "object"}},
        ],
        system=[{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Be brief."}],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "one"}, {"type": "image", "source": {"data": "QQ=="}}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "answer"}]},
            {"role": "user", "content": "two"},
        ],
    )


def blocks_of(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that may carry a cache_control."""
    return [*fields["tools"], *fields["system"], *fields["messages"][0]["content"], fields["tools"][0]["input_schema"]]


@RUNS
@given(st.sets(st.integers(0, 6)), st.sampled_from([CONTROL, {"type": "ephemeral"}, None, "x"]))
def test_cache_control_may_move_anywhere(where, control):
    fields = agent_body()
    for index in where:
        blocks_of(fields)[index]["cache_control"] = control
    assert of(fields) == of(agent_body())


@RUNS
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "x"]), st.text(max_size=3) | st.integers()), max_size=3
    )
)
def test_later_messages_do_not_matter(later):
    fields = agent_body()
    fields["messages"] = [*fields["messages"][:1], *later]
    assert of(fields) == of(agent_body())


@pytest.mark.parametrize(
    "name", ["max_tokens", "temperature", "stream", "stop_sequences", "thinking", "tool_choice", "model"]
)
def test_settings_of_a_single_turn_do_not_matter(name):
    fields = agent_body()
    fields[name] = "claude-other" if name == "model" else {"anything": 1}
    assert of(fields) == of(agent_body())


def test_the_order_of_keys_and_the_spelling_of_the_body_do_not_matter():
    fields = agent_body()
    reordered = json.loads(json.dumps(fields, sort_keys=True))
    seen = peek(json.dumps(reordered, indent=3).encode())
    assert identify(SECRET, "alice", b"", b"", b"", seen) == of(fields)


def test_the_billing_block_which_changes_with_each_version_does_not_matter():
    fields = agent_body()
    for text in ("x-anthropic-billing-header: cc_version=1.2.3; cch=00000;", "x-anthropic-billing-header: other"):
        fields["system"] = [{"type": "text", "text": text}, *agent_body()["system"]]
        assert of(fields) == of(agent_body())
    fields["system"][0]["text"] = "About x-anthropic-billing-header: as a subject"
    assert of(fields) != of(agent_body())


def test_a_string_and_one_text_block_are_the_same():
    fields = body(system="Be kind.")
    blocks = copy.deepcopy(fields)
    blocks["system"] = [{"type": "text", "text": "Be kind.", "cache_control": CONTROL}]
    blocks["messages"][0]["content"] = [
        {"type": "text", "text": fields["messages"][0]["content"], "cache_control": CONTROL}
    ]
    assert of(fields) == of(blocks)


CONTENTS = st.text(max_size=5) | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=3)}), min_size=1, max_size=2
)


@RUNS
@given(CONTENTS, CONTENTS)
def test_another_first_user_message_is_another_conversation(one, other):
    def blocks(content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    assume(blocks(one) != blocks(other))
    first, second = agent_body(), agent_body()
    first["messages"][0]["content"], second["messages"][0]["content"] = one, other
    assert of(first) != of(second)


@pytest.mark.parametrize("change", ["tools", "system", "system text", "tool order"])
def test_other_tools_or_another_system_prompt_are_another_conversation(change):
    fields = agent_body()
    if change == "system text":
        fields["system"][1]["text"] += "!"
    elif change == "tool order":
        fields["tools"].reverse()
    else:
        del fields[change]
    assert of(fields) != of(agent_body())


def test_a_part_that_moves_from_one_field_to_another_makes_another_key():
    block = {"type": "text", "text": "x"}
    one = body(system=[block], messages=[{"role": "user", "content": "y"}])
    other = body(system="y", messages=[{"role": "user", "content": [block]}])
    third = body(tools=[block], messages=[{"role": "user", "content": "y"}])
    assert len({of(one), of(other), of(third)}) == 3


def test_an_assistants_opening_does_not_hide_the_first_user_message():
    opening = [{"role": "assistant", "content": "Hi"}]
    assert of(body(messages=[*opening, *body()["messages"]])) == of(body())
    assert of(body(messages=opening)) != of(body(messages=[{"role": "assistant", "content": "Ho"}]))


@pytest.mark.parametrize(
    "message", [{}, {"role": "user"}, {"role": "user", "content": None}, {"role": "user", "content": []}, 7]
)
def test_the_system_prompt_alone_is_never_the_key(message):
    assert of(body(messages=[message], system="You are an agent.", tools=[{"name": "read"}])) is None


# Ids and odd bodies.


@RUNS
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=MAX_ID))
def test_any_text_within_the_bound_may_name_a_conversation(text):
    value = text.encode()
    assume(len(value) <= MAX_ID)
    assert check_id(value, "x-conversation-id") == value


@pytest.mark.parametrize("control", [*range(32), 127])
def test_control_characters_in_an_id_are_refused(control):
    with pytest.raises(ApiError, match="x-conversation-id: control characters") as caught:
        check_id(b"a%cb" % control, "x-conversation-id")
    assert caught.value.status == 400


def test_an_id_has_at_most_eight_kilobytes_of_any_other_bytes():
    for value in (b"x" * 8192, b"caf\xe9", b"\xff\xfe", "\u00e9".encode() * 4096):
        assert check_id(value, "x-conversation-id") == value
    for value in (b"x" * 8193, b"\xff" * 9000):
        with pytest.raises(ApiError, match="at most 8192 bytes"):
            check_id(value, "x-conversation-id")


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1.5, 10**30, "", "text", "{", '{"session_id":{}}', "_session_" + "f" * 70, [], {}, [[]], [None],
     [{"type": "text"}], [{"text": 5}], [{"text": None}], {"cache_control": 1}, [{"cache_control": {}}],
     {"role": "user"}, [{"role": "user", "content": {}}], [{"role": "user", "content": [1, None, "x"]}],
     [{"role": ["user"]}], ["user"]]
)  # fmt: skip


@settings(RUNS, max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "messages": ODD,
            "system": ODD,
            "tools": ODD,
            "metadata": ODD | st.fixed_dictionaries({"user_id": ODD}),
        },
    )
)
def test_odd_types_are_somebodys_conversation_or_nobodys_but_never_a_failure(fields):
    first = of({"model": "x", **fields})
    assert first is None or len(first) == KEY_BYTES
    assert first == of({"model": "x", **fields})


@pytest.mark.parametrize("field", ["messages", "system", "tools", "metadata"])
@pytest.mark.parametrize(
    "raw",
    [b"[" * 900 + b"]" * 900, b'{"a":' * 480 + b"1" + b"}" * 480,
     b'[{"role":"user","content":' + b"[" * 400 + b"]" * 400 + b"}]", b'"\xff"',
     b'[{"role":"user","content":"\xff"}]', b"1e999", b"9" * 6000, b'{"user_id":"\\ud83d\\ude00"}']
)  # fmt: skip
def test_values_that_cannot_be_decoded_never_fail(field, raw):
    rest = b"" if field == "messages" else b',"messages":[{"role":"user","content":"x"}]'
    found = identify(
        SECRET, "alice", b"", b"", b"", peek(b'{"model":"x","' + field.encode() + b'":' + raw + rest + b"}")
    )
    assert found is None or len(found) == KEY_BYTES
