"""Agreeing on the pool through a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from redis.crc import key_slot

from gateway.core.document import Announcement, Entry, PoolDocument
from gateway.store import pool_store
from gateway.store.client import StoreDown
from gateway.store.pool_store import CHANNEL, NewerSchema, PoolStore

NONE = PoolDocument()


def said(process: str, accounts: str, since: float = 1.0, **fields) -> Announcement:
    return Announcement(process, since, tuple(Entry(name, name, "org", **fields) for name in accounts))


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
                return await store.agree(announcement, NONE)
            except StoreDown:
                await asyncio.sleep(0.01)


async def test_a_first_process_makes_the_document_and_keeps_it(store, server):
    document = await store.agree(said("p1", "ab"), NONE)
    assert ids(document) == "ab"
    assert document.epoch == 1
    assert await store.agree(said("p1", "ab"), NONE) == document
    assert msgspec.json.decode(server.admin.get("{pool}:document"), type=PoolDocument) == document


async def test_an_account_joins_with_the_last_process_and_leaves_with_the_last(store):
    await store.agree(said("p1", "a"), NONE)
    await store.agree(said("p2", "a"), NONE)
    assert ids(await store.agree(said("p1", "ab"), NONE)) == "a"
    both = await store.agree(said("p2", "ab"), NONE)
    assert ids(both) == "ab"
    assert ids(await store.agree(said("p1", "b"), NONE)) == "ab"
    one = await store.agree(said("p2", "b"), NONE)
    assert (ids(one), one.epoch) == ("b", both.epoch + 1)


async def test_a_process_that_leaves_is_not_waited_for(store):
    await store.agree(said("p1", "a"), NONE)
    await store.agree(said("p2", "a"), NONE)
    assert ids(await store.agree(said("p1", "ab"), NONE)) == "a"
    await store.leave("p2")
    assert ids(await store.agree(said("p1", "ab"), NONE)) == "ab"


async def test_a_process_that_died_is_forgotten_after_a_while(store, monkeypatch):
    await store.agree(said("p1", "a"), NONE)
    await store.agree(said("p2", "a"), NONE)
    assert ids(await store.agree(said("p1", "ab"), NONE)) == "a"
    monkeypatch.setattr(pool_store, "DEAD_AFTER", -1)  # everyone but the one who speaks now
    await store.agree(said("p3", "ab"), NONE)
    monkeypatch.undo()
    assert ids(await store.agree(said("p1", "ab"), NONE)) == "ab"


async def test_overrides_in_the_store_win_over_files(store, server):
    server.admin.hset("{pool}:overrides", mapping={"a": '{"state":"draining","weight":3}', "z": '{"state":"disabled"}'})
    document = await store.agree(said("p1", "ab"), NONE)
    assert [(entry.id, entry.state, entry.weight) for entry in document.accounts] == [
        ("a", "draining", 3),
        ("b", "active", 1),
    ]
    assert await store.agree(said("p1", "ab"), NONE) == document
    server.admin.delete("{pool}:overrides")
    assert (await store.agree(said("p1", "ab"), NONE)).epoch == document.epoch + 1


async def test_many_processes_at_once_agree_on_one_document(server, connect):
    stores = [connect(server.url) for _ in range(6)]
    rnd = random.Random(5)
    for rounds in range(4):
        accounts = "abcdef"[: rounds + 2]
        calls = [each.agree(said(f"p{n}", accounts, since=rounds), NONE) for n, each in enumerate(stores)]
        rnd.shuffle(calls)
        await asyncio.gather(*calls)
        documents = [await each.agree(said(f"p{n}", accounts, since=rounds), NONE) for n, each in enumerate(stores)]
        assert all(document == documents[0] for document in documents)
        assert ids(documents[0]) == accounts


async def test_the_epoch_grows_with_every_change_that_is_stored(store):
    epochs = []
    for accounts in ("a", "ab", "ab", "b", "b", "abc"):
        epochs.append((await store.agree(said("p1", accounts), NONE)).epoch)
    assert epochs == [1, 2, 2, 3, 3, 4]


async def test_a_store_that_lost_everything_is_given_the_last_document_back(store, server):
    for accounts in ("a", "ab", "abc"):
        document = await store.agree(said("p1", accounts), NONE)
    server.admin.flushall()
    server.admin.script_flush()
    again = await store.agree(said("p1", "abc"), document)
    assert again == document
    assert msgspec.json.decode(server.admin.get("{pool}:document"), type=PoolDocument) == document


async def test_a_change_of_pool_while_the_store_was_empty_still_raises_the_epoch(store, server):
    document = await store.agree(said("p1", "ab"), PoolDocument(41))
    assert document.epoch == 42
    server.admin.flushall()
    assert (await store.agree(said("p1", "abc"), document)).epoch == 43


async def test_a_store_that_a_newer_version_owns_is_not_written(store, server):
    server.admin.set("{pool}:schema", pool_store.SCHEMA + 1)
    with pytest.raises(NewerSchema, match="schema 2"):
        await store.agree(said("p1", "a"), NONE)
    await store.leave("p1")
    assert server.admin.keys() == [b"{pool}:schema"]


async def test_a_store_that_is_away_is_said_to_be_down_and_comes_back(own_server, connect):
    server = own_server()
    store = connect(server.url)
    document = await store.agree(said("p1", "a"), NONE)
    server.kill()
    async with asyncio.timeout(20):
        with pytest.raises(StoreDown):
            await store.agree(said("p1", "a"), NONE)
        await store.leave("p1")
    server.start()
    assert await until_agreed(store, said("p1", "a")) == document


async def test_a_store_that_refuses_is_said_to_be_down(store, server):
    server.admin.set("{pool}:processes", "not a hash")
    with pytest.raises(StoreDown, match="WRONGTYPE"):
        await store.agree(said("p1", "a"), NONE)


async def test_a_replacement_is_heard_by_those_who_follow_and_again_after_an_outage(own_server, connect):
    server = own_server()
    heard: asyncio.Queue[None] = asyncio.Queue()

    async def changed() -> None:
        heard.put_nowait(None)

    async def listening() -> None:
        async with asyncio.timeout(20):
            while not server.admin.pubsub_numsub(CHANNEL)[0][1]:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.005)

    following = asyncio.create_task(connect(server.url).follow(changed))
    store = connect(server.url)
    try:
        await listening()
        await store.agree(said("p1", "a"), NONE)
        async with asyncio.timeout(20):
            await heard.get()
        await store.agree(said("p1", "a"), NONE)  # nothing new, nothing to hear
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


async def test_everything_that_is_written_lies_in_the_slot_of_the_pool(store, server):
    await store.agree(said("p1", "a"), NONE)
    assert {key_slot(key) for key in server.admin.scan_iter()} == {key_slot(b"{pool}")}
