"""Agreeing on the pool through a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from redis.crc import key_slot

from gateway.core.routing.document import Announcement, Entry, PoolDocument
from gateway.store.client.client import StoreDown
from gateway.store.pool import pool_store
from gateway.store.pool.pool_store import BROADCASTS, CHANNEL, NewerSchema, PoolStore, channel_at

NONE = PoolDocument()


def said(process: str, accounts: str, since: float = 1.0, **fields) -> Announcement:
    return Announcement(process, since, tuple(Entry(name, name, "org", **fields) for name in accounts))


async def agree(store: PoolStore, announcement: Announcement, last: PoolDocument) -> PoolDocument:
    return (await store.agree(announcement, last)).document


def ids(document: PoolDocument) -> str:
    return "".join(entry.id for entry in document.accounts)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], PoolStore]]:
    made: list[PoolStore] = []

    def make(url: str) -> PoolStore:
        made.append(PoolStore(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def store(server, connect) -> PoolStore:
    made: PoolStore = connect(server.url)
    return made


async def until_agreed(store: PoolStore, announcement: Announcement) -> PoolDocument:
    """Agree, through whatever time a server needs to come back."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await agree(store, announcement, NONE)
            except StoreDown:
                await asyncio.sleep(0.01)


async def test_a_first_process_makes_the_document_and_keeps_it(store, server):
    document = await agree(store, said("p1", "ab"), NONE)
    assert ids(document) == "ab"
    assert document.epoch == 1
    assert await agree(store, said("p1", "ab"), NONE) == document
    assert msgspec.json.decode(server.admin.get("{pool}:document"), type=PoolDocument) == document


async def test_an_account_joins_with_the_last_process_and_leaves_with_the_last(store):
    await agree(store, said("p1", "a"), NONE)
    await agree(store, said("p2", "a"), NONE)
    assert ids(await agree(store, said("p1", "ab"), NONE)) == "a"
    both = await agree(store, said("p2", "ab"), NONE)
    assert ids(both) == "ab"
    assert ids(await agree(store, said("p1", "b"), NONE)) == "ab"
    one = await agree(store, said("p2", "b"), NONE)
    assert (ids(one), one.epoch) == ("b", both.epoch + 1)


async def test_a_process_that_leaves_is_not_waited_for(store):
    await agree(store, said("p1", "a"), NONE)
    await agree(store, said("p2", "a"), NONE)
    assert ids(await agree(store, said("p1", "ab"), NONE)) == "a"
    await store.leave("p2")
    assert ids(await agree(store, said("p1", "ab"), NONE)) == "ab"


async def test_a_process_that_died_is_forgotten_after_a_while(store, monkeypatch):
    await agree(store, said("p1", "a"), NONE)
    await agree(store, said("p2", "a"), NONE)
    assert ids(await agree(store, said("p1", "ab"), NONE)) == "a"
    monkeypatch.setattr(pool_store, "DEAD_AFTER", -1)  # everyone but the one who speaks now
    await agree(store, said("p3", "ab"), NONE)
    monkeypatch.undo()
    assert ids(await agree(store, said("p1", "ab"), NONE)) == "ab"


async def test_overrides_in_the_store_win_over_files(store, server):
    server.admin.hset("{pool}:overrides", mapping={"a": '{"state":"draining","weight":3}', "z": '{"state":"disabled"}'})
    document = await agree(store, said("p1", "ab"), NONE)
    assert [(entry.id, entry.state, entry.weight) for entry in document.accounts] == [
        ("a", "draining", 3),
        ("b", "active", 1),
    ]
    assert await agree(store, said("p1", "ab"), NONE) == document
    server.admin.delete("{pool}:overrides")
    assert (await agree(store, said("p1", "ab"), NONE)).epoch == document.epoch + 1


async def test_many_processes_at_once_agree_on_one_document(server, connect):
    stores = [connect(server.url) for _ in range(6)]
    rnd = random.Random(5)
    for rounds in range(4):
        accounts = "abcdef"[: rounds + 2]
        calls = [agree(each, said(f"p{n}", accounts, since=rounds), NONE) for n, each in enumerate(stores)]
        rnd.shuffle(calls)
        await asyncio.gather(*calls)
        documents = [await agree(each, said(f"p{n}", accounts, since=rounds), NONE) for n, each in enumerate(stores)]
        assert all(document == documents[0] for document in documents)
        assert ids(documents[0]) == accounts


async def test_the_epoch_grows_with_every_change_that_is_stored(store):
    epochs = []
    for accounts in ("a", "ab", "ab", "b", "b", "abc"):
        epochs.append((await agree(store, said("p1", accounts), NONE)).epoch)
    assert epochs == [1, 2, 2, 3, 3, 4]


