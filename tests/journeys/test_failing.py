"""One account that always gives a bad answer, in pools of every size: others serve what it would have spoilt."""

from __future__ import annotations

import pytest

from tests.journeys.driver import Rig
from tests.journeys.http import Answer
from tests.journeys.journey import Journey, Want, ask, error, journey, limited

PAGE = Answer(404, (("content-type", "text/html"),), ((0.0, b"<p>Not here."),))
# What it says, and how many requests may fail until it is left: what has been sent and was cut cannot be asked again.
BAD = {
    "500": (error(500, "api_error"), 0),
    "503": (error(503, "api_error"), 0),
    "400": (error(400, "invalid_request_error", "This organization has been switched off."), 0),
    "405": (error(405, "invalid_request_error"), 0),
    "a page": (PAGE, 0),
    "401": (error(401, "authentication_error"), 0),
    "402": (error(402, "billing_error"), 0),
    "429": (limited(30), 0),
    "a cut": (Answer(instead="hung up"), 3),
}
POOLS = {
    "two": {"a": {}, "b": {}},
    "two of unequal weight": {"a": {"weight": 2}, "b": {}},
    "three": {each: {} for each in "abc"},
    "four": {each: {} for each in "abcd"},
    "ten": {each: {} for each in "abcdefghij"},
}
SPEEDS = {"calmly": 2.0, "at full speed": 0.02}  # seconds between two conversations
NUMBER = 20


def spoilt(bad: str, pool: str, speed: str, streamed: bool) -> Journey:
    answer, failures = BAD[bad]
    accounts = POOLS[pool]
    return journey(
        f"{bad} from one of {pool} spoils no new conversation, {speed} ({'streams' if streamed else 'JSON'})",
        *(
            ask(
                stream=streamed,
                at=SPEEDS[speed] * number,
                conversation=f"a#{number}",
                want=Want(status=None, ended=None),
            )
            for number in range(NUMBER)
        ),
        upstream={"a": [answer] * 1000},
        pool=accounts,
        failures=failures if speed == "calmly" else 6,  # those on their way, for which there are no repeats left
    )


JOURNEYS = [
    spoilt(bad, pool, speed, streamed=row % 2 == column % 2)
    for row, bad in enumerate(BAD)
    for column, pool in enumerate(POOLS)
    for speed in ([*SPEEDS] if pool == "two" else [[*SPEEDS][(row + column) % 2]])
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=str)
def test_one_bad_account(journey: Journey, rig: Rig):
    rig.play(journey)


def burst(kind: str, answer: Answer, streamed: bool) -> Journey:
    """Every account says the same to forty requests at once."""
    status = answer.status
    return journey(
        f"a burst of {kind} from everywhere is hardly amplified ({'streams' if streamed else 'JSON'})",
        *(ask(stream=streamed, at=0.01 * n, conversation=f"a#{n}", want=Want(status=status)) for n in range(40)),
        upstream={each: [answer] * 100 for each in "abc"},
        asked=r"([abc] ?){40,50}",  # a fifth more, three at least
        failures=40,
    )


BURSTS = [
    burst(kind, answer, streamed)
    for kind, answer in (("529", error(529, "overloaded_error")), ("500", error(500, "api_error")))
    for streamed in (False, True)
]


@pytest.mark.parametrize("journey", BURSTS, ids=str)
def test_bursts(journey: Journey, rig: Rig):
    rig.play(journey)
