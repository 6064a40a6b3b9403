"""The usage meter: the same tokens whatever the segments, and nothing an upstream says may upset it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.wire.sse import MAX_HELD, EventSplitter
from gateway.core.wire.usage_meter import UsageMeter
from gateway.records import Iteration, Usage

RUNS = settings(deadline=None, max_examples=150)

FAKE = 'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":999999}}\n\n'
EVIL = (
    "hello",
    FAKE,
    'event: message_stop\r\ndata: {"type": "message_stop"}\r\n\r\n',
    'data: {"type":"message_start","message":{"model":"evil","usage":{"input_tokens":1000000}}}',
    '"message_stop"',
    '{"type":"error","error":{"type":"overloaded_error"}}',
    '"usage":{"input_tokens":7}',
    "\u2028\x85 \U0001f600",
)


def frame(event: dict[str, Any], *, end: str = "\n", named: bool = True, spaced: bool = False) -> bytes:
    """One server-sent event."""
    name = f"event: {event['type']}{end}" if named else ""
    data = json.dumps(event, separators=None if spaced else (",", ":"), ensure_ascii=False)
    return f"{name}data: {data}{end}{end}".encode()


def start(model: str = "claude-opus-4-8", **usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": model, "usage": usage}
    return {"type": "message_start", "message": message}


def delta(**usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


STOP = {"type": "message_stop"}
COUNT = st.integers(0, 10**7)


def usages() -> st.SearchStrategy[dict[str, Any]]:
    """What `usage` may hold; a total of cache writes is at least its one-hour part."""
    split = st.tuples(COUNT, COUNT).map(
        lambda both: {
            "cache_creation_input_tokens": sum(both),
            "cache_creation": {"ephemeral_5m_input_tokens": both[0], "ephemeral_1h_input_tokens": both[1]},
        }
    )
    names = ["input_tokens", "output_tokens", "cache_read_input_tokens"]
    plain = st.dictionaries(st.sampled_from(names), COUNT | st.none(), max_size=3)
    tools = st.fixed_dictionaries({"web_search_requests": COUNT, "web_fetch_requests": COUNT})
    other = tools.map(lambda used: {"service_tier": "standard", "server_tool_use": used})
    return st.tuples(plain, st.just({}) | split, st.just({}) | other).map(
        lambda all_: {**all_[0], **all_[1], **all_[2]}
    )


def content() -> st.SearchStrategy[dict[str, Any]]:
    """Events whose content looks like other events."""

    def made(text: str) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": text}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": text}},
            {"type": "content_block_start", "content_block": {"type": "tool_use", "input": {**STOP, "error": text}}},
            {"type": "ping"},
            {"type": "content_block_stop", "index": 0, "error": None, "usage": {"output_tokens": 123456}},
        ]

    return st.sampled_from(EVIL).map(made).flatmap(st.sampled_from)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, Usage, int]:
    """A streamed answer, the usage it tells, and the length up to the end of its message_stop."""
    style: dict[str, Any] = draw(
        st.fixed_dictionaries({"end": st.sampled_from(["\n", "\r\n"]), "named": st.booleans(), "spaced": st.booleans()})
    )
    said = [draw(usages()) for _ in range(draw(st.integers(1, 3)))]
    told = [start(**said[0]), *draw(st.lists(content(), max_size=4)), *(delta(**each) for each in said[1:])]
    if draw(st.booleans()):
        told.insert(
            1, {"type": "content_block_delta", "delta": {"type": "text_delta", "text": FAKE * (MAX_HELD // 70)}}
        )
    told.append(STOP)
    expected = Usage()
    for each in said:
        expected.input = take(each, "input_tokens", expected.input)
        expected.output = take(each, "output_tokens", expected.output)
        expected.cache_read = take(each, "cache_read_input_tokens", expected.cache_read)
        expected.searches = take(each.get("server_tool_use", {}), "web_search_requests", expected.searches)
        if "cache_creation" in each:
            expected.cache_write_5m = each["cache_creation"]["ephemeral_5m_input_tokens"]
            expected.cache_write_1h = each["cache_creation"]["ephemeral_1h_input_tokens"]
    stream = b"".join(frame(each, **style) for each in told)
    after = draw(st.sampled_from([b"", frame(delta(output_tokens=5)), b"data: half"]))
    return stream + after, expected, len(stream)


def take(usage: dict[str, Any], name: str, present: int) -> int:
    value = usage.get(name)
    return present if value is None else int(value)


def relay(segments: Iterable[bytes]) -> tuple[bytes, UsageMeter]:
    """What reaches the client, and the meter beside it, as the relay connects splitter and meter."""
    splitter, meter = EventSplitter(), UsageMeter()
    out = b""
    for segment in segments:
        ready = splitter.feed(segment)
        if splitter.long_event is not None:
            if UsageMeter.matters(splitter.long_event):
                meter.see(splitter.long_event)
            splitter.long_event = None
        if UsageMeter.matters(ready):
            size = meter.see(ready)
            if meter.stopped:
                return out + ready[:size], meter
        meter.count(ready)
        out += ready
    return out, meter


@RUNS
@given(answers(), st.lists(st.integers(0, 9999), max_size=16), st.booleans())
def test_usage_and_relayed_bytes_are_the_same_for_any_partition(answer, where, whole_in_bytes):
    stream, expected, size = answer
    if whole_in_bytes and len(stream) < 5000:
        segments = [stream[i : i + 1] for i in range(len(stream))]
    else:
        points = sorted({each * len(stream) // 10_000 for each in where} - {0})
        segments = [stream[a:b] for a, b in zip([0, *points], [*points, len(stream)], strict=True)]
    out, meter = relay(segments)
    assert out == stream[:size]
    assert meter.usage == expected
    assert meter.started and meter.stopped and not meter.error
    assert meter.model == "claude-opus-4-8"


@RUNS
@given(st.lists(content(), min_size=1, max_size=6), st.booleans(), st.booleans(), st.sampled_from([1, 7, 100, 10**6]))
def test_text_that_looks_like_events_is_not_read(told, named, spaced, size):
    stream = b"".join(frame(each, named=named, spaced=spaced) for each in told)
    out, meter = relay(stream[i : i + size] for i in range(0, len(stream), size))
    assert out == stream
    assert meter.usage == Usage()
    assert not (meter.started or meter.stopped or meter.error or meter.model)


def test_cumulative_deltas_replace_what_was_told_before():
    meter = UsageMeter()
    meter.see(frame(start(input_tokens=10, cache_read_input_tokens=90, output_tokens=1)))
    meter.see(frame(delta(output_tokens=20)) + frame(delta(output_tokens=35)))
    assert meter.usage == Usage(input=10, cache_read=90, output=35)
    meter.see(frame(delta(input_tokens=12, output_tokens=30)))
    assert meter.usage == Usage(input=12, cache_read=90, output=30)


def test_the_split_of_cache_writes_by_lifetime_is_kept_when_only_the_total_is_repeated():
    meter = UsageMeter()
    split = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400}
    meter.see(frame(start(input_tokens=1, cache_creation_input_tokens=500, cache_creation=split)))
    meter.see(frame(delta(cache_creation_input_tokens=500, output_tokens=3)))
    assert meter.usage == Usage(input=1, cache_write_5m=100, cache_write_1h=400, output=3)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"cache_creation_input_tokens": 7}, Usage(cache_write_5m=7)),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 7}}, Usage(cache_write_5m=7)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 7}}, Usage(cache_write_1h=7)),
        ({"cache_creation": None, "cache_creation_input_tokens": None}, Usage()),
        ({"cache_creation": {}}, Usage()),
        ({"output_tokens": None}, Usage()),
        ({}, Usage()),
    ],
)
def test_parts_of_usage_may_be_missing_or_null(usage, expected):
    meter = UsageMeter()
    meter.see(frame(start(**usage)))
    assert meter.started
    assert meter.usage == expected


# -- Lifetimes of cache writes -----------------------------------------------------------------------------------------


def metered(ttl: int, *events_: dict[str, Any]) -> Usage:
    meter = UsageMeter(ttl)
    meter.see(b"".join(map(frame, events_)))
    return meter.usage


HOUR = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 500}


def test_writes_of_which_no_lifetime_is_told_live_as_the_request_asked():
    told = start(input_tokens=1, cache_creation_input_tokens=500)
    assert metered(3600, told) == Usage(input=1, cache_write_1h=500)
    assert metered(300, told) == Usage(input=1, cache_write_5m=500)
    nothing = {"ephemeral_5m_input_tokens": None, "ephemeral_1h_input_tokens": None}
    for split in (None, {}, nothing):
        assert metered(3600, start(cache_creation_input_tokens=500, cache_creation=split)) == Usage(cache_write_1h=500)


def test_a_split_that_is_told_late_counts():
    begun = start(cache_creation_input_tokens=500)
    for ttl in (300, 3600):
        late = metered(ttl, begun, delta(cache_creation=HOUR, output_tokens=3))
        assert late == Usage(cache_write_1h=500, output=3)
        both = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400}
        assert metered(ttl, begun, delta(cache_creation=both)) == Usage(cache_write_5m=100, cache_write_1h=400)


def test_writes_beyond_a_split_that_was_told_live_as_the_request_asked():
    begun, more = start(cache_creation_input_tokens=500, cache_creation=HOUR), delta(cache_creation_input_tokens=700)
    assert metered(3600, begun, more) == Usage(cache_write_1h=700)
    assert metered(300, begun, more) == Usage(cache_write_5m=200, cache_write_1h=500)


def test_the_whole_answer_in_json_is_read_alike():
    meter = UsageMeter(3600)
    usage = {"input_tokens": 1, "output_tokens": 3, "cache_creation_input_tokens": 5}
    usage |= {"server_tool_use": {"web_search_requests": 2}}  # type: ignore[dict-item]
    assert meter.read_json(json.dumps({"model": "m", "usage": usage}).encode())
    assert meter.usage == Usage(input=1, output=3, cache_write_1h=5, searches=2)
    long = UsageMeter(3600)
    head = b'{"id":"msg_1","model":"claude-opus-5","content":[{"text":"' + b"a" * 5000
    assert long.read_ends(head, b'a"}],"usage":' + json.dumps(usage).encode() + b"}")
    assert (long.model, long.usage) == ("claude-opus-5", meter.usage)


# -- Server tools and iterations ---------------------------------------------------------------------------------------


def iteration(kind: str = "message", model: str | None = None, **tokens: int) -> dict[str, Any]:
    names = {"fresh": "input_tokens", "read": "cache_read_input_tokens", "output": "output_tokens"}
    names["written"] = "cache_creation_input_tokens"
    return {"type": kind, "model": model, **{names[name]: count for name, count in tokens.items()}}


def test_searches_and_executions_are_cumulative():
    tools = {"web_search_requests": 1, "web_fetch_requests": 0}
    more = {"web_search_requests": 15, "code_execution_requests": 2}
    usage = metered(300, start(input_tokens=1), delta(server_tool_use=tools), delta(server_tool_use=more))
    assert (usage.searches, usage.executions) == (15, 2)
    assert metered(300, start(server_tool_use=tools), delta(server_tool_use=None)).searches == 1


def test_a_compaction_is_used_beside_what_the_answers_own_counts_say():
    meter = UsageMeter()
    parts = [iteration("compaction", fresh=180_000, output=3500), iteration(fresh=23_000, read=100, output=1000)]
    meter.see(frame(start(input_tokens=45)) + frame(delta(input_tokens=23_000, output_tokens=1000, iterations=parts)))
    usage = meter.usage
    assert (usage.input, usage.cache_read, usage.output) == (203_000, 100, 4500)
    assert usage.iterations == (
        Iteration("", Usage(input=180_000, output=3500)),
        Iteration("", Usage(input=23_000, cache_read=100, output=1000)),
    )
    assert meter.context == 24_100  # the conversation is what the answer read and wrote


def test_of_a_fallback_each_model_has_its_own_part_and_the_last_one_answered():
    meter = UsageMeter()
    parts = [
        iteration(model="claude-fable-5", fresh=1000, output=2),
        iteration("fallback_message", "claude-opus-4-8", fresh=1100, output=300),
    ]
    meter.see(frame(start("claude-fable-5", input_tokens=1000)))
    meter.see(frame(delta(input_tokens=1100, output_tokens=300, iterations=parts)))
    assert [each.model for each in meter.usage.iterations] == ["claude-fable-5", "claude-opus-4-8"]
    assert (meter.usage.input, meter.usage.output, meter.context) == (2100, 302, 1400)
    assert meter.model == "claude-opus-4-8"


def test_what_iterations_leave_out_of_the_answers_own_counts_is_used_too():
    parts = [iteration("compaction", fresh=50), iteration(fresh=10, written=5)]
    usage = metered(
        3600, start(input_tokens=30, cache_creation_input_tokens=9), delta(output_tokens=7, iterations=parts)
    )
    assert usage.iterations[-1] == Iteration("", Usage(input=20, cache_write_1h=4, output=7))
    assert (usage.input, usage.cache_write_1h, usage.output) == (80, 9, 7)


def test_iterations_that_split_writes_count_them_once():
    parts = [{**iteration(fresh=1, written=500), "cache_creation": HOUR}]
    usage = metered(300, start(input_tokens=1, cache_creation_input_tokens=500), delta(iterations=parts))
    assert usage.iterations == (Iteration("", Usage(input=1, cache_write_1h=500)),)
    assert (usage.cache_write_5m, usage.cache_write_1h) == (0, 500)


def test_each_part_is_as_fast_and_as_far_as_the_whole():
    usage = metered(
        300, start(inference_geo="us", speed="fast"), delta(iterations=[iteration("compaction", fresh=5)])
    )  # fmt: skip
    assert all(part.usage.us and part.usage.fast for part in usage.iterations)


@pytest.mark.parametrize(
    "odd", [None, [], {}, "many", [1], [{"type": 5}], [{"input_tokens": -1}], [[]], [{"model": {}}]]
)
def test_iterations_of_another_kind_leave_the_answers_own_counts(odd):
    assert metered(300, start(input_tokens=5), delta(output_tokens=7, iterations=odd)) == Usage(input=5, output=7)


@given(
    st.lists(st.sampled_from(["message", "compaction", "fallback_message", "advisor_message", "new"]), max_size=6),
    st.data(),
)
def test_the_whole_is_the_sum_of_its_parts_and_never_less_than_was_told(kinds, data):
    parts = [
        iteration(kind, **{name: data.draw(COUNT) for name in ("fresh", "read", "written", "output")}) for kind in kinds
    ]
    told = {name: data.draw(COUNT) for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")}
    usage = metered(data.draw(st.sampled_from([300, 3600])), start(**told), delta(iterations=parts))
    for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
        whole = getattr(usage, name)
        if usage.iterations:
            assert whole == sum(getattr(part.usage, name) for part in usage.iterations)
    assert usage.input >= told["input_tokens"] and usage.output >= told["output_tokens"]
    assert usage.output >= sum(part["output_tokens"] for part in parts)


ODD = st.sampled_from(
    [None, True, "7", [], {}, {"a": 1}, 1.5, -1, -(10**30), 10**30, 10**400, 2**63, 1e308, "\u0000", [[1]]]
)


@RUNS
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "input_tokens": ODD,
            "output_tokens": ODD,
            "cache_read_input_tokens": ODD,
            "cache_creation_input_tokens": ODD,
            "cache_creation": ODD | st.fixed_dictionaries({"ephemeral_1h_input_tokens": ODD}),
        },
    ),
    ODD,
    ODD,
)
def test_whatever_stands_in_the_fields_nothing_is_raised_and_counts_stay_countable(usage, model, whole):
    meter = UsageMeter()
    for event in (
        start(**usage), start(model, **usage), delta(**usage), {"type": "message_delta", "usage": whole},
        {"type": "message_start", "message": whole}, {"type": "error", "error": whole}, {"type": whole}, whole,
    ):  # fmt: skip
        meter.see(b"data: " + json.dumps(event).encode() + b"\n\n")
        assert all(0 <= count < 2**63 for count in counts(meter.usage)), event
    meter = UsageMeter()
    meter.read_json(json.dumps({"model": model, "usage": usage}).encode())
    assert all(0 <= count < 2**63 for count in counts(meter.usage))
    meter = UsageMeter()
    meter.read_ends(b"", json.dumps({"model": model, "usage": usage}).encode())
    assert all(0 <= count < 2**63 for count in counts(meter.usage))


def counts(usage: Usage) -> tuple[int, ...]:
    return usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.output


@pytest.mark.parametrize("value", [-1, 2**63, 10**30])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read_input_tokens"])
def test_a_count_that_cannot_be_one_is_left_out(name, value):
    meter = UsageMeter()
    meter.see(frame(start(**{name: value})))
    assert meter.usage == Usage()


JUNK = st.binary(max_size=200) | st.lists(
    st.sampled_from(
        [b'"usage"', b'"usage":{', b'"input_tokens":', b"1", b"{", b"}", b"[", b'"', b"\xff", b"\\", b",", b"data: ",
         b'{"type":"message_start","message":{', b'{"type":"error"', b'"error":', b"\n\n", b"null", b"9" * 5000]
    ),
    max_size=25,
).map(b"".join)  # fmt: skip


@RUNS
@given(JUNK, JUNK)
def test_arbitrary_bytes_never_raise(data, more):
    meter = UsageMeter()
    assert 0 <= meter.see(data) <= len(data)
    meter.read_json(data)
    meter.read_ends(data, more)
    meter.count(data)
    meter.estimate()


@pytest.mark.parametrize(
    "inner", [b"[" * 2000 + b"]" * 2000, b'{"a":' * 600 + b"1" + b"}" * 600, b'"\xff"', b"9" * 3000]
)
def test_hostile_values_inside_usage_never_raise(inner):
    meter = UsageMeter()
    body = b'{"usage":{"output_tokens":5,"x":' + inner + b"}}"
    meter.read_json(body)
    meter.read_ends(b"", body)
    meter.see(b'data: {"type":"message_delta",' + body[1:] + b"\n\n")
    assert meter.usage.output in (0, 5)


# The end, and errors.


def test_nothing_behind_message_stop_counts():
    meter = UsageMeter()
    stop = frame(start(input_tokens=1)) + frame(STOP)
    assert meter.see(stop + frame(delta(output_tokens=9)) + b"data: x") == len(stop)
    assert meter.stopped
    assert meter.usage.output == 0


def test_without_message_stop_all_bytes_count():
    meter = UsageMeter()
    data = frame(start(input_tokens=1)) + frame({"type": "ping"})
    assert meter.see(data) == len(data)
    assert not meter.stopped


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "overloaded_error", "message": "x"}, "overloaded_error"),
        ({"type": ""}, "api_error"),
        ({}, "api_error"),
        (None, "api_error"),
    ],
)
def test_an_error_event_is_known_by_its_type_if_it_has_one(error, kind):
    meter = UsageMeter()
    meter.see(frame({"type": "error", "error": error}))
    assert meter.error == kind
    assert not meter.started


def test_what_cannot_matter_is_not_looked_at():
    assert not UsageMeter.matters(frame({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}))
    assert not UsageMeter.matters(frame({"type": "ping"}))
    assert (
        UsageMeter.matters(frame(start(), spaced=True))
        and UsageMeter.matters(frame(delta()))
        and UsageMeter.matters(frame(STOP))
    )
    assert UsageMeter.matters(frame({"type": "error", "error": {}}))


# Estimates.


def test_an_estimate_is_a_quarter_of_the_text_that_passed():
    meter = UsageMeter()
    for _ in range(50):
        meter.count(
            frame({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a" * 40}})
        )
    meter.estimate()
    assert 400 <= meter.usage.output <= 600


@pytest.mark.parametrize("text", ["", "a", "Hello", 'say \\"hi\\": \\":\\"', "}} }"])
@pytest.mark.parametrize("pad", [0, 1, 15])
@pytest.mark.parametrize("several", [False, True])
def test_blanks_behind_a_text_are_not_of_it(text, pad, several):
    event = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"text_delta","text":"%b"}%b}\n\n' % (text.encode(), b" " * pad)
    )
    meter = UsageMeter()
    meter.count(event * (2 if several else 1))
    assert meter.passed_bytes == len(text) * (2 if several else 1)


@RUNS
@given(st.lists(JUNK, max_size=5), COUNT)
def test_an_estimate_is_never_less_than_what_was_told_nor_below_zero(passed, told):
    meter = UsageMeter()
    meter.see(frame(start(output_tokens=told)))
    for each in passed:
        meter.count(each)
    meter.estimate()
    assert meter.usage.output >= told


# Whole JSON answers.


def answer(**usage: Any) -> bytes:
    return json.dumps(
        {
            "id": "msg_1", "type": "message", "model": "claude-haiku-4-5", "usage": usage,
            "content": [{"type": "tool_use", "input": {"usage": {"input_tokens": 1_000_000}}}],
            "stop_reason": "end_turn",
        }
    ).encode()  # fmt: skip


@RUNS
@given(usages())
def test_a_json_answer_tells_the_same_as_a_stream(usage):
    streamed, whole = UsageMeter(), UsageMeter()
    streamed.see(frame(start(**usage)))
    told = usage.get("input_tokens") is not None and usage.get("output_tokens") is not None
    assert whole.read_json(answer(**usage)) == told
    assert whole.usage == streamed.usage
    assert whole.started
    assert whole.model == "claude-haiku-4-5"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"x", b'{"usage":null}', b'{"usage":7}', b'{"usage":{}'])
def test_a_body_without_usage_says_so(body):
    meter = UsageMeter()
    assert not meter.read_json(body)
    assert meter.usage == Usage()
    assert not meter.started


LATE = b'"stop_reason":"end_turn","usage":{"input_tokens":3,"cache_creation":{"ephemeral_1h_input_tokens":4},'
LATE += b'"output_tokens":5}}'


@pytest.mark.parametrize("cut", range(0, 40, 8))
def test_a_long_answer_is_read_from_its_end_wherever_that_is_cut(cut):
    meter = UsageMeter()
    assert meter.read_ends(b'{"id":"msg_1","content":[{"text":"' + b"x" * 100, b"xxxxx" * cut + b'"}],' + LATE)
    assert meter.usage == Usage(input=3, cache_write_1h=4, output=5)
    assert meter.started


def test_a_long_answer_that_tells_its_usage_first_is_read_from_its_head():
    meter = UsageMeter()
    assert meter.read_ends(b'{"usage":{"input_tokens":3,"output_tokens":5},"content":[{"text":"', b'yyyy"}]}')
    assert meter.usage == Usage(input=3, output=5)


def test_usage_that_is_cut_in_two_is_not_read():
    meter = UsageMeter()
    assert not meter.read_ends(b'{"content":"', LATE[:-6])
    assert not meter.read_ends(b'{"content":"', LATE[30:])
    assert meter.usage == Usage()


def test_text_about_usage_in_a_long_answer_is_not_usage():
    meter = UsageMeter()
    text = json.dumps('"usage":{"input_tokens":1000000}').encode()
    assert meter.read_ends(b"", b'"text":' + text + b"}]," + LATE)
    assert meter.usage.input == 3
    meter = UsageMeter()
    assert not meter.read_ends(b"", b'"text":' + text + b"}]}")


def test_where_and_how_fast_an_answer_was_made_is_kept_for_its_price():
    meter = UsageMeter()
    meter.read_json(b'{"usage": {"input_tokens": 1, "output_tokens": 1, "inference_geo": "us", "speed": "fast"}}')
    assert (meter.usage.us, meter.usage.fast) == (True, True)
    meter = UsageMeter()
    meter.read_json(b'{"usage": {"input_tokens": 1, "output_tokens": 1, "inference_geo": "global"}}')
    assert (meter.usage.us, meter.usage.fast) == (False, False)
