"""The event splitter: whatever the segments, the same bytes come out, and only whole events."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.wire import sse
from gateway.core.wire.sse import MAX_COPY, MAX_HELD, EventSplitter, events

RUNS = settings(deadline=None, max_examples=250)
SLOW_RUNS = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
LINE_ENDS = (b"\n", b"\r\n", b"\r")


PIECES = (
    b"data: x", b"data:", b"data", b"event: a", b"id: 1", b": comment", b":", "data: \u00fc\u2028\U0001f600".encode(),
)  # fmt: skip


def streams() -> st.SearchStrategy[bytes]:
    """Lines and blank lines in any order, in one kind of line end or in all of them; the end may be unfinished."""
    ends = st.sampled_from([LINE_ENDS[:1], LINE_ENDS[1:2], LINE_ENDS[2:], LINE_ENDS])
    tokens = ends.flatmap(lambda some: st.lists(st.sampled_from(PIECES + 3 * some), max_size=30))
    return tokens.map(b"".join)


def long_streams() -> st.SearchStrategy[bytes]:
    """The same, with lines of around 64 KiB and more among them."""
    sizes = st.sampled_from([1000, MAX_HELD - 10, MAX_HELD, MAX_HELD + 10, 3 * MAX_HELD])
    return st.lists(st.tuples(streams(), sizes), max_size=4).map(
        lambda parts: b"".join(stream + b"x" * size for stream, size in parts)
    )


def cuts() -> st.SearchStrategy[list[float]]:
    return st.lists(st.integers(0, 9999).map(lambda each: each / 10_000), max_size=16)


def cut(stream: bytes, where: Iterable[float]) -> list[bytes]:
    """The stream in segments, cut at these fractions of its length; none is empty."""
    points = sorted({int(each * len(stream)) for each in where} - {0})
    return [stream[a:b] for a, b in zip([0, *points], [*points, len(stream)], strict=True) if a < b]


def blank_line_ends(stream: bytes) -> set[int]:
    """Offsets behind each blank line, told line by line."""
    found, position = set(), 0
    for line in stream.splitlines(keepends=True):
        position += len(line)
        if not line.strip(b"\r\n"):
            found.add(position)
    return found


def check(stream: bytes, segments: Iterable[bytes]) -> None:
    """Feed the segments and look at everything that is promised after each."""
    splitter = EventSplitter()
    boundaries = blank_line_ends(stream)
    fed, out = 0, bytearray()
    for segment in segments:
        fed += len(segment)
        ready = splitter.feed(segment)
        out += ready
        assert len(out) + splitter.held == fed
        assert stream.startswith(out)
        if ready and not splitter.raw:
            assert len(out) in boundaries
        assert splitter.held <= MAX_HELD
        if not splitter.raw:
            certain = [end for end in boundaries if len(out) < end < fed]  # a CR at the very end may become CRLF
            assert all(not stream[len(out) : end].strip(b"\r\n") for end in certain)
    last = splitter.finish()
    assert stream.startswith(out + last)
    assert not last or len(out + last) == len(stream) in boundaries
    if len(stream) in boundaries and not splitter.raw:
        assert not stream[len(out + last) :].strip(b"\r\n")


@RUNS
@given(streams(), cuts())
@example(b"data: x\r\n\r\ndata: y\r\n\r\n", [0.3, 0.35, 0.4, 0.45])
@example(b"data: x\r\r\ndata: y", [0.5, 0.55])
def test_any_partition_gives_back_the_same_bytes_in_whole_events(stream, where):
    check(stream, cut(stream, where))


@RUNS
@given(streams())
def test_one_byte_at_a_time_gives_back_the_same_bytes_in_whole_events(stream):
    check(stream, (stream[i : i + 1] for i in range(len(stream))))


@SLOW_RUNS
@given(long_streams(), cuts())
def test_long_events_pass_in_pieces_and_the_next_events_are_whole_again(stream, where):
    check(stream, cut(stream, where))


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("size", [100, 1400, 16_384, 65_536, 1_000_003])
def test_an_event_beyond_a_mebibyte_is_relayed_whatever_the_segments(end, size):
    blank = end + end
    stream = b"event: a" + blank + b"data: " + b"y" * (MAX_COPY + 5000) + blank + b"data: z" + blank + b":"
    check(stream, (stream[i : i + size] for i in range(0, len(stream), size)))


@RUNS
@given(streams(), cuts())
def test_content_is_never_withheld_once_its_event_is_complete(stream, where):
    splitter = EventSplitter()
    segments = cut(stream, where)
    out = b"".join(map(splitter.feed, [*segments, b"\n\n"]))
    assert not (stream + b"\n\n")[len(out) :].strip(b"\r\n")


@pytest.mark.parametrize("size", [1, 3, 1000, MAX_HELD, MAX_HELD + 1])
@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n"])
def test_a_long_event_is_kept_whole_for_the_meter_and_told_once(size, blank):
    first = b"data: " + b"y" * (MAX_HELD + 1234) + blank
    stream = b"data: before" + blank + first + b"data: after" + blank
    splitter = EventSplitter()
    seen = []
    for start in range(0, len(stream), size):
        ready = splitter.feed(stream[start : start + size])
        if first in ready:  # the segments were long enough to hold it whole
            seen.append(first)
        if splitter.long_event is not None:
            seen.append(splitter.long_event)
            splitter.long_event = None
    assert seen == [first]
    assert not splitter.raw


def test_no_copy_is_kept_of_an_event_beyond_a_mebibyte():
    splitter = EventSplitter()
    for _ in range(20):
        splitter.feed(b"y" * MAX_HELD)
    assert splitter.feed(b"\n\ndata: x\n\n").endswith(b"data: x\n\n")
    assert splitter.long_event is None
    assert not splitter.raw


def test_memory_stays_small_over_64_megabytes_without_a_blank_line():
    splitter = EventSplitter()
    segment = b"data: " + b"z" * 65_530
    splitter.feed(segment)
    tracemalloc.start()
    try:
        for _ in range(1024):
            assert len(splitter.feed(segment)) <= len(segment) + MAX_HELD
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert splitter.raw
    assert peak < 8 * 1024 * 1024


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("length", [60_000, 200_000])
def test_one_byte_at_a_time_costs_no_more_than_a_few_looks_at_each_byte(monkeypatch, line_end, length):
    touched = 0

    class Counting:
        def __init__(self, pattern: re.Pattern[bytes]) -> None:
            self.pattern = pattern

        def search(self, data: bytes) -> Any:
            nonlocal touched
            touched += len(data)
            return self.pattern.search(data)

        def finditer(self, data: bytes, start: int = 0) -> Any:
            nonlocal touched
            touched += len(data) - start
            return self.pattern.finditer(data, start)

    def counting(look: Callable[[bytearray, int], int]) -> Callable[[bytearray, int], int]:
        def count(held: bytearray, start: int) -> int:
            nonlocal touched
            touched += len(held) - start
            return look(held, start)

        return count

    monkeypatch.setattr(sse, "_BOUNDARY", Counting(sse._BOUNDARY))
    monkeypatch.setattr(sse, "_last_boundary", counting(sse._last_boundary))
    stream = (b"data: " + b"x" * 70 + line_end) * (length // 77) + line_end
    splitter = EventSplitter()
    for i in range(len(stream)):
        splitter.feed(stream[i : i + 1])
    assert touched < 12 * len(stream)


def test_leading_blank_lines_and_comments_are_passed_on():
    splitter = EventSplitter()
    assert splitter.feed(b"\n") == b""
    assert splitter.feed(b": hello\n\n") == b"\n: hello\n\n"
    assert splitter.held == 0


def test_a_carriage_return_at_the_end_waits_for_the_line_feed_that_may_follow():
    splitter = EventSplitter()
    assert splitter.feed(b"data: x\r\n\r") == b""
    assert splitter.feed(b"\n") == b"data: x\r\n\r\n"
    assert splitter.feed(b"data: y\r\r") == b""
    assert splitter.feed(b"d") == b"data: y\r\r"
    assert splitter.held == 1


def test_at_the_end_of_the_stream_a_last_event_that_waited_for_a_line_feed_is_whole():
    for stream, last in ((b"data: x\r\r", b"data: x\r\r"), (b"data: x\r\n\r", b"data: x\r\n\r"), (b"data: x\r", b"")):
        splitter = EventSplitter()
        assert splitter.feed(stream) == b""
        assert splitter.finish() == last
        assert splitter.finish() == b""


# Reading events.


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Names and data of all events by the rules of the standard, blank ones left out."""
    found = []
    name = b""
    data: list[bytes] = []
    for line in [*re.split(rb"\r\n|\r|\n", stream), b""]:
        if not line:
            if name or b"\n".join(data):
                found.append((name, b"\n".join(data)))
            name, data = b"", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            data.append(value)
    return found


