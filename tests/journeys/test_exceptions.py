"""Exceptions in any part of the gateway: one answer, one record, nothing held, and the next request is served."""

from __future__ import annotations

from typing import Any

import pytest

from tests.journeys.driver import CALLERS, Rig
from tests.journeys.journey import Journey, Want, ask, guessed, journey, limited, message
from tests.journeys.parts import PARTS

LIMITS = {"concurrency": 1, "budget_usd": {"day": 0.002}}
CONFIG = {"keys": [{**each, "limits": LIMITS} for each in CALLERS]}
BOTH = (False, True)


def broken(
    part: str,
    streamed: bool,
    want: Want,
    asked: str,
    *,
    error: str = "unhandled error",
    again: float = 30.0,
    **more: Any,
) -> Journey:
    """The part raises once; the same conversation is served later, with the same slot and out of the same budget."""
    what = "a stream" if streamed else "an answer"
    return journey(
        f"an exception in {part} ends {what} once, and holds nothing",
        ask(stream=streamed, want=want),
        ask(at=again, want=Want(attempts=1, used=(100, 20), money=200_000)),
        breaks=part,
        errors=(error,),
        config=CONFIG,
        asked=asked,
        **more,
    )  # fmt: skip


OURS = {"outcome": "error", "cause": "gateway"}
UNSENT = Want(
    status=500, error="api_error", says="The gateway failed", used=(0, 0), money=0,
    record={**OURS, "attempts": 0, "estimated": False},
)  # fmt: skip
BEFORE = (
    "reading the head", "authentication", "reading the body", "rights", "references", "choosing a home", "limits",
    "the call of the store", "the binding", "single flight", "the next step", "a slot",
)  # fmt: skip


def sent(streamed: bool, **record: Any) -> Want:
    """It was on its way, so that an account may bill it: nobody knows how much."""
    guess = guessed(message(stream=streamed))
    return Want(
        status=500, error="api_error", says="The gateway failed", used=(guess, 0), money=1000 * guess,
        record={**OURS, "attempts": 1, "account": "a", "estimated": True, **record},
    )  # fmt: skip


BROKEN_OFF = Want(
    status=200, error="api_error", says="The gateway failed", record={**OURS, "attempts": 1, "estimated": True}
)
CUT = Want(status=None, ended="cut", record={"attempts": 1})
WHOLE = Want(status=200, used=(100, 20), money=200_000, record={"outcome": "ok", "cause": "", "estimated": False})
UNWRITTEN = "the journal of usage cannot be written"
UNSETTLED: dict[str, Any] = {"error": "a request could not be settled whole"}
MOVES: dict[str, Any] = {"upstream": {"a": [limited(20)]}}

JOURNEYS = [
    *(broken(part, streamed, UNSENT, "a") for part in BEFORE for streamed in BOTH),
    *(broken("the provider", streamed, sent(streamed), "a") for streamed in BOTH),
    *(broken("sending", streamed, sent(streamed), "a") for streamed in BOTH),
    *(broken("judging the answer", streamed, sent(streamed), "a a") for streamed in BOTH),
    *(broken("reading the answer's head", streamed, sent(streamed), "a a") for streamed in BOTH),
    *(broken("reading the answer", streamed, sent(streamed), "a a") for streamed in BOTH),
    *(
        broken(
            "learning from the answer", streamed,
            Want(status=500, error="api_error", used=(0, 0), record={**OURS, "attempts": 1, "estimated": False}),
            "a a", **MOVES,
        )
        for streamed in BOTH
    ),
    broken("rebinding", False, sent(False, attempts=2, account="b"), "a b a", given=(), **MOVES),
    broken("the splitter", True, sent(True), "a a"),
    broken("the meter of streams", True, sent(True), "a a"),
    broken("the meter of answers", False, Want(status=200, record={**OURS, "estimated": True}), "a a"),
    broken("counting what passed", True, BROKEN_OFF, "a a"),
    broken("sending to the client", False, CUT, "a a"),
    broken("sending to the client", True, BROKEN_OFF, "a a"),
    *(broken("settling the route", streamed, WHOLE, "a a", **UNSETTLED) for streamed in BOTH),
    *(
        broken("the bill", streamed, Want(used=(100, 20), money=0, record={"outcome": "ok"}), "a a", **UNSETTLED)
        for streamed in BOTH
    ),
    broken("the renewal", False, WHOLE, "a a", **UNSETTLED),
    *(broken("the journal", streamed, WHOLE, "a a", error=UNWRITTEN) for streamed in BOTH),
    broken(
        "the post to the store", False, WHOLE, "a a", again=60.0,
        does=((40.0, "store", "away"), (50.0, "store", "here")), **UNSETTLED,
    ),
    *(broken("the metrics", streamed, WHOLE, "a a", **UNSETTLED) for streamed in BOTH),
    *(broken("the log", streamed, WHOLE, "a a", **UNSETTLED) for streamed in BOTH),
]  # fmt: skip


def test_every_part_is_broken():
    assert {each.breaks for each in JOURNEYS} == set(PARTS)


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
def test_an_exception_is_the_gateways_own_failure(journey: Journey, rig: Rig):
    rig.play(journey)
