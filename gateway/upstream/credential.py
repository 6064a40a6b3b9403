"""The credential port: what authenticates each attempt at a provider, read without waiting.

A provider asks for header lines where it writes a request; how a credential is had and kept fresh, each implementation
says. It knows no account, no request but the one it signs, and no transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.upstream.transport import NotSent


class NotReady(NotSent):
    """No credential is at hand yet: nothing was sent."""


Tell = Callable[[str], None]


def silently(trouble: str) -> None:
    """For those who do not want to hear of it."""


class Credential(Protocol):
    """What proves to a provider who calls. Read without waiting; refreshed in the background ahead of its expiry."""

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None if it does not expire."""
        ...

    @property
    def trouble(self) -> str:
        """Why none is at hand or the last refresh failed, in words without secrets; "" if all is well."""
        ...

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        """Finished header lines that authenticate this one attempt. Raises NotReady (a NotSent) while none is at
        hand."""
        ...

    async def refresh(self) -> bool:
        """After a refusal: fetch anew, single flight. True if what lines() gives has changed."""
        ...

    async def start(self, tell: Tell = silently) -> None:
        """Begin the first fetch and the refreshes in the background. `tell` hears `trouble` whenever it is another."""
        ...

    async def close(self) -> None:
        """End them."""
        ...


class Fixed:
    """One that is given with the configuration and stays: the header lines are always the same."""

    expires_at: float | None = None
    trouble = ""

    def __init__(self, name: str, value: str) -> None:
        self._lines = f"{name}: {value}\r\n".encode("ascii")

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        return self._lines

    async def refresh(self) -> bool:
        return False

    async def start(self, tell: Tell = silently) -> None:
        pass

    async def close(self) -> None:
        pass