@RUNS
@given(streams())
def test_events_are_read_as_the_standard_says(stream):
    found = events(stream)
    assert [(name, data) for name, data, _ in found if name or data] == reference(stream)
    ends = [end for _, _, end in found]
    assert ends == sorted(set(ends))
    assert ends[-1:] in ([], [len(stream)]) or not stream[ends[-1] :].strip(b"\r\n")


def test_an_event_of_several_data_lines_is_one_value():
    assert events(b"event: a\r\ndata: 1\r\n: no\r\ndata:2\r\n\r\ndata\n\n") == [(b"a", b"1\n2", 35), (b"", b"", 41)]


@RUNS
@given(st.binary(max_size=300), cuts())
def test_arbitrary_bytes_are_relayed_as_they_came(data, where):
    check(data, cut(data, where))
    events(data)


FIELDS = st.sampled_from([
    b"event: a", b"event:a", b"event:  a", b"data: {}", b"data:1", b"data: ", b"data", b": data: x", b"id: 1",
    b"event: b", b"\x85", b"data: \x0b\x1c\xc2\x85",
])  # fmt: skip


@RUNS
@given(st.lists(st.tuples(FIELDS, st.sampled_from([b"\n", b"\n\n", b"\n\n\n"])), max_size=8))
def test_events_are_read_alike_whichever_line_ending_they_have(lines):
    text = b"".join(map(b"".join, lines))
    windows = events(text.replace(b"\n", b"\r\n"))
    assert [each[:2] for each in events(text)] == [each[:2] for each in windows]
    assert [each[2] for each in events(text)] == [
        each[2] - text.replace(b"\n", b"\r\n")[: each[2]].count(b"\r") for each in windows
    ]
