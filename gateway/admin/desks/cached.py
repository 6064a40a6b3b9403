"""Answers that take their time, asked for now and then on behalf of everybody who looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

from gateway import log
from gateway.store.client.connection import StoreDown

_AT_MOST = 0.05  # of the time may be spent on asking
_PATIENCE = 2.0  # seconds that somebody waits for the first answer
_GLANCE = 0.25  # seconds that somebody waits for one that is to replace another
_SOON = 2.0  # seconds after which a store that did not answer is asked again
_TOO_LONG = 30.0  # seconds after which one is given up

T = TypeVar("T")


class Cached(Generic[T]):
    """What `ask` answers, asked again no sooner than `every` seconds later, or 20 times as long as it took, answered or
    given up. `latest` is the last answer, None before the first and once the store was away."""

    def __init__(self, ask: Callable[[], Awaitable[T]], every: float) -> None:
        self._ask = ask
        self._every = every
        self._again = 0.0
        self._asking: asyncio.Task[None] | None = None
        self.latest: T | None = None

    async def get(self) -> T | None:
        """The answer, asked for anew where the last one is too old; that one, where the new one takes long."""
        if self._asking is None and monotonic() >= self._again:
            self._asking = asyncio.get_running_loop().create_task(self._renew())
        if self._asking is not None:
            await asyncio.wait((self._asking,), timeout=_PATIENCE if self.latest is None else _GLANCE)
        return self.latest

    async def _renew(self) -> None:
        began = monotonic()
        pause = min(self._every, _SOON)
        try:
            async with asyncio.timeout(_TOO_LONG):
                self.latest = await self._ask()
            pause = max(self._every, (monotonic() - began) / _AT_MOST)
        except TimeoutError:  # to ask such a store again at once would make it slower still
            pause = max(self._every, (monotonic() - began) / _AT_MOST)
        except StoreDown:
            self.latest = None
        except Exception:  # nobody waits for what this raises
            self.latest = None
            log.exception("looking failed")
        finally:
            self._again = monotonic() + pause
            self._asking = None

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
