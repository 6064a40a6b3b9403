"""Where conversations live: recognised, bound, kept, moved by operators, and never told by one caller to another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    Ask,
    Journey,
    Want,
    ask,
    error,
    good,
    journey,
    limited,
    message,
    stream,
    usage,
    whole_stream,
)


def on(account: str, route: str, **more: Any) -> Want:
    return Want(by=account, attempts=1, route=route, **more)


# -- What a conversation is -------------------------------------------------------------------------------------------

SESSION = "c0ffee00-0000-4000-8000-00000000000a"


def twice(name: str, *asks: dict[str, Any], same: bool = True) -> Journey:
    """Two requests: of one conversation, so that the second is bound, or of two, so that it is new."""
    first, second = (ask(conversation=None, **each) for each in asks)
    return journey(
        name,
        replace(first, want=Want(attempts=1, route="new")),
        replace(second, at=5.0, want=Want(attempts=1, route="bound" if same else "new")),
        asked=r"(\w) \1" if same else None,
    )


def metadata(user_id: str) -> dict[str, Any]:
    return {"metadata": {"user_id": user_id}}


def header(**values: str) -> dict[str, Any]:
    return {"headers": tuple((name.replace("_", "-"), value) for name, value in values.items())}


FIRST: dict[str, Any] = {"messages": [{"role": "user", "content": "What is a lease?"}]}
SECOND: dict[str, Any] = {
    "messages": [*FIRST["messages"], {"role": "assistant", "content": "A slot."}, {"role": "user", "content": "Go on."}]
}
RECOGNISED = [
    twice("a conversation id names a conversation", header(x_conversation_id="one"), header(x_conversation_id="one")),
    twice(
        "another conversation id names another",
        header(x_conversation_id="one"),
        header(x_conversation_id="two"),
        same=False,
    ),
    twice(
        "the same conversation id is another caller's conversation",
        header(x_conversation_id="one"),
        {**header(x_conversation_id="one"), "caller": "bob"},
        same=False,
    ),
    twice(
        "the same conversation id is another conversation of a colleague's",
        header(x_conversation_id="one"),
        {**header(x_conversation_id="one"), "caller": "carol"},
        same=False,
    ),
    twice(
        "Claude Code's session names a conversation",
        header(x_claude_code_session_id=SESSION),
        {**header(x_claude_code_session_id=SESSION), **SECOND},
    ),
    twice(
        "an agent of a session has a conversation of its own",
        header(x_claude_code_session_id=SESSION),
        header(x_claude_code_session_id=SESSION, x_claude_code_agent_id="agent"),
        same=False,
    ),
    twice(
        "a conversation id counts more than a session",
        header(x_conversation_id="one", x_claude_code_session_id=SESSION),
        header(x_conversation_id="one"),
    ),
    twice(
        "a session within the user id names a conversation",
        metadata(json.dumps({"session_id": SESSION})),
        {**metadata(json.dumps({"session_id": SESSION})), **SECOND},
    ),
    twice(
        "a session at the end of the user id names a conversation",
        metadata(f"user_x_session_{SESSION}"),
        {**metadata(f"user_x_session_{SESSION}"), **SECOND},
    ),
    twice("the first message names a conversation that nothing else does", FIRST, SECOND),
    twice(
        "another first message names another", FIRST, {"messages": [{"role": "user", "content": "Hello?"}]}, same=False
    ),
    twice("another system prompt names another", FIRST, {**FIRST, "system": "Be brief."}, same=False),
    twice("another user id names another", FIRST, {**FIRST, **metadata("user-2")}, same=False),
    twice(
        "Claude Code's billing line changes nothing",
        {
            **FIRST,
            "system": [{"type": "text", "text": "x-anthropic-billing-header: 1"}, {"type": "text", "text": "Hi."}],
        },
        {
            **FIRST,
            "system": [{"type": "text", "text": "x-anthropic-billing-header: 2"}, {"type": "text", "text": "Hi."}],
        },
    ),
    journey(
        "each model of a conversation has a binding of its own, at the same home",
        ask(want=on("a", "new")),
        ask(at=5.0, model="claude-opus-4-8", want=on("a", "new")),
        ask(at=10.0, want=on("a", "bound")),
        asked="a a a",
        bound="a a",
    ),
]


@pytest.mark.parametrize("journey", RECOGNISED, ids=str)
def test_a_conversation_is_recognised(journey: Journey, rig: Rig):
    rig.play(journey)


# -- How long it stays ------------------------------------------------------------------------------------------------

PAST = 400.0  # seconds after which a cache is cold that was written for five minutes
HOUR = usage(10, 20, cache_creation_input_tokens=1000, cache_creation={"ephemeral_1h_input_tokens": 1000})
STAYS = [
    journey("a warm conversation stays", ask(want=on("a", "bound")), given=(ask(),), later=200.0, asked="a", bound="a"),
    journey(
        "a cold conversation stays where there is room",
        ask(want=on("a", "bound")),
        given=(ask(),),
        later=PAST,
        asked="a",
        bound="a",
    ),
    journey(
        "a cold conversation leaves a home that is closed, and that is no move",
        ask(at=1.0, want=on("b", "new", record={"reason": "cold"})),
        given=(ask(),),
        later=PAST,
        does=((0.5, "hear", "Closed", "a", "haiku-4-5", 100.0),),
        asked="b",
        bound="b",
        accounts={"a": "limited 100"},
    ),
    journey(
        "a conversation is remembered for a day",
        ask(want=on("a", "bound")),
        given=(ask(),),
        later=80_000.0,
        asked="a",
        bound="a",
    ),
    journey(
        "a cache that was written for an hour is warm for an hour",
        ask(want=Want(by="b", attempts=2, route="moved")),
        given=(ask(),),
        then={"a": [good(used=HOUR)]},
        later=3000.0,
        upstream={"a": [limited(100)]},
        asked="a b",
        bound="b",
        accounts={"a": "limited 100"},
    ),
    journey(
        "each answer makes the cache warm anew",
        ask(want=Want(by="b", attempts=2, route="moved")),
        given=(ask(), ask()),
        later=250.0,
        upstream={"a": [limited(100)]},
        asked="a b",
        bound="b",
        accounts={"a": "limited 100"},
    ),
    journey(
        "a conversation that has moved stays where it is",
        ask(want=Want(by="b", attempts=2, route="moved")),
        ask(at=20.0, want=on("b", "bound")),
        given=(ask(),),
        upstream={"a": [limited(5)]},
        asked="a b b",
        bound="b",
    ),
    journey(
        "a conversation that made a detour is home again",
        ask(want=Want(by="b", attempts=2, route="detour")),
        ask(at=20.0, want=on("a", "bound")),
        given=(ask(),),
        upstream={"a": [error(500, "api_error")]},
        asked="a b a",
        bound="a",
    ),
    journey(
        "a second detour goes where the first has left a cache",
        ask(want=Want(by="b", attempts=2, route="detour")),
        ask(at=20.0, want=Want(by="b", attempts=2, route="detour")),
        given=(ask(),),
        upstream={"a": [error(500, "api_error")] * 2},
        asked="a b a b",
        bound="a",
    ),
]


@pytest.mark.parametrize("journey", STAYS, ids=str)
def test_a_conversation_stays(journey: Journey, rig: Rig):
    rig.play(journey)


# -- What operators and other processes do ----------------------------------------------------------------------------

POOL = [
    journey(
        "a disabled account's conversations move",
        ask(at=1.0, want=on("b", "moved")),
        given=(ask(),),
        does=((0.5, "disable", "a"),),
        asked="b",
        bound="b",
        accounts={"a": "disabled"},
    ),
    journey(
        "a draining account keeps its warm conversations",
        ask(at=1.0, want=on("a", "bound")),
        given=(ask(),),
        does=((0.5, "drain", "a"),),
        asked="a",
        bound="a",
    ),
    journey(
        "a draining account lets its cold conversations go",
        ask(at=1.0, want=Want(by="b", attempts=1)),
        given=(ask(),),
        later=PAST,
        does=((0.5, "drain", "a"),),
        asked="b",
        bound="b",
    ),
    journey(
        "a draining account takes nothing new",
        ask(at=1.0, want=on("b", "new")),
        does=((0.5, "drain", "a"),),
        asked="b",
        bound="b",
    ),
    journey(
        "a removed account's conversations move",
        ask(at=1.0, want=on("b", "moved")),
        given=(ask(),),
        does=((0.5, "remove", "c"), (0.6, "disable", "a")),
        pool={"a": {}, "b": {}, "c": {}},
        asked="b",
        bound="b",
        accounts={"a": "disabled", "c": "gone"},
    ),
    journey(
        "an account that is enabled again serves again",
        ask(at=3.0, want=on("a", "bound")),
        given=(ask(),),
        does=((0.5, "disable", "a"), (2.0, "enable", "a")),
        asked="a",
        bound="a",
    ),
    journey(
        "with every account disabled nobody serves",
        ask(at=1.0, want=Want(status=404, error="not_found_error", attempts=0)),
        does=tuple((0.5, "disable", each) for each in "abc"),
        asked="",
        accounts=dict.fromkeys("abc", "disabled"),
    ),
    journey(
        "what another process has seen closed is not asked",
        ask(at=1.0, want=on("b", "new")),
        does=((0.5, "hear", "Closed", "a", "haiku-4-5", 60.0),),
        asked="b",
        accounts={"a": "limited 60"},
    ),
    journey(
        "a closure of another class of models closes nothing here",
        ask(at=1.0, want=on("a", "new")),
        does=((0.5, "hear", "Closed", "a", "opus-4.5+", 60.0),),
        asked="a",
    ),
    journey(
        "an account that another process has seen out is not asked",
        ask(at=1.0, want=on("b", "new")),
        does=((0.5, "hear", "Out", "a", "credential", 60.0),),
        asked="b",
        accounts={"a": "out 60"},
    ),
    journey(
        "an account that answers another process again is asked again",
        ask(at=2.0, want=on("a", "new")),
        does=((0.5, "hear", "Out", "a", "credential", 60.0), (1.5, "hear", "Back", "a")),
        asked="a",
    ),
    journey(
        "a slot comes free while a request waits for it",
        ask(want=Want(by="a")),
        ask(at=0.5, want=Want(by="a", within=(0.5, 0.7))),
        upstream={"a": [good(after=1.0)]},
        pool={"a": {"max_concurrency": 1}},
        asked="a a",
    ),
    journey(
        "a request for whom no slot comes free is refused",
        ask(want=Want(by="a")),
        ask(
            at=0.5,
            want=Want(
                status=529,
                error="overloaded_error",
                attempts=0,
                within=(2.0, 2.1),
                record={"throttled": "account", "limit": "concurrency"},
            ),
        ),
        upstream={"a": [good(after=10.0)]},
        pool={"a": {"max_concurrency": 1}},
        asked="a",
    ),
    journey(
        "a new conversation takes a free slot elsewhere",
        ask(conversation="a b", want=on("a", "new")),
        ask(conversation="a b#2", at=0.5, want=on("b", "new")),
        upstream={"a": [good(after=1.0)]},
        pool={"a": {"max_concurrency": 1}, "b": {}},
        asked="a b",
        bound="b",
    ),
    journey(
        "a warm conversation waits for a slot at home",
        ask(want=on("a", "bound")),
        ask(at=0.5, want=on("a", "bound", within=(0.5, 0.7))),
        given=(ask(),),
        upstream={"a": [good(after=1.0)]},
        pool={"a": {"max_concurrency": 1}, "b": {}},
        asked="a a",
        bound="a",
    ),
    journey(
        "a warm conversation for which no slot comes free makes a detour",
        ask(want=on("a", "bound")),
        ask(at=0.5, want=on("b", "detour", within=(2.0, 2.2))),
        given=(ask(),),
        upstream={"a": [good(after=10.0)]},
        pool={"a": {"max_concurrency": 1}, "b": {}},
        asked="a b",
        bound="a",
    ),
]


@pytest.mark.parametrize("journey", POOL, ids=str)
def test_a_conversation_follows_the_pool(journey: Journey, rig: Rig):
    rig.play(journey)


# -- Cold conversations at once ---------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {"system": [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}]}
OTHER: dict[str, Any] = {
    "system": [{"type": "text", "text": "A title, please.", "cache_control": {"type": "ephemeral"}}]
}
SLOW: dict[str, Any] = {"upstream": {"a": [good(after=1.0)]}}


def at_once(name: str, first: Ask, second: Ask, **more: Any) -> Journey:
    return journey(name, first, second, asked=more.pop("asked", "a a"), **{**SLOW, **more})


FLIGHT = [
    at_once(
        "of a cold conversation's requests the second waits until the first's answer begins",
        ask(want=on("a", "new"), **SHARED),
        ask(at=0.1, want=Want(by="a", attempts=1, within=(0.9, 1.1)), **SHARED),
    ),
    at_once(
        "the second goes as soon as the first's stream begins",
        ask(stream=True, want=on("a", "new"), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.9, 1.2)), **SHARED),
        upstream={"a": [stream(*whole_stream(), after=1.0, gap=0.1)]},
    ),
    at_once(
        "the second waits no longer than two seconds",
        ask(want=on("a", "new"), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(2.0, 2.2)), **SHARED),
        upstream={"a": [good(after=5.0)]},
    ),
    at_once(
        "the second goes when the first fails",
        ask(want=Want(status=409), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.9, 1.1)), **SHARED),
        upstream={"a": [error(409, "conflict_error", after=1.0)]},
    ),
    at_once(
        "the second goes when the first's client goes",
        ask(gone=1.0, want=Want(status=0, record={"outcome": "client_gone"}), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.9, 1.1)), **SHARED),
        upstream={"a": [good(after=5.0)]},
    ),
    at_once(
        "the second follows the first where that has moved",
        ask(want=Want(by="b", attempts=2, route="new"), **SHARED),
        ask(at=0.1, want=Want(by="b", attempts=1, within=(0.9, 1.3)), **SHARED),
        upstream={"a": [error(429, "rate_limit_error", "Slow down.", ("retry-after", "60"), after=1.0)]},
        asked="a b b",
        bound="b",
        accounts={"a": "limited 60"},
    ),
    at_once(
        "a request with another prefix does not wait",
        ask(want=on("a", "new"), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.0, 0.1)), **OTHER),
    ),
    at_once(
        "a request that caches nothing does not wait",
        ask(want=on("a", "new"), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.0, 0.1))),
    ),
    at_once(
        "nobody waits for a request that caches nothing",
        ask(want=on("a", "new")),
        ask(at=0.1, want=Want(by="a", within=(0.0, 0.1)), **SHARED),
    ),
    at_once(
        "another conversation does not wait",
        ask(conversation="a", want=on("a", "new"), **SHARED),
        ask(conversation="a#2", at=0.1, want=Want(within=(0.0, 0.1)), **SHARED),
        asked=None,
    ),
    at_once(
        "a warm conversation's requests do not wait",
        ask(want=on("a", "bound"), **SHARED),
        ask(at=0.1, want=Want(by="a", within=(0.0, 0.1)), **SHARED),
        given=(ask(**SHARED),),
    ),
    at_once(
        "counting tokens does not wait",
        ask(want=on("a", "new"), **SHARED),
        Ask(Want(within=(0.0, 0.1)), at=0.1, path="/v1/messages/count_tokens", body=message(**SHARED)),
    ),
    journey(
        "of ten requests at once nine wait for the first",
        ask(want=on("a", "new"), **SHARED),
        *(ask(at=0.1, want=Want(by="a", within=(0.9, 1.1)), **SHARED) for _ in range(9)),
        **SLOW,
        asked="a" + " a" * 9,
    ),
]


@pytest.mark.parametrize("journey", FLIGHT, ids=str)
def test_of_cold_requests_at_once_one_goes_first(journey: Journey, rig: Rig):
    rig.play(journey)


# -- A process that ends ----------------------------------------------------------------------------------------------

DOWN = {"outcome": "interrupted", "cause": "drain"}
STOPPED = [
    journey(
        "a stream that runs when the process ends is told so",
        ask(
            stream=True,
            want=Want(
                by="a",
                error="overloaded_error",
                says="shutting down",
                used=(100, 1),
                record={**DOWN, "estimated": True},
            ),
        ),
        upstream={"a": [stream(*whole_stream(), gap=1.0)]},
        does=((3.5, "stop"),),
        asked="a",
    ),
    journey(
        "a request that waits for its answer when the process ends is told so",
        ask(want=Want(status=529, error="overloaded_error", says="shutting down", record={"cause": "drain"})),
        upstream={"a": [good(after=5.0)]},
        does=((2.0, "stop"),),
        asked="a",
    ),
    journey(
        "a request whose refusal is being read when the process ends is told so",
        ask(want=Want(status=529, error="overloaded_error", says="shutting down", record={"cause": "drain"})),
        upstream={"a": [Answer(500, (("content-type", "application/json"),), ((5.0, b"{}"),))]},
        does=((1.0, "stop"),),
        asked="a",
    ),
    journey(
        "a request that waits for a slot when the process ends is told so",
        ask(conversation="a#2", want=Want(status=529, record={"cause": "drain"})),
        ask(
            at=0.5,
            want=Want(
                status=529, error="overloaded_error", says="shutting down", attempts=0, record={"cause": "drain"}
            ),
        ),
        upstream={"a": [good(after=5.0)]},
        pool={"a": {"max_concurrency": 1}},
        does=((1.0, "stop"),),
        asked="a",
    ),
    journey(
        "a request that waits for a limit when the process ends is told so",
        ask(want=Want(status=529, error="overloaded_error", says="shutting down", record={"cause": "drain"})),
        given=(ask(),),
        then={"a": [good(used=usage(20_000))]},
        upstream={"a": [limited(5)]},
        does=((1.0, "stop"),),
        asked="a",
        accounts={"a": "limited"},
    ),
    journey(
        "a process that ends says that it is not ready",
        Ask(Want(status=503, record=None), at=1.0, method="GET", path="/readyz", conversation=None),
        does=((0.5, "stop"),),
        asked="",
    ),
]


@pytest.mark.parametrize("journey", STOPPED, ids=str)
def test_a_process_ends(journey: Journey, rig: Rig):
    rig.play(journey)
