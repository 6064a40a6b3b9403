"""Bindings as operators read and flush them, on a real server and on a cluster."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from gateway.core.routing.binding import Move, Record, pack
from gateway.store.bindings import BATCH, Bindings
from gateway.store.client.client import StoreDown
from tests.store.topologies import ClusterOf

KEY = "{t:team}:b:00ff"


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], Bindings]]:
    made: list[Bindings] = []

    def make(url: str) -> Bindings:
        made.append(Bindings(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_what_is_kept_is_read_whole(server, connect):
    record = Record("w1", 3, 5, 7, 9, 1, "w2", 2, 3, "w3", 4, 5, [Move(1, "w2", "w1", "limited")], "g")
    server.admin.hset(KEY, mapping={"m1": pack(record), "m2": pack(Record("w2"))})
    server.admin.pexpire(KEY, 60_000)
    bindings = connect(server.url)
    stored = await bindings.read(KEY)
    assert stored.records == {"m1": record, "m2": Record("w2")}
    assert abs(stored.now - time.time() * 1000) < 60_000
    assert 0 < stored.expires - stored.now <= 60_000
    server.admin.persist(KEY)
    assert (await bindings.read(KEY)).expires is None
    assert await bindings.read("{t:team}:b:01") is None
    assert server.admin.keys() == [KEY.encode()]


async def test_a_conversation_is_flushed_with_all_its_models_and_no_other(server, connect):
    server.admin.hset(KEY, mapping={"m1": pack(Record("w1")), "m2": pack(Record("w2"))})
    server.admin.hset(KEY + "00", "m1", pack(Record("w1")))
    bindings = connect(server.url)
    assert await bindings.flush(KEY) == 2
    assert await bindings.flush(KEY) == 0
    assert await bindings.read(KEY) is None
    assert server.admin.hvals(KEY + "00") == [pack(Record("w1"))]


def fill(admin, tenants: int, conversations: int) -> int:
    """Conversations of many tenants, with a record in `w1` and one in `w2` each; how many there are."""
    for tenant in range(tenants):
        for number in range(conversations):
            key = f"{{c:caller-{tenant}}}:b:{number:032x}"
            admin.hset(key, mapping={"m1": pack(Record("w1", previous="w2")), "m2": pack(Record("w2"))})
    return tenants * conversations


async def test_a_workspace_is_flushed_over_all_tenants_and_nothing_else_is(server, connect):
    count = fill(server.admin, 3, BATCH // 2)
    server.admin.hset(KEY, mapping={"m1": pack(Record("w1")), "odd": b"\xc1", "number": b"\x07", "w1": pack(["w"])})
    server.admin.set("{pool}:document", "w1")
    bindings = connect(server.url)
    assert await bindings.flush_workspace("nowhere") == 0
    assert await bindings.flush_workspace("w1") == count + 1
    assert {name for name, packed in server.admin.hgetall(KEY).items() if packed} == {b"odd", b"number", b"w1"}
    assert server.admin.hgetall("{c:caller-0}:b:" + "0" * 32) == {b"m1": b"", b"m2": pack(Record("w2"))}
    assert await bindings.flush_workspace("w2") == count
    assert server.admin.hvals("{c:caller-0}:b:" + "0" * 32) == [b"", b""]
    assert server.admin.get("{pool}:document") == b"w1"


async def test_a_store_that_is_away_is_said_to_be_so(own_server, connect):
    server = own_server()
    bindings = connect(server.url)
    await bindings.read(KEY)
    server.kill()
    for asked in (bindings.read(KEY), bindings.flush(KEY), bindings.flush_workspace("w1")):
        with pytest.raises(StoreDown):
            await asked


async def test_a_store_that_does_not_answer_is_not_waited_for(own_server, connect):
    server = own_server()
    bindings = connect(server.url)
    await bindings.read(KEY)
    server.pause()
    try:
        for asked in (bindings.read(KEY), bindings.flush(KEY)):
            with pytest.raises(StoreDown):
                await asked
    finally:
        server.resume()


async def test_a_cluster_is_flushed_on_all_its_primaries(connect):
    cluster = ClusterOf(3)
    try:
        bindings = connect(cluster.url)
        with redis.RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port) as client:
            count = fill(client, 20, 10)
        assert len((await bindings.read("{c:caller-7}:b:" + "0" * 32)).records) == 2
        assert await bindings.flush_workspace("w1") == count
        assert all(node.admin.dbsize() for node in cluster.primaries)
        assert await bindings.flush_workspace("w2") == count
        assert not any(any(node.admin.hvals(key)) for node in cluster.primaries for key in node.admin.scan_iter())
    finally:
        cluster.end()
