"""Those who watch: each gets what happens, and none can keep more than his share."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admin.dashboard import viewers as module
from gateway.admin.dashboard.viewers import MOST, MOST_OF_ONE, Viewers, event
from gateway.errors import ApiError


async def next_of(stream) -> bytes:
    async with asyncio.timeout(10):
        return await anext(stream)


async def test_a_viewer_gets_what_there_is_and_then_what_happens():
    viewers = Viewers()
    stream = viewers.open(b"first")
    assert await next_of(stream) == b"retry: 2000\n\nfirst"
    viewers.tell(b"one", "numbers")
    assert await next_of(stream) == b"one"
    viewers.tell(b"two", "numbers")
    viewers.tell(b"three", "numbers")
    viewers.tell(b"a")
    viewers.tell(b"b")
    assert await next_of(stream) == b"threeab"
    await stream.aclose()
    assert len(viewers) == 0


async def test_whoever_reads_slowly_misses_some_and_costs_little():
    viewers = Viewers()
    stream = viewers.open(b"")
    await next_of(stream)
    for number in range(10_000):
        viewers.tell(b"%d " % number)
        viewers.tell(b"n%d " % number, "numbers")
    assert await next_of(stream) == b"n9999 9992 9993 9994 9995 9996 9997 9998 9999 "
    await stream.aclose()


async def test_there_are_no_more_than_so_many_and_room_comes_back():
    viewers = Viewers()
    streams = [viewers.open(b"", f"token-{number % 8}") for number in range(MOST)]
    for stream in streams:
        await next_of(stream)
    with pytest.raises(ApiError) as refused:
        viewers.open(b"", "another")
    assert (refused.value.status, refused.value.retry_after) == (503, 5)
    await streams[0].aclose()
    await streams[1].aclose()
    viewers.open(b"", "another")
    assert len(viewers) == MOST - 1
    viewers.close()
    for stream in streams[2:]:
        with pytest.raises(StopAsyncIteration):
            await next_of(stream)


async def test_one_token_leaves_room_for_others():
    viewers = Viewers()
    streams = [viewers.open(b"", "one") for _ in range(MOST_OF_ONE)]
    for stream in streams:
        await next_of(stream)
    with pytest.raises(ApiError) as refused:
        viewers.open(b"", "one")
    assert (refused.value.status, refused.value.retry_after) == (429, 5)
    viewers.open(b"", "other")
    await streams[0].aclose()
    viewers.open(b"", "one")
    assert len(viewers) == MOST_OF_ONE + 1
    viewers.close()


async def test_whoever_takes_nothing_is_forgotten(monkeypatch):
    viewers = Viewers()
    stuck, never = viewers.open(b""), viewers.open(b"")
    await next_of(stuck)
    monkeypatch.setattr(module, "GONE", -1.0)
    viewers.forget_idle()
    assert len(viewers) == 0
    viewers.tell(b"more")
    with pytest.raises(StopAsyncIteration):
        await next_of(stuck)
    await never.aclose()


async def test_an_idle_stream_says_that_it_is_there(monkeypatch):
    monkeypatch.setattr(module, "PING", 0.01)
    viewers = Viewers()
    stream = viewers.open(b"")
    await next_of(stream)
    assert (await next_of(stream)).startswith(b":")
    await stream.aclose()


async def test_streams_end_with_the_gateway_and_none_begins():
    viewers = Viewers()
    stream = viewers.open(b"")
    await next_of(stream)
    viewers.close()
    with pytest.raises(StopAsyncIteration):
        await next_of(stream)
    with pytest.raises(ApiError):
        viewers.open(b"")


def test_an_event_is_as_browsers_read_it():
    assert event("numbers", b"{}") == b"event: numbers\ndata: {}\n\n"
    assert event("numbers", b"{}", "a-1") == b"id: a-1\nevent: numbers\ndata: {}\n\n"
