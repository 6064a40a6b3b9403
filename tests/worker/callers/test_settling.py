"""When the store is told of what has ended, how much at once, and what becomes of a batch that it cannot count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from gateway.core.spending.quota import labels
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.ledger.ledger import Ended, Entry, pack, unpack
from gateway.store.scripts import RECALL, Script
from gateway.worker.callers import settling
from gateway.worker.callers.settling import Settling

AT = 1_800_014_400_000
HOUR = 3_600_000


def ended(name: str, at: int = AT, caller: str = "alice") -> Ended:
    entry = Entry(name, at, at, caller, "research", "m", "a", "messages")
    return Ended(entry, pack(entry))


class Told:
    """A store that notes the names of each batch; it cannot count those that are `bad`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.keys: list[list[str]] = []  # of conversations
        self.bad: set[str] = set()
        self.error = "ERR user_script:7: attempt to index a nil value"
        self.raises: Exception | None = None
        self.up = True

    def post(self, script: Script, args: tuple[Any, ...], refused: Callable[[str], None]) -> None:
        if self.raises is not None:
            raise self.raises
        names = [unpack(each).id for each in args if isinstance(each, bytes) and b"entry" in each]
        self.batches.append(names)
        self.keys.append([str(key) for key in args[1 : 1 + args[0]] if "}:" not in str(key)])
        if self.bad & {*names}:
            asyncio.get_running_loop().call_soon(refused, self.error)


class Desk:
    def __init__(self) -> None:
        self.store = Told()
        self.refused = 0
        self.settling = Settling(cast(StoreClient, self.store), self._refuse)

    def _refuse(self) -> None:
        self.refused += 1

    @property
    def told(self) -> list[list[str]]:
        return self.store.batches


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "WAIT", 0.0)


async def _ticks(many: int = 30) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("soon")
async def test_what_ends_meanwhile_of_one_tenant_is_one_batch(desk):
    for name in ("r1", "r2", "r3"):
        desk.settling.add("t:research", ended(name))
    desk.settling.add("c:bob", ended("r4", caller="bob"))
    assert desk.told == []
    await _ticks()
    assert desk.told == [["r1", "r2", "r3"], ["r4"]]
    desk.settling.add("t:research", ended("r5"))
    await _ticks()
    assert desk.told[2:] == [["r5"]]


async def test_an_admission_sends_what_waits_of_its_tenant_and_no_other(desk):
    desk.settling.add("t:research", ended("r1"))
    desk.settling.add("c:bob", ended("r2", caller="bob"))
    desk.settling.flush("t:research")
    desk.settling.flush("t:research")
    desk.settling.flush("t:nobody")
    assert desk.told == [["r1"]]
    desk.settling.flush_all()
    desk.settling.flush_all()
    assert desk.told == [["r1"], ["r2"]]


async def test_whoever_is_told_at_once_is_told_at_the_end_of_the_tick(desk):
    desk.settling.add("t:research", ended("r1"))
    desk.settling.add("t:research", ended("r2"), True)
    desk.settling.add("t:research", ended("r3"), True)
    desk.settling.add("c:bob", ended("r4", caller="bob"))
    assert desk.told == []
    await asyncio.sleep(0)
    assert desk.told == [["r1", "r2", "r3"]]


async def test_no_more_wait_than_one_script_should_count(desk):
    for number in range(settling.MOST + 1):
        desk.settling.add("t:research", ended(f"r{number}"))
    assert [len(batch) for batch in desk.told] == [settling.MOST]
    desk.settling.flush_all()
    assert [name for batch in desk.told for name in batch] == [f"r{number}" for number in range(settling.MOST + 1)]


async def test_requests_of_two_hours_are_two_batches(desk):
    for name, at in (("r1", AT), ("r2", AT + HOUR), ("r3", AT)):
        desk.settling.add("t:research", ended(name, at))
    desk.settling.flush_all()
    assert desk.told == [["r1", "r3"], ["r2"]]


