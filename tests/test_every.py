"""What is done again and again comes when it is due, and nothing but being cancelled ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

import pytest

from gateway.every import every
from gateway.log import captured
from tests.journeys.world import World


def begun(
    pause: Any, *, took: float = 0.0, fails: Iterable[Exception | None] = (), at: float = 1e9, **how: Any
) -> list[float]:
    """When the work was begun within 35 seconds, until it was cancelled. It takes so long each time, and the first
    times it `fails` so; `at` is when it is poked."""
    times, errors = [], chain(fails, repeat(None))

    async def main() -> None:
        loop, poked = asyncio.get_running_loop(), asyncio.Event()
        began = loop.time()

        async def work() -> None:
            times.append(loop.time() - began)
            await asyncio.sleep(took)
            if error := next(errors):
                raise error

        loop.call_later(at, poked.set)
        running = asyncio.create_task(every(pause, work, "no luck", poked=poked, **how))
        await asyncio.wait([running], timeout=35)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with asyncio.Runner(loop_factory=World) as runner:
        runner.run(main())
    return times


def test_the_first_time_is_after_a_pause_and_the_next_a_pause_after_the_last_is_over():
    assert begun(10.0, took=2.0) == [10.0, 22.0, 34.0]


def test_the_first_time_may_be_at_once():
    assert begun(10.0, took=2.0, at_once=True) == [0.0, 12.0, 24.0]


def test_a_pause_ends_when_it_is_poked():
    assert begun(10.0, at=3.0) == [3.0, 13.0, 23.0, 33.0]
    assert begun(10.0, at=3.0, at_once=True) == [0.0, 3.0, 13.0, 23.0, 33.0]


def test_what_is_poked_while_it_is_at_work_does_it_once_more():
    assert begun(10.0, took=2.0, at=11.0) == [10.0, 12.0, 24.0]


def test_a_pause_may_be_another_each_time():
    assert begun(chain([1.0, 2.0, 4.0], repeat(100.0)).__next__) == [1.0, 3.0, 7.0]


def test_whatever_fails_is_logged_and_the_next_time_comes():
    with captured() as logs:
        assert begun(8.0, fails=[ValueError("one"), None, TimeoutError("three")]) == [8.0, 16.0, 24.0, 32.0]
    assert [(line["event"], line["exception"].splitlines()[-1]) for line in logs] == [
        ("no luck", "ValueError: one"), ("no luck", "TimeoutError: three"),
    ]  # fmt: skip


def test_of_a_failure_that_is_to_be_quiet_nothing_is_logged():
    with captured() as logs:
        assert len(begun(10.0, fails=[KeyError("no"), ValueError("yes")], quiet=LookupError)) == 3
    assert [line["exception"].splitlines()[-1] for line in logs] == ["ValueError: yes"]


@pytest.mark.parametrize("took", [0.0, 1e3], ids=["in a pause", "at work"])
def test_it_ends_when_it_is_cancelled(took):
    with captured() as logs:
        assert begun(20.0, took=took) == [20.0]
    assert not logs
