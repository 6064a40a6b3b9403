"""What becomes of conversations while the store is killed, hangs, forgets, refuses, or was never there: nothing that
clients would notice, and as little as can be of what accounts hold in their caches."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.store.ledger.ledger import Entry, unpack
from tests.e2e.rig import (
    ADMIN_TOKEN,
    Answer,
    Gateway,
    Simulator,
    Store,
    accounts_of,
    ask,
    at_once,
    eventually,
    message,
    until,
)

HEADERS = {"authorization": f"Bearer {ADMIN_TOKEN}"}
SHORT = message("Hello")
LATER = message("Hello", "Well", "And then?")


class Pair:
    """Two gateways on one store that is theirs alone and may be ill-treated. They wait for it for `budget` seconds."""

    def __init__(self, folder: Path, simulator: Simulator, budget: float = 1.0) -> None:
        self.store = Store(folder / "store")
        config = {"redis": self.store.url, "accounts": accounts_of(simulator, 4), "timeouts": {"store": budget}}
        self.gateways = [Gateway(folder / name, dict(config)) for name in ("left", "right")]

    def start(self) -> None:
        for gateway in self.gateways:
            gateway.launch()
        for gateway in self.gateways:
            gateway.ready()

    def degraded(self) -> list[float]:
        return [gateway.metrics().total("gateway_degraded", mode="store") for gateway in self.gateways]

    def well(self) -> bool:
        return self.degraded() == [0, 0]


@pytest.fixture(scope="module")
def running(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"), simulator)
    pair.store.start()
    pair.start()
    yield pair
    for gateway in pair.gateways:
        gateway.stop()
    assert pair.store.end() == 0


@pytest.fixture
def pair(running: Pair, sim: Simulator) -> Pair:
    """Both gateways, with the store and all accounts in order."""
    until(running.well, "the store connected")
    running.gateways[0].mend()
    return running


async def turns(gateways: list[Gateway], names: list[str], body: Any = LATER) -> list[Answer]:
    """One turn of each conversation, in turn with these gateways."""
    work = (
        ask(gateways[number % len(gateways)], body, {"X-Conversation-Id": name}) for number, name in enumerate(names)
    )
    return list(await at_once(work, 8))


async def begun(gateways: list[Gateway], count: int) -> dict[str, str]:
    """New conversations with one answered turn: id -> account."""
    names = [uuid.uuid4().hex for _ in range(count)]
    answers = await turns(gateways, names, SHORT)
    assert {answer.status for answer in answers} == {200}
    return {name: answer.account for name, answer in zip(names, answers, strict=True)}


async def moved(pair: Pair, sim: Simulator, count: int) -> dict[str, str]:
    """As `begun`, but of conversations that have all been moved away from where they were first."""
    left = pair.gateways[0]
    homes = await begun([left], count)
    new = {}
    for name, home in homes.items():
        fault = {"kind": "status", "value": 401, "account": home}
        answer = await ask(left, LATER, {"X-Conversation-Id": name}, fault=fault)
        assert (answer.status, answer.route) == (200, "moved") and answer.account != home
        new[name] = answer.account
        left.mend()
    assert {answer.route for answer in await turns([left], list(new))} == {"bound"}
    return new


async def all_at(homes: dict[str, str], gateways: list[Gateway], *routes: str) -> None:
    """That a turn of each conversation is served where it lives, by one of these routes."""
    answers = await turns(gateways, list(homes))
    assert {answer.status for answer in answers} == {200}
    strayed = {
        name: (home, answer.account, answer.route)
        for (name, home), answer in zip(homes.items(), answers, strict=True)
        if answer.account != home
    }
    assert not strayed
    assert not routes or {answer.route for answer in answers} <= set(routes)


class Load:
    """Conversations that go on with both gateways, whatever happens. `took` are (time, seconds) of each request."""

    def __init__(self, gateways: list[Gateway], names: list[str], pause: float = 0.03) -> None:
        self.answers: dict[str, list[Answer]] = {name: [] for name in names}
        self.took: list[tuple[float, float]] = []
        self._gateways = gateways
        self._pause = pause
        self._over = False
        self._marks: dict[str, int] | None = None
        self._tasks = [asyncio.create_task(self._talk(number, name)) for number, name in enumerate(names)]

    async def _talk(self, number: int, name: str) -> None:
        while not self._over:
            gateway = self._gateways[(number + len(self.answers[name])) % len(self._gateways)]
            began = time.monotonic()
            answer = await ask(gateway, LATER, {"X-Conversation-Id": name})
            self.took.append((began, time.monotonic() - began))
            self.answers[name].append(answer)
            await asyncio.sleep(self._pause)

    async def see(self, route: str, seconds: float = 20) -> float:
        """Until the latest answers of all conversations have this route; how long that took."""
        began = time.monotonic()
        marks = {name: len(each) for name, each in self.answers.items()}
        await eventually(
            lambda: all(
                len(each) > marks[name] + 1 and {answer.route for answer in each[-2:]} == {route}
                for name, each in self.answers.items()
            ),
            f"the route {route}",
            seconds,
        )
        return time.monotonic() - began

    def goes_on(self, count: int) -> bool:
        """Whether every conversation has had so many turns since this was first asked."""
        if self._marks is None:
            self._marks = {name: len(each) for name, each in self.answers.items()}
        return all(len(each) >= self._marks[name] + count for name, each in self.answers.items())

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def at_home(self, homes: dict[str, str]) -> None:
        """End it: nobody was ever refused or elsewhere."""
        await self.end()
        for name, answers in self.answers.items():
            assert {answer.status for answer in answers} == {200}
            assert {answer.account for answer in answers} == {homes[name]}


# -- Gone -------------------------------------------------------------------------------------------------------------


async def test_a_store_that_is_killed_for_seconds_is_missed_by_nobody(pair: Pair, sim: Simulator):
    homes = await begun(pair.gateways, 12) | await moved(pair, sim, 4)
    load = Load(pair.gateways, list(homes))
    await load.see("bound")
    pair.store.end(signal.SIGKILL)
    try:
        await load.see("stateless")
        assert pair.degraded() == [1, 1]
        strangers = [uuid.uuid4().hex for _ in range(30)]
        left, right = [await turns([gateway], strangers, SHORT) for gateway in pair.gateways]
        assert {(answer.status, answer.route) for answer in (*left, *right)} == {(200, "stateless")}
        assert [answer.account for answer in left] == [answer.account for answer in right]
        assert len({answer.account for answer in left}) == 4
        assert not load.goes_on(10)
        await eventually(lambda: load.goes_on(10), "turns without a store")
    finally:
        pair.store.start()
    await load.see("bound")
    await load.at_home(homes)
    await eventually(pair.well, "nothing degraded")
    new = {name: answer.account for name, answer in zip(strangers, left, strict=True)}
    await all_at(new, pair.gateways[::-1], "bound", "new")
    await all_at(new, pair.gateways, "bound")


@pytest.fixture
def rested(simulator: Simulator, sim: Simulator, tmp_path: Path) -> Iterator[Pair]:
    """A pair that has carried no load, for which a conversation might go back home."""
    yield from well(Pair(tmp_path, simulator))


@pytest.fixture
def impatient(simulator: Simulator, sim: Simulator, tmp_path: Path) -> Iterator[Pair]:
    """A pair that waits for its store no longer than usual gateways do."""
    yield from well(Pair(tmp_path, simulator, budget=0.05))


def well(pair: Pair) -> Iterator[Pair]:
    """The pair while it runs, with its store connected."""
    pair.store.start()
    pair.start()
    until(pair.well, "the store connected")
    yield pair
    for gateway in pair.gateways:
        gateway.stop()
    assert pair.store.end() == 0


async def test_a_conversation_that_moves_while_the_store_is_away_stays_moved_everywhere(rested: Pair, sim: Simulator):
    pair = rested
    homes = await begun(pair.gateways, 8)
    await all_at(homes, pair.gateways[::-1])
    pair.store.end(signal.SIGKILL)
    try:
        new = {}
        await eventually(lambda: pair.degraded() == [1, 1], "the store away")
        for name, home in homes.items():
            fault = {"kind": "status", "value": 401, "account": home}
            answer = await ask(pair.gateways[0], LATER, {"X-Conversation-Id": name}, fault=fault)
            assert (answer.status, answer.account != home) == (200, True)
            new[name] = answer.account
            await eventually(lambda: not any_out(pair), "the probes' answers")
        await all_at(new, pair.gateways[:1], "stateless")
    finally:
        pair.store.start()
    await eventually(pair.well, "nothing degraded")
    await eventually_at(new, pair)


def any_out(pair: Pair) -> bool:
    """Whether any account is still being probed."""
    metrics = pair.gateways[0].metrics()
    return metrics.total("gateway_account_state", state="out") > 0


async def eventually_at(homes: dict[str, str], pair: Pair, seconds: float = 10) -> None:
    """All conversations are served where they live by both gateways, sooner or later."""
    deadline = time.monotonic() + seconds
    while True:
        answers = [await turns([gateway], list(homes)) for gateway in pair.gateways]
        wrong = [
            (home, [answer.account for answer in both], [answer.route for answer in both])
            for home, *both in zip(homes.values(), *answers, strict=True)
            if {answer.account for answer in both} != {home}
        ]
        if not wrong:
            return
        assert time.monotonic() < deadline, wrong
        await asyncio.sleep(0.1)


# -- Hanging ----------------------------------------------------------------------------------------------------------


@pytest.mark.torture
async def test_a_store_that_hangs_costs_little_before_it_counts_as_gone_and_less_after(impatient: Pair, sim: Simulator):
    pair = impatient
    homes = await begun(pair.gateways, 12)
    load = Load(pair.gateways, list(homes))
    await load.see("bound")
    usual = statistics.median(seconds for _, seconds in load.took)
    stopped = time.monotonic()
    os.kill(pair.store.pid, signal.SIGSTOP)
    try:
        await load.see("stateless")
        opened = time.monotonic()
        await asyncio.sleep(2.5)  # through a few attempts to connect again
        ends = time.monotonic()
    finally:
        os.kill(pair.store.pid, signal.SIGCONT)
    healed = await load.see("bound")
    await load.at_home(homes)
    before = [seconds for at, seconds in load.took if stopped <= at < opened]
    after = [seconds for at, seconds in load.took if opened <= at < ends]
    assert statistics.mean(before) < usual + 0.1, (usual, statistics.mean(before))
    assert statistics.mean(after) < usual + 0.02, (usual, statistics.mean(after))
    assert max(after) < 0.5
    assert healed < 2.5
    await eventually(pair.well, "nothing degraded")


# -- Forgetting -------------------------------------------------------------------------------------------------------


async def test_a_store_that_forgets_all_is_told_again(pair: Pair, sim: Simulator):
    homes = await begun(pair.gateways, 12) | await moved(pair, sim, 4)
    load = Load(pair.gateways, list(homes))
    await load.see("bound")
    with pair.store.client() as client:
        document = client.get("{pool}:document")
        kept = set(client.scan_iter("*:b:*"))
        assert len(kept) >= len(homes) and document
        client.flushall()
        await load.at_home(homes)
        await eventually(lambda: client.get("{pool}:document"), "the document again")
        await eventually(lambda: set(client.scan_iter("*:b:*")) >= kept, "the bindings again")
    await all_at(homes, pair.gateways, "bound")


async def test_quiet_conversations_are_given_back_to_a_store_that_forgot_them(pair: Pair, sim: Simulator):
    homes = await moved(pair, sim, 6) | await begun(pair.gateways, 12)
    with pair.store.client() as client:
        kept = {key: client.hkeys(key) for key in client.scan_iter("*:b:*")}
        client.flushall()
        await eventually(lambda: client.get("{pool}:document"), "the document again")
        await eventually(lambda: set(client.scan_iter("*:b:*")) >= set(kept), "the bindings again")
        assert {key: client.hkeys(key) for key in kept} == kept
        assert all(3_600_000 < client.pttl(key) <= 30 * 86_400_000 for key in kept)
    await all_at(homes, pair.gateways[::-1], "bound")


@pytest.mark.parametrize("shared", [False, True], ids=["of their own", "of one system prompt"])
async def test_conversations_are_where_they_were_for_the_other_replica_that_is_asked_at_once_after_a_flush(
    shared: bool, pair: Pair, sim: Simulator
):
    """Nobody has told it of them: it must come to the same accounts, but for those that load has sent elsewhere: few
    where those in flight are everywhere alike, and some of those that one prompt has brought to one account."""
    left, right = pair.gateways
    text = uuid.uuid4().hex * 700
    system = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    more = {"system": system} if shared else {}
    at: dict[str, list[str]] = {account["id"]: [] for account in sim.accounts[:4]}
    while sum(map(len, at.values())) < 32:
        name = uuid.uuid4().hex
        [answer] = await turns([left], [name], {**SHORT, **more})
        if shared or len(at[answer.account]) < 8:
            at[answer.account].append(name)
    here = [[(name, account) for name in some] for account, some in at.items()]
    homes = dict(filter(None, chain.from_iterable(zip_longest(*here))))  # one of each account, again and again
    names = list(homes)
    with pair.store.client() as client:
        client.flushall()
    after = await turns([right], names, {**LATER, **more})
    assert {answer.status for answer in after} == {200}
    strayed = [name for name, now in zip(names, after, strict=True) if homes[name] != now.account]
    assert len(strayed) <= (8 if shared else 3)
    # And where they are now they stay.
    homes = {name: answer.account for name, answer in zip(names, after, strict=True)}
    await all_at(homes, [left, right], "bound")


async def test_scripts_that_are_flushed_cost_nothing(pair: Pair, sim: Simulator):
    homes = await begun(pair.gateways, 12)
    load = Load(pair.gateways, list(homes))
    await load.see("bound")
    with pair.store.client() as client:
        for _ in range(3):
            client.script_flush()
            await load.see("bound")
    await load.at_home(homes)
    assert all(answer.route == "bound" for answers in load.answers.values() for answer in answers)


# -- Refusing ---------------------------------------------------------------------------------------------------------


def out_of_memory(client: redis.Redis) -> Callable[[], object]:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    return lambda: client.config_set("maxmemory", "0")


def read_only(client: redis.Redis) -> Callable[[], object]:
    """The replica of nobody who answers: it refuses to be written to."""
    client.config_set("replica-serve-stale-data", "yes")
    client.replicaof("127.0.0.1", "1")
    return lambda: client.replicaof("NO", "ONE")


def without_replicas(client: redis.Redis) -> Callable[[], object]:
    client.config_set("min-replicas-to-write", "1")
    return lambda: client.config_set("min-replicas-to-write", "0")


def busy(client: redis.Redis) -> Callable[[], object]:
    """It runs somebody's endless script, and says so after a while."""
    client.config_set("busy-reply-threshold", "20")
    runner = redis.Redis.from_url(f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}")
    connection = runner.connection_pool.get_connection()
    connection.send_command("EVAL", "while true do end", 0)

    def heal() -> None:
        client.script_kill()
        connection.disconnect()
        runner.close()

    return heal


