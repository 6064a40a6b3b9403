"""Two replicas over one store: one conversation, one set of limits, one opinion where that is meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.journeys.driver import CALLERS, Rig
from tests.journeys.http import Answer
from tests.journeys.journey import (
    Ask,
    Journey,
    Want,
    as_json,
    ask,
    error,
    good,
    journey,
    limited,
    stream,
    whole_stream,
)

REFUSED = Answer(instead="refused")
BAD_KEY = error(401, "authentication_error")
SPENT = error(402, "billing_error")


def two(name: str, *asks: Ask, **more: Any) -> Journey:
    return journey(name, *asks, replicas=2, **more)


def first(want: Want | None = None, **more: Any) -> Ask:
    return ask(want=want, replica=0, **more)


def second(want: Want | None = None, **more: Any) -> Ask:
    return ask(want=want, replica=1, **more)


def on(account: str, route: str | None = None, attempts: int = 1, **more: Any) -> Want:
    return Want(by=account, attempts=attempts, route=route, **more)


AFFINITY = [
    two(
        "a conversation goes on at the other replica",
        first(on("a", "new")),
        second(on("a", "bound"), at=2.0),
        bound="a",
    ),
    two(
        "of first requests at once over two replicas one is new",
        first(on("a")),
        second(on("a")),
        asked="a a",
        bound="a",
    ),
    two(
        "a conversation that one replica moved has moved for the other",
        first(on("b", "moved", 2), at=1.0),
        second(on("b", "bound"), at=2.0),
        given=(ask(),),
        upstream={"a": [limited(60)]},
        asked="a b b",
        bound="b",
        accounts={"a": "limited 60"},
    ),
    two(
        "a conversation that both replicas move at once moves once",
        first(on("b", attempts=2), at=1.0),
        second(on("b", attempts=2), at=1.0),
        given=(ask(),),
        upstream={"a": [limited(60), limited(60)]},
        asked="a a b b",
        bound="b",
        accounts={"a": "limited 60"},
    ),
    two(
        "a detour of one replica's is the other's second choice too",
        first(on("b", "detour", 2), at=1.0),
        second(on("b", "detour", 2), at=20.0),
        given=(ask(),),
        upstream={"a": [error(529, "overloaded_error")] * 2},
        then={"a": [good()]},
        asked="a b a b",
        bound="a",
    ),
    two(
        "a conversation stays while the store is away, whichever replica is asked",
        first(on("a", "stateless"), at=1.0),
        second(on("a", "stateless"), at=2.0),
        given=(ask(),),
        does=((0.5, "store", "away"), (20.0, "store", "here")),
        asked="a a",
        bound="a",
    ),
    two(
        "a conversation that has moved stays moved while the store is away, whichever replica is asked",
        second(on("b", "stateless"), at=1.0),
        given=(ask(),),
        then={"a": [limited(0.5)]},
        does=((0.5, "store", "away"), (20.0, "store", "here")),
        asked="b",
        bound="b",
    ),
    two(
        "what no replica remembers goes by rank while the store is away",
        first(on("a", "stateless"), at=1.0),
        second(on("a", "stateless"), at=1.0),
        does=((0.5, "store", "away"), (20.0, "store", "here")),
        asked="a a",
        bound="a",
    ),
    two(
        "a conversation stays though the store has lost it, whichever replica is asked",
        second(on("b", "bound"), at=1.0),
        first(on("b", "bound"), at=2.0),
        given=(ask(),),
        then={"a": [limited(0.5)]},
        does=((0.5, "store", "empty"),),
        asked="b b",
        bound="b",
    ),
    two(
        "a stream on one replica keeps the conversation for the other",
        first(on("a", "new"), at=0.0, stream=True),
        second(on("a"), at=2.0),
        upstream={"a": [stream(*whole_stream(), gap=1.0)]},
        asked="a a",
        bound="a",
    ),
]

TWO: dict[str, Any] = {"a": {}, "b": {}}
TOLD = [
    two(
        "what one replica has seen closed the other does not ask",
        first(on("b", "new", 2)),
        second(on("b", "new"), at=0.5, conversation="a b c#2"),
        upstream={"a": [limited(60)]},
        asked="a b b",
        pool=TWO,
        accounts={"a": "limited 60"},
    ),
    two(
        "an organization without money is out for both",
        first(on("b", "new", 2)),
        second(on("b", "new"), at=0.5, conversation="a b c#2"),
        upstream={"a": [SPENT]},
        asked="a b b",
        pool=TWO,
        accounts={"a": "out 60"},
    ),
    two(
        "a model that one account lacks is asked of it by neither",
        first(on("b", "new", 2)),
        second(on("b", "new"), at=0.5, conversation="a b c#2"),
        upstream={"a": [error(403, "permission_error")]},
        asked="a b b",
        pool=TWO,
        accounts={"a": "out 600"},
    ),
    two(
        "that one replica cannot connect is its own experience",
        *(first(Want(attempts=2), at=float(n), conversation=f"a b#{n}") for n in range(3)),
        second(on("a", "new"), at=4.0, conversation="a b#4"),
        upstream={"a": [REFUSED] * 3},
        pool={each: {} for each in "abcd"},
        accounts={"a@0": "out", "a@1": "open"},
    ),
    two(
        "that one replica's key is refused is its own experience",
        first(on("b", "new", 2)),
        second(on("a", "new"), at=0.5, conversation="a b c#2"),
        upstream={"a": [BAD_KEY]},
        asked="a b.* a",
    ),
    two("an account of which both learn nothing is open to both", first(on("a")), second(on("a"), at=1.0), asked="a a"),
]


def limits(**of: Any) -> dict[str, Any]:
    return {"keys": [{**each, "limits": of} if each["id"] == "alice" else each for each in CALLERS]}


OVER = Want(status=429, error="rate_limit_error", attempts=0, record={"throttled": "caller"})
BROKE = Want(status=429, error="billing_error", attempts=0, record={"throttled": "caller"})


def at_once(name: str, served: int, refused: Want, number: int = 6, **more: Any) -> Journey:
    """So many requests, one after the other within a moment and by turns at both replicas."""
    asks = [
        ask(at=0.001 * n, replica=n % 2, conversation=f"a#{n}", want=Want() if n < served else refused)
        for n in range(number)
    ]
    return two(name, *asks, **more)


SLOW = {"a": [good(after=5.0)] * 6}
LIMITS = [
    at_once(
        "of six requests at once over two replicas three a minute pass", 3, OVER, config=limits(requests_per_minute=3)
    ),
    at_once(
        "three slots are three over two replicas", 3, OVER, config=limits(concurrency=3), pool={"a": {}}, upstream=SLOW
    ),
    at_once(
        "money for two requests is spent twice over two replicas",
        2,
        BROKE,
        config=limits(budget_usd={"day": 0.0012}),
        pool={"a": {}},
        upstream=SLOW,
    ),
    two(
        "a team shares its limit over callers and replicas",
        first(on("a"), caller="alice", conversation="a"),
        second(on("a"), caller="carol", conversation="a", at=1.0),
        first(OVER, caller="carol", conversation="a", at=2.0),
        second(OVER, caller="alice", conversation="a", at=3.0),
        config={"teams": [{"id": "research", "limits": {"requests_per_minute": 2}}]},
        pool={"a": {}},
    ),
    two(
        "while the store is away each replica has its part of a limit",
        first(on("a"), at=1.0),
        second(on("a"), at=1.1),
        first(OVER, at=1.2),
        second(OVER, at=1.3),
        config=limits(requests_per_minute=2),
        pool={"a": {}},
        does=((0.5, "store", "away"), (20.0, "store", "here")),
    ),
    two(
        "an account's slots are divided over replicas",
        first(on("a")),
        second(on("a")),
        first(Want(status=529, error="overloaded_error"), at=0.5, conversation="a#2"),
        second(Want(status=529, error="overloaded_error"), at=0.5, conversation="a#3"),
        pool={"a": {"max_concurrency": 2}},
        upstream=SLOW,
    ),
]

FILE = as_json(200, {"type": "file", "id": "file_1"})
CREATE = Ask(path="/v1/files", body=b"x", headers=(("content-type", "text/plain"),), conversation=None)


def read(want: Want, **more: Any) -> Ask:
    return Ask(want, method="GET", path="/v1/files/file_1", conversation=None, **more)


OBJECTS = [
    two(
        "a file that one replica made the other finds",
        replace(CREATE, want=Want(by="a")),
        read(Want(by="a"), at=1.0, replica=1),
        upstream={"a": [FILE, FILE]},
        asked="a a",
    ),
    two(
        "a file that one replica made is nobody else's at the other",
        replace(CREATE, want=Want(by="a")),
        read(Want(status=404, error="not_found_error"), at=1.0, replica=1, caller="bob"),
        upstream={"a": [FILE]},
        asked="a",
    ),
    two(
        "a file that one replica made the other finds while the store is away",
        replace(CREATE, want=Want(by="a")),
        read(Want(by="a"), at=2.0, replica=1),
        upstream={"a": [FILE, FILE]},
        does=((1.0, "store", "away"), (20.0, "store", "here")),
        asked="a a",
    ),
    two(
        "a file that one replica deleted is gone at the other",
        read(Want(by="a"), at=1.0, replica=1),
        Ask(Want(by="a"), method="DELETE", path="/v1/files/file_1", conversation=None, at=2.0),
        read(Want(status=404), at=3.0, replica=1),
        given=(CREATE,),
        then={"a": [FILE]},
        upstream={"a": [FILE, as_json(200, {"id": "file_1", "type": "file_deleted"})]},
        asked="a a",
    ),
    two(
        "first creates at once over two replicas end at one home",
        replace(CREATE, want=Want(by="a")),
        replace(CREATE, want=Want(by="a"), replica=1),
        upstream={"a": [FILE, as_json(200, {"type": "file", "id": "file_2"})]},
        asked="a a",
    ),
]

ENDS = [
    two(
        "what one replica does is no matter when the other ends",
        ask(
            stream=True,
            replica=0,
            want=Want(by="a", error="overloaded_error", says="shutting down", record={"cause": "drain"}),
        ),
        ask(stream=True, replica=1, want=Want(by="a", record={"outcome": "ok"}, used=(100, 20))),
        upstream={"a": [stream(*whole_stream(), gap=1.0)] * 2},
        does=((3.5, "stop", 0),),
        asked="a a",
    ),
]


@pytest.mark.parametrize("journey", AFFINITY + TOLD + LIMITS + OBJECTS + ENDS, ids=str)
def test_two_replicas(journey: Journey, rig: Rig):
    rig.play(journey)
