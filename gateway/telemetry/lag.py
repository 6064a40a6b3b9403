"""How late an event loop is: a timer that looks at the clock when it fires. What is done now and then is done on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

EVERY = 0.25  # seconds


class Lag:
    """`observe` is told the seconds of each lateness, from `start` to `stop`; `beat` is called each time."""

    def __init__(self, observe: Callable[[float], None], beat: Callable[[], None] = lambda: None) -> None:
        self._observe = observe
        self._beat = beat
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
        self._beat()