def counted(store: Store) -> set[str]:
    """The ids of all requests in the store's ledger."""
    with redis.Redis.from_url(store.url) as client:
        ledgers = [client.xrange(key) for key in client.scan_iter(match="*}:s", count=1000)]
    entries = [unpack(fields[b"r"]) for ledger in ledgers for _, fields in ledger]
    return {entry.id for entry in entries if isinstance(entry, Entry)}


@pytest.mark.parametrize("trouble", [out_of_memory, read_only, without_replicas, busy])
async def test_a_store_that_refuses_is_as_good_as_gone(
    trouble: Callable[[redis.Redis], Callable[[], object]], pair: Pair, sim: Simulator
):
    homes = await begun(pair.gateways, 8) | await moved(pair, sim, 2)
    load = Load(pair.gateways, list(homes))
    await load.see("bound")
    with pair.store.client() as client:
        heal = trouble(client)
        try:
            await eventually(lambda: load.goes_on(10), "ten more turns of each")
            strangers = [uuid.uuid4().hex for _ in range(16)]
            left, right = [await turns([gateway], strangers, SHORT) for gateway in pair.gateways]
            assert {(answer.status, answer.route) for answer in (*left, *right)} == {(200, "stateless")}
            assert [answer.account for answer in left] == [answer.account for answer in right]
        finally:
            heal()
    await load.see("bound")
    await load.at_home(homes)
    for answers in load.answers.values():  # some refusals are of writing only
        assert {answer.route for answer in answers} <= {"bound", "stateless"}
    # What it would not count it is told again, though it was there all the time.
    given = {answer.request_id for answers in (left, right, *load.answers.values()) for answer in answers}
    await eventually(lambda: not given - counted(pair.store), "every answer in the store's ledger")
    await eventually(pair.well, "nothing degraded")
    new = {name: answer.account for name, answer in zip(strangers, left, strict=True)}
    await all_at(new, pair.gateways[::-1])
    await all_at(new, pair.gateways, "bound")


