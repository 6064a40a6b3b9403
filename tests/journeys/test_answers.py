"""What each answer of an account does: to the account, and to the request, by the sort of its conversation.

The table is the rule. Each cell is played as JSON and as a stream; where these differ, a slash stands between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    MODEL,
    THINKER,
    Ask,
    Journey,
    Json,
    Want,
    as_json,
    ask,
    error,
    good,
    guessed,
    journey,
    limited,
    message,
    stream,
    told,
    usage,
    whole_stream,
)

# The conversation is at home on a; b is next by rank. What a answers, how a stands afterwards (unless it has served the
# request in the end, or its answer has passed: then it is open), and what becomes of the request:
#   moves    b serves it, and the conversation lives there from now on
#   detours  b serves it once
#   waits    a serves it, once it may
#   repeats  a serves it, asked once more within two seconds
#   passes   the client gets a's own words
#   429, 529 the client gets the gateway's words: nobody may serve it, or nobody can
#   502, 504 it was sent, and is not asked for again; the client is told so
#   breaks   the same in the middle of a stream: whole events, then an error
TABLE = """
answer                         | account     | none    | new     | cold    | warm    | thinking | pinned
429, 2 s                       | limited 2   | moves   | moves   | moves   | waits   | waits    | waits
429, 2 s, a whole bucket       | limited 2   | moves   | moves   | moves   | waits   | waits    | waits
429, 9 s                       | limited 9   | moves   | moves   | moves   | waits   | waits    | waits
429, 40 s                      | limited 40  | moves   | moves   | moves   | moves   | waits    | 429
429, 400 s                     | limited 400 | moves   | moves   | moves   | moves   | moves    | 429
429 without a time             | open        | moves   | moves   | moves   | moves   | moves    | passes
429 for a spend limit          | out 60      | moves   | moves   | moves   | moves   | moves    | 529
400 for want of credit         | out 60      | moves   | moves   | moves   | moves   | moves    | 529
400 for a spend limit          | out 60      | moves   | moves   | moves   | moves   | moves    | 529
402                            | out 60      | moves   | moves   | moves   | moves   | moves    | 529
401                            | open        | moves   | moves   | moves   | moves   | moves    | 529
403                            | out 600     | moves   | moves   | moves   | moves   | moves    | passes
404                            | out 600     | moves   | moves   | moves   | moves   | moves    | passes
529                            | open        | detours | detours | detours | repeats | repeats  | repeats
500                            | open        | detours | detours | detours | detours | detours  | passes
503                            | open        | detours | detours | detours | detours | detours  | passes
520                            | open        | detours | detours | detours | detours | detours  | passes
error event: overloaded        | open        |         | detours | detours | repeats | repeats  | repeats
error event: api_error         | open        |         | detours | detours | detours | detours  | passes
error event: rate limit        | open        |         | moves   | moves   | moves   | moves    | passes
error event: authentication    | open        |         | moves   | moves   | moves   | moves    | 529
error event: invalid           | open        |         | moves   | moves   | moves   | moves    | passes
no connection                  | open        | detours | detours | detours | detours | detours  | 529
hung up                        | open        | 502     | 502     | 502     | 502     | 502      | 502
never                          | open        | 504     | 504     | 504     | 504     | 504      | 504
no HTTP                        | open        | 502     | 502     | 502     | 502     | 502      | 502
cut in its middle              | open        | 502     | 502/breaks | 502/breaks | 502/breaks | 502/breaks | 502/breaks
silent in its middle           | open        | 504     | 504/breaks | 504/breaks | 504/breaks | 504/breaks | 504/breaks
400                            | open        | moves   | moves   | moves   | moves   | moves    | passes
405                            | open        | moves   | moves   | moves   | moves   | moves    | passes
409                            | open        | passes  | passes  | passes  | passes  | passes   | passes
413                            | open        | passes  | passes  | passes  | passes  | passes   | passes
422                            | open        | passes  | passes  | passes  | passes  | passes   | passes
"""

WHOLE_BUCKET = tuple(
    (f"anthropic-ratelimit-{kind}-{what}", "100000")
    for kind in ("requests", "input-tokens")
    for what in ("limit", "remaining")
)


def broken(ends: str) -> Callable[[bool], Answer]:
    """An answer of which half comes."""

    def answer(streamed: bool) -> Answer:
        return stream(*whole_stream()[:4], ends=ends) if streamed else good(ends=ends)

    return answer


# What stands in the first column.
ANSWERS: dict[str, Answer | Callable[[bool], Answer]] = {
    "429, 2 s": limited(2),
    "429, 2 s, a whole bucket": limited(2, *WHOLE_BUCKET),
    "429, 9 s": limited(9),
    "429, 40 s": limited(40),
    "429, 400 s": limited(400),
    "429 without a time": limited(),
    "429 for a spend limit": error(
        429, "rate_limit_error", details={"details": {"error_code": "enforced_spend_limit"}}
    ),
    "400 for want of credit": error(400, "invalid_request_error", "Your credit balance is too low to go on."),
    "400 for a spend limit": error(400, "invalid_request_error", "You have reached your specified API usage limits."),
    "402": error(402, "billing_error"),
    "401": error(401, "authentication_error"),
    "403": error(403, "permission_error"),
    "404": error(404, "not_found_error"),
    "529": error(529, "overloaded_error"),
    "500": error(500, "api_error"),
    "503": error(503, "api_error"),
    "520": error(520, "api_error"),
    "error event: overloaded": stream(told("overloaded_error")),
    "error event: api_error": stream(told("api_error")),
    "error event: rate limit": stream(told("rate_limit_error")),
    "error event: authentication": stream(told("authentication_error")),
    "error event: invalid": stream(told("invalid_request_error")),
    "no connection": Answer(instead="refused"),
    "hung up": Answer(instead="hung up"),
    "never": Answer(instead="silent"),
    "no HTTP": Answer(instead="rubbish"),
    "cut in its middle": broken("cut"),
    "silent in its middle": broken("silent"),
    "400": error(400, "invalid_request_error"),
    "405": error(405, "invalid_request_error"),
    "409": error(409, "conflict_error"),
    "413": error(413, "request_too_large"),
    "422": error(422, "invalid_request_error"),
}
WAITS = {"429, 2 s": 2, "429, 2 s, a whole bucket": 2, "429, 9 s": 9, "429, 40 s": 40}


@dataclass(frozen=True)
class Sort:
    """A sort of conversation: what it asks, what was before, and the word for its route while a serves it, when it
    moves, and when it makes a detour. `detour_binds`: what is served elsewhere lives there."""

    body: Json
    stays: str
    moves: str
    detour: str
    given: tuple[Ask, ...] = ()
    then: tuple[Answer, ...] = ()
    later: float = 5.0
    detour_binds: bool = False
    conversation: str | None = "a b c"
    caller: str = "alice"
    path: str = "/v1/messages"

    @property
    def model(self) -> str:
        model: str = self.body["model"]
        return model


LONG = usage(20_000, 20)  # tokens that are worth a wait of ten seconds
SIGNED = message(
    model=THINKER,
    messages=[
        {"role": "user", "content": "Good morning."},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}]},
        {"role": "user", "content": "Go on."},
    ],
)
FILE = as_json(200, {"type": "file", "id": "file_1"})
CREATE = Ask(path="/v1/files", body=b"x", headers=(("content-type", "application/octet-stream"),), conversation=None)
SORTS = {
    "none": Sort(
        {"model": MODEL, "prompt": "\n\nHuman: Good morning.\n\nAssistant:", "max_tokens_to_sample": 100},
        "none", "none", "none", conversation=None, caller="dora", path="/v1/complete",
    ),
    "new": Sort(message(), "new", "new", "new", detour_binds=True),
    "cold": Sort(message(), "bound", "new", "detour", (ask(),), (good(used=LONG),), later=400.0),
    "warm": Sort(message(), "bound", "moved", "detour", (ask(),), (good(used=LONG),)),
    "thinking": Sort(SIGNED, "bound", "moved", "detour", (ask(body=SIGNED),), (good(used=LONG, model=THINKER),)),
    "pinned": Sort(
        message(messages=[{"role": "user", "content": [{"type": "container_upload", "file_id": "file_1"}]}]),
        "pinned", "pinned", "pinned", (CREATE,), (FILE,),
    ),
}  # fmt: skip


def outcome(word: str, answer: str, sort: Sort, streamed: bool) -> tuple[Want, str, str]:
    """What is wanted of the client's answer, who is asked, and where the conversation lives afterwards."""
    price = 10_000 if sort.model == THINKER else 5_000
    served: dict[str, Any] = {"used": (100, 20), "money": 100 * price // 5 + 20 * price}
    body = {**sort.body, "stream": True} if streamed else sort.body
    nothing: dict[str, Any] = {"used": (0, 0), "money": 0}
    if word == "moves":
        return Want(by="b", attempts=2, route=sort.moves, **served), "a b", "b"
    if word == "detours":
        home = "b" if sort.detour_binds else "a"
        return Want(by="b", attempts=2, route=sort.detour, **served), "a b", home
    if word == "waits":
        least = WAITS[answer]
        most = least + min(0.5, 0.05 + least / 4) + 0.5
        return Want(by="a", attempts=2, route=sort.stays, within=(least, most), **served), "a a", "a"
    if word == "repeats":
        return Want(by="a", attempts=2, route=sort.stays, within=(0.5, 2.5), **served), "a a", "a"
    if word == "passes":
        status = 200 if answer.startswith("error event") else int(answer.split()[0])
        says = "Slow down." if status == 429 else "Upstream's words."
        return Want(status=status, by="a", attempts=1, route=sort.stays, says=says, **nothing), "a", "a"
    if word in ("429", "529"):
        kind = "rate_limit_error" if word == "429" else "overloaded_error"
        return Want(status=int(word), attempts=1, route=sort.stays, error=kind, **nothing), "a", "a"
    # It was sent: an account may bill it.
    timeout = word == "504" or answer.startswith("silent")
    kind = "timeout_error" if timeout else "api_error"
    record = {"estimated": True, "cause": "timeout" if timeout else "upstream", "failover": ""}
    if word == "breaks":
        record["outcome"] = "interrupted"
        events = "message_start content_block_start content_block_delta content_block_delta( ping)* error"
        return (
            Want(by="a", attempts=1, route=sort.stays, events=events, error=kind, used=(100, 2), record=record),
            "a",
            "a",
        )
    assert word in ("502", "504"), word
    record["outcome"] = "error"
    if answer == "never" and streamed:  # pings have committed the status
        return Want(status=200, error=kind, used=(guessed(body), 0), record={**record, "attempts": 1}), "a", "a"
    used = (guessed(body), 0)
    return Want(status=int(word), by="a", attempts=1, route=sort.stays, error=kind, used=used, record=record), "a", "a"


def cell(answer: str, account: str, name: str, word: str, streamed: bool) -> Journey:
    sort = SORTS[name]
    want, asked, home = outcome(word, answer, sort, streamed)
    said = ANSWERS[answer]
    body = {**sort.body, "stream": True} if streamed else sort.body
    what = {"none": "a request without a conversation", "new": "a new conversation", "cold": "a cold conversation",
            "warm": "a warm conversation", "thinking": "a conversation that one account thinks",
            "pinned": "a request that names a file"}[name]  # fmt: skip
    return journey(
        f"{what} that gets {answer} {word} ({'stream' if streamed else 'JSON'})",
        # Sent again just after a look at silent streams: a ping is due at the next.
        Ask(
            want,
            at=0.4 if word == "waits" else 0.0,
            conversation=sort.conversation,
            caller=sort.caller,
            path=sort.path,
            body=body,
        ),
        upstream={"a": [said if isinstance(said, Answer) else said(streamed)]},
        given=sort.given,
        then={"a": sort.then},
        later=sort.later,
        config={"timeouts": {"first_byte": 60, "total": 200, "idle": 30, "ping": 20}},
        asked=asked,
        accounts={} if word in ("waits", "repeats", "passes") else {"a": account},
        bound=home if sort.conversation is not None else None,
        model=sort.model,
    )


def journeys() -> list[Journey]:
    head, *rows = ([each.strip() for each in line.split("|")] for line in TABLE.strip().splitlines())
    found = []
    for answer, account, *words in rows:
        for name, both in zip(head[2:], words, strict=True):
            json_word, _, stream_word = both.partition("/")
            if json_word and not answer.startswith("error event"):
                found.append(cell(answer, account, name, json_word, streamed=False))
            if json_word and name != "none":
                found.append(cell(answer, account, name, stream_word or json_word, streamed=True))
    return found


@pytest.mark.parametrize("journey", journeys(), ids=str)
def test_what_an_answer_does(journey: Journey, rig: Rig):
    rig.play(journey)
