"""Two things go wrong at once, and what was on its way is counted all the same, or was refused before any account had
it: the store forgets or is away, and the gateway is killed, or its journal's disk takes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import subjects
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    family,
    message,
    request,
    runs,
    until,
)

STREAMS = 40
BOB = "gw-bob-of-two-faults"
KEYS = [
    {"id": "alice", "key": ALICE, "limits": {"concurrency": 100, "budget_usd": {"day": 100}}},
    {"id": "bob", "key": BOB, "limits": {"budget_usd": {"day": 100}}},  # whose settlements may wait for others
]


class Pair:
    """A gateway of two workers and a store of its own, each of which may be gone."""

    def __init__(self, folder: Path, sim: Simulator) -> None:
        self.store = Store(folder / "store")
        config = {"redis": self.store.url, "accounts": accounts_of(sim, 4), "workers": 2, "keys": KEYS}
        self.gateway = Gateway(folder / "gateway", config)

    def kill(self) -> None:
        """The gateway and all its workers, at once."""
        kin = family(self.gateway.pid)
        for pid in kin:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.gateway.process is not None
        self.gateway.process.wait()
        self.gateway.process = None
        until(lambda: not [pid for pid in kin if runs(pid)], "its end")

    def flush(self) -> None:
        with self.store.client() as client:
            client.flushall()

    def row(self, caller: str = "alice") -> dict[str, Any]:
        """What the ledger has of a caller."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        answer = self.gateway.get(f"/admin/v1/usage?group_by=key&key={caller}", admin=True, headers=headers)
        rows = answer.json().get("data")
        return rows[0] if rows else {"requests": 0, "estimated_requests": 0, "input_tokens": 0, "cost_usd": 0.0}

    def held(self) -> tuple[int, int, int]:
        """Reservations, slots and nano-dollars that are held in the store."""
        with self.store.client() as client:
            money = subjects.read(client, "{c:alice}:q:c:alice").get("reserved", 0)
            return client.hlen("{c:alice}:r"), client.zcard("{c:alice}:c:c:alice"), int(money)

    async def all_are_estimated(self, count: int = STREAMS) -> None:
        """Each request that ended nowhere is counted once, by its input; nothing is held for it any more."""
        await eventually(lambda: self.row()["requests"] >= count, f"{count} estimates", 60)
        await eventually(lambda: self.held() == (0, 0, 0), "nothing held", 60)
        row = self.row()
        assert (row["requests"], row["estimated_requests"]) == (count, count)
        assert row["input_tokens"] >= count and row["cost_usd"] > 0


@pytest.fixture
def pair(tmp_path: Path, sim: Simulator) -> Iterator[Pair]:
    pair = Pair(tmp_path, sim)
    yield pair
    if pair.gateway.alive():
        pair.gateway.stop()
    if pair.store.alive():
        pair.store.end()


