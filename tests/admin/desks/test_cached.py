"""What is asked for now and then: once for all who look, and None while nobody knows."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.desks import cached as module
from gateway.admin.desks.cached import Cached
from gateway.store.client.connection import StoreDown


async def test_all_who_look_at_once_share_one_answer_and_it_is_kept():
    asked = []

    async def ask() -> int:
        asked.append(1)
        await asyncio.sleep(0)
        return len(asked)

    cached = Cached(ask, 1000.0)
    assert await asyncio.gather(*(cached.get() for _ in range(5))) == [1] * 5
    assert await cached.get() == 1
    assert asked == [1]


async def test_a_store_that_is_away_is_none_and_asked_again_in_time():
    answers: list[int | Exception] = [1, StoreDown("away"), ValueError("a bug"), 2]

    async def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cached = Cached(ask, 0.0)
    found = []
    while answers:
        found.append(await cached.get())
        await asyncio.sleep(0)
    assert [each for each, before in zip(found, [0, *found], strict=False) if each != before] == [1, None, 2]


async def test_nobody_waits_long_for_an_answer_that_replaces_another(monkeypatch):
    monkeypatch.setattr("gateway.admin.desks.cached._GLANCE", 0.01)
    blocked = asyncio.Event()
    first = True

    async def ask() -> int:
        nonlocal first
        if not first:
            await blocked.wait()
        first = False
        return 1

    cached = Cached(ask, 0.0)
    assert await cached.get() == 1
    async with asyncio.timeout(10):
        while cached._asking is None:
            assert await cached.get() == 1
    assert cached.latest == 1
    cached.close()


@pytest.mark.parametrize("own", [True, False])
async def test_what_takes_too_long_is_seldom_asked_for_and_leaves_the_last_answer(monkeypatch, own):
    """Whether it was given up here or by whoever was asked."""
    clock = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    asked: list[float] = []

    async def ask() -> int:
        asked.append(clock[0])
        if len(asked) > 1:
            clock[0] += 30.0
            if own:
                raise TimeoutError
            await asyncio.Event().wait()
        return 1

    cached = Cached(ask, 2.0)
    assert await cached.get() == 1
    monkeypatch.setattr(module, "_TOO_LONG", 0.001)
    clock[0] += 2.0
    assert await cached.get() == 1
    assert len(asked) == 2
    for _ in range(599):
        clock[0] += 1.0
        assert await cached.get() == 1
    assert len(asked) == 2
    clock[0] += 2.0
    assert await cached.get() == 1
    assert len(asked) == 3


async def test_a_store_that_is_away_is_asked_again_soon(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    asked: list[float] = []

    async def ask() -> int:
        asked.append(clock[0])
        clock[0] += 10.0
        raise StoreDown("away")

    cached = Cached(ask, 300.0)
    assert await cached.get() is None
    clock[0] += 2.0
    assert await cached.get() is None
    assert len(asked) == 2
