"""The store away, slow, refusing, forgetful or emptied: nobody notices, and nothing is lost once it is back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.journeys.driver import CALLERS, Rig
from tests.journeys.http import Answer
from tests.journeys.journey import Ask, Journey, Want, as_json, ask, good, journey, limited, stream, whole_stream

# What may be wrong with it, and whether a request then goes without it.
STATES = {
    "away": True,
    "silent": True,
    "slow": True,
    "forgetful": True,
    "empty": False,
    "without scripts": False,
    "LOADING Redis is loading the dataset in memory": True,
    "OOM command not allowed when used memory > 'maxmemory'.": True,
    "READONLY You can't write against a read only replica.": True,
    "MISCONF Redis is configured to save RDB snapshots": True,
    "ERR user_script:1: attempt to index a nil value": True,
    "CLUSTERDOWN The cluster is down": True,
}
TROUBLE = ("LOADING", "OOM", "READONLY", "MISCONF", "ERR", "CLUSTERDOWN")
BACK = 10.0  # seconds after which it is as it was


def named(state: str) -> str:
    return f"answers {state.split()[0]}" if state.startswith(TROUBLE) else f"is {state}"


def logged(state: str) -> tuple[str, ...]:
    """What of it is an error of somebody's making."""
    return ("a script fails; every call of it counts as store away",) if state.startswith("ERR") else ()


def through(state: str, streamed: bool, warm: bool) -> Journey:
    """A request while it is so, and the next one afterwards: both where the conversation lives."""
    without = STATES[state]
    route = "stateless" if without else "bound" if warm else "new"
    what = f"{'warm' if warm else 'new'} conversation's {'stream' if streamed else 'request'}"
    return journey(
        f"a {what} is served while the store {named(state)}",
        ask(stream=streamed, at=1.0, want=Want(by="a", attempts=1, route=route, used=(100, 20), money=200_000)),
        ask(stream=streamed, at=20.0, want=Want(by="a", attempts=1, used=(100, 20))),
        given=(ask(),) if warm else (),
        does=((0.9, "store", state), (BACK, "store", "here")),
        asked="a a",
        bound="a",
        errors=logged(state),
    )


THROUGH = [through(state, streamed, warm) for state in STATES for streamed in (False, True) for warm in (False, True)]


def during(state: str, at: float, phase: str) -> Journey:
    """A stream of some seconds in the middle of which it becomes so."""
    return journey(
        f"a stream {phase} which the store {named(state)} is counted once it is back",
        ask(stream=True, want=Want(by="a", attempts=1, route="new", used=(100, 20), money=200_000)),
        ask(at=20.0, want=Want(by="a", attempts=1, route="bound")),
        upstream={"a": [stream(*whole_stream(), gap=1.0)]},
        does=((at, "store", state), (BACK, "store", "here")),
        asked="a a",
        bound="a",
        errors=logged(state),
    )


DURING = [
    during(state, at, phase)
    for state in STATES
    for at, phase in ((0.5, "before the head of"), (4.5, "in the middle of"))
]


@pytest.mark.parametrize("journey", THROUGH + DURING, ids=str)
def test_nobody_notices_the_store(journey: Journey, rig: Rig):
    rig.play(journey)


def limited_to(**limits: Any) -> dict[str, Any]:
    return {"keys": [{**each, "limits": limits} if each["id"] == "alice" else each for each in CALLERS]}


