"""Owners of objects, homes and metered lines: on a real server, and given back to one that has lost them."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from gateway.store import owners
from gateway.store.client import redis_py
from gateway.store.client.client import StoreClient
from gateway.store.client.connection import Arg, StoreDown
from gateway.store.ledger import journal as journals
from gateway.store.owners import (
    TOMBSTONE,
    Call,
    Homes,
    Owner,
    OwnersJournal,
    home_key,
    homes_of,
    metered_key,
    owner_key,
    owner_of,
    to_disown,
    to_home,
    to_meter,
    to_own,
    to_read,
    to_remember,
)
from gateway.store.scripts import Script

NOW = 1_800_000_000_000  # ms
HOUR = 3_600_000
DAY = 24 * HOUR
ALICE = Owner("w1", "alice", "research", NOW - DAY)
BOB = Owner("w2", "bob", "", NOW)
ID = "file_011CNha8iCJcU1wXNR6q4V8w"
BATCH = "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d"


class Store:
    """What the calls do, and how the keys look afterwards."""

    def __init__(self, client: StoreClient, admin: Any) -> None:
        self.client = client
        self.admin = admin

    async def ask(self, call: Call) -> Any:
        return await self.client.call(*call)

    async def own(self, owner: Owner, lifetime: int = 0, object_id: str = ID) -> Owner | None:
        return owner_of(await self.ask(to_own(object_id, owner, lifetime)))

    async def read(self, object_id: str = ID) -> Owner | None:
        return owner_of(await self.ask(to_read(object_id)))

    async def home(self, expected: str, proposed: str, at: int = 0) -> tuple[str, ...]:
        return homes_of(await self.ask(to_home("team", expected, proposed, at))).workspaces

    async def remember(self, at: int, *workspaces: str) -> tuple[str, ...]:
        return homes_of(await self.ask(to_remember("team", Homes(at, workspaces)))).workspaces

    async def meter(self, known: int | None, lines: int, lifetime: int = 0) -> tuple[bool, int]:
        advanced, present = await self.ask(to_meter(BATCH, known, lines, lifetime))
        return bool(advanced), present

    def life(self, key: str) -> int:
        return int(self.admin.pttl(key))

    def everything(self) -> dict[bytes, tuple[bytes, int]]:
        """Each key's value, and in which minute it ends; of those that do not end, -1."""
        kept = {}
        for key in self.admin.scan_iter():
            end = self.admin.pexpiretime(key)
            kept[key] = (self.admin.get(key), end if end < 0 else round(end / 60_000))
        return kept


@pytest.fixture
async def store(server, client) -> Store:
    return Store(client, server.admin)


# Owners.


async def test_an_object_belongs_to_who_says_so_first(store):
    assert await store.read() is None
    assert await store.own(ALICE) == ALICE
    assert await store.own(BOB) == ALICE
    assert await store.read() == ALICE


async def test_asking_creates_nothing(store):
    await store.read()
    await store.home("", "")
    await store.meter(None, 0)
    assert store.everything() == {}


async def test_two_who_create_at_once_agree_on_one_owner(server, connect):
    clients = [connect(server.url) for _ in range(4)]
    for client in clients:
        assert await client.start()
    for number in range(100):
        said = [Owner(f"w{each}", f"caller{each}", "", NOW) for each in range(4)]
        calls = [client.call(*to_own(f"id{number}", owner, 0)) for client, owner in zip(clients, said, strict=True)]
        (owner,) = {owner_of(reply) for reply in await asyncio.gather(*calls)}
        assert owner in said


@pytest.mark.parametrize("other", [ALICE, Owner("w1", "bob", "research", 1), Owner("w2", "alice", "research", 1)])
async def test_a_stranger_changes_neither_owner_nor_lifetime(store, other):
    first = Owner("w1", "alice", "", NOW)
    mine = (other.workspace, other.caller) == ("w1", "alice")
    await store.own(first, HOUR)
    assert await store.own(other, DAY) == first
    assert (store.life(owner_key(ID)) > HOUR) is mine