# -- Never there ------------------------------------------------------------------------------------------------------


async def test_gateways_that_start_from_their_snapshots_agree_on_what_was_agreed(sim: Simulator, tmp_path: Path):
    """Their files alone would not do: what operators have said is in the document only."""
    pair = Pair(tmp_path, sim)
    pair.store.start()
    pair.start()
    off, heavy = sim.accounts[0]["id"], sim.accounts[1]["id"]
    for account, values in ((off, b'{"state": "disabled"}'), (heavy, b'{"weight": 50}')):
        path = f"/admin/v1/accounts/{account}"
        answer = pair.gateways[0].get(path, admin=True, headers=HEADERS, method="PATCH", body=values)
        assert answer.status == 200
    snapshots = [Path(gateway.config["data_dir"]) / "pool.json" for gateway in pair.gateways]
    await eventually(lambda: all('"weight":50' in each.read_text() for each in snapshots), "the snapshots")
    homes = await begun(pair.gateways, 24)
    for gateway in pair.gateways:
        gateway.stop()
    pair.store.end(signal.SIGKILL)

    pair.start()
    names = [uuid.uuid4().hex for _ in range(40)]
    left, right = [await turns([gateway], names, SHORT) for gateway in pair.gateways]
    assert {(answer.status, answer.route) for answer in (*left, *right)} == {(200, "stateless")}
    assert [answer.account for answer in left] == [answer.account for answer in right]
    shares = [answer.account for answer in left]
    assert off not in shares and shares.count(heavy) > 30
    assert pair.degraded() == [1, 1]

    pair.store.start()
    await eventually(pair.well, "the store")
    # What they served while it was away has overtaken nothing that it knew.
    new = {name: answer.account for name, answer in zip(names, left, strict=True)}
    await all_at(new, pair.gateways[::-1])
    await all_at(homes, pair.gateways, "bound")
    for gateway in pair.gateways:
        gateway.stop()
    assert pair.store.end() == 0


async def test_without_store_and_snapshot_the_file_alone_is_enough(sim: Simulator, tmp_path: Path):
    pair = Pair(tmp_path, sim)
    for gateway in pair.gateways:
        shutil.rmtree(gateway.config["data_dir"], ignore_errors=True)
    pair.start()
    names = [uuid.uuid4().hex for _ in range(20)]
    left, right = [await turns([gateway], names, SHORT) for gateway in pair.gateways]
    assert {(answer.status, answer.route) for answer in (*left, *right)} == {(200, "stateless")}
    assert [answer.account for answer in left] == [answer.account for answer in right]
    for gateway in pair.gateways:
        gateway.stop()