@contextlib.asynccontextmanager
async def streams(gateway: Gateway, count: int = STREAMS):
    """So many answers that have begun and do not end."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin() -> None:
            wire = await stack.enter_async_context(Wire.open(gateway))
            await wire.send(request(message(stream=True), conversation(), fault="stall=4"))
            assert (await wire.head()).status == 200
            await wire.until_events(2)

        await at_once((begin() for _ in range(count)), 40)
        yield


async def start(pair: Pair, *, store: bool = True) -> None:
    if store:
        pair.store.start()
    pair.gateway.launch()
    await asyncio.to_thread(pair.gateway.ready)


async def test_a_store_that_forgets_everything_just_before_the_gateway_is_killed(pair: Pair):
    await start(pair)
    async with streams(pair.gateway):
        assert pair.held()[:2] == (STREAMS, STREAMS)
        pair.flush()
        pair.kill()
    await start(pair, store=False)
    await pair.all_are_estimated()


async def test_a_gateway_that_is_killed_having_begun_without_a_store(pair: Pair):
    await start(pair, store=False)
    async with streams(pair.gateway):
        pair.kill()
    await start(pair)
    await pair.all_are_estimated()


async def test_a_store_that_forgets_everything_after_the_gateway_was_killed(pair: Pair):
    await start(pair)
    async with streams(pair.gateway):
        pair.kill()
    pair.flush()
    await start(pair, store=False)
    await pair.all_are_estimated()


async def test_a_store_that_is_away_when_the_gateway_is_killed_and_begins_again(pair: Pair):
    await start(pair)
    async with streams(pair.gateway):
        pair.store.end(signal.SIGKILL)
        pair.kill()
    await start(pair, store=False)
    pair.store.start()
    await pair.all_are_estimated()


async def test_a_worker_that_is_killed_before_it_could_note_again_what_the_store_forgot(pair: Pair):
    await start(pair)
    async with streams(pair.gateway):
        pair.flush()
        for pid in pair.gateway.workers():
            os.kill(pid, signal.SIGKILL)
    await pair.all_are_estimated()


@pytest.mark.parametrize("forgetful", [False, True])
async def test_what_has_ended_is_counted_as_it_was_though_its_worker_is_killed_at_once(pair: Pair, forgetful: bool):
    """It is in the journal, and perhaps the store was not told of it yet."""
    await start(pair)
    many = 60
    answers = await at_once((ask(pair.gateway, message(), conversation(), key=BOB) for _ in range(many)), 20)
    if forgetful:
        pair.flush()
    for pid in pair.gateway.workers():
        os.kill(pid, signal.SIGKILL)
    assert {answer.status for answer in answers} == {200}
    await eventually(lambda: pair.row("bob")["requests"] == many, "all requests", 60)
    row = pair.row("bob")
    assert (row["requests"], row["estimated_requests"]) == (many, 0)
    tokens = sum(answer.json()["usage"]["output_tokens"] for answer in answers)
    assert row["output_tokens"] == tokens
    with pair.store.client() as client:
        assert client.hlen("{c:bob}:r") == 0
        assert subjects.read(client, "{c:bob}:q:c:bob").get("reserved") == 0


async def test_what_is_on_its_way_is_reserved_again_in_a_store_that_forgot_it_or_came_late(pair: Pair):
    """So that every other replica knows of it too, should this one die with its disk."""
    await start(pair, store=False)
    async with streams(pair.gateway):
        pair.store.start()
        await eventually(lambda: pair.held()[:2] == (STREAMS, STREAMS), "what is on its way", 60)
        before = pair.held()
        assert before[2] > 0
        pair.flush()
        await eventually(lambda: pair.held() == before, "what is on its way", 60)
    await eventually(lambda: pair.held() == (0, 0, 0), "the end of all")
    await eventually(lambda: pair.row()["requests"] == STREAMS, "its usage")


@contextlib.contextmanager
def no_room(gateway: Gateway) -> Iterator[None]:
    """The gateway's journal of usage takes nothing: where its folder should be is a file. Before anything was asked: a
    segment that is open already would still be written."""
    folder = Path(gateway.config["data_dir"]) / "usage"
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("no room")
    yield
    folder.unlink()
    aside.rename(folder)


def degraded(gateway: Gateway) -> float:
    return gateway.metrics().total("gateway_degraded", mode="journal")


@pytest.mark.parametrize("how", ["away", "slow"])
async def test_without_a_store_and_without_a_journal_nothing_leaves(pair: Pair, sim: Simulator, how: str):
    await start(pair)
    since = sim.mark()
    room = contextlib.ExitStack()
    room.enter_context(no_room(pair.gateway))
    assert (await ask(pair.gateway, message())).status == 200  # the store keeps account of it
    await eventually(lambda: pair.row()["requests"] == 1, "its usage")
    await eventually(lambda: degraded(pair.gateway) == 1, "no journal")
    if how == "away":
        pair.store.end(signal.SIGKILL)
    else:
        os.kill(pair.store.pid, signal.SIGSTOP)
    answers = await at_once((ask(pair.gateway, message(), conversation()) for _ in range(200)), 40)
    for answer in answers:
        said = assert_error(answer, 529, "overloaded_error")
        assert said == "The gateway cannot keep account of this request now. Please try again later."
        assert answer["retry-after"] == "1" and not answer.account
    assert len(sim.records(since)) == 1
    assert pair.gateway.metrics().total("gateway_throttled_total", scope="gateway", reason="journal") == 200

    # Room again: without the store it goes on as always, and all is counted once the store is back.
    room.close()

    async def served() -> int:
        return sum([(await ask(pair.gateway, message())).status == 200 for _ in range(8)])

    begun, passed = time.monotonic(), 1
    while (now := await served()) < 8:
        passed += now
        assert time.monotonic() < begun + 20
    passed += now
    await eventually(lambda: degraded(pair.gateway) == 0, "the journal")
    if how == "away":
        pair.store.start()
    else:
        os.kill(pair.store.pid, signal.SIGCONT)
    await eventually(lambda: pair.gateway.get("/readyz").json()["store"] == "connected", "the store")
    await eventually(lambda: pair.row()["requests"] == passed, f"{passed} requests")
    await eventually(lambda: pair.held() == (0, 0, 0), "nothing held")
    assert pair.row()["estimated_requests"] == 0 and len(sim.records(since)) == passed
    pair.kill()  # rather than read in its log that the journal could not be replayed


async def test_what_ended_while_neither_could_take_it_is_told_when_the_store_is_back(pair: Pair, sim: Simulator):
    await start(pair)
    with no_room(pair.gateway):
        async with streams(pair.gateway, 10):
            pair.store.end(signal.SIGKILL)
            await eventually(lambda: pair.gateway.get("/readyz").json()["store"] != "connected", "its end")
        # Their clients have gone: they have ended, and only their processes know.
        pair.store.start()
        await eventually(lambda: pair.row()["requests"] == 10, "their usage", 60)
        await eventually(lambda: pair.held() == (0, 0, 0), "nothing held")
        pair.kill()  # rather than read in its log that the journal cannot be replayed
