"""What is left of limits, as operators read it: on a real server, of what the scripts of the data path have taken."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.core.spending.quota import COUNT, Plan, Quota, labels
from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import open_redis, run
from gateway.store.ledger.ledger import Ended, Entry, ReservationRecord, pack, to_admit, to_settle
from gateway.store.ledger.level_reader import LevelReader
from gateway.store.ledger.levels import SubjectBuckets, Used
from tests.subjects import packed

QUOTA = Quota(requests=10, input_tokens=1000, output_tokens=60_000, concurrency=3, day_nano=500, month_nano=900)
ALICE = SubjectBuckets("c:alice", (("requests", 10), ("counts", 10), ("input", 1000), ("output", 60_000)))
TEAM = SubjectBuckets("t:one", (("requests", 100),))
PLAN = Plan("t:one", (("c:alice", QUOTA), ("t:one", Quota(requests=100, month_nano=10_000))))


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], LevelReader]]:
    made: list[LevelReader] = []

    def make(url: str) -> LevelReader:
        made.append(LevelReader(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def store(server) -> AsyncIterator[Callable[..., Any]]:
    client = open_redis(server.url)

    async def call(script: Any, args: Any) -> Any:
        return await run(client, script, args)

    yield call
    await client.aclose()


def reservation(at: int) -> bytes:
    held = ReservationRecord(
        "p", at, labels(at).hour, "alice", "one", "m", "a", "/v1/messages", 5, 6, 100, (1,), (1, 2)
    )
    return pack(held)


async def test_what_requests_have_taken_is_seen(server, connect, store):
    now = int(time.time() * 1000)
    reader = connect(server.url)
    for number in range(2):
        await store(*to_admit(PLAN.message, f"req_{number}", reservation(now), 100, labels(now)))
    await store(*to_admit(PLAN.count, "req_c", b"", 0, labels(now)))
    found = await reader.read({"t:one": [ALICE, TEAM]})
    requests, counts, input_left, output_left = found["c:alice"].levels
    assert (input_left, output_left) == (1000, 60_000)
    assert 8 <= requests < 10 and 9 <= counts < 10  # a bucket refills while the test runs
    assert abs(found["c:alice"].at - now) < 60_000
    assert (found["c:alice"].reserved, found["c:alice"].day_spent, found["c:alice"].leases) == (200, 0, 2)
    assert (found["t:one"].reserved, found["t:one"].leases) == (200, 0)
    used = Entry("req_0", now, now, "alice", "one", "m", "a", "/v1/messages", input=4000, output=7, cost_nano=40)
    await store(*to_settle([Ended(used, pack(used), PLAN.debits)]))
    found = await reader.read({"t:one": [ALICE, TEAM]})
    alice, team = found["c:alice"], found["t:one"]
    assert (alice.day_spent, alice.month_spent, alice.reserved, alice.leases) == (40, 40, 100, 1)
    assert (team.day_spent, team.month_spent, team.reserved) == (40, 40, 100)
    assert alice.levels[2] < 0  # more was used than there was


def contents(server) -> dict[bytes, bytes]:
    return {key: server.admin.dump(key) for key in server.admin.scan_iter()}


async def test_looking_changes_nothing(server, connect, store):
    now = int(time.time() * 1000)
    await store(*to_admit(PLAN.message, "req_0", reservation(now), 100, labels(now)))
    before = contents(server)
    reader = connect(server.url)
    await reader.read({"t:one": [ALICE, TEAM], "c:nobody": [SubjectBuckets("c:nobody", (("input", 5),))]})
    assert contents(server) == before


async def test_who_has_used_nothing_has_all(server, connect):
    found = await connect(server.url).read(
        {"c:bob": [SubjectBuckets("c:bob", (("requests", 7),)), SubjectBuckets("c:bob2", ())]}
    )
    assert found["c:bob"] == Used(found["c:bob"].at, (7,), 0, 0, 0, 0)
    assert found["c:bob2"].levels == ()


async def test_what_was_spent_on_another_day_counts_no_more(server, connect):
    key = "{c:bob}:q:c:bob"
    when = labels(int(time.time() * 1000))
    server.admin.hset(key, "n", packed(day=20200101, day_spent=7, month=int(when.month), month_spent=8))
    server.admin.zadd("{c:bob}:c:c:bob", {"old": 1, "new": 1e15})
    found = (await connect(server.url).read({"c:bob": [SubjectBuckets("c:bob", ())]}))["c:bob"]
    assert (found.day_spent, found.month_spent, found.leases) == (0, 8, 1)
    assert server.admin.zcard("{c:bob}:c:c:bob") == 2


async def test_many_subjects_are_read_each_under_its_own_name(server, connect):
    asked = {f"c:caller-{n}": [SubjectBuckets(f"c:caller-{n}", (("input", n + 1),))] for n in range(50)}
    asked["t:big"] = [SubjectBuckets(f"c:member-{n}", (("input", n + 1),)) for n in range(450)]
    found = await connect(server.url).read(asked)
    assert {name: used.levels for name, used in found.items()} == {
        **{f"c:caller-{n}": (n + 1,) for n in range(50)},
        **{f"c:member-{n}": (n + 1,) for n in range(450)},
    }


async def test_a_store_that_is_away_says_so(connect):
    with pytest.raises(StoreDown):
        await connect("redis://127.0.0.1:1").read({"c:bob": [SubjectBuckets("c:bob", ())]})


def test_counting_tokens_has_limits_to_look_at():
    assert [row.kind.field for row in PLAN.limits(COUNT).rows] == ["counts", "counts"]
