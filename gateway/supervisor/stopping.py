"""Whether a gateway is to stop, is stopping, and in which haste."""

from __future__ import annotations

import asyncio
import contextlib


class Stopping:
    """`draining` is true from the moment that it says so on /readyz."""

    def __init__(self) -> None:
        self.draining = False
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether somebody has asked, or it must not go on."""
        return self._asked.is_set()

    def ask(self) -> None:
        """It is to stop."""
        self._asked.set()

    def hurry(self) -> None:
        """It is to stop at once."""
        self._hurry.set()

    async def wait(self) -> None:
        """Wait until it is to stop."""
        await self._asked.wait()

    async def delay(self, seconds: float) -> None:
        """Wait so long, unless there is haste."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)
