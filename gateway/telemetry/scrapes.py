"""GET /metrics for many who ask at once: one scrape for all of them, and again for those who come right after.

It does not know what is scraped.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import monotonic

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

KEPT = 1.0  # seconds for which a scrape is given again
_OPENMETRICS = "application/openmetrics-text"

Encode = Callable[[Collector], bytes]
Scrape = Callable[[Encode], Awaitable[bytes]]


class Scrapes:
    """What `scrape` gives, in either format. Of each there is one version, or everybody could ask for one that nobody
    shares."""

    def __init__(self, scrape: Scrape, now: Callable[[], float] = monotonic) -> None:
        self._plain = _Format(scrape, "", now)
        self._open = _Format(scrape, _OPENMETRICS, now)

    async def get(self, accept: str, of_now: bool = False) -> tuple[bytes, str]:
        """The scrape in the format that a header `accept` asks for, and its content type. It may be KEPT seconds old,
        unless it must be `of_now`. Raises whatever scraping does."""
        wanted = self._open if any(map(_is_openmetrics, accept.split(","))) else self._plain
        return await wanted.get(of_now), wanted.content_type


class _Format:
    def __init__(self, scrape: Scrape, accept: str, now: Callable[[], float]) -> None:
        self._encode, self.content_type = choose_encoder(accept)
        self._scrape = scrape
        self._now = now
        self._kept = b""
        self._until = float("-inf")
        self._running: asyncio.Task[bytes] | None = None

    async def get(self, of_now: bool) -> bytes:
        if self._running is not None and of_now:
            await asyncio.wait((self._running,))  # it began too early; the next one has not
        if self._running is None:
            if not of_now and self._now() < self._until:
                return self._kept
            self._running = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(self._running)  # who hangs up takes it from nobody

    async def _run(self) -> bytes:
        try:
            self._kept = await self._scrape(self._encode)
            self._until = self._now() + KEPT
            return self._kept
        finally:
            self._running = None


def _is_openmetrics(accepted: str) -> bool:
    """Whether this part of a header `accept` names it in a version not older than ours, or in any."""
    name, *params = (part.strip() for part in accepted.lower().split(";"))
    versions = [value.partition("=")[2].strip('"') for value in params if value.startswith("version=")]
    return name == _OPENMETRICS and all(re.match("[1-9]", version) for version in versions)
