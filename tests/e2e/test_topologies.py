"""Two gateways on a store of several servers, a Cluster or one behind Sentinel: what one does the other knows, and the
money is right, also when a primary dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from redis.crc import key_slot

from tests import subjects
from tests.e2e.rig import Gateway, Simulator, ask, assert_error, at_once, conversation, eventually, message
from tests.e2e.test_ledger import (
    Books,
    Traffic,
    callers,
    key_of,
    nano,
    replicas,
    settled,
    totals,
    trouble,
    upstream,
)  # fmt: skip
from tests.e2e.test_objects import form, post
from tests.store.topologies import MASTER, PASSWORD, SENTINEL_PASSWORD, ClusterOf, Node, SentinelSet, wait_for

__all__ = ["upstream"]
SCENE = "mixed"


class OfCluster:
    """Three primaries, each with a replica."""

    def __init__(self) -> None:
        self.servers = ClusterOf(3, replicas=True)
        self.url = self.servers.url

    def primaries(self) -> list[Node]:
        return self.servers.owners()

    def lose(self) -> Node:
        """Kill the primary that has the pool, and wait until its replica serves."""
        slot = key_slot(b"pool")
        gone = self.servers.owner(slot)
        assert gone is not None
        gone.kill()
        wait_for(lambda: self.servers.owner(slot) not in (None, gone), "a new primary")
        return gone


class OfSentinel:
    """A master and its replica."""

    def __init__(self) -> None:
        self.servers = SentinelSet(1)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.servers.sentinels)
        own = quote(SENTINEL_PASSWORD, safe="")
        self.url = f"redis+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{MASTER}/0?sentinel_password={own}"

    def primaries(self) -> list[Node]:
        return [self.servers.master()]

    def lose(self) -> Node:
        gone = self.servers.master()
        gone.kill()
        wait_for(lambda: self.servers.named() != {gone.port} and len(self.servers.named()) == 1, "a new master")
        return gone


Stores = OfCluster | OfSentinel


@pytest.fixture(scope="module", params=[OfCluster, OfSentinel], ids=["cluster", "sentinel"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    made: Stores = request.param()
    yield made
    made.servers.end()


@pytest.fixture(scope="module")
def gateways(stores: Stores, upstream: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    made = replicas(tmp_path_factory, upstream, stores.url)
    yield made
    for gateway in made:
        gateway.stop()


def open_ones(stores: Stores) -> list[str]:
    """Reservations, leases and reserved dollars; none where all has ended."""
    found = []
    for node in stores.primaries():
        for key in node.admin.scan_iter("{*}:r", count=1000):
            found.append(str(key))
        for key in node.admin.scan_iter("{*}:c:*", count=1000):
            found.append(str(key))
        for key in node.admin.scan_iter("{*}:q:*", count=1000):
            if subjects.read(node.admin, key).get("reserved"):
                found.append(str(key))
    return found


def spent(stores: Stores, tenant: str, subject: str) -> int:
    """Nano-dollars that the budget of the day has lost."""
    key = f"{{{tenant}}}:q:{subject}"
    values = [subjects.read(node.admin, key) for node in stores.primaries() if node.admin.keys(key)]
    return int(values[0].get("day_spent", 0)) if values else 0


def connected(gateway: Gateway) -> bool:
    return bool(gateway.get("/readyz").json()["store"] == "connected")


async def test_each_knows_what_the_other_did(stores: Stores, gateways: list[Gateway], upstream: Simulator):
    left, right = gateways
    alone = key_of(f"{SCENE}-alone")
    talks = [conversation() for _ in range(24)]
    homes = await at_once(ask(left, message(), talk, key=alone) for talk in talks)
    again = await at_once(ask(right, message("Hello", "Well", "And?"), talk, key=alone) for talk in talks)
    assert {answer.status for answer in (*homes, *again)} == {200}
    assert [answer.account for answer in homes] == [answer.account for answer in again]
    assert {answer.route for answer in again} == {"bound"}
    # A limit of both together.
    answers = await at_once((ask(gateways[n % 2], message(), key=key_of(f"{SCENE}-tight")) for n in range(60)), 4)
    assert 20 <= sum(answer.status == 200 for answer in answers) <= 22  # it refills meanwhile
    for answer in answers:
        if answer.status != 200:
            assert_error(answer, 429, "rate_limit_error")
    # Files, and keys made at run time.
    body, headers = form(b"mine")
    made = await post(left, body, headers, path="/v1/files", key=alone)
    path = f"/v1/files/{made.json()['id']}"
    assert (await ask(right, path=path, key=alone)).account == made.account
    assert_error(await ask(right, path=path, key=key_of(f"{SCENE}-free")), 404, "not_found_error")


async def test_a_primary_dies_and_every_token_is_counted_once(
    stores: Stores, gateways: list[Gateway], upstream: Simulator
):
    before, since = upstream.control("GET", "usage")["data"], upstream.mark()
    earlier = totals(gateways[0], SCENE, "key", "model", "account")
    traffic = Traffic("away", gateways, seed=7)
    trouble(upstream)
    work = asyncio.create_task(traffic.send(600))
    await eventually(lambda: len(traffic.told) > 150, "traffic")
    gone = await asyncio.to_thread(stores.lose)
    await work
    gone.start()
    wait_for(gone.answers, "the server that died")
    for gateway in gateways:
        await eventually(lambda: connected(gateway), "the store")  # noqa: B023
        await eventually(lambda: gateway.metrics().total("gateway_requests_in_flight") == 0, "idle gateways")  # noqa: B023
    await eventually(lambda: not open_ones(stores), "the end of all reservations", 60)
    books = Books("away", gateways, upstream, traffic, since)
    await settled(books, before)
    assert totals(gateways[0], SCENE, "key", "model", "account") == earlier
    for caller in callers("away"):
        tenant = f"t:{caller['team']}" if "team" in caller else f"c:{caller['id']}"
        if "budget_usd" in caller["limits"]:
            used = sum(nano(entry["cost_usd"]) for entry in books.entries.values() if entry["key"] == caller["id"])
            assert spent(stores, tenant, f"c:{caller['id']}") == used > 0
