"""What a supervisor asks of its workers and keeps of what they say, over workers that say what the test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from gateway.supervisor import workers as module
from gateway.supervisor.overview import Watch
from gateway.supervisor.workers import Worker, Workers, processes
from gateway.telemetry.counters import Family
from gateway.worker.control import Channel, Message, Numbers, Scrape


class Process:
    """One that ends when it is told to."""

    pid = 0
    killed = False

    def __init__(self) -> None:
        self.over = threading.Event()

    def wait(self) -> int:
        self.over.wait()
        return 0

    def kill(self) -> None:
        self.killed = True
        self.over.set()


class Far:
    """The other end of one worker's conversation."""

    def __init__(self, worker: Worker, channel: Channel, process: Process) -> None:
        self.worker = worker
        self.channel = channel
        self.process = process

    async def scrape(self) -> Scrape:
        async with asyncio.timeout(10):
            message = await self.channel.receive()
        assert isinstance(message, Scrape)
        return message

    def say(self, message: Message) -> None:
        self.channel.send(message)

    async def end(self) -> None:
        self.channel.close()
        self.process.over.set()
        async with asyncio.timeout(10):
            await self.worker.gone.wait()


def counted(count: float) -> bytes:
    return msgspec.msgpack.encode([Family("gateway_requests", "counter", "", ("code",), [(("200",), [count])])])


def counts(families: list[Family]) -> float:
    return sum(numbers[0] for family in families for _, numbers in family.children)


Hire = Callable[[int], Awaitable[Far]]


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    made = Workers(0, processes([]), cast(Any, None), lambda data: None, lambda since: None)
    yield made
    made.close()
    await asyncio.gather(*made._tasks, return_exceptions=True)


@pytest.fixture
async def hire(workers: Workers) -> AsyncIterator[Hire]:
    hired: list[Far] = []

    async def worker(index: int) -> Far:
        ends = []
        for each in socket.socketpair():
            each.setblocking(False)
            ends.append(Channel(*await asyncio.open_connection(sock=each)))
        process = Process()
        known = workers._workers[index] = Worker(index, f"w{index}", cast(Any, process), ends[0])
        known.ready.set()
        workers._task(workers._listen_to(known))
        hired.append(Far(known, ends[1], process))
        return hired[-1]

    yield worker
    for far in hired:
        await far.end()


async def heard(workers: Workers, far: Far, message: Numbers) -> None:
    """The worker says it, and the workers knows."""
    asking = asyncio.create_task(workers.refresh())
    scrape = await far.scrape()
    far.say(msgspec.structs.replace(message, answers=scrape.number))
    await asking


async def test_a_look_at_now_asks_for_little_and_a_scrape_for_all(workers, hire):
    far = await hire(0)
    looking = asyncio.create_task(workers.refresh())
    asked = await far.scrape()
    assert not asked.whole
    far.say(Numbers(counted(5), b"", asked.number))
    await looking
    assert (counts(workers.lately.families()), counts(workers.totals.families())) == (5, 0)
    looking = asyncio.create_task(workers.refresh(whole=True))
    asked = await far.scrape()
    assert asked.whole
    far.say(Numbers(counted(6), counted(7), asked.number))
    await looking
    assert (counts(workers.lately.families()), counts(workers.totals.families())) == (6, 7)


async def test_who_waits_for_numbers_gets_none_that_were_asked_for_before(workers, hire):
    """Else a scrape is old, and what was told in between may not have been read."""
    far = await hire(0)
    first = asyncio.create_task(workers.refresh())
    early = await far.scrape()
    second = asyncio.create_task(workers.refresh(whole=True))
    late = await far.scrape()
    far.say(Numbers(counted(1), b"", early.number))
    await first
    assert not second.done() and counts(workers.totals.families()) == 0
    far.say(Numbers(counted(2), counted(2), late.number))
    await second
    assert counts(workers.totals.families()) == 2


