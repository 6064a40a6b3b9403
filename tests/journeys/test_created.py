"""Objects that a message brings: a container, files made in it, a thread. They are its caller's, before it knows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    BLOCK_STOP,
    MODEL,
    STOP,
    Ask,
    Journey,
    Json,
    Want,
    as_json,
    ask,
    ended,
    event,
    journey,
    limited,
    message,
    stream,
    usage,
)

RESULT = {
    "type": "code_execution_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {
        "type": "code_execution_result",
        "content": [{"type": "code_execution_output", "file_id": "file_made"}],
    },
}
BRINGS: dict[str, Json] = {
    "a container": {"container": {"id": "container_1", "expires_at": "2030-03-18T00:00:00Z"}},
    "a file": {"content": [RESULT]},
}


def answer(**more: Any) -> Answer:
    body = {
        "id": "msg_made", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{"type": "text", "text": "."}],
        "usage": usage(), **more,
    }  # fmt: skip
    return as_json(200, body)


def streamed(what: str) -> Answer:
    told = {"id": "msg_made", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage()}
    begin = event("message_start", message={**told, **(BRINGS[what] if what == "a container" else {})})
    block = event(
        "content_block_start", index=0, content_block=RESULT if what == "a file" else {"type": "text", "text": ""}
    )
    return stream(begin, block, BLOCK_STOP, ended(), STOP)


USES: dict[str, Json] = {
    "a container": message(container="container_1"),
    "a file": message(messages=[{"role": "user", "content": [{"type": "container_upload", "file_id": "file_made"}]}]),
}
PINNED = Want(by="b", attempts=1, route="pinned", used=(100, 20))
UNKNOWN = Want(status=404, error="not_found_error", attempts=0, record={"account": ""})
MADE = Want(by="b", attempts=1, used=(100, 20), record={"outcome": "ok"})

OWNED = [
    journey(
        f"{what} that {'a stream' if stream_ else 'an answer'} brings is its caller's, where it was made",
        ask(stream=stream_, conversation="b", want=MADE),
        Ask(PINNED, at=10.0, body=USES[what], conversation="a#2"),
        Ask(UNKNOWN, at=11.0, body=USES[what], conversation="a#3", caller="bob"),
        Ask(UNKNOWN, at=12.0, body=USES[what], conversation="a#4", caller="carol"),
        upstream={"b": [streamed(what) if stream_ else answer(**BRINGS[what])]},
        asked="b b",
    )
    for what in BRINGS
    for stream_ in (False, True)
]
EARLY = [
    journey(
        f"{what} may be used before the stream that brings it has ended",
        ask(stream=True, conversation="b", want=MADE),
        Ask(PINNED, at=0.32, body=USES[what], conversation="a#2"),
        upstream={"b": [streamed(what)]},
        asked="b b",
    )
    for what in BRINGS
]
AWAY = [
    journey(
        f"{what} that {'a stream' if stream_ else 'an answer'} brings is its caller's though the store is away",
        ask(stream=stream_, conversation="b", at=1.0, want=MADE),
        Ask(PINNED, at=5.0, body=USES[what], conversation="b#2"),
        Ask(PINNED, at=30.0, body=USES[what], conversation="a#3", replica=1),
        upstream={"b": [streamed(what) if stream_ else answer(**BRINGS[what])]},
        does=((0.5, "store", "away"), (20.0, "store", "here")),
        asked="b b b",
        replicas=2,
    )
    for what in BRINGS
    for stream_ in (False, True)
]


def thread(want: Want, previous: str = "", **more: Any) -> Ask:
    asked = {"type": "continue", "previous_message_id": previous} if previous else {"type": "create"}
    return Ask(want, body=message(thread=asked, **more.pop("body", {})), **more)


THREADS = [
    journey(
        "a thread goes on where it is, for its caller alone",
        thread(MADE, conversation="b"),
        thread(PINNED, "msg_made", at=5.0, conversation="a#2"),
        thread(UNKNOWN, "msg_made", at=6.0, conversation="a#3", caller="bob"),
        upstream={"b": [answer()]},
        asked="b b",
    ),
    journey(
        "a thread that a stream began goes on where it is",
        thread(MADE, conversation="b", body={"stream": True}),
        thread(PINNED, "msg_made", at=5.0, conversation="a#2"),
        upstream={"b": [streamed("a file")]},
        asked="b b",
    ),
    journey(
        "a message that is no thread is nobody's to go on with",
        ask(conversation="b", want=MADE),
        thread(UNKNOWN, "msg_made", at=5.0, conversation="b"),
        upstream={"b": [answer()]},
        asked="b",
    ),
    journey(
        "a thread that nobody knows is not found, in words by which SDKs begin anew",
        thread(Want(status=404, error="not_found_error", attempts=0), "msg_nobody"),
        asked="",
    ),
]

APART = [
    journey(
        "objects that live apart cannot be used together",
        ask(conversation="b", want=MADE),
        ask(conversation="a", at=2.0, want=Want(by="a")),
        Ask(
            Want(status=400, error="invalid_request_error", says="live on different accounts", attempts=0),
            at=5.0,
            body={**USES["a file"], "container": "container_1"},
        ),
        upstream={"b": [answer(**BRINGS["a container"])], "a": [answer(**BRINGS["a file"])]},
        asked="b a",
    ),
    journey(
        "what a tool's input says is no object",
        ask(conversation="b", want=MADE),
        Ask(UNKNOWN, at=5.0, body=USES["a file"]),
        upstream={
            "b": [answer(content=[{"type": "tool_use", "id": "t", "name": "n", "input": {"file_id": "file_made"}}])]
        },
        asked="b",
    ),
    journey(
        "a warm conversation that names a file goes where that lives, and stays there",
        ask(conversation="b#2", want=MADE),
        Ask(PINNED, at=5.0, body=USES["a file"]),
        ask(at=10.0, want=Want(by="b", route="bound")),
        given=(ask(),),
        upstream={"b": [answer(**BRINGS["a file"])]},
        asked="b b b",
        bound="b",
    ),
    journey(
        "an object's account that is closed is waited for, and nobody else is asked",
        ask(conversation="b#2", want=MADE),
        Ask(Want(by="b", attempts=2, route="pinned", within=(3.0, 4.0)), at=5.0, body=USES["a file"]),
        upstream={"b": [answer(**BRINGS["a file"]), limited(3)]},
        asked="b b b",
    ),
    journey(
        "an object whose account is disabled is not to be had",
        ask(conversation="b#2", want=MADE),
        Ask(Want(status=529, error="overloaded_error", attempts=0), at=5.0, body=USES["a file"]),
        upstream={"b": [answer(**BRINGS["a file"])]},
        does=((3.0, "disable", "b"),),
        asked="b",
        accounts={"b": "disabled"},
    ),
    journey(
        "an object whose account drains is still to be had",
        ask(conversation="b#2", want=MADE),
        Ask(PINNED, at=5.0, body=USES["a file"]),
        upstream={"b": [answer(**BRINGS["a file"])]},
        does=((3.0, "drain", "b"),),
        asked="b b",
    ),
    journey(
        "an object whose account has left the pool is not found",
        ask(conversation="b#2", want=MADE),
        Ask(UNKNOWN, at=5.0, body=USES["a file"]),
        upstream={"b": [answer(**BRINGS["a file"])]},
        does=((3.0, "remove", "b"),),
        asked="b",
        accounts={"b": "gone"},
    ),
]


@pytest.mark.parametrize("journey", OWNED + EARLY + AWAY + THREADS + APART, ids=str)
def test_what_messages_bring(journey: Journey, rig: Rig):
    rig.play(journey)
