"""A warm conversation's request goes the short way, and leaves it as any other would have gone on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.routing.route import Route
from gateway.core.wire.usage_meter import UsageMeter
from gateway.listen.connection import Connection
from gateway.listen.cycle import Cycle
from gateway.upstream.anthropic import Anthropic
from gateway.upstream.http1 import Pool
from gateway.worker.accounts import Account
from gateway.worker.affinity.bindings import Admission
from gateway.worker.callers.limits import Reservation
from gateway.worker.head import AnswerHead
from gateway.worker.request.journey import Journey as Served
from gateway.worker.request.warm import Warm
from tests.journeys import http, store, world
from tests.journeys.driver import ACTIONS, CALLERS, Rig, Stage
from tests.journeys.http import Answer
from tests.journeys.journey import Journey, Want, ask, error, good, journey, limited
from tests.journeys.test_clouds import EVERY, on

WARM: Any = {"given": (ask(),)}
FEW: Any = {"keys": [{**each, "limits": {"requests_per_minute": 1}} for each in CALLERS]}
RESETS = {False: "2030-03-17T17:47:41Z", True: "2030-03-17T17:47:43Z"}  # by whether there was a turn before


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[Warm]:
    """The requests that went the short way."""
    found: list[Warm] = []
    admit = Warm.admit

    def noted(warm: Warm) -> None:
        found.append(warm)
        admit(warm)

    monkeypatch.setattr(Warm, "admit", noted)
    return found


def to_its_end(way: Warm) -> bool:
    """Whether it went the short way until its answer was out."""
    return way._exchange is not None


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The gateway's own listener, which the short way begins at."""
    made = Rig(tmp_path_factory.mktemp("warm") / "data")
    yield made
    made.close()


# The short way, and what must not go it.


@pytest.mark.parametrize("streamed", [False, True])
def test_a_turn_of_a_warm_conversation_goes_the_short_way(rig: Rig, ways: list[Warm], streamed: bool):
    rig.play(journey("a warm turn", ask(stream=streamed, want=Want(by="a", route="bound", attempts=1)), **WARM))
    assert len(ways) == (0 if rig.asgi else 1)
    assert all(to_its_end(way) is not streamed for way in ways)


def test_a_new_conversation_goes_the_long_way(rig: Rig, ways: list[Warm]):
    rig.play(journey("a new one", ask(want=Want(by="a", route="new"))))
    assert ways == []


@pytest.mark.parametrize("needs", [False, True])
def test_a_pool_with_a_cloud_in_it_has_the_short_way_too(rig: Rig, ways: list[Warm], needs: bool):
    cloud = {"provider": "bedrock", "region": "us-east-1", "api_key": "key-of-the-cloud", "base_url": "http://b.test"}
    more: Any = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]} if needs else {}
    played = journey(
        "a warm turn beside a cloud", ask(want=Want(by="a", route="bound", attempts=1), **more),
        pool={"a": {}, "b": cloud}, given=(ask(want=Want(by="a")),),
    )  # fmt: skip
    rig.play(played)
    assert len(ways) == (0 if rig.asgi or needs else 1)


@pytest.mark.parametrize("cloud", EVERY)
def test_a_turn_at_a_cloud_goes_the_short_way(rig: Rig, ways: list[Warm], cloud: str):
    played = journey(
        f"a warm turn at {cloud}",
        ask(want=Want(by="a", route="bound", attempts=1, used=(100, 20), content="Good evening.")),
        pool=on(cloud), given=(ask(want=Want(by="a")),), bound="a",
    )  # fmt: skip
    rig.play(played)
    assert len(ways) == (0 if rig.asgi else 1)
    assert all(map(to_its_end, ways))


def unreadable(stage: Stage) -> None:
    line = stage.rig.server.line
    for key in line.ask("KEYS", "*:b:*"):
        for field in line.ask("HKEYS", key):
            line.ask("HSET", key, field, b"\xc1 is no record")


