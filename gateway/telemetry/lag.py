"""How late an event loop is: a timer that looks at the clock when it fires. What is done now and then is done on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic, perf_counter
from typing import NamedTuple

from gateway import log

EVERY = 0.25  # seconds


class Job(NamedTuple):
    """`work` is done again `every` so many seconds after it was done, or as often as the timer fires."""

    name: str
    every: float
    work: Callable[[], None]


class Lag:
    """`observe` is told the seconds of each lateness, from `start` to `stop`; the `jobs` are done when they are due."""

    def __init__(self, observe: Callable[[float], None], jobs: Iterable[Job] = ()) -> None:
        now = monotonic()
        self._observe = observe
        self._jobs = {job: now + job.every for job in jobs}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure the running loop."""
        self._loop = asyncio.get_running_loop()
        self._again()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        self._due = perf_counter() + EVERY
        self._timer = self._loop.call_later(EVERY, self._fired)

    def _fired(self) -> None:
        self._observe(max(0.0, perf_counter() - self._due))
        self._again()
        now = monotonic()
        for job, due in self._jobs.items():
            if now >= due:
                self._jobs[job] = now + job.every
                try:
                    job.work()
                except Exception:  # whatever it was, the others must be done
                    log.exception("a job failed", job=job.name)
