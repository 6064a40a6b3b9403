"""Whoever watches by server-sent events: what each has not been sent yet, and for how long.

It does not know what the events mean. Whoever reads slower than things happen misses some; whoever reads nothing for a
while is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from time import monotonic

from gateway.errors import ApiError

MOST = 64  # at a time
MOST_OF_ONE = 16  # of them with the same token
PING = 15.0  # seconds after which an idle stream says that it is there
GONE = 45.0  # seconds in which somebody who reads has taken something, if only a ping
_RETRY = b"retry: 2000\n\n"  # ms after which a browser comes back
_BEHIND = 8  # pieces of one kind that wait for a slow one, where each matters


class _Viewer:
    def __init__(self, who: str) -> None:
        self.who = who
        self.latest: dict[str, bytes] = {}
        self.each: deque[bytes] = deque(maxlen=_BEHIND)
        self.wake = asyncio.Event()
        self.taken_at = monotonic()
        self.gone = False

    def take(self) -> bytes:
        """All that waits."""
        self.wake.clear()
        data = b"".join((*self.latest.values(), *self.each))
        self.latest.clear()
        self.each.clear()
        return data


class Viewers:
    """All of them."""

    def __init__(self) -> None:
        self._all: set[_Viewer] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def open(self, first: bytes, who: str = "") -> AsyncGenerator[bytes, None]:
        """The stream of a new one, which begins with `first`. `who` is the id of the token that it is opened with.
        Raises ApiError: 429 where this token has too many, 503 where there are too many in all."""
        self.forget_idle()
        if self._closed or len(self._all) >= MOST:
            why = "is shutting down" if self._closed else f"is watched by {MOST} already"
            raise ApiError(503, f"This gateway {why}; please try again later", retry_after=5)
        if sum(each.who == who for each in self._all) >= MOST_OF_ONE:
            why = f"This token watches {MOST_OF_ONE} times already; close one of its pages"
            raise ApiError(429, why, retry_after=5)
        viewer = _Viewer(who)
        self._all.add(viewer)
        return self._stream(viewer, first)

    async def _stream(self, viewer: _Viewer, first: bytes) -> AsyncGenerator[bytes, None]:
        try:
            yield _RETRY + first
            while not viewer.gone:
                data = b""
                try:
                    async with asyncio.timeout(PING):
                        await viewer.wake.wait()
                    data = viewer.take()
                except TimeoutError:
                    data = b": still here\n\n"
                viewer.taken_at = monotonic()
                if data:
                    yield data
        finally:
            self._all.discard(viewer)

    def tell(self, event: bytes, name: str = "") -> None:
        """Send it to everybody; of those of one `name` only the latest, of those without one each."""
        for viewer in self._all:
            if name:
                viewer.latest[name] = event
            else:
                viewer.each.append(event)
            viewer.wake.set()

    def forget_idle(self) -> None:
        """Forget those who do not read."""
        edge = monotonic() - GONE
        for viewer in [each for each in self._all if each.taken_at < edge]:
            self._end(viewer)

    def close(self) -> None:
        """End all streams, and let none begin."""
        self._closed = True
        for viewer in list(self._all):
            self._end(viewer)

    def _end(self, viewer: _Viewer) -> None:
        viewer.gone = True
        viewer.wake.set()
        self._all.discard(viewer)


def event(name: str, data: bytes, number: str = "") -> bytes:
    """One event as the stream has it; `data` is JSON in one line, `number` what a browser that comes back names."""
    mark = f"id: {number}\n" if number else ""
    return f"{mark}event: {name}\ndata: ".encode() + data + b"\n\n"
