"""Clients that go, at any moment: the upstream is let go, what passed is settled, nothing is held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    BLOCK,
    BLOCK_STOP,
    STOP,
    Ask,
    Journey,
    Want,
    ask,
    delta,
    ended,
    good,
    guessed,
    journey,
    limited,
    message,
    started,
    stream,
    usage,
    whole_stream,
)

NEXT = Want(by="a", attempts=1)  # what another request gets, later
GUESS, GUESS_STREAM = guessed(message()), guessed(message(stream=True))


def gone(name: str, left: Ask, want: Want, how: str = "close", **more: Any) -> Journey:
    """One client goes (`want.record` says with what record); another asks the same conversation later."""
    record = want.record if want.record is None else {"outcome": "client_gone", "cause": "client", **want.record}
    leaving = replace(left, want=replace(want, record=record), how=how)
    return journey(f"{name} ({how})", *more.pop("before", ()), leaving, ask(want=NEXT, at=40.0), **more)


NOTHING = {"attempts": 0, "estimated": False, "account": ""}
SENT = {"attempts": 1, "estimated": True, "account": "a"}
HALF = ((0.0, b'{"model": "claude-haiku-4-5", '),)
LENGTH = (("content-length", "200"),)
BUSY = {"a": {"max_concurrency": 1}}

# Name: who leaves, what is wanted of it, what else there is.
EARLY: dict[str, tuple[Ask, Want, dict[str, Any]]] = {
    "before its body is whole": (
        Ask(pieces=HALF, headers=LENGTH, gone=1.0), Want(status=0, record=NOTHING, used=(0, 0)), {"asked": "a"},
    ),
    "the moment it has asked": (
        ask(gone=0.0), Want(status=0, record={"account": ""}, used=(0, 0), money=0), {"asked": "a", "wire": True},
    ),
    "while the store is asked": (
        ask(gone=0.01), Want(status=0, record=NOTHING, used=(0, 0), money=0),
        {"does": ((0.0, "store", "silent"), (1.0, "store", "here")), "asked": "a"},
    ),
    "while it waits for a slot": (
        ask(gone=1.0, at=0.1), Want(status=0, record=NOTHING, used=(0, 0), money=0),
        {
            "before": (ask(conversation="a#other", want=Want(by="a")),), "pool": BUSY,
            "upstream": {"a": [good(after=5.0)]}, "asked": "a a",
        },
    ),
    "while it waits for a limit": (
        ask(gone=1.0), Want(status=0, record={"attempts": 1, "estimated": False, "account": "a"}, used=(0, 0), money=0),
        {
            "given": (ask(),), "then": {"a": [good(used=usage(20_000))]}, "upstream": {"a": [limited(4)]},
            "asked": "a a", "accounts": {},
        },
    ),
    "while no connection comes": (
        ask(gone=1.0), Want(status=0, record={"attempts": 1, "estimated": False}, used=(0, 0), money=0),
        {"upstream": {"a": [Answer(instead="unreachable")]}, "asked": "a a"},
    ),
    "before the answer has begun": (
        ask(gone=1.0), Want(status=0, record=SENT, used=(GUESS, 0), money=1000 * GUESS),
        {"upstream": {"a": [good(after=5.0)]}, "asked": "a a"},
    ),
    "before the stream has begun": (
        ask(stream=True, gone=1.0), Want(status=0, record=SENT, used=(GUESS_STREAM, 0), money=1000 * GUESS_STREAM),
        {"upstream": {"a": [stream(*whole_stream(), after=5.0)]}, "asked": "a a"},
    ),
    "in the middle of an answer": (
        ask(gone=1.0), Want(status=0, record=SENT, used=(GUESS, 0), money=1000 * GUESS),
        {"upstream": {"a": [good(ends="silent")]}, "asked": "a a"},
    ),
    "while a second account is asked": (
        ask(gone=3.0), Want(status=0, record={"attempts": 2, "account": "b", "estimated": True}, used=(GUESS, 0)),
        {"upstream": {"a": [limited(30)], "b": [good(after=5.0)]}, "asked": "a b a"},
    ),
}  # fmt: skip

LEFT_EARLY = [
    gone(f"a client that goes {when} leaves nothing behind", left, want, how, **more)
    for when, (left, want, more) in EARLY.items()
    for how in ("close", "reset")
]

# A stream of an event a second: gone after so many of them have passed. The tokens of output that are put at it.
EVENTS = (started(), BLOCK, delta("Good "), delta("evening"), BLOCK_STOP, ended(), STOP)
PASSED = (0, 1, 1, 1, 2, 2, 20)
IN_STREAMS = [
    gone(
        f"a client that goes after {count} events of a stream pays for what passed",
        ask(stream=True, gone=count + 0.5),
        Want(
            status=200 if count > 1 else 0,  # what begins a message is held until there is more
            used=(100, PASSED[count]),
            money=100_000 + 5_000 * PASSED[count],
            record={
                "estimated": True,
                "attempts": 1,
                "account": "a",
                "status": 200 if count > 1 else 0,
                "stream": True,
            },
        ),
        how,
        upstream={"a": [stream(*EVENTS, gap=1.0)]},
        asked="a a",
        bound="a",
    )
    for count in range(1, len(EVENTS))
    for how in ("close", "reset")
]
AFTERWARDS = [
    journey(
        f"a client that goes once it has {what} has had it ({how})",
        ask(
            stream=streamed,
            gone=30.0,
            how=how,
            want=Want(used=(100, 20), record={"outcome": "ok", "estimated": False}, ended="whole"),
        ),
        ask(want=NEXT, at=40.0),
        asked="a a",
    )
    for what, streamed in (("its answer", False), ("its stream", True))
    for how in ("close", "reset")
]


@pytest.mark.parametrize("journey", LEFT_EARLY + IN_STREAMS + AFTERWARDS, ids=str)
def test_clients_go(journey: Journey, rig: Rig):
    rig.play(journey)