AWAY = ((0.0, "store", "away"), (30.0, "store", "here"))
OVER = Want(status=429, error="rate_limit_error", attempts=0, record={"throttled": "caller"})
BROKE = Want(status=429, error="billing_error", attempts=0, record={"throttled": "caller", "limit": "budget_day"})
ONE: dict[str, Any] = {"pool": {"a": {}}, "does": AWAY}
RULES = [
    journey(
        "a key that nobody knows is not refused while the store is away",
        ask(
            at=1.0,
            headers=(("x-api-key", "sk-unknown"),),
            want=Want(status=529, error="overloaded_error", headers={"retry-after": "1"}, record={"caller": ""}),
        ),
        ask(at=40.0, headers=(("x-api-key", "sk-unknown"),), want=Want(status=401, record={"caller": ""})),
        **ONE,
        asked="",
    ),
    journey(
        "limits are this process's own share while the store is away",
        *(ask(at=1.0 + n, want=Want(by="a", route="stateless")) for n in range(2)),
        ask(at=4.0, want=OVER),
        ask(at=40.0, want=Want(by="a", route="bound")),
        config=limited_to(requests_per_minute=2),
        **ONE,
    ),
    journey(
        "budgets may be passed while the store is away, and what was spent is counted once it is back",
        *(ask(at=1.0 + n, want=Want(by="a", route="stateless", money=200_000)) for n in range(4)),
        ask(at=40.0, want=BROKE),
        config=limited_to(budget_usd={"day": 0.0009}),
        **ONE,
        asked="a a a a",
    ),
    journey(
        "budgets may be kept while the store is away",
        ask(at=1.0, want=Want(status=529, error="overloaded_error", record={"limit": "store_away", "attempts": 0})),
        ask(at=1.0, caller="bob", want=Want(by="a")),
        ask(at=40.0, want=Want(by="a", route="new")),
        config={**limited_to(budget_usd={"day": 0.0009}), "on_store_loss": "deny"},
        **ONE,
    ),
    journey(
        "a slot that was taken before the store went away is given back",
        ask(want=Want(by="a")),
        ask(at=40.0, want=Want(by="a")),
        pool={"a": {}},
        upstream={"a": [good(after=10.0)]},
        does=((5.0, "store", "away"), (30.0, "store", "here")),
        config=limited_to(concurrency=1),
    ),
    journey(
        "a slot that was taken while the store was away is held once it is back, and given back at the end",
        ask(at=1.0, want=Want(by="a")),
        ask(at=40.0, want=Want(status=429, error="rate_limit_error", says="limit of 1 concurrent")),
        ask(at=60.0, want=Want(by="a")),
        upstream={"a": [good(after=50.0), good()]},
        config=limited_to(concurrency=1),
        **ONE,
    ),
    journey(
        "a conversation moves while the store is away, and has moved once it is back",
        ask(at=1.0, want=Want(by="b", attempts=2, route="stateless")),
        ask(at=40.0, want=Want(by="b", attempts=1)),
        upstream={"a": [limited(100)]},
        given=(ask(),),
        does=AWAY,
        asked="a b b",
        accounts={"a": "limited 60"},
    ),
    journey(
        "conversations that this process remembers stay where they live, whatever the store has lost",
        ask(at=1.0, want=Want(by="b", attempts=1, route="bound")),
        given=(ask(),),
        then={"a": [limited(2.0)]},
        does=((0.5, "store", "empty"),),
        later=30.0,
        asked="b",
        bound="b",
    ),
    journey(
        "conversations that this process remembers stay where they live while the store is away",
        ask(at=1.0, want=Want(by="b", attempts=1, route="stateless")),
        given=(ask(),),
        then={"a": [limited(2.0)]},
        does=AWAY,
        later=30.0,
        asked="b",
        bound="b",
    ),
]

FILE = as_json(200, {"id": "file_1", "type": "file"})
CREATE = Ask(path="/v1/files", body=b"Good morning.", headers=(("content-type", "text/plain"),), conversation=None)


def read(name: str, want: Want, **more: Any) -> Ask:
    return Ask(want, method="GET", path=f"/v1/files/{name}", conversation=None, **more)


NOBODY_CAN_TELL = Want(status=529, error="overloaded_error", says="cannot tell now", attempts=0)
OBJECTS = [
    journey(
        "a file that this process knows is read while the store is away",
        read("file_1", Want(by="a"), at=1.0),
        given=(CREATE,),
        then={"a": [FILE]},
        does=AWAY,
        asked="a",
    ),
    journey(
        "a file that this process does not know is nobody's for certain while the store is away",
        read("file_2", NOBODY_CAN_TELL, at=1.0),
        read("file_2", Want(status=404, error="not_found_error"), at=40.0),
        does=AWAY,
        asked="",
    ),
    journey(
        "a message that names such a file is not sent to just any account",
        ask(
            at=1.0,
            messages=[{"role": "user", "content": [{"type": "container_upload", "file_id": "file_2"}]}],
            want=NOBODY_CAN_TELL,
        ),
        does=AWAY,
        asked="",
    ),
    journey(
        "nothing is made where nobody knows its home while the store is away",
        Ask(NOBODY_CAN_TELL, at=1.0, path="/v1/files", body=b"x", headers=CREATE.headers, conversation=None),
        does=AWAY,
        asked="",
    ),
    journey(
        "what was made while the store went away is its maker's once it is back",
        Ask(Want(by="a"), path="/v1/files", body=b"x", headers=CREATE.headers, conversation=None),
        read("file_1", Want(by="a"), at=40.0),
        read("file_1", Want(status=404), at=41.0, caller="bob"),
        upstream={"a": [Answer(200, FILE.headers, FILE.pieces, after=2.0), FILE]},
        does=((1.0, "store", "away"), (30.0, "store", "here")),
        asked="a a",
    ),
]


@pytest.mark.parametrize("journey", RULES + OBJECTS, ids=str)
def test_what_stays_open_while_the_store_is_away(journey: Journey, rig: Rig):
    rig.play(journey)
