"""What every credential of a cloud has in common: the first fetch, the refreshes, and words for what went wrong.

What is at hand serves until it expires, whatever becomes of its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from gateway.upstream.credential import NotReady, Tell, silently

EARLY = 900.0  # seconds before the expiry, at most
LONGEST = 60.0  # seconds a fetch may take
FRESH = 10.0  # seconds for which one fetch answers to all refusals
FIRST_WAIT, LAST_WAIT = 1.0, 60.0  # seconds between fetches that fail

T = TypeVar("T")
R = TypeVar("R")


class FetchError(Exception):
    """No credential can be had; says why, in words without secrets."""


class Grant(NamedTuple, Generic[T]):
    """What a source gave, and until when it is good: unix seconds, None if it does not expire."""

    value: T
    expires_at: float | None


def next_fetch(now: float, expires_at: float | None, failures: int, chance: float) -> float | None:
    """Seconds until the next fetch, None if there shall be none. `failures` counts those since the last that was good,
    `chance` is from 0 to 1. Ahead of the expiry by a quarter of an hour, or by half of what is left if that is less."""
    if failures:
        return min(LAST_WAIT, FIRST_WAIT * math.exp2(min(failures - 1, 10))) * (0.75 + chance / 2)
    if expires_at is None:
        return None
    left = max(0.0, expires_at - now)
    return max(FIRST_WAIT, left - min(EARLY, left / 2) * (1 + chance / 4))


class Refreshing(Generic[T]):
    """A `Credential` but for its lines. `fetch` asks the source; it raises FetchError."""

    def __init__(self, fetch: Callable[[], Awaitable[Grant[T]]], clock: Callable[[], float] = time.time) -> None:
        self.trouble = "not asked for yet"
        self._fetch = fetch
        self._clock = clock
        self._grant: Grant[T] | None = None
        self._running: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._asked = -math.inf
        self._changed = False
        self._failures = 0
        self._tell: Tell = silently

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None if it does not expire, and while there is none."""
        return None if self._grant is None else self._grant.expires_at

    def current(self) -> T:
        """What is at hand. Raises NotReady."""
        grant = self._grant
        if grant is None:
            raise NotReady(f"no credential: {self.trouble}")
        if grant.expires_at is not None and self._clock() >= grant.expires_at:
            raise NotReady(f"the credential has expired: {self.trouble or 'it is being refreshed'}")
        return grant.value

    async def start(self, tell: Tell = silently) -> None:
        """Begin the first fetch and the refreshes in the background. `tell` hears `trouble` whenever it is another."""
        self._tell = tell
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End them."""
        for task in (self._keeper, self._running):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._keeper = self._running = None

    async def refresh(self) -> bool:
        """After a refusal: fetch anew, all that ask at one time once. True if something else is at hand than before
        the fetch; the answer holds for some seconds, as refusals of one credential come together."""
        if self._running is not None or self._clock() - self._asked >= FRESH:
            await self._once()
        return self._changed

    async def _keep(self) -> None:
        while True:
            await self._once()
            grant = self._grant
            expires_at = None if grant is None else grant.expires_at
            wait = next_fetch(self._clock(), expires_at, self._failures, random.random())
            if wait is None:
                return
            await asyncio.sleep(wait)

    async def _once(self) -> None:
        if self._running is None:
            self._running = asyncio.create_task(self._ask())
        # One of several that wait may be given up, without the others.
        await asyncio.shield(self._running)

    async def _ask(self) -> None:
        before, said = self._grant, self.trouble
        try:
            async with asyncio.timeout(LONGEST):
                self._grant = await self._fetch()
            self._failures, self.trouble = 0, ""
        except TimeoutError:
            self._failed(f"no answer for {LONGEST:g} s")
        except FetchError as error:
            self._failed(str(error))
        except Exception as error:  # of somebody else's library: one failure may not end the refreshes
            self._failed(f"an error that was not foreseen: {type(error).__name__}")
        finally:
            self._running = None
            self._asked = self._clock()
            self._changed = self._grant is not None and (before is None or before.value != self._grant.value)
            if self.trouble != said:
                self._tell(self.trouble)

    def _failed(self, why: str) -> None:
        self._failures += 1
        self.trouble = why


_LONG = re.compile(r"[A-Za-z0-9+/_=.~-]{33,}")
_PLACE = re.compile(r"//[A-Za-z0-9.-]+/?")


def in_words(text: str) -> str:
    """What a source says, on one line and cut short, without whatever may be a key or a token."""
    line = " ".join(text.split())[:1000]
    return _LONG.sub(lambda match: match[0] if _PLACE.fullmatch(match[0]) else "…", line)[:300]


def silence(*libraries: str) -> None:
    """Let them log nothing: what they say of a failure is told once, in our words, and theirs may show keys."""
    for name in libraries:
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def in_thread(work: Callable[[], R]) -> R:
    """What `work` returns or raises, from a thread that no end of the process waits for: it may block for long."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def settle(result: R | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # handed on to who waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="credentials", daemon=True).start()
    return await done
