"""Reservations of processes that died become estimates, once, whatever else is in the store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from gateway.core.spending.quota import labels, reservations_key
from gateway.store.client.connection import StoreDown
from gateway.store.ledger.ledger import ReservationRecord, UsageJournal, pack
from gateway.supervisor.ledger.sweeper import Sweeper
from tests.store.topologies import ClusterOf

LONG_AGO = int(time.time() * 1000) - 600_000
TEAMS = [f"team-{number}" for number in range(120)]


def held(process: str, team: str) -> bytes:
    when = labels(LONG_AGO).hour
    return pack(ReservationRecord(process, LONG_AGO, when, "alice", team, "m", "a", "/v1/messages", 5, 6, 0, (), ()))


@pytest.fixture
async def sweeper(tmp_path: Path) -> AsyncIterator[Callable[[str], Sweeper]]:
    made: list[Sweeper] = []

    def make(url: str) -> Sweeper:
        members = {("alice", team) for team in TEAMS}
        made.append(Sweeper(url, UsageJournal(tmp_path), lambda: members, lambda: {"alive"}))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def reserve(admin: Any) -> None:
    """One of a dead process and one of a living one, in each team."""
    for team in TEAMS:
        key = reservations_key(f"t:{team}")
        admin.hset(key, mapping={"req_dead": held("dead", team), "req_alive": held("alive", team)})


def estimates(admin: Any) -> list[int]:
    return [admin.xlen(f"{{t:{team}}}:s") for team in TEAMS]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOf]:
    cluster = ClusterOf(3)
    yield cluster
    cluster.end()


async def test_each_is_estimated_once_in_whatever_team_it_is(server, sweeper):
    reserve(server.admin)
    sweep = sweeper(server.url).sweep
    assert await sweep() == len(TEAMS)
    assert estimates(server.admin) == [1] * len(TEAMS)
    server.admin.script_flush()
    assert await sweep() == 0
    assert [list(server.admin.hkeys(reservations_key(f"t:{team}"))) for team in TEAMS] == [[b"req_alive"]] * len(TEAMS)


async def test_it_is_the_same_over_all_primaries_of_a_cluster(cluster, sweeper):
    with redis.RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port) as admin:
        reserve(admin)
        sweep = sweeper(cluster.url).sweep
        assert await sweep() == len(TEAMS)
        assert estimates(admin) == [1] * len(TEAMS)
        assert await sweep() == 0


async def test_more_than_one_look_shows_are_all_found(server, sweeper):
    key = reservations_key("t:team-0")
    server.admin.hset(key, mapping={f"req_{number}": held("dead", "team-0") for number in range(2000)})
    assert await sweeper(server.url).sweep() == 2000


@pytest.mark.parametrize("spoiled", ["key", "record"])
async def test_what_cannot_be_read_of_one_team_stops_no_other(server, sweeper, spoiled):
    reserve(server.admin)
    key = reservations_key("t:team-7")
    sweep = sweeper(server.url).sweep
    if spoiled == "key":
        server.admin.delete(key)
        server.admin.set(key, "text")
        for _ in range(2):  # the script is not known at first
            with pytest.raises(StoreDown, match="WRONGTYPE"):
                await sweep()
    else:
        server.admin.hset(key, "req_dead", msgspec.msgpack.encode(["dead", LONG_AGO, "2026010100"]))
        assert await sweep() == len(TEAMS) - 1
    assert estimates(server.admin) == [int(team != "team-7") for team in TEAMS]