async def test_a_record_lives_as_long_as_it_is_told_and_is_only_ever_extended(store):
    key = owner_key(ID)
    await store.own(ALICE, HOUR)
    assert HOUR - 60_000 < store.life(key) <= HOUR
    await store.own(ALICE, HOUR // 2)
    assert store.life(key) > HOUR // 2
    await store.own(ALICE, DAY)
    assert DAY - 60_000 < store.life(key) <= DAY
    await store.own(ALICE, 0)
    assert store.life(key) == -1
    await store.own(ALICE, HOUR)
    assert store.life(key) == -1


async def test_a_record_ends(store):
    await store.own(ALICE, 1)
    async with asyncio.timeout(10):
        while await store.read() is not None:
            pass
    assert await store.own(BOB) == BOB


async def test_what_no_gateway_wrote_is_left_alone(store):
    for odd in (b"?", b"\xc1", msgspec.msgpack.encode({"a": 1})):
        store.admin.set(owner_key(ID), odd)
        with pytest.raises(msgspec.MsgspecError):
            await store.own(ALICE)
        assert store.admin.get(owner_key(ID)) == odd


async def test_what_is_disowned_has_no_owner_and_gets_none_for_a_while(store):
    await store.own(ALICE, object_id=BATCH)
    await store.meter(0, 5)
    assert await store.ask(to_disown(BATCH)) == 1
    assert await store.read(BATCH) is None
    assert await store.meter(None, 0) == (False, 0)
    assert await store.own(ALICE, object_id=BATCH) is None
    assert await store.own(BOB, object_id=BATCH) is None
    assert await store.ask(to_disown(BATCH)) == 0
    assert 0 < store.life(owner_key(BATCH)) <= TOMBSTONE
    assert set(store.everything()) == {owner_key(BATCH).encode()}


async def test_disowning_comes_before_an_owner_that_was_on_its_way(store):
    assert await store.ask(to_disown(ID)) == 0
    assert await store.own(ALICE) is None


# Homes.


async def test_the_first_home_stays_until_who_knows_it_proposes_another(store):
    assert await store.home("", "") == ()
    assert await store.home("", "w1") == ("w1",)
    assert await store.home("", "w2") == ("w1",)
    assert await store.home("w2", "w3") == ("w1",)
    assert await store.home("w1", "w2") == ("w2", "w1")
    assert await store.home("w2", "w3") == ("w3", "w2", "w1")
    assert await store.home("w3", "w2") == ("w2", "w3", "w1")
    assert await store.home("w2", "w2") == ("w2", "w3", "w1")
    assert await store.home("", "") == ("w2", "w3", "w1")
    assert store.life(home_key("team")) == -1


async def test_a_home_that_was_lost_is_chosen_anew_whatever_was_expected(store):
    assert await store.home("w1", "w2") == ("w2",)


async def test_proposers_at_once_agree_on_one_home(server, connect):
    clients = [connect(server.url) for _ in range(4)]
    for client in clients:
        assert await client.start()
    present = ""
    for number in range(50):
        replies = [
            client.call(*to_home("team", present, f"w{number}.{each}", NOW)) for each, client in enumerate(clients)
        ]
        (homes,) = {homes_of(reply).workspaces for reply in await asyncio.gather(*replies)}
        assert homes[0] in {f"w{number}.{each}" for each in range(4)}
        assert homes[1:2] == ((present,) if present else ())
        assert len(homes) == number + 1
        present = homes[0]


async def test_former_homes_are_added_behind(store):
    assert await store.remember(NOW, "w1", "w2", "w3") == ("w1", "w2", "w3")
    assert await store.remember(NOW - 1, "w4", "w2", "w5") == ("w1", "w2", "w3", "w4", "w5")
    assert await store.remember(NOW - 1, "w4", "w2", "w5") == ("w1", "w2", "w3", "w4", "w5")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_the_last_choice_is_the_home_again_in_whatever_order_it_is_given_back(store, tmp_path, order):
    """Each gateway remembers what it saw of a group that went from w1 to w2 and back, then to w3."""
    first, second = Homes(NOW, ("w1",)), Homes(NOW + 1, ("w2", "w1"))
    third, last = Homes(NOW + 2, ("w1", "w2")), Homes(NOW + 3, ("w3", "w1", "w2"))
    journals = []
    for each, seen in enumerate(([first], [second, third], [first, last])):
        journals.append(OwnersJournal(tmp_path / str(each)))
        for homes in seen:
            journals[-1].home("team", homes)
        journals[-1].close()
    for each in order:
        await journals[each].replay(store.client.call, NOW)
    homes = await store.home("", "")
    assert homes[0] == "w3" and sorted(homes) == ["w1", "w2", "w3"]


async def test_homes_written_without_a_time_are_older_than_any(store):
    for ask in (lambda: store.home("", ""), lambda: store.home("w9", "w8", NOW)):
        store.admin.set(home_key("team"), msgspec.msgpack.encode(["w2", "w1"]))
        assert await ask() == ("w2", "w1")
    assert await store.home("w2", "w3", NOW) == ("w3", "w2", "w1")
    store.admin.set(home_key("team"), msgspec.msgpack.encode(["w2", "w1"]))
    assert await store.remember(NOW, "w1") == ("w1", "w2")


async def test_a_later_choice_is_later_whatever_the_clock_says(store):
    await store.home("", "w1", NOW)
    await store.home("w1", "w2", NOW - HOUR)
    assert await store.remember(NOW, "w1") == ("w2", "w1")


async def test_a_home_that_cannot_be_read_counts_as_none(store):
    for odd in (b"", b"\xc1", b"\x01", msgspec.msgpack.encode([1, "w3"])):
        store.admin.set(home_key("team"), odd)
        assert await store.home("", "") == ()
        assert await store.home("", "w1") == ("w1",)


# Metered lines.


async def test_metered_lines_advance_from_what_was_read(store):
    assert await store.meter(None, 0) == (False, 0)
    assert await store.meter(0, 10) == (True, 10)
    assert await store.meter(0, 10) == (False, 10)
    assert await store.meter(0, 20) == (False, 10)
    assert await store.meter(10, 9) == (False, 10)
    assert await store.meter(10, 25) == (True, 25)
    assert await store.meter(None, 0) == (False, 25)


async def test_metered_lines_are_raised_whatever_they_are_but_never_lowered(store):
    assert await store.meter(None, 7) == (True, 7)
    assert await store.meter(None, 7) == (False, 7)
    assert await store.meter(None, 6) == (False, 7)
    assert await store.meter(None, 8) == (True, 8)


async def test_metered_lines_live_as_long_as_they_are_told(store):
    await store.meter(0, 1, HOUR)
    assert HOUR - 60_000 < store.life(metered_key(BATCH)) <= HOUR
    await store.meter(1, 2)
    assert store.life(metered_key(BATCH)) == -1


async def test_each_line_is_metered_by_one_of_many(server, connect):
    clients = [connect(server.url) for _ in range(3)]
    for client in clients:
        assert await client.start()
    counted: list[int] = []

    async def count(client: StoreClient, step: int) -> None:
        known = 0
        while known < 500:
            lines = min(500, known + step)
            advanced, present = await client.call(*to_meter(BATCH, known, lines, 0))
            if advanced:
                counted.extend(range(known, lines))
            known = present

    await asyncio.gather(*(count(client, step) for client, step in zip(clients, (3, 7, 50), strict=True)))
    assert sorted(counted) == list(range(500))


@pytest.mark.parametrize("object_id", [ID, "", "a}b", "{a}", "}{"])
def test_what_belongs_to_one_object_is_in_one_slot_and_in_no_others_place(object_id):
    assert key_slot(owner_key(object_id).encode()) == key_slot(metered_key(object_id).encode())
    keys = {owner_key(object_id), metered_key(object_id), home_key(object_id)}
    assert len(keys | {owner_key(ID + "x"), metered_key(ID + "x")}) == 5


# The journal.


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "owners"


@pytest.fixture
async def journal(folder) -> AsyncIterator[OwnersJournal]:
    made = OwnersJournal(folder)
    yield made
    made.close()


async def now_of(store: Store) -> int:
    seconds, micros = store.admin.time()
    return seconds * 1000 + micros // 1000


async def live_through_some(store: Store, journal: OwnersJournal, now: int) -> int:
    """Everything that can happen, told to both; how many records live."""
    for number in range(100):
        owner = Owner("w1", f"caller{number % 3}", "", now)
        lifetime = (0, HOUR, DAY)[number % 3]
        journal.own(f"id{number}", owner, lifetime, now)
        await store.own(owner, lifetime, f"id{number}")
    for number in range(50, 60):
        journal.disown(f"id{number}", now)
        await store.ask(to_disown(f"id{number}"))
    journal.disown("another gateway's", now)
    await store.ask(to_disown("another gateway's"))
    journal.own(BATCH, BOB, DAY, now)
    await store.own(BOB, DAY, BATCH)
    for lines in (5, 9):
        journal.metered(BATCH, lines, HOUR, now)
        await store.meter(None, lines, HOUR)
    for expected, proposed in (("", "w1"), ("w1", "w2"), ("w2", "w3"), ("w3", "w1")):
        journal.home("team", homes_of(await store.ask(to_home("team", expected, proposed, now))))
    return 100 - 10 + 1 + 1 + 1


@pytest.mark.parametrize("compactions", range(3))
async def test_a_store_that_lost_everything_is_given_it_back_exactly(store, journal, compactions):
    now = await now_of(store)
    count = await live_through_some(store, journal, now)
    before = store.everything()
    for _ in range(compactions):
        journal.close()
        journal.compact(now)
    store.admin.flushall()
    store.admin.script_flush()
    assert await journal.replay(store.client.call, now) == count
    after = store.everything()
    assert {key: value for key, (value, _) in after.items()} == {key: value for key, (value, _) in before.items()}
    assert all(abs(after[key][1] - before[key][1]) <= 1 for key in after)
    assert await journal.replay(store.client.call, now) == count
    assert store.everything().keys() == after.keys()
    assert {key: value for key, (value, _) in store.everything().items()} == {k: v for k, (v, _) in after.items()}


async def test_a_replay_changes_nothing_where_nothing_was_lost(store, journal):
    now = await now_of(store)
    await live_through_some(store, journal, now)
    before = store.everything()
    await journal.replay(store.client.call, now)
    after = store.everything()
    assert {key: value for key, (value, _) in after.items()} == {key: value for key, (value, _) in before.items()}
    assert all(abs(after[key][1] - before[key][1]) <= 1 for key in before)


async def test_a_replay_runs_over_redis_py_too(store, journal, server):
    now = await now_of(store)
    count = await live_through_some(store, journal, now)
    before = store.everything().keys()
    store.admin.flushall()
    client = redis_py.open_redis(server.url)
    try:
        assert await journal.replay(functools.partial(redis_py.run, client), now) == count
    finally:
        await client.aclose()
    assert store.everything().keys() == before


async def test_what_others_say_wins_over_what_is_given_back(store, journal):
    journal.own(ID, ALICE, 0, NOW)
    journal.metered(BATCH, 5, 0, NOW)
    journal.home("team", Homes(NOW, ("w1", "w0")))
    await store.own(BOB)
    await store.meter(None, 8)
    await store.home("", "w2", NOW + 1)
    await journal.replay(store.client.call, NOW)
    assert await store.read() == BOB
    assert await store.meter(None, 0) == (False, 8)
    assert await store.home("", "") == ("w2", "w1", "w0")


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0, 1)])
async def test_what_another_gateway_deleted_stays_gone_in_whatever_order_both_give_back(store, tmp_path, order):
    gateways = [OwnersJournal(tmp_path / name) for name in "ab"]
    gateways[0].own(ID, ALICE, 0, NOW)
    gateways[1].disown(ID, NOW + 1)
    for each in order:
        await gateways[each].replay(store.client.call, NOW + HOUR)
    assert await store.read() is None
    for made in gateways:
        made.close()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_lines_that_two_gateways_metered_are_the_most_of_them(store, tmp_path, order):
    gateways = [OwnersJournal(tmp_path / name) for name in "ab"]
    gateways[0].metered(BATCH, 100, 0, NOW + 1)
    gateways[1].metered(BATCH, 250, 0, NOW)
    for each in order:
        await gateways[each].replay(store.client.call, NOW)
    assert await store.meter(None, 0) == (False, 250)
    for made in gateways:
        made.close()