async def test_nobody_waits_for_a_worker_that_has_ended_and_its_last_numbers_stay(workers, hire, monkeypatch):
    monkeypatch.setattr(module, "_SCRAPE_WAIT", 1000.0)
    far, other = await hire(0), await hire(1)
    asking = asyncio.create_task(workers.refresh(whole=True))
    await far.scrape()
    asked = await other.scrape()
    far.say(Numbers(counted(3), counted(3), 0, {"a": 2}))
    other.say(Numbers(counted(4), counted(4), asked.number, {"a": 1, "b": 1}))
    await far.end()
    async with asyncio.timeout(10):
        await asking
    assert (counts(workers.lately.families()), counts(workers.totals.families())) == (7, 7)
    assert workers.in_flight() == {"a": 1, "b": 1}


async def test_what_an_ended_worker_had_counted_is_added_up_beside_the_loop(workers, hire, monkeypatch):
    far = await hire(0)
    await heard(workers, far, Numbers(counted(3), counted(3)))
    threads = []
    end = workers.totals.end

    def ending(worker: int) -> None:
        threads.append(threading.get_ident())
        end(worker)

    monkeypatch.setattr(workers.totals, "end", ending)
    await far.end()
    assert len(threads) == 1 and threads[0] != threading.get_ident()
    assert counts(workers.totals.families()) == 3


async def test_unasked_looks_are_at_all_numbers_now_and_then(workers, hire, monkeypatch):
    monkeypatch.setattr(module, "_PULL_EVERY", 0.005)
    far = await hire(0)
    workers._task(workers._pull())
    asked = []
    for _ in range(10):
        asked.append(await far.scrape())
        far.say(Numbers(b"\x90", b"", asked[-1].number))
    assert [scrape.whole for scrape in asked] == [True, *[False] * 9]
    monkeypatch.setattr(module, "_WHOLE_EVERY", 0.0)
    await far.scrape()  # which may have been on its way
    assert (await far.scrape()).whole


async def test_requests_of_accounts_are_summed_once_for_all_who_ask(workers, hire, monkeypatch):
    left, right = await hire(0), await hire(1)
    sums = []

    class Summing(module.Counter):  # type: ignore[misc, name-defined]
        def __init__(self, *given: Any) -> None:
            sums.append(given)
            super().__init__(*given)

    monkeypatch.setattr(module, "Counter", Summing)

    async def told(left_has: dict[str, int], right_has: dict[str, int]) -> None:
        asking = asyncio.create_task(workers.refresh())
        for far, has in ((left, left_has), (right, right_has)):
            far.say(Numbers(b"\x90", b"", (await far.scrape()).number, has))
        await asking

    await told({"a": 1}, {"a": 2, "b": 1})
    assert workers.in_flight() == {"a": 3, "b": 1}
    once = len(sums)
    for _ in range(300):
        assert workers.in_flight() == {"a": 3, "b": 1}
    assert len(sums) == once
    await told({}, {"a": 2})
    assert workers.in_flight() == {"a": 2}
    await right.end()
    assert workers.in_flight() == {}


async def test_workers_that_end_in_order_are_not_missed(workers, hire):
    watch = Watch(workers, cast(Any, None), cast(Any, None), 2, lambda: True, list)
    left, right = await hire(0), await hire(1)
    assert watch.modes() == {"store": 0, "workers": 0}
    await left.end()
    assert watch.modes() == {"store": 0, "workers": 1}
    workers.stop()
    assert watch.modes() == {"store": 0, "workers": 0}
    await right.end()
    assert watch.modes() == {"store": 0, "workers": 0}
    assert watch.workers() == (0, 2)


async def test_a_worker_that_hangs_at_its_drain_limit_is_killed_and_no_other(workers, hire, monkeypatch):
    monkeypatch.setattr(module, "_OVERDUE", 0.2)
    hanging, ending = await hire(0), await hire(1)
    draining = asyncio.create_task(workers.drain(0.1))
    await ending.end()
    async with asyncio.timeout(10):
        await draining
    assert (hanging.process.killed, ending.process.killed) == (True, False)
