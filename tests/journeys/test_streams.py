"""Streams on their way back: whole, cut anywhere, opened by an error, silent, or never ended."""

from __future__ import annotations

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    BLOCK,
    BLOCK_STOP,
    PING,
    STOP,
    Journey,
    Want,
    ask,
    delta,
    ended,
    event,
    good,
    journey,
    paced,
    started,
    stream,
    told,
    usage,
    whole_stream,
)

TEXTS = ("Good ", "evening", ", all.")
EVENTS = whole_stream(*TEXTS)
NAMES = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_delta",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
]
LONG = (started(), BLOCK, delta("x" * 200_000), BLOCK_STOP, ended(), STOP)
# Tokens of output that are put at a stream that broke off after so many of its events.
PASSED = (0, 1, 1, 1, 2, 4, 4, 20)


def broken(count: int, ends: str, half: bool) -> Journey:
    """A stream of which `count` events come whole, and perhaps half of the next; then the connection ends."""
    events = EVENTS[:count]
    if half:
        events += (EVENTS[count][: len(EVENTS[count]) // 2],)
    if count > 1:
        want = Want(
            by="a", attempts=1, route="new", events=" ".join([*NAMES[:count], "error"]), error="api_error",
            content="".join(TEXTS[: max(0, count - 2)]), used=(100, PASSED[count]),
            money=100_000 + 5_000 * PASSED[count],
            record={"outcome": "interrupted", "cause": "upstream", "estimated": True, "stream": True},
        )  # fmt: skip
    else:  # a message_start alone is no answer yet
        want = Want(
            status=502, by="a", attempts=1, route="new", error="api_error",
            used=(100, PASSED[1]) if count else None,
            record={"outcome": "error", "cause": "upstream", "estimated": True},
        )  # fmt: skip
    where = f"{'inside' if half else 'before'} event {count + 1} ({NAMES[count]})"
    how = {"cut": "is cut", "reset": "is reset", "whole": "ends in good order"}[ends]
    return journey(
        f"a stream that {how} {where} ends in an error after whole events",
        ask(stream=True, want=want),
        upstream={"a": [stream(*events, ends=ends)]},
        asked="a",
        bound="a",
    )


CUT = [
    broken(count, ends, half)
    for ends in ("cut", "reset", "whole")
    for count in range(len(EVENTS))
    for half in (False, True)
]


@pytest.mark.parametrize("journey", CUT, ids=str)
def test_a_cut_stream_never_looks_complete(journey: Journey, rig: Rig):
    rig.play(journey)


def refused(kind: str, want: Want, asked: str, by: str = "a", **more: object) -> Journey:
    """A stream whose first event is an error of this type, on each account of `by`."""
    return journey(
        f"an error of type {kind} as the first event is no answer of {by}",
        ask(stream=True, want=want),
        upstream={name: [stream(told(kind))] for name in by.split()},
        asked=asked,
        **more,
    )


def theirs(kind: str, by: str, attempts: int) -> Want:
    """The upstream's own refusal."""
    return Want(
        by=by,
        attempts=attempts,
        route="new",
        error=kind,
        says="Upstream's words.",
        used=(0, 0),
        money=0,
        record={"outcome": "error"},
    )


ENDED = Want(
    by="a",
    events="message_start .* message_delta( ping)* message_stop",
    used=(100, 20),
    record={"outcome": "ok", "estimated": False},
)
ELSEWHERE = Want(by="b", attempts=2, route="new", content="Good evening.", used=(100, 20))
OPENINGS = [
    refused("overloaded_error", ELSEWHERE, "a b", bound="b"),
    refused("api_error", ELSEWHERE, "a b", bound="b"),
    refused("timeout_error", ELSEWHERE, "a b", bound="b"),
    refused("rate_limit_error", ELSEWHERE, "a b", bound="b"),
    refused("authentication_error", ELSEWHERE, "a b", bound="b"),
    refused("billing_error", ELSEWHERE, "a b", bound="b", accounts={"a": "out 60"}),
    refused("permission_error", ELSEWHERE, "a b", bound="b", accounts={"a": "out 600"}),
    refused("request_too_large", theirs("request_too_large", "a", 1), "a"),
    *(
        each
        for kind in ("invalid_request_error", "not_found_error")
        for each in (
            refused(kind, ELSEWHERE, "a b", bound="b"),
            refused(kind, theirs(kind, "b", 2), "a b", "a b", bound="a"),
        )
    ),
    *(
        journey(
            f"an error of type {kind} after message_start and before any content is no answer",
            ask(stream=True, want=ELSEWHERE),
            upstream={"a": [stream(started(), PING, told(kind))]},
            asked="a b",
            bound="b",
        )
        for kind in ("overloaded_error", "api_error")
    ),
    journey(
        "an error after content is the client's",
        ask(
            stream=True,
            want=Want(by="a", attempts=1, events="message_start content_block_start error", error="overloaded_error"),
        ),
        upstream={"a": [stream(started(), BLOCK, told("overloaded_error"))]},
        asked="a",
    ),
    journey(
        "a message_start is held until a long silence, and what fails after that is the client's",
        ask(
            stream=True,
            want=Want(
                events="ping( ping)* message_start ping( ping)* error",
                error="overloaded_error",
                within=(15.0, 17.0),
                record={"outcome": "interrupted"},
            ),
        ),
        upstream={"a": [stream(started(), told("overloaded_error"), gap=40.0)]},
        asked="a",
    ),
    journey(
        "after the model has said why it stopped pings are no life",
        ask(stream=True, want=ENDED),
        upstream={"a": [stream(*EVENTS[:-1], *[PING] * 40, gap=10.0, ends="silent")]},
        config={"timeouts": {"idle": 60}},
        asked="a",
    ),
    journey(
        "after the model has said why it stopped silence ends a stream well, since all of it has come",
        ask(stream=True, want=ENDED),
        upstream={"a": [stream(*EVENTS[:-1], ends="silent")]},
        config={"timeouts": {"idle": 60}},
        asked="a",
    ),
    journey(
        "pings before an error as the first real event do not commit the stream",
        ask(stream=True, want=ELSEWHERE),
        upstream={"a": [stream(PING, PING, told("overloaded_error"))]},
        asked="a b",
    ),
    journey(
        "a stream of pings alone that is cut is a broken answer",
        ask(stream=True, want=Want(status=502, by="a", attempts=1, error="api_error", record={"outcome": "error"})),
        upstream={"a": [stream(PING, PING, ends="cut")]},
        asked="a",
    ),
    journey(
        "a stream without a byte is a broken answer",
        ask(stream=True, want=Want(status=502, by="a", attempts=1, error="api_error", record={"estimated": True})),
        upstream={"a": [stream()]},
        asked="a",
    ),
]


@pytest.mark.parametrize("journey", OPENINGS, ids=str)
def test_what_a_stream_opens_with_decides_whose_answer_it_is(journey: Journey, rig: Rig):
    rig.play(journey)


BODY = "message_start content_block_start content_block_delta content_block_delta"
OPEN = (*whole_stream()[:4],)
WHOLE = b"".join(EVENTS)


def cut(size: int) -> list[bytes]:
    """The whole stream in segments."""
    return [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]


SHAPES = [
    journey(
        "a whole stream passes byte for byte",
        ask(
            stream=True,
            want=Want(
                by="a",
                attempts=1,
                body=WHOLE,
                used=(100, 20),
                money=200_000,
                headers={"content-type": "text/event-stream; charset=utf-8", "request-id": "req_upstream"},
                record={"outcome": "ok", "cause": "", "estimated": False, "upstream_request_id": "req_upstream"},
            ),
        ),
        upstream={"a": [stream(*EVENTS)]},
    ),
    journey(
        "a stream that comes in one piece passes byte for byte",
        ask(stream=True, want=Want(body=WHOLE, used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(b"".join(EVENTS))]},
    ),
    journey(
        "a stream that comes byte by byte passes byte for byte",
        ask(stream=True, want=Want(body=WHOLE, used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*cut(1), gap=0.001)]},
    ),
    *(
        journey(
            f"a stream cut to segments of {size} bytes passes byte for byte",
            ask(stream=True, want=Want(body=WHOLE, used=(100, 20), record={"outcome": "ok"})),
            upstream={"a": [stream(*cut(size), gap=0.01)]},
        )
        for size in (2, 3, 7, 16, 61, 127, 256)
    ),
    journey(
        "lines that end in CRLF pass as they come, and are metered",
        ask(stream=True, want=Want(body=WHOLE.replace(b"\n", b"\r\n"), used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*(each.replace(b"\n", b"\r\n") for each in EVENTS))]},
    ),
    journey(
        "nothing follows message_stop",
        ask(stream=True, want=Want(body=WHOLE, used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*EVENTS[:-1], STOP + event("afterthought"), event("another"))]},
    ),
    journey(
        "an upstream that goes on after message_stop is hung up on",
        ask(stream=True, want=Want(body=WHOLE, ended="whole", record={"outcome": "ok"})),
        upstream={"a": [stream(*EVENTS, ends="silent")]},
    ),
    journey(
        "an error in the middle passes, and the stream ends with it",
        ask(
            stream=True,
            want=Want(
                by="a",
                events=f"{BODY} error",
                error="overloaded_error",
                says="Upstream's words.",
                used=(100, 2),
                record={"outcome": "interrupted", "cause": "upstream"},
            ),
        ),
        upstream={"a": [stream(*OPEN, told())]},
    ),
    journey(
        "pings pass, whether within a stream or before it",
        ask(
            stream=True,
            want=Want(events=f"ping {BODY} ping content_block_stop message_delta message_stop", used=(100, 20)),
        ),
        upstream={"a": [stream(PING, *OPEN, PING, BLOCK_STOP, ended(), STOP)]},
    ),
    journey(
        "what the cache did is told apart",
        ask(
            stream=True,
            want=Want(used=(10, 1000, 300, 700, 20), money=10_000 + 100_000 + 375_000 + 1_400_000 + 100_000),
        ),
        upstream={
            "a": [
                stream(
                    *whole_stream(
                        used=usage(
                            10,
                            20,
                            cache_read_input_tokens=1000,
                            cache_creation_input_tokens=1000,
                            cache_creation={"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 700},
                        )
                    )
                )
            ]
        },
    ),
    journey(
        "a stream that was not asked for passes all the same",
        ask(want=Want(body=WHOLE, used=(100, 20), record={"outcome": "ok", "stream": False})),
        upstream={"a": [stream(*EVENTS)]},
    ),
    journey(
        "an answer in JSON to one who asked for a stream passes",
        ask(stream=True, want=Want(content="Good evening.", used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [good()]},
    ),
    journey(
        "an event of more than 64 KiB passes",
        ask(stream=True, want=Want(body=b"".join(LONG), used=(100, 20), record={"outcome": "ok"})),
        upstream={"a": [stream(*LONG)]},
    ),
    journey(
        "a cut within an event of which the client has a part breaks the connection",
        ask(stream=True, want=Want(ended="cut", used=None, record={"outcome": "interrupted", "cause": "upstream"})),
        upstream={"a": [stream(*LONG[:2], LONG[2][:100_000], ends="cut")]},
    ),
]


@pytest.mark.parametrize("journey", SHAPES, ids=str)
def test_a_stream_passes_as_it_comes(journey: Journey, rig: Rig):
    rig.play(journey)


SHORT = {"timeouts": {"first_byte": 20, "total": 30, "idle": 10, "ping": 3}}
SOON = tuple((0.1, each) for each in OPEN)
REST = ((0.1, ended()), (0.1, STOP))
SILENCE = [
    journey(
        "pings of the gateway break the silence before the first event, and another account may still answer",
        ask(
            stream=True,
            want=Want(
                events=f"ping+ {BODY} content_block_stop message_delta message_stop",
                within=(3, 4.5),
                attempts=None,
                by=None,
                record={"account": "b", "attempts": 2},
            ),
        ),
        upstream={"a": [stream(told(), gap=7.0)]},
        config=SHORT,
        asked="a b",
    ),
    journey(
        "pings of the gateway break the silence in the middle",
        ask(
            stream=True, want=Want(events=f"{BODY} ping+ content_block_stop message_delta message_stop", used=(100, 20))
        ),
        upstream={"a": [paced(*SOON, (8.0, BLOCK_STOP), *REST)]},
        config=SHORT,
    ),
    journey(
        "an upstream that falls silent in the middle ends in a timeout",
        ask(
            stream=True,
            want=Want(
                events=f"{BODY} ping+ error",
                error="timeout_error",
                used=(100, 2),
                record={"outcome": "interrupted", "cause": "timeout", "estimated": True},
            ),
        ),
        upstream={"a": [stream(*OPEN, ends="silent")]},
        config=SHORT,
    ),
    journey(
        "pings of the upstream count as life",
        ask(stream=True, want=Want(events=f"{BODY} ping ping ping content_block_stop message_delta message_stop")),
        upstream={"a": [paced(*SOON, *[(2.9, PING)] * 3, (0.1, BLOCK_STOP), *REST)]},
        config=SHORT,
    ),
    journey(
        "a head that never comes ends a stream in a timeout",
        ask(
            stream=True,
            want=Want(
                status=200,
                events="ping+ error",
                error="timeout_error",
                record={"outcome": "error", "cause": "timeout", "estimated": True},
            ),
        ),
        upstream={"a": [Answer(instead="silent")]},
        config=SHORT,
    ),
    journey(
        "a head that never comes is a timeout",
        ask(
            want=Want(
                status=504,
                by="a",
                error="timeout_error",
                within=(20, 21),
                record={"outcome": "error", "cause": "timeout", "estimated": True},
            )
        ),
        upstream={"a": [Answer(instead="silent")]},
        config=SHORT,
        asked="a",
    ),
    journey(
        "a body that never ends is a timeout",
        ask(want=Want(status=504, by="a", error="timeout_error", within=(10, 11), record={"cause": "timeout"})),
        upstream={"a": [good(ends="silent")]},
        config=SHORT,
    ),
]


@pytest.mark.parametrize("journey", SILENCE, ids=str)
def test_silence_is_bounded(journey: Journey, rig: Rig):
    rig.play(journey)