def trickling(pieces: int, seconds: float) -> Answer:
    """An answer that comes so slowly."""
    whole = good()
    body = whole.pieces[0][1]
    size = len(body) // pieces + 1
    parts = [(seconds, body[first : first + size]) for first in range(0, len(body), size)]
    return Answer(whole.status, whole.headers, tuple(parts))


MANY = tuple((f"x-of-many-{number}", "v") for number in range(300))
CASES = [
    journey("a record that cannot be read", ask(at=1.0), does=((0.5, "spoil the record"),), **WARM),
    journey(
        "a warm conversation's body beyond the bound",
        ask(at=1.0, system="x" * 20_000, want=Want(status=413, error="request_too_large", record={})),
        config={"limits": {"max_body_mb": 0.01}},
        **WARM,
    ),
    journey(
        "an answer that trickles beyond the whole time",
        ask(want=Want(status=504, error="timeout_error", record={})),
        upstream={"a": [trickling(20, 100.0)]},
        **WARM,
    ),
    journey(
        "an answer with hundreds of headers",
        ask(),
        upstream={"a": [Answer(200, good().headers + MANY, good().pieces)]},
        **WARM,
    ),
    journey(
        "a client that goes while its account thinks",
        ask(gone=10.0, want=Want(status=0, record={"outcome": "client_gone", "overhead": 0.0})),
        upstream={"a": [good(after=40.0)]},
        **WARM,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_leaves_the_short_way_goes_on_as_ever(case: Journey, rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ACTIONS, "spoil the record", unreadable)
    rig.play(case)


@pytest.mark.parametrize("given", [(), (ask(),)], ids=["new", "warm"])
def test_a_refusal_tells_when_limits_reset(rig: Rig, given: tuple[Any, ...]):
    first = () if given else (ask(),)
    told = {"anthropic-ratelimit-requests-limit": "1", "anthropic-ratelimit-requests-reset": RESETS[bool(given)]}
    refused = Want(status=429, error="rate_limit_error", headers=told, record={"outcome": "error"})
    asks = (*first, ask(at=0.5, want=refused))
    rig.play(journey("a refusal", *asks, given=given, config=FEW))


# Exceptions on the short way.

SHORT = {
    "asking the store": (Admission, "ask"),
    "the way straight home": (Route, "straight"),
    "a slot": (Account, "lease_now"),
    "the provider": (Anthropic, "prepare"),
    "sending": (Pool, "begin"),
    "what the store has said": (Reservation, "answered"),
    "the binding": (Admission, "confirmed"),
    "what was sent": (Route, "sent"),
    "the head of the answer": (AnswerHead, "__init__"),
    "the meter": (UsageMeter, "read_message"),
    "an answer that began": (Route, "served"),
    "headers": (Served, "gateway_headers"),
    "the answer": (Cycle, "answer_now"),
    "its end": (Connection, "answered"),
    "a good end": (Route, "completed"),
}
BEHIND = ("its end", "a good end")  # of what the client has whole


@pytest.mark.parametrize("part", SHORT)
def test_an_exception_ends_the_short_way_once(wire: Rig, monkeypatch: pytest.MonkeyPatch, ways: list[Warm], part: str):
    owner, name = SHORT[part]
    works = getattr(owner, name)
    broken: list[str] = []

    def breaks(*args: Any, **more: Any) -> Any:
        if ways and not broken:
            broken.append(part)
            raise RuntimeError(f"{part} is broken")
        return works(*args, **more)

    monkeypatch.setattr(owner, name, breaks)
    ours: dict[str, Any] = {"outcome": "error", "cause": "gateway"}
    if part in BEHIND:
        want = Want(status=200, used=(100, 20), record={**ours, "estimated": False})
    elif part == "the answer":
        want = Want(status=None, ended="cut", record={**ours, "estimated": False})
    else:
        want = Want(status=500, error="api_error", says="The gateway failed", record=ours)
    again = ask(at=60.0, want=Want(by="a", attempts=1))
    wire.play(journey(f"an exception in {part}", ask(want=want), again, errors=("unhandled error",), **WARM))
    assert broken == [part]


# A client that goes, or a process that ends, within a few callbacks of what comes from the store or an account.


class Moment:
    """Something happens `turns` callbacks of the loop after the first bytes that one of them says to the last request;
    before them if that is negative."""

    def __init__(self, source: str, act: str, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source, self._act, self._turns = source, act, turns
        self._calls: list[http.Call] = []
        self._stage: Stage | None = None
        self._came = False
        connect, start, say = http.Call.connect, Stage._start, world.Pipe.say

        def connected(call: http.Call, listener: int = 0) -> None:
            connect(call, listener)
            self._calls.append(call)

        async def started(stage: Stage) -> None:
            self._stage = stage
            await start(stage)

        def said(pipe: world.Pipe, data: bytes) -> None:
            say(pipe, data)
            self._heard(pipe)

        monkeypatch.setattr(http.Call, "connect", connected)
        monkeypatch.setattr(Stage, "_start", started)
        monkeypatch.setattr(world.Pipe, "say", said)

    def _heard(self, pipe: world.Pipe) -> None:
        peer = pipe.peer
        who = "account" if isinstance(peer, http._Origin) else "store" if isinstance(peer, store.Connection) else ""
        if who == self._source and len(self._calls) > 1 and not self._came:
            self._came = True
            self._wait(pipe._loop, self._turns)

    def _wait(self, loop: Any, turns: int) -> None:
        if turns >= 0:
            loop.call_soon(self._wait, loop, turns - 1)
        elif self._act == "drain":
            assert self._stage is not None
            self._stage.replicas[0].stop()
        else:
            call = self._calls[1]
            call._end("gone")
            call.pipe._hung_up(ConnectionResetError(104, "reset by peer") if self._act == "reset" else None)


KINDS: dict[str, tuple[bool, dict[str, list[Answer]], Any]] = {
    "a stream": (True, {}, {}),
    "JSON": (False, {}, {}),
    "a 500": (False, {"a": [error(500, "api_error")]}, {}),
    "a 429": (False, {"a": [limited(400)]}, {}),
    "half an answer": (False, {"a": [good(ends="cut")]}, {}),
    "a refusal": (False, {}, FEW),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "act", "turns"),
    list(itertools.product(("store", "account"), ("close", "reset", "drain"), (-1, 0, 1, 2))),
)
def test_nothing_is_left_whenever_it_ends(
    wire: Rig, monkeypatch: pytest.MonkeyPatch, source: str, act: str, turns: int, kind: str
):
    streamed, upstream, config = KINDS[kind]
    Moment(source, act, turns, monkeypatch)
    played = journey(
        f"{act} {turns} callbacks after the {source}'s bytes of {kind}",
        ask(stream=streamed, want=Want(status=None, ended=None, record={})),
        upstream=upstream, config=config, failures=9, later=1.0, **WARM,
    )  # fmt: skip
    came = ""
    try:
        wire.play(played)
    except AssertionError as error:  # what it came to is a matter of luck, but not what it leaves
        came = str(error)
    assert not any(word in came for word in ("left", "still on", "in_flight", "reserved", "held", "never ends")), came


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("act", ["close", "drain"])
def test_the_wait_for_an_account_is_not_the_gateways_own_time(
    wire: Rig, monkeypatch: pytest.MonkeyPatch, act: str, streamed: bool
):
    Moment("account", act, 0, monkeypatch)
    want = Want(status=None, ended=None, record={"overhead": 0.0})
    upstream = {"a": [good(after=40.0)]}
    name = f"{act} with the head of an answer"
    wire.play(journey(name, ask(stream=streamed, want=want), upstream=upstream, failures=9, later=1.0, **WARM))
