"""Answers that are not as they should be: what a model may have made is charged once, as an estimate where the answer
does not say it, and a client hears of an error once and in the API's own form."""

from __future__ import annotations

import json
from typing import Any

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
    as_json,
    ask,
    delta,
    ended,
    event,
    good,
    journey,
    message,
    started,
    stream,
    told,
    whole_stream,
)

TEXT = "word " * 89
PASSED = 101  # tokens that are put at it


def ends(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn"}, **({"usage": usage} if usage else {}))


def streamed(
    name: str, used: tuple[int, int], *, first: bytes | None = None, last: bytes, estimated: bool = True
) -> Journey:
    events = (first or started(), BLOCK, delta(TEXT), BLOCK_STOP, last, STOP)
    want = Want(by="a", attempts=1, used=used, record={"outcome": "ok", "estimated": estimated})
    return journey(f"a stream {name}", ask(stream=True, want=want), upstream={"a": [stream(*events)]}, asked="a")


def whole(name: str, used: tuple[int, int | None], usage: Any, *, estimated: bool = True) -> Journey:
    """`used` without a count of output: what the whole answer is put at, which is all that it may have had."""
    body = json.loads(good(TEXT).pieces[0][1])
    body["usage"] = usage
    output = 100 if used[1] is None else used[1]
    want = Want(by="a", attempts=1, used=(used[0], output), record={"outcome": "ok", "estimated": estimated})
    return journey(f"an answer in JSON {name}", ask(want=want), upstream={"a": [as_json(200, body)]}, asked="a")


SIZE = len(json.dumps(message(stream=True))) // 4  # tokens that are put at what was asked
ASKED = len(json.dumps(message())) // 4
AT_ONCE = (started(), BLOCK, delta(TEXT), BLOCK_STOP, ends(), STOP)
ODD_USAGE = [
    journey(
        "a stream in one piece that tells nothing of its output is put at what passed",
        ask(stream=True, want=Want(by="a", used=(100, PASSED), record={"outcome": "ok", "estimated": True})),
        upstream={"a": [stream(b"".join(AT_ONCE))]},
    ),
    streamed("that tells nothing of its output is put at what passed", (100, PASSED), last=ends()),
    streamed("whose output is text is put at what passed", (100, PASSED), last=ends(output_tokens="800")),
    streamed("whose output is below nothing is put at what passed", (100, PASSED), last=ends(output_tokens=-5)),
    streamed(
        "with a field of another kind keeps its counts, and is an estimate", (100, 800),
        last=ends(output_tokens=800, server_tool_use={"web_search_requests": "2"}), estimated=True,
    ),
    streamed(
        "that tells nothing of its input is put at what was asked", (SIZE, 20),
        first=event("message_start", message={"id": "msg_1", "type": "message", "content": []}), last=ended(),
        estimated=True,
    ),
    streamed(
        "that tells its input at its end is no estimate", (7, 20),
        first=event("message_start", message={"id": "msg_1", "type": "message", "content": []}),
        last=ends(input_tokens=7, output_tokens=20), estimated=False,
    ),
    whole("with an empty usage is put at what passed", (ASKED, None), {}),
    whole("without a count of its output is put at what passed", (9, None), {"input_tokens": 9}),
    whole("with a count that is none is put at what passed", (9, None), {"input_tokens": 9, "output_tokens": 1.5}),
    whole("with all counts is no estimate", (9, 3), {"input_tokens": 9, "output_tokens": 3}, estimated=False),
]  # fmt: skip


@pytest.mark.parametrize("journey", ODD_USAGE, ids=str)
def test_what_an_answer_does_not_tell_of_its_usage_is_estimated(journey: Journey, rig: Rig):
    rig.play(journey)


OPEN = (started(), BLOCK, delta("Good "))
NAMES = "message_start content_block_start content_block_delta error"


def after_an_error(name: str, error: bytes, kind: str, says: str, **more: Any) -> Journey:
    want = Want(
        by="a", attempts=1, events=NAMES, error=kind, says=says,
        record={"outcome": "interrupted", "cause": "upstream", "estimated": True},
    )  # fmt: skip
    return journey(
        f"an error inside a stream is its end: {name}", ask(stream=True, want=want),
        upstream={"a": [stream(*OPEN, error, **more)]}, asked="a",
    )  # fmt: skip


GOOGLE = {"error": {"code": 503, "message": "projects/mine is away", "status": "UNAVAILABLE"}}
ERRORS = [
    after_an_error("reset", told(), "overloaded_error", "Upstream's words.", ends="reset"),
    after_an_error("silence", told(), "overloaded_error", "Upstream's words.", ends="silent"),
    after_an_error("more events", told() + delta("evening."), "overloaded_error", "Upstream's words."),
    after_an_error("no JSON", b"event: error\ndata: upstream connect error\n\n", "api_error", "ended its stream"),
    after_an_error("words for an object", event("error", error="overloaded"), "api_error", "ended its stream"),
    *(
        journey(
            f"an error of another form before any content is no answer: {error.decode()}",
            ask(stream=True, want=Want(by="b", attempts=2, content="Good evening.", used=(100, 20))),
            upstream={"a": [stream(PING, error)]},
            asked="a b",
        )
        for error in (
            b"event: error\ndata: upstream connect error\n\n",
            b"event: error\ndata: %b\n\n" % json.dumps(GOOGLE).encode(),
            b"data: %b\n\n" % json.dumps(GOOGLE).encode(),
            event("error", error="overloaded"),
        )
    ),
    journey(
        "an error of another form that everybody gives is told in the API's own",
        ask(stream=True, want=Want(error="api_error", says="ended its stream", used=(0, 0))),
        upstream={"*": [stream(b"event: error\ndata: no upstream\n\n") for _ in range(6)]},
    ),
]


@pytest.mark.parametrize("journey", ERRORS, ids=str)
def test_a_client_hears_of_an_error_in_a_stream_once(journey: Journey, rig: Rig):
    rig.play(journey)


def improper(name: str, answer: Answer, stream: bool = False) -> Journey:
    want = Want(status=502, by="a", attempts=1, error="api_error", record={"outcome": "error", "estimated": True})
    return journey(
        f"{name} may have been billed and is not asked for again", ask(stream=stream, want=want),
        upstream={"a": [answer]}, asked="a",
    )  # fmt: skip


WHOLE = good().pieces[0][1]
CLOSED = [
    improper("half an answer until the connection closes", as_json(200, WHOLE[: len(WHOLE) // 2])),
    improper("an answer behind a byte order mark", as_json(200, b"\xef\xbb\xbf" + WHOLE)),
    improper("an answer that says it is text", Answer(200, (("content-type", "text/plain"),), ((0.0, WHOLE),))),
    improper("an answer that does not say what it is", Answer(200, (), ((0.0, WHOLE),))),
    improper(
        "a stream that says it is text",
        Answer(200, (("content-type", "text/plain"),), ((0.0, b"".join(whole_stream())),)), stream=True,
    ),
    *(
        journey(
            f"what is no answer at all is asked for elsewhere: {body.decode()}",
            ask(want=Want(by="b", attempts=2)),
            upstream={"a": [Answer(200, (("content-type", kind),), ((0.0, body),))]},
            asked="a b",
        )
        for kind, body in (("text/html", b"<html>Please sign in.</html>"), ("application/json", b'{"ok":true}'))
    ),
]  # fmt: skip


@pytest.mark.parametrize("journey", CLOSED, ids=str)
def test_what_may_have_been_billed_is_not_asked_for_twice(journey: Journey, rig: Rig):
    rig.play(journey)


@pytest.mark.parametrize("body", [b"", b"upstream connect error", b"null", b'{"error":"no object"}', b'"words"'])
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (413, "request_too_large"), (500, "api_error")]
)
def test_an_error_without_the_apis_own_form_is_told_in_it(status: int, kind: str, body: bytes, rig: Rig):
    answers = {"*": [as_json(status, body) for _ in range(6)]}
    want = Want(status=status, error=kind, says="no proper answer", used=(0, 0))
    rig.play(journey(f"a {status} of {body!r}", ask(want=want), upstream=answers))


def test_a_stream_of_a_text_completion_is_put_at_what_passed(rig: Rig):
    events = [event("completion", completion=text, stop_reason=None, model="claude-2.1") for text in ("Good ", TEXT)]
    body = {"model": "claude-2.1", "max_tokens_to_sample": 20, "prompt": "\n\nHuman: Hi\n\nAssistant:", "stream": True}
    size = len(json.dumps(body)) // 4
    want = Want(attempts=1, record={"outcome": "ok", "estimated": True}, used=(size, PASSED + 1))
    rig.play(
        journey(
            "a text completion in a stream", ask(path="/v1/complete", body=body, want=want),
            upstream={"*": [stream(*events)]},
        )
    )  # fmt: skip
