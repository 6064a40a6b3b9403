"""What a process does again and again until it is cancelled, whatever becomes of it. It does not know what that is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from gateway import log


async def every(
    pause: float | Callable[[], float],
    work: Callable[[], Awaitable[object]],
    failed: str,
    *,
    at_once: bool = False,
    poked: asyncio.Event | None = None,
    quiet: type[Exception] | tuple[()] = (),
) -> None:
    """Do `work` `pause` seconds after it was done last, or as soon as `poked` is set, until cancelled. The first time
    comes after a pause too, unless `at_once`. What `work` raises is logged as `failed`, unless it is `quiet`."""
    poked = poked or asyncio.Event()
    while True:
        if not at_once:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause() if callable(pause) else pause):
                    await poked.wait()
            poked.clear()
        at_once = False
        try:
            await work()
        except quiet:
            pass
        except Exception:  # whatever it was, the next time must come
            log.exception(failed)
