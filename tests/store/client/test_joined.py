"""Calls of a script that joins: those of one tick are one command, and yet each caller has its own reply or error."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from gateway.log import captured
from gateway.store.client import connection as wire
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.scripts import Script
from tests.store.client.test_client import COUNT, connection_of, record
from tests.store.topologies import ClusterOf

TEXT = """
local replies = {}
for i = 1, #KEYS do
  local number = ARGV[i + 1]
  if number == 'never' then
    return redis.error_reply('ERR it cannot be done')
  end
  replies[i] = {redis.call('GET', KEYS[i]), tonumber(number)}
end
for i = 1, #KEYS do
  redis.call('INCRBY', KEYS[i], ARGV[i + 1])
  replies[i][3] = redis.call('GET', KEYS[i])
end
return replies
"""
ADD = Script("add", TEXT, hashlib.sha1(TEXT.encode()).hexdigest(), joins=True)
NOW = 0


def add(client: StoreClient, key: str, number: int | str) -> asyncio.Future[Any]:
    return client.call(ADD, (1, key, NOW, number))


async def test_calls_of_one_tick_are_one_command_and_each_has_its_own_reply(client):
    assert await add(client, "{a}", 1) == [None, 1, b"1"]
    written = record(client)
    calls = [add(client, f"{{{number % 3}}}", number) for number in range(3, 9)]
    assert await asyncio.gather(*calls) == [
        [None, 3, b"3"], [None, 4, b"4"], [None, 5, b"5"], [None, 6, b"9"], [None, 7, b"11"], [None, 8, b"13"],
    ]  # fmt: skip
    [data] = written.writes
    assert data.count(b"EVALSHA") == 1
    client.post(ADD, (1, "{a}", NOW, 5))
    assert await add(client, "{a}", 1) == [b"1", 1, b"7"]


async def test_what_is_called_in_the_same_tick_goes_ahead_of_them(client):
    calls = [add(client, "n", 1), client.call(COUNT, (1, "n", 10)), add(client, "n", 1)]
    assert await asyncio.gather(*calls) == [[b"10", 1, b"11"], 10, [b"10", 1, b"12"]]


async def test_no_more_than_so_many_are_one(client, monkeypatch):
    monkeypatch.setattr(wire, "MAX_JOINED", 4)
    await add(client, "n", 1)
    written = record(client)
    replies = await asyncio.gather(*(add(client, f"{number}", number) for number in range(10)))
    assert [reply[1] for reply in replies] == list(range(10))
    assert b"".join(written.writes).count(b"EVALSHA") == 3


async def test_one_that_cannot_be_done_fails_alone(client):
    with captured() as told:
        calls = [add(client, "n", number) for number in (1, "never", 2)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[1], StoreDown) and "it cannot be done" in str(results[1])
    assert [results[0], results[2]] == [[None, 1, b"1"], [b"1", 2, b"3"]]
    assert [each["script"] for each in told] == ["add"]


async def test_a_caller_who_has_gone_disturbs_nobody(client):
    calls = [add(client, "n", number) for number in (1, 2, 4)]
    calls[1].cancel()
    assert [await calls[0], await calls[2]] == [[None, 1, b"1"], [None, 4, b"7"]]
    lone = add(client, "n", 8)
    lone.cancel()
    assert await add(client, "n", 1) == [b"7", 1, b"16"]


async def test_a_script_flush_is_invisible(client, server):
    await add(client, "n", 1)
    server.admin.script_flush()
    calls = [add(client, "n", 1) for _ in range(5)]
    assert [reply[1] for reply in await asyncio.gather(*calls)] == [1] * 5
    assert server.admin.get("n") == b"6"


async def test_those_of_a_tick_in_which_the_connection_is_lost_fail(client):
    calls = [add(client, "n", 1) for _ in range(3)]
    connection_of(client).end("lost")
    for call in calls:
        with pytest.raises(StoreDown):
            await call


async def test_more_than_may_wait_are_refused(client, monkeypatch):
    monkeypatch.setattr(wire, "MAX_WAITING", 5)
    calls = [add(client, "n", 1) for _ in range(6)]
    with pytest.raises(StoreDown, match="overloaded"):
        add(client, "n", 1)
    assert len(await asyncio.gather(*calls)) == 6


async def test_closing_delivers_what_was_posted(server, connect):
    client = connect(server.url)
    assert await client.start()
    for _ in range(3):
        client.post(ADD, (1, "n", NOW, 1))
    await client.close()
    assert server.admin.get("n") == b"3"


@pytest.fixture
def cluster() -> Iterator[ClusterOf]:
    made = ClusterOf(3)
    yield made
    made.end()


async def test_in_a_cluster_those_of_one_slot_are_one_and_follow_it(cluster):
    client = StoreClient(cluster.url)
    assert await client.start()
    try:
        keys = [f"{{{number}}}:n" for number in range(30)]
        for _ in range(2):  # the servers do not know the script, and do
            calls = [add(client, key, 1) for key in keys for _ in range(4)]
            assert [reply[1] for reply in await asyncio.gather(*calls)] == [1] * 120
        source, target, _ = cluster.owners()
        moved = next(key for key in keys if cluster.owner(key_slot(key.encode())) is source)
        slot = key_slot(moved.encode())
        cluster.begin_move(slot, source, target)
        source.admin.migrate("127.0.0.1", target.port, [moved], 0, 5000)
        replies = await asyncio.gather(*(add(client, moved, 1) for _ in range(4)))
        assert sorted(int(reply[2]) for reply in replies) == [9, 10, 11, 12]
        cluster.end_move(slot, target)
        assert await asyncio.gather(*(add(client, moved, 1) for _ in range(4)))
        assert target.admin.get(moved) == b"16"
    finally:
        await client.close()
