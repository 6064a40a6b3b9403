"""AWS's event stream: the same frames as botocore reads, wherever the segments end, and Bedrock's events as SSE."""

from __future__ import annotations

import base64
import json
import struct
from binascii import crc32
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.wire import event_stream
from gateway.core.wire.event_stream import (
    MAX_HEADERS,
    MAX_PAYLOAD,
    FrameDecoder,
    Message,
    ServerSentEvents,
    StreamException,
    chunk,
    encode,
    exception,
)  # fmt: skip

RUNS = settings(deadline=None, max_examples=200)

DELTA = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"na\xc3\xafve"}}'
START = b'{"type":"message_start","message":{"id":"msg_bdrk_1","usage":{"input_tokens":3}}}'
STOP = b'{"type":"message_stop"}'


def framed(headers: bytes, payload: bytes) -> bytes:
    """One frame around headers that are written already."""
    sizes = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    frame = sizes + struct.pack(">I", crc32(sizes)) + headers + payload
    return frame + struct.pack(">I", crc32(frame))


def header(name: str, kind: int, value: bytes) -> bytes:
    return bytes([len(name.encode())]) + name.encode() + bytes([kind]) + value


def sized(raw: bytes) -> bytes:
    return struct.pack(">H", len(raw)) + raw


values = st.one_of(
    st.sampled_from([(0, b""), (1, b"")]),
    st.tuples(st.just(2), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just(3), st.binary(min_size=2, max_size=2)),
    st.tuples(st.just(4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.sampled_from([5, 8]), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(6), st.binary(max_size=40).map(sized)),
    st.tuples(st.just(7), st.text(max_size=20).map(lambda text: sized(text.encode()))),
    st.tuples(st.just(9), st.binary(min_size=16, max_size=16)),
)
names = st.text(min_size=1, max_size=20)
frames = st.builds(
    lambda headers, payload: framed(b"".join(header(name, *value) for name, value in headers.items()), payload),
    st.dictionaries(names, values, max_size=5),
    st.binary(max_size=200),
)


@st.composite
def segments(draw: st.DrawFn, stream: st.SearchStrategy[bytes]) -> list[bytes]:
    """A stream, cut anywhere."""
    whole = draw(stream)
    points = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=20)))
    return [whole[a:b] for a, b in zip([0, *points], [*points, len(whole)], strict=True)]


def read(pieces: list[bytes]) -> tuple[list[Message], str]:
    decoder = FrameDecoder()
    found = [message for piece in pieces for message in decoder.feed(piece)]
    return found, decoder.error


def by_botocore(stream: bytes) -> tuple[list[Message], bool]:
    """What botocore reads of a stream, and whether it then refuses it."""
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    found = []
    try:
        for event in buffer:
            found.append(Message(event.headers, event.payload))
    except (ParserError, KeyError, UnicodeDecodeError, struct.error):
        return found, True
    return found, False


@RUNS
@given(segments(st.lists(frames, max_size=5).map(b"".join)))
def test_frames_are_read_as_botocore_reads_them_wherever_segments_end(pieces: list[bytes]) -> None:
    expected, refused = by_botocore(b"".join(pieces))
    assert not refused
    assert read(pieces) == (expected, "")


@RUNS
@given(st.lists(frames, min_size=1, max_size=4), st.data())
def test_one_wrong_byte_is_found_where_botocore_finds_it(made: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(b"".join(made))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    pieces = data.draw(segments(st.just(bytes(stream))))
    expected, refused = by_botocore(bytes(stream))
    found, error = read(pieces)
    assert found == expected
    assert refused
    assert error


@RUNS
@given(segments(st.binary(max_size=200)))
def test_noise_ends_the_same_however_it_is_cut(pieces: list[bytes]) -> None:
    assert read(pieces) == read([b"".join(pieces)])


@given(st.dictionaries(names, st.text(max_size=50), max_size=4), st.binary(max_size=100))
def test_what_is_encoded_is_read_by_botocore(headers: dict[str, str], payload: bytes) -> None:
    assert by_botocore(encode(headers, payload)) == ([Message(headers, payload)], False)


def test_every_prefix_holds_the_unfinished_frame_and_no_more() -> None:
    stream = chunk(START) + chunk(DELTA)
    decoder = FrameDecoder()
    most = 0
    for byte in stream:
        decoder.feed(bytes([byte]))
        most = max(most, decoder.held)
    assert most == len(chunk(START)) - 1 or most == len(chunk(DELTA)) - 1
    assert decoder.held == 0


@pytest.mark.parametrize(
    ("total", "headers"),
    [(MAX_PAYLOAD + 17, 0), (MAX_HEADERS + 17, MAX_HEADERS + 1), (15, 0), (20, 8), (0, 0), (2**32 - 1, 0)],
)
def test_sizes_beyond_the_bounds_are_refused_before_anything_is_held(total: int, headers: int) -> None:
    sizes = struct.pack(">II", total, headers)
    decoder = FrameDecoder()
    assert decoder.feed(sizes + struct.pack(">I", crc32(sizes))) == []
    assert f"{total} bytes" in decoder.error
    assert decoder.feed(b"x" * 100_000) == []
    assert decoder.held == 0


def test_the_largest_frame_is_read() -> None:
    found, error = read([encode({}, b"x" * MAX_PAYLOAD)])
    assert (len(found[0].payload), error) == (MAX_PAYLOAD, "")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (header("a", 0, b"") * 2, "twice"),
        (header("a", 10, b""), "unknown type 10"),
        (b"\x05ab", "too early"),
        (header("a", 7, b"\x00\x05ab"), "too early"),
        (header("a", 4, b"\x00"), "too early"),
        (header("a", 7, sized(b"\xff")), "no text"),
        (b"\x01\xff\x00", "no text"),
    ],
)
def test_headers_that_are_none_end_the_stream(headers: bytes, said: str) -> None:
    found, error = read([chunk(DELTA) + framed(headers, b"")])
    assert len(found) == 1
    assert said in error