async def test_what_ended_meanwhile_is_not_given_back(store, journal):
    now = await now_of(store)
    journal.own("short", ALICE, HOUR, now)
    journal.own("long", ALICE, DAY, now)
    journal.metered(BATCH, 3, HOUR, now)
    assert await journal.replay(store.client.call, now + HOUR) == 1
    assert set(store.everything()) == {owner_key("long").encode()}
    assert store.life(owner_key("long")) <= DAY - HOUR
    journal.close()
    journal.compact(now + HOUR)
    assert await journal.replay(store.client.call, now) == 1


async def test_a_disowned_id_is_remembered_for_a_day_and_nothing_of_it_afterwards(store, journal, folder):
    journal.own(ID, ALICE, 0, NOW)
    journal.disown(ID, NOW)
    journal.own(ID, ALICE, 0, NOW + 1)  # told late, of the same creation
    journal.metered(ID, 3, 0, NOW + 1)
    journal.close()
    journal.compact(NOW + TOMBSTONE - 1)
    await journal.replay(store.client.call, NOW + TOMBSTONE - HOUR)
    assert HOUR - 60_000 < store.life(owner_key(ID)) <= HOUR
    journal.compact(NOW + TOMBSTONE)
    assert list(journals.read(folder)) == []
    store.admin.flushall()
    assert await journal.replay(store.client.call, NOW + TOMBSTONE) == 0
    assert store.everything() == {}