async def test_a_store_that_lost_everything_is_given_the_last_document_back(store, server):
    for accounts in ("a", "ab", "abc"):
        document = await agree(store, said("p1", accounts), NONE)
    server.admin.flushall()
    server.admin.script_flush()
    again = await agree(store, said("p1", "abc"), document)
    assert again == document
    assert msgspec.json.decode(server.admin.get("{pool}:document"), type=PoolDocument) == document


async def test_a_change_of_pool_while_the_store_was_empty_still_raises_the_epoch(store, server):
    document = await agree(store, said("p1", "ab"), PoolDocument(41))
    assert document.epoch == 42
    server.admin.flushall()
    assert await agree(store, said("p1", "abc"), document) == document  # first as it was, as others may know more
    assert (await agree(store, said("p1", "abc"), document)).epoch == 43


async def test_a_store_that_lost_everything_is_given_the_overrides_back_too(store, server):
    await store.override("a", {"state": "disabled"})
    await store.override("b", {"weight": 3})
    agreement = await store.agree(said("p1", "ab"), NONE)
    server.admin.flushall()
    await store.override("b", {"weight": 5})  # somebody was quicker
    again = await store.agree(said("p1", "ab"), agreement.document, agreement.overrides)
    assert again.overrides["a"] == {"state": "disabled"}
    settled = await store.agree(said("p1", "ab"), again.document, again.overrides)
    assert settled.overrides == {"a": {"state": "disabled"}, "b": {"weight": 5}}
    assert [(each.state, each.weight) for each in settled.document.accounts] == [("disabled", 1), ("active", 5)]
    await store.override("a", None)
    undone = await store.agree(said("p1", "ab"), settled.document, settled.overrides)
    assert undone.overrides == {"b": {"weight": 5}}  # what is known gives nothing back to a store that is whole


async def test_a_store_that_a_newer_version_owns_is_not_written(store, server):
    server.admin.set("{pool}:schema", pool_store.SCHEMA + 1)
    with pytest.raises(NewerSchema, match="schema 2"):
        await agree(store, said("p1", "a"), NONE)
    await store.leave("p1")
    assert server.admin.keys() == [b"{pool}:schema"]


async def test_a_store_that_is_away_is_said_to_be_down_and_comes_back(own_server, connect):
    server = own_server()
    store = connect(server.url)
    document = await agree(store, said("p1", "a"), NONE)
    server.kill()
    async with asyncio.timeout(20):
        with pytest.raises(StoreDown):
            await agree(store, said("p1", "a"), NONE)
        await store.leave("p1")
    server.start()
    assert await until_agreed(store, said("p1", "a")) == document


async def test_a_store_that_refuses_is_said_to_be_down(store, server):
    server.admin.set("{pool}:processes", "not a hash")
    with pytest.raises(StoreDown, match="WRONGTYPE"):
        await agree(store, said("p1", "a"), NONE)


async def test_a_replacement_is_heard_by_those_who_follow_and_again_after_an_outage(own_server, connect):
    server = own_server()
    heard: asyncio.Queue[None] = asyncio.Queue()

    def changed() -> None:
        heard.put_nowait(None)

    async def listening() -> None:
        async with asyncio.timeout(20):
            while not server.admin.pubsub_numsub(CHANNEL)[0][1]:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.005)

    following = asyncio.create_task(connect(server.url).follow(changed, lambda data: None))
    store = connect(server.url)
    try:
        await listening()
        await agree(store, said("p1", "a"), NONE)
        async with asyncio.timeout(20):
            await heard.get()
        await agree(store, said("p1", "a"), NONE)  # nothing new, nothing to hear
        assert heard.empty()
        server.kill()
        server.start()
        await listening()
        await until_agreed(store, said("p1", "ab"))
        async with asyncio.timeout(20):
            await heard.get()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_news_is_heard_by_all_who_follow_and_changes_nothing(server, connect):
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    changed: list[str] = []
    following = [
        asyncio.create_task(connect(server.url).follow(lambda: changed.append("changed"), heard.put_nowait))
        for _ in range(2)
    ]
    store = connect(server.url)
    try:
        async with asyncio.timeout(20):
            while server.admin.pubsub_numsub(BROADCASTS)[0][1] < 2:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.005)
            for said in (b"one", b"\0\xff two"):
                await store.publish(said)
                assert [await heard.get(), await heard.get()] == [said, said]
    finally:
        for each in following:
            each.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    assert changed == []


async def test_news_to_a_store_that_is_away_says_so(own_server, connect):
    server = own_server()
    store = connect(server.url)
    server.kill()
    async with asyncio.timeout(20):
        with pytest.raises(StoreDown):
            await store.publish(b"fact")


