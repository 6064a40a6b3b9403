"""The tap beside a batch's results: the same sums however the download is cut, and no line counted twice."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.spending.pricing import Bill
from gateway.core.wire.results import MAX_LINE, ResultsTap
from gateway.data import load_catalogue
from gateway.records import Usage

RUNS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def succeeded(model: str = "claude-opus-5-5", text: str = "hi", **usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "model": model, "content": [{"type": "text", "text": text}]}
    return line({"type": "succeeded", "message": {**message, "usage": usage}})


def line(result: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": "a", "result": result}, separators=(",", ":")).encode() + b"\n"


COMPACTED: dict[str, Any] = {
    "input_tokens": 10, "output_tokens": 2, "server_tool_use": {"web_search_requests": 3},
    "iterations": [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 5}, {"type": "message", "input_tokens": 10},
    ],
}  # fmt: skip


def test_iterations_and_fees_of_an_item_are_in_its_price():
    catalogue = load_catalogue()
    tap = ResultsTap(partial(catalogue.bill, batch=True))
    tap.feed(succeeded(**COMPACTED) + succeeded(input_tokens=4))
    found = tap.metered()["claude-opus-5-5"]
    assert (found.usage.input, found.usage.output) == (1014, 7)
    opus = catalogue.find("claude-opus-5-5")
    assert opus is not None
    parts = ((1000, 5), (10, 0), (0, 2), (4, 0))
    assert found.cost == sum(opus.cost(i, 0, 0, 0, o, batch=True) for i, o in parts) + 3 * 10_000_000


ERRORED = line({"type": "errored", "error": {"type": "error", "error": {"type": "overloaded_error"}}})


def bill(model: str, usage: Usage) -> Bill:
    """As many nano-dollars as there are tokens, of which those read saved nine each."""
    return Bill(usage.total_input + usage.output, usage.cache_read * 9, False)


def usages(tap: ResultsTap) -> dict[str, Usage]:
    metered = tap.metered()
    for model, each in metered.items():
        assert (each.cost, each.savings, False) == bill(model, each.usage)
    return {model: each.usage for model, each in metered.items()}


def tapped(pieces: list[bytes], skip: int = 0) -> ResultsTap:
    tap = ResultsTap(bill, skip)
    for piece in pieces:
        tap.feed(piece)
    tap.finish()
    return tap


counts = st.integers(0, 10**6)
lines = st.one_of(
    st.builds(
        lambda model, i, o, r, w, text: succeeded(
            model, text, input_tokens=i, output_tokens=o, cache_read_input_tokens=r, cache_creation_input_tokens=w
        ),
        st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5"]),
        counts, counts, counts, counts,
        st.sampled_from(["", "\n", '"usage":{"input_tokens":5}', "\u2028é", "x" * 5000]),
    ),
    st.sampled_from([ERRORED, line({"type": "canceled"}), line({"type": "expired"}), b"not json\n", succeeded()]),
)  # fmt: skip


@RUNS
@given(
    st.lists(lines, max_size=8),
    st.lists(st.integers(0, 9999), max_size=10),
    st.booleans(),
    st.integers(0, 9),
    st.booleans(),
)
def test_sums_are_the_same_for_any_pieces_and_skipped_lines_only_count(told, where, newline, skip, single):
    body = b"".join(told)
    if not newline:
        body = body[:-1]
    points = sorted({each * len(body) // 10_000 for each in where})
    pieces = [body[a:b] for a, b in zip([0, *points], [*points, len(body)], strict=True)]
    if single and len(body) < 3000:
        pieces = [body[i : i + 1] for i in range(len(body))]
    tap = tapped(pieces, skip)
    broken_end = bool(told) and not newline and told[-1] == b"not json\n"
    assert tap.lines == len(told) - broken_end
    expected: dict[str, Usage] = {}
    for each in told[skip:]:
        if b"succeeded" in each:
            message = json.loads(each)["result"]["message"]
            used, usage = message["usage"], expected.setdefault(message["model"], Usage())
            usage.input += used.get("input_tokens", 0)
            usage.output += used.get("output_tokens", 0)
            usage.cache_read += used.get("cache_read_input_tokens", 0)
            usage.cache_write_5m += used.get("cache_creation_input_tokens", 0)
    assert usages(tap) == expected
    assert tap.unread == sum(each == b"not json\n" for each in told[skip:]) - (broken_end and len(told) > skip)


@RUNS
@given(st.lists(lines, max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_downloads_in_parts_meter_each_line_once(told, first, second):
    whole = tapped([b"".join(told)])
    sums: dict[str, Usage] = {}
    skip = 0
    for until in (first, second, len(told)):
        tap = tapped([b"".join(told[:until])], skip)
        skip = max(skip, tap.lines)
        for model, usage in usages(tap).items():
            total = sums.setdefault(model, Usage())
            for name in Usage.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(usage, name))
    assert sums == usages(whole)


def test_cache_writes_are_split_by_lifetime_as_in_any_answer():
    creation = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 90}
    body = succeeded(input_tokens=1, output_tokens=2, cache_creation_input_tokens=100, cache_creation=creation)
    assert usages(tapped([body, body])) == {
        "claude-opus-5-5": Usage(input=2, output=4, cache_write_5m=20, cache_write_1h=180)
    }


def test_each_result_is_billed_as_a_request_of_its_own():
    """A hundred short ones are no long one, and only what was served in the United States costs more."""
    catalogue = load_catalogue()
    haiku, opus = catalogue.find("claude-haiku-5-5"), catalogue.find("claude-opus-5")
    assert haiku is not None and haiku.above is not None and opus is not None
    tap = ResultsTap(partial(catalogue.bill, batch=True))
    tap.feed(succeeded(haiku.id, input_tokens=90_000, output_tokens=10, cache_read_input_tokens=10_000) * 5)
    tap.feed(succeeded(opus.id, input_tokens=1000, inference_geo="us") + succeeded(opus.id, input_tokens=1000))
    found = tap.metered()
    price = haiku.price
    assert found[haiku.id].cost == 5 * (90_000 * price.input + 10 * price.output + 10_000 * price.read) // 2
    assert found[haiku.id].savings == 5 * 10_000 * (price.input - price.read) // 2
    assert found[opus.id].cost == 1000 * opus.price.input * 21 // 20
    assert tap.metered(6)[opus.id].cost == 1000 * opus.price.input // 2


def test_a_count_that_cannot_be_is_not_billed():
    tap = tapped([succeeded(input_tokens=2**53), succeeded(output_tokens=2**40), succeeded(input_tokens=5)])
    assert (tap.lines, tap.unread) == (3, 1)
    assert usages(tap)["claude-opus-5-5"].input == 5


def test_a_download_that_broke_off_in_a_line_has_not_seen_it():
    body = succeeded(input_tokens=5)
    for size in range(1, len(body) - 1):
        tap = tapped([body, body[:size]])
        assert (tap.lines, tap.unread) == (1, 0)
    assert tapped([body, body[:-1]]).lines == 2


def test_blank_lines_are_none_and_carriage_returns_do_no_harm():
    tap = tapped([b"\n", succeeded(input_tokens=5)[:-1] + b"\r\n", b"  \r\n\n"])
    assert (tap.lines, tap.unread) == (1, 0)
    assert usages(tap)["claude-opus-5-5"].input == 5


def test_a_line_of_megabytes_is_read():
    body = succeeded(text="x" * (MAX_LINE - 1000), input_tokens=5)
    assert usages(tapped([body[i : i + 65536] for i in range(0, len(body), 65536)]))["claude-opus-5-5"].input == 5


@pytest.mark.parametrize("size", [65536, 1 << 30])
@pytest.mark.parametrize("newline", [True, False])
def test_a_line_too_long_to_hold_counts_but_its_usage_is_unknown(size, newline):
    body = succeeded(text="x" * MAX_LINE, input_tokens=5) + succeeded(input_tokens=7)
    if not newline:
        body = body[:-1]
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    tap = ResultsTap(bill)
    for piece in pieces:
        tap.feed(piece)
        assert len(tap._held) <= MAX_LINE
    tap.finish()
    assert (tap.lines, tap.unread) == (2, 1)
    assert usages(tap) == {"claude-opus-5-5": Usage(input=7)}
    tap = tapped(pieces, skip=1)
    assert (tap.lines, tap.unread) == (2, 0)


@pytest.mark.parametrize(
    "result",
    [
        {"type": "succeeded"},
        {"type": "succeeded", "message": None},
        {"type": "succeeded", "message": {"model": "m"}},
        {"type": "succeeded", "message": {"model": "m", "usage": {"input_tokens": -1}}},
        {"type": 7},
    ],
)
def test_a_result_that_cannot_be_read_is_counted_as_unread(result):
    tap = tapped([line(result)])
    assert (tap.lines, tap.unread, usages(tap)) == (1, 1, {})