def translated(pieces: list[bytes]) -> tuple[bytes, str]:
    events = ServerSentEvents()
    return b"".join([events.feed(piece) for piece in pieces]), events.end()


def sse(*events: bytes) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (json.loads(event)["type"].encode(), event) for event in events)


@RUNS
@given(segments(st.lists(st.sampled_from([START, DELTA]), max_size=4).map(lambda all: b"".join(map(chunk, all)))))
def test_events_are_the_same_wherever_segments_end_and_are_not_whole_without_the_last(pieces: list[bytes]) -> None:
    body, trouble = translated(pieces)
    assert body == translated([b"".join(pieces)])[0]
    assert body.count(b"\n\n") == len(read(pieces)[0])
    assert trouble == "the stream ended before the message did"


def test_events_pass_byte_for_byte_under_the_name_of_their_type() -> None:
    assert translated([b"".join(map(chunk, (START, DELTA, STOP)))]) == (sse(START, DELTA, STOP), "")


def test_a_stream_cut_at_any_byte_is_not_whole() -> None:
    stream = b"".join(map(chunk, (START, DELTA, STOP)))
    for size in range(len(stream)):
        assert translated([stream[:size]])[1] == "the stream ended before the message did"


def test_the_metrics_of_the_last_event_are_left_out_and_so_is_its_usage() -> None:
    metrics = {"inputTokenCount": 3, "outputTokenCount": 5, "invocationLatency": 9, "firstByteLatency": 4}
    last = {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics, "usage": {"output_tokens": 5}}
    body, trouble = translated([chunk(DELTA) + chunk(json.dumps(last).encode())])
    assert body == sse(DELTA, STOP)
    assert trouble == ""


def test_text_that_names_the_metrics_passes() -> None:
    told = b'{"type":"content_block_delta","delta":{"text":"amazon-bedrock-invocationMetrics"}}'
    assert translated([chunk(told) + chunk(STOP)])[0] == sse(told, STOP)


def test_the_padding_beside_an_event_and_events_of_other_kinds_are_left_out() -> None:
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    padded = encode(headers, json.dumps({"bytes": base64.b64encode(DELTA).decode(), "p": "abcdefgh"}).encode())
    other = encode(headers | {":event-type": "initial-response"}, b"{}")
    assert translated([other + padded + chunk(STOP)]) == (sse(DELTA, STOP), "")


def test_whitespace_in_an_event_cannot_end_it_early() -> None:
    spaced = b'{\n\n"type": "content_block_delta",\r\n"x": 1}'
    body, _ = translated([chunk(spaced)])
    assert body.count(b"\n") == 3
    assert json.loads(body.split(b"data: ")[1]) == json.loads(spaced)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b'{"bytes":5}', b'{"bytes":"?"}', b'{"bytes":"e30="}', b"[" * 5000,
     json.dumps({"bytes": base64.b64encode(b'{"type":"a\\nb"}').decode()}).encode()],
)  # fmt: skip
def test_an_event_that_cannot_be_read_ends_the_stream_behind_those_before_it(payload: bytes) -> None:
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    body, trouble = translated([chunk(START) + encode(headers, payload) + chunk(STOP)])
    assert (body, trouble) == (sse(START), "an event that cannot be read")


def test_a_broken_frame_ends_the_stream_behind_the_events_before_it() -> None:
    broken = bytearray(chunk(DELTA))
    broken[-1] ^= 1
    for pieces in ([chunk(START) + broken + chunk(STOP)], [chunk(START), bytes(broken), chunk(STOP)]):
        assert translated([bytes(piece) for piece in pieces]) == (sse(START), "a frame's checksum does not fit")


EXCEPTIONS = [
    ("throttlingException", "rate_limit_error"), ("internalServerException", "api_error"),
    ("modelStreamErrorException", "api_error"), ("validationException", "invalid_request_error"),
    ("modelTimeoutException", "timeout_error"), ("serviceUnavailableException", "overloaded_error"),
    ("somethingNewException", "api_error"),
]  # fmt: skip


@pytest.mark.parametrize("before", [b"", chunk(START) + chunk(DELTA)], ids=["first", "mid-way"])
@pytest.mark.parametrize(("name", "kind"), EXCEPTIONS)
def test_an_exception_is_one_error_event_of_anthropics_type_and_the_end(before: bytes, name: str, kind: str) -> None:
    events = ServerSentEvents()
    secret = "arn:aws:bedrock:us-east-1:123456789012:x"
    body = events.feed(before + exception(name, secret) + chunk(DELTA))
    assert body.count(b"event: error\n") == 1
    told: dict[str, Any] = json.loads(body.rsplit(b"data: ", 1)[1])
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    assert secret.encode() not in body
    assert events.exception == StreamException(name, secret)
    assert events.end() == ""
    assert events.feed(chunk(STOP)) == b""


def test_an_error_message_is_told_by_its_headers() -> None:
    events = ServerSentEvents(lambda one: json.dumps([one.name, one.message]).encode())
    body = events.feed(encode({":message-type": "error", ":error-code": "InternalError", ":error-message": "a"}, b"?"))
    assert body == b'event: error\ndata: ["InternalError", "a"]\n\n'


def test_an_error_event_of_the_model_ends_the_stream_too() -> None:
    told = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    assert translated([chunk(told) + chunk(STOP)]) == (sse(told), "")


def test_headers_of_odd_frames_are_not_remembered() -> None:
    event_stream._known.cache_clear()
    read([encode({"x": "y" * 600}, b"")])
    assert event_stream._known.cache_info().currsize == 0