async def test_an_owner_is_extended_and_no_stranger_takes_over_in_the_journal_too(store, journal):
    journal.own("a", ALICE, HOUR, NOW)
    journal.own("a", ALICE, DAY, NOW)
    journal.own("a", ALICE, 1, NOW)
    journal.own("a", BOB, 0, NOW)
    journal.own("b", ALICE, HOUR, NOW)
    journal.own("b", BOB, 0, NOW + HOUR)
    journal.own("c", ALICE, 0, NOW)
    journal.own("c", ALICE, HOUR, NOW)
    assert await journal.replay(store.client.call, NOW) == 3
    assert DAY - 60_000 < store.life(owner_key("a")) <= DAY
    assert [await store.read(object_id) for object_id in "abc"] == [ALICE, BOB, ALICE]
    assert store.life(owner_key("c")) == -1


async def test_homes_that_processes_told_at_the_same_time_are_all_kept(store, journal, folder):
    other = OwnersJournal(folder)
    other.home("team", Homes(NOW, ("w2", "w1")))
    journal.home("team", Homes(NOW, ("w3",)))
    other.home("team", Homes(NOW))
    other.home("none", Homes(NOW))
    other.close()
    assert await journal.replay(store.client.call, NOW) == 1
    assert set(await store.home("", "")) == {"w1", "w2", "w3"}