@pytest.mark.parametrize("bad", [0, 3, 6])
async def test_a_batch_that_errs_is_halved_until_the_bad_one_stands_alone(desk, bad):
    names = [f"r{number}" for number in range(7)]
    desk.store.bad = {names[bad]}
    for name in names:
        desk.settling.add("t:research", ended(name))
    desk.settling.flush_all()
    await _ticks()
    counted = [name for batch in desk.told if names[bad] not in batch for name in batch]
    assert sorted(counted) == sorted({*names} - desk.store.bad)  # each once
    assert desk.told.count([names[bad]]) == 1 and desk.refused == 1


async def test_a_store_that_will_not_count_now_is_told_again_by_the_journal(desk):
    desk.store.bad, desk.store.error = {"r1"}, "OOM command not allowed when used memory > 'maxmemory'."
    for name in ("r1", "r2"):
        desk.settling.add("t:research", ended(name))
    desk.settling.flush_all()
    await _ticks()
    assert (desk.told, desk.refused) == ([["r1", "r2"]], 1)


@pytest.mark.parametrize(
    ("error", "refused"), [(StoreDown("away"), 0), (StoreDown("busy"), 1), (RuntimeError("a bug"), 1)]
)
async def test_what_cannot_be_sent_stays_with_the_journal(desk, error, refused):
    desk.store.raises, desk.store.up = error, str(error) != "away"
    desk.settling.add("t:research", ended("r1"))
    desk.settling.flush("t:research")
    desk.store.raises = None
    desk.settling.flush_all()
    assert (desk.told, desk.refused) == ([], refused)


# With a real store.


@pytest.fixture
async def client(server) -> AsyncIterator[StoreClient]:
    made = StoreClient(server.url, budget=5.0)
    assert await made.start(5.0)
    yield made
    await made.close()


async def _answered(client: StoreClient) -> None:
    for _ in range(10):  # halves of halves
        await client.call(RECALL, (1, "none", ""))


@pytest.mark.parametrize("bad", range(5))
async def test_one_reservation_that_cannot_be_read_keeps_no_other_request_from_being_counted(server, client, bad):
    refused = []
    mine = Settling(client, lambda: refused.append(bad))
    names = [f"r{number}" for number in range(5)]
    server.admin.hset("{t:research}:r", names[bad], b"\xc1")
    for _ in range(2):  # and each of them once
        for name in names:
            mine.add("t:research", ended(name))
        mine.flush_all()
        await _answered(client)
    told = [unpack(fields[b"r"]) for _, fields in server.admin.xrange("{t:research}:s")]
    assert sorted(entry.id for entry in told if isinstance(entry, Entry)) == sorted({*names} - {names[bad]})
    assert refused == [bad, bad]
    server.admin.hdel("{t:research}:r", names[bad])
    mine.tell([ended(name) for name in names])  # as the journal does
    await _answered(client)
    assert server.admin.hlen(f"{{t:research}}:x:{labels(AT).hour}") == server.admin.xlen("{t:research}:s") == 5


async def test_two_processes_that_tell_of_the_same_requests_count_each_once(server, client):
    other = StoreClient(server.url, budget=5.0)
    assert await other.start(5.0)
    desks = [Settling(each, lambda: None) for each in (client, other)]
    for number in range(300):
        for place, desk in enumerate(desks):
            desk.add("t:research", ended(f"r{number if place else 299 - number}"))
        if number % 7 == 0:
            desks[number % 2].flush("t:research")
            await asyncio.sleep(0)
    for desk in desks:
        desk.flush_all()
    await _answered(client)
    await _answered(other)
    await other.close()
    (sums,) = server.admin.hvals(f"{{t:research}}:u:h:{labels(AT).hour}")
    assert msgspec.msgpack.decode(sums)[0] == server.admin.xlen("{t:research}:s") == 300
