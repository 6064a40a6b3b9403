"""A gateway's part in the pool, through a real server: agreeing, losing the store, finding it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.routing.document import Announcement, Entry
from gateway.listen.bind import Unstartable
from gateway.log import captured
from gateway.store.client.client import StoreDown
from gateway.store.pool.pool_store import SCHEMA, PoolStore
from gateway.supervisor.pool import membership
from gateway.supervisor.pool.membership import Membership
from gateway.supervisor.pool.snapshot import Snapshot


def entries(names: str, **fields: Any) -> tuple[Entry, ...]:
    return tuple(Entry(name, name, "org", **fields) for name in names)


class Gateway:
    """A membership and what it was told."""

    def __init__(self, name: str, url: str, folder: Path, accounts: str, workers: int) -> None:
        self.told: list[str] = []
        self.store = PoolStore(url)
        self.pool = Membership(
            name, workers, entries(accounts), self.store, Snapshot(str(folder)),
            changed=lambda: self.told.append("changed"), reseed=lambda: self.told.append("reseed"),
            outdated=lambda: self.told.append("outdated"),
        )  # fmt: skip
        self.keeping: asyncio.Task[None] | None = None

    def keep(self) -> None:
        self.keeping = asyncio.create_task(self.pool.keep(lambda: None))

    async def end(self) -> None:
        if self.keeping is not None:
            self.keeping.cancel()
        await self.store.close()

    @property
    def ids(self) -> str:
        return "".join(entry.id for entry in self.pool.document.accounts)

    def calls(self) -> list[str]:
        told, self.told[:] = self.told[:], []
        return told


Make = Callable[..., Gateway]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Gateway] = []

    def gateway(name: str, url: str, accounts: str = "ab", workers: int = 1) -> Gateway:
        made.append(Gateway(name, url, tmp_path / name, accounts, workers))
        return made[-1]

    yield gateway
    for each in made:
        await each.end()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)


async def test_joining_is_agreeing(server, make: Make):
    one, two = make("one", server.url), make("two", server.url, "abc")
    await one.pool.join()
    await two.pool.join()
    assert (one.ids, two.ids, one.pool.up) == ("ab", "ab", True)
    assert two.pool.defined.keys() == {"a", "b", "c"}
    one.pool.announce(entries("abc"))
    assert await one.pool.agree()
    assert one.ids == "abc" and one.calls()[-1] == "changed"


async def test_slots_are_shared_by_the_workers_of_all_gateways(server, make: Make):
    one, two = make("one", server.url, workers=2), make("two", server.url, workers=3)
    assert one.pool.processes == 2
    await one.pool.join()
    await two.pool.join()
    assert two.pool.processes == 5
    one.calls()
    await one.pool.agree()
    assert (one.pool.processes, one.calls()) == (5, ["changed"])
    await two.pool.leave()
    await one.pool.agree()
    await one.pool.agree()
    assert (one.pool.processes, one.calls()) == (2, ["changed"])


async def test_a_poke_is_followed_at_once(server, make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(membership, "HEARTBEAT", 1000.0)
    gateway = make("one", server.url)
    await gateway.pool.join()
    gateway.keep()
    await gateway.store.override("a", {"state": "disabled"})
    gateway.pool.poke()
    await eventually(lambda: gateway.pool.document.accounts[0].state == "disabled")


async def test_every_gateway_reseeds_what_a_flushed_store_lost_and_nothing_changes(server, make: Make):
    gateways = [make("one", server.url), make("two", server.url)]
    for each in gateways:
        await each.pool.join()
    await gateways[0].pool.override("a", {"state": "draining", "drain_until": 5e9})
    for each in gateways:
        await each.pool.agree()
        each.calls()
    document = gateways[0].pool.document
    server.admin.flushall()
    server.admin.script_flush()
    for each in gateways:
        await each.pool.agree()
        assert (each.calls(), each.pool.document) == (["reseed"], document)
    for each in gateways:
        await each.pool.agree()
        assert (each.calls(), each.pool.document) == ([], document)
        assert each.pool.overrides == {"a": {"state": "draining", "drain_until": 5e9}}


async def test_a_store_that_comes_back_is_reseeded_once(own_server, make: Make):
    server = own_server()
    gateway = make("one", server.url)
    await gateway.pool.join()
    gateway.calls()
    server.kill()
    with captured() as logs:
        assert not await gateway.pool.agree()
        assert not await gateway.pool.agree()
    assert [line["event"] for line in logs] == ["store away; the pool stays as it was agreed last"]
    with pytest.raises(StoreDown):
        await gateway.pool.override("a", {"weight": 2})
    assert (gateway.ids, gateway.calls()) == ("ab", [])
    server.start()
    async with asyncio.timeout(20):
        while not await gateway.pool.agree():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
    assert gateway.calls() == ["reseed"]
    await gateway.pool.agree()
    assert gateway.calls() == []


async def test_a_start_without_the_store_goes_on_where_the_last_one_ended(own_server, make: Make):
    server = own_server()
    others = Announcement("other", 0.5, entries("abz"))
    gateway = make("one", server.url, "abz")
    await gateway.store.agree(others, gateway.pool.document)
    await gateway.pool.join()
    await gateway.pool.override("a", {"weight": 7})
    epoch = gateway.pool.document.epoch
    server.kill()

    again = make("one", server.url, "abc")  # z is another's, c is new
    await again.pool.join()
    assert (again.ids, again.pool.document.epoch, again.pool.up) == ("abz", epoch, False)
    assert again.pool.document.accounts[0].weight == 7
    server.start()
    async with asyncio.timeout(20):
        while not await again.pool.agree():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
    assert again.pool.document.accounts[0].weight == 7
    assert "reseed" in again.calls()


async def test_a_store_of_a_newer_version_keeps_a_gateway_from_starting_and_stops_one_that_runs(server, make: Make):
    gateway = make("one", server.url)
    await gateway.pool.join()
    server.admin.set("{pool}:schema", SCHEMA + 1)
    assert not await gateway.pool.agree()
    assert gateway.calls()[-1] == "outdated"
    with pytest.raises(StoreDown, match="schema"):
        await gateway.pool.override("a", {"weight": 2})
    with pytest.raises(Unstartable, match="upgrade this gateway"):
        await make("two", server.url).pool.join()


async def test_whatever_goes_wrong_in_a_heartbeat_the_next_one_comes(
    server, make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(membership, "HEARTBEAT", 0.01)
    gateway = make("one", server.url)
    calls: list[int] = []

    def revive() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("no luck")

    with captured() as logs:
        gateway.keeping = asyncio.create_task(gateway.pool.keep(revive))
        await eventually(lambda: gateway.pool.up)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["heartbeat failed"] * 2