async def test_records_of_a_newer_version_are_kept_and_not_given_back(store, journal, folder):
    newer = msgspec.msgpack.encode(["borrowed", 1])
    journal.own(ID, ALICE, 0, NOW)
    journals.Journal(folder).append(newer)
    journal.close()
    journal.compact(NOW)
    assert newer in journals.read(folder)
    assert await journal.replay(store.client.call, NOW) == 1


async def test_a_replay_asks_for_a_bounded_number_at_once_and_reports_a_store_that_goes_away(store, journal):
    under_way = most = asked = 0

    async def run(script: Script, args: tuple[Arg, ...]) -> Any:
        nonlocal under_way, most, asked
        asked += 1
        if asked > 80:
            raise StoreDown("gone")
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await store.client.call(script, args)

    for number in range(100):
        journal.own(f"id{number}", ALICE, 0, NOW)
    with pytest.raises(StoreDown):
        await journal.replay(run, NOW)
    assert most == owners.AT_ONCE
    assert 80 <= asked < 100
    assert len(store.everything()) == 80
    asked = -1000
    assert await journal.replay(run, NOW) == 100
    assert len(store.everything()) == 100


async def test_a_client_that_is_not_connected_ends_a_replay(journal, connect, tmp_path):
    away = connect(f"unix://{tmp_path}/nobody")
    journal.own(ID, ALICE, 0, NOW)
    with pytest.raises(StoreDown):
        await journal.replay(away.call, NOW)


# The fold.

_ids = st.sampled_from("abc")
_times = st.integers(NOW - 2 * HOUR, NOW)
_lifetimes = st.sampled_from((0, HOUR, DAY))
_owners = {name: Owner(f"w-{name}", f"caller-{name}", "", NOW - DAY) for name in "abc"}
_records = st.one_of(
    st.builds(lambda name, lifetime, at: owners._Own(name, _owners[name], lifetime, at), _ids, _lifetimes, _times),
    st.builds(owners._Disown, _ids, _times),
    st.builds(owners._Metered, _ids, st.integers(1, 9), st.just(0), _times),
).map(msgspec.msgpack.encode)


def folded(records: Iterable[bytes], now: int = NOW) -> list[bytes]:
    return list(owners._Live(records, now).records())


@given(st.lists(_records, max_size=30), st.integers(0, 30), st.randoms(use_true_random=False))
def test_what_a_part_was_folded_to_says_the_same_as_the_part(records, cut, chance):
    """Compaction sees some segments only, and each record may come twice."""
    whole = folded(records)
    again = [*records[cut:], *folded(records[:cut]), *records[: cut // 2]]
    chance.shuffle(again)
    assert {told(each) for each in folded(again)} == {told(each) for each in whole}


def told(record: bytes) -> Any:
    """A record as far as others can tell it from another: until when it says what."""
    match owners._decode(record):
        case owners._Own() as own:
            return "own", own.id, own.owner, own.lifetime and own.at + own.lifetime
        case owners._Metered() as metered:
            return "metered", metered.id, metered.lines
        case other:
            return other


@given(st.lists(_records, max_size=30))
def test_each_id_is_owned_by_its_owner_or_gone(records):
    live = owners._Live(records, NOW)
    assert not live.owned.keys() & live.gone.keys()
    assert not live.metered.keys() & live.gone.keys()
    assert all(own.owner == _owners[name] for name, own in live.owned.items())
    assert len(folded(records)) == len(live.owned) + len(live.gone) + len(live.metered)
