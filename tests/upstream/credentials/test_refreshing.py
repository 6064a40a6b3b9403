"""When a credential is fetched, what serves meanwhile, and what is said when none can be had."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.credential import NotReady
from gateway.upstream.credentials.refreshing import (
    EARLY,
    FRESH,
    LAST_WAIT,
    FetchError,
    Grant,
    Refreshing,
    in_thread,
    in_words,
    next_fetch,
)  # fmt: skip


class Source:
    """Gives what it is told to, and counts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.gives: Grant[str] | Exception = Grant("first", 5000.0)
        self.thrice = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> Grant[str]:
        self.asked += 1
        if self.asked == 3:
            self.thrice.set()
        await self.gate.wait()
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    def credential(self) -> Refreshing[str]:
        return Refreshing(self.fetch, lambda: self.now)


async def test_before_the_first_fetch_none_is_ready_and_it_is_said() -> None:
    with pytest.raises(NotReady, match="not asked for yet"):
        Source().credential().current()


async def test_what_was_fetched_serves_until_it_expires_though_its_successor_cannot_be_had() -> None:
    source = Source()
    credential = source.credential()
    assert await credential.refresh()
    assert (credential.current(), credential.expires_at, credential.trouble) == ("first", 5000.0, "")
    source.now, source.gives = 4999.0, FetchError("the source is away")
    assert not await credential.refresh()
    assert (credential.current(), credential.trouble) == ("first", "the source is away")
    source.now = 5000.0
    with pytest.raises(NotReady, match="has expired: the source is away"):
        credential.current()
    source.now, source.gives = 5020.0, Grant("second", None)
    assert await credential.refresh()
    assert (credential.current(), credential.expires_at, credential.trouble) == ("second", None, "")


async def test_all_that_are_refused_at_one_time_fetch_once_and_are_told_the_same() -> None:
    source = Source()
    credential = source.credential()
    source.gate.clear()
    waiting = [asyncio.create_task(credential.refresh()) for _ in range(20)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*waiting) == [True] * 20
    source.now += FRESH / 2
    assert await credential.refresh()  # of the same refusals, a little later
    assert source.asked == 1
    source.now += FRESH
    assert not await credential.refresh()  # nothing else is given
    assert source.asked == 2


async def test_one_that_gives_up_waiting_takes_nothing_from_the_others() -> None:
    source = Source()
    credential = source.credential()
    source.gate.clear()
    first, second = asyncio.create_task(credential.refresh()), asyncio.create_task(credential.refresh())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await second
    assert (first.cancelled(), source.asked) == (True, 1)


async def test_an_error_of_a_library_is_named_by_its_type_alone() -> None:
    source = Source()
    source.gives = KeyError("the-secret")
    credential = source.credential()
    assert not await credential.refresh()
    assert credential.trouble == "an error that was not foreseen: KeyError"


async def test_it_is_fetched_again_ahead_of_the_expiry_until_closed() -> None:
    source = Source()
    source.gives = Grant("first", source.now + 2)
    credential = source.credential()
    await credential.start()
    await credential.start()
    await asyncio.wait_for(source.thrice.wait(), 60)
    await credential.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert source.asked == 3


async def test_whoever_asks_hears_of_trouble_and_of_its_end_once_each() -> None:
    source = Source()
    credential = source.credential()
    heard: list[str] = []
    await credential.start(heard.append)
    for gives in (Grant("a", 1e12), FetchError("away"), FetchError("away"), Grant("b", 1e12), Grant("c", 1e12)):
        source.gives = gives
        source.now += FRESH
        await credential.refresh()
    await credential.close()
    assert heard == ["", "away", ""]


@given(st.floats(0, 2e9), st.floats(-1e4, 1e5), st.floats(0, 1))
def test_the_next_fetch_is_ahead_of_the_expiry_but_never_at_once(now: float, left: float, chance: float) -> None:
    wait = next_fetch(now, now + left, 0, chance)
    assert wait is not None
    assert wait >= 1
    if left > 4:
        assert wait < left
        assert wait >= left - EARLY * 1.25 - 1


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_failures_are_spaced(failures: int, chance: float) -> None:
    wait = next_fetch(0.0, None, failures, chance)
    assert wait is not None
    assert 0.75 <= wait <= LAST_WAIT * 1.25


def test_what_does_not_expire_is_not_fetched_again() -> None:
    assert next_fetch(0.0, None, 0, 0.5) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Could not connect to https://sts.ap-southeast-2.amazonaws.com/ now", None),
        ("two\r\nlines ", "two lines"),
        ("token eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJ4In0.c2ln is bad", "token … is bad"),
        ("key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "key …"),
    ],
)
def test_what_a_source_says_is_one_line_without_keys(text: str, said: str | None) -> None:
    assert in_words(text) == (text if said is None else said)


async def test_work_in_a_thread_gives_back_what_it_returns_or_raises() -> None:
    assert await in_thread(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)