async def test_an_override_is_merged_field_by_field_and_undone_the_same_way(store, server):
    assert await store.override("a", {"state": "draining", "drain_until": 1_800_000_000.125}) == {
        "state": "draining", "drain_until": 1_800_000_000.125,
    }  # fmt: skip
    assert await store.override("a", {"weight": 2.5}) == {
        "state": "draining", "drain_until": 1_800_000_000.125, "weight": 2.5,
    }  # fmt: skip
    entry = (await agree(store, said("p1", "ab"), NONE)).accounts[0]
    assert (entry.state, entry.drain_until, entry.weight) == ("draining", 1_800_000_000.125, 2.5)
    assert await store.override("a", {"state": None, "drain_until": None, "mood": None}) == {"weight": 2.5}
    entry = (await agree(store, said("p1", "ab"), NONE)).accounts[0]
    assert (entry.state, entry.drain_until, entry.weight) == ("active", 0, 2.5)
    assert await store.override("a", {"weight": None}) == {}
    assert not server.admin.exists("{pool}:overrides")
    await store.override("b", {"state": "disabled"})
    await store.override("a", None)
    assert await store.override("b", None) == {}
    assert not server.admin.exists("{pool}:overrides")


async def test_an_override_keeps_what_a_newer_version_wrote_beside_it(store, server):
    server.admin.hset("{pool}:overrides", "a", '{"mood":{"today":"good"},"weight":4}')
    assert await store.override("a", {"weight": 5}) == {"mood": {"today": "good"}, "weight": 5}
    assert (await agree(store, said("p1", "a"), NONE)).accounts[0].weight == 5


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"3", b"null", b"\xff"])
async def test_an_override_that_no_gateway_wrote_is_passed_over_and_replaced(store, server, text):
    server.admin.hset("{pool}:overrides", "a", text)
    assert (await agree(store, said("p1", "a"), NONE)).accounts[0].state == "active"
    assert await store.override("a", {"state": "disabled"}) == {"state": "disabled"}


async def test_many_overrides_at_once_lose_nothing(server, connect):
    stores = [connect(server.url) for _ in range(6)]
    await asyncio.gather(*(each.override("a", {f"field{n}": n}) for n, each in enumerate(stores)))
    assert await stores[0].override("a", {}) == {f"field{n}": n for n in range(6)}


async def test_overrides_in_a_store_of_a_newer_version_are_left_alone(store, server):
    server.admin.set("{pool}:schema", pool_store.SCHEMA + 1)
    with pytest.raises(NewerSchema, match="schema 2"):
        await store.override("a", {"weight": 2})
    assert server.admin.keys() == [b"{pool}:schema"]


async def test_an_override_is_heard_by_those_who_follow(server, connect):
    heard = asyncio.Event()
    following = asyncio.create_task(connect(server.url).follow(heard.set, lambda data: None))
    try:
        async with asyncio.timeout(20):
            while not server.admin.pubsub_numsub(CHANNEL)[0][1]:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.005)
            await connect(server.url).override("a", {"weight": 2})
            await heard.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_an_agreement_says_from_what_it_follows(store):
    await store.agree(said("p1", "ab"), NONE)
    await store.override("a", {"weight": 2})
    agreement = await store.agree(said("p2", "a"), NONE)
    assert sorted(each.process for each in agreement.live) == ["p1", "p2"]
    assert agreement.overrides == {"a": {"weight": 2}}


async def test_every_process_learns_that_the_store_lost_its_data(store, server):
    document = NONE
    for process in ("p1", "p2"):
        agreement = await store.agree(said(process, "ab"), NONE)
        assert agreement.lost  # it has never been here
        document = agreement.document
    for process in ("p1", "p2"):
        assert not (await store.agree(said(process, "ab"), document)).lost
    server.admin.flushall()
    for process in ("p1", "p2"):
        assert (await store.agree(said(process, "ab"), document)).lost
    for process in ("p1", "p2"):
        assert not (await store.agree(said(process, "ab"), document)).lost
    server.admin.delete("{pool}:document")
    assert (await store.agree(said("p1", "ab"), document)).lost


async def test_an_account_that_joins_does_so_at_the_time_of_the_store(store, server):
    await agree(store, said("p1", "a"), NONE)
    document = await agree(store, said("p1", "ab"), NONE)
    seconds, _ = server.admin.time()
    assert document.accounts[0].since == 0
    assert seconds - 60 < document.accounts[1].since < seconds + 2


async def test_everything_that_is_written_lies_in_the_slot_of_the_pool(store, server):
    await agree(store, said("p1", "a"), NONE)
    await store.override("a", {"weight": 2})
    assert {key_slot(key) for key in server.admin.scan_iter()} == {key_slot(b"{pool}")}


@pytest.mark.parametrize(
    ("url", "channel"),
    [
        ("redis://h:1", CHANNEL), ("redis://h:1/0", CHANNEL), ("redis://h:1/7", f"{CHANNEL}:7"),
        ("unix:///s.sock?db=2", f"{CHANNEL}:2"), ("redis+cluster://h:1,i:1", CHANNEL),
    ],
)  # fmt: skip
def test_gateways_of_one_database_do_not_hear_those_of_another(url: str, channel: str):
    assert channel_at(url, CHANNEL) == channel
