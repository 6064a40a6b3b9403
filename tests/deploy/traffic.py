"""Traffic of all kinds in a thread of its own: streams and JSON, caches that are written and read, limits that refuse,
accounts and clients that fail."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tests.e2e.rig import MODEL, Gateway, Wire, ask, at_once, conversation, message, request

CACHING = "claude-opus-5-5"  # remembers prompts from 512 tokens on


def key_of(caller: str) -> str:
    """The key of a caller of these tests."""
    return "sk-" + (caller.replace("-", "0") * 48)[:48]


CALLERS: list[dict[str, Any]] = [
    {"id": "alice", "key": key_of("alice"), "team": "research"},
    {"id": "bob", "key": key_of("bob")},
    {"id": "limited", "key": key_of("limited"), "team": "support", "limits": {"requests_per_minute": 20}},
]
TEAMS: list[dict[str, Any]] = [
    {"id": "research", "limits": {"budget_usd": {"day": 1000, "month": 20000}}},
    {"id": "support", "limits": {"budget_usd": {"day": 50}}},
]


def turns(name: str, number: int) -> dict[str, Any]:
    """The next turn of a conversation whose system prompt is worth a cache."""
    system = [{"type": "text", "text": f"{name} " * 1200, "cache_control": {"type": "ephemeral"}}]
    said = [text for turn in range(number) for text in (f"question {turn}", f"answer {turn}")]
    return message(*said, "and now?", model=CACHING, system=system, stream=bool(number % 2))


async def mixed(gateway: Gateway, number: int) -> None:
    """One round of everything, a second's work or less."""
    alice, bob, limited = (key_of(caller["id"]) for caller in CALLERS)
    name = conversation()
    for turn in range(3):
        await ask(gateway, turns(name["X-Conversation-Id"], turn), name, key=alice)
    crowd = conversation()
    await at_once(
        [
            ask(gateway, message(stream=True), key=bob),
            ask(gateway, message(model="claude-sonnet-4-5"), conversation(), key=bob),
            ask(gateway, message(), conversation(), key=limited),
            ask(gateway, message(stream=True), conversation(), key=alice, fault="error_mid_stream=4"),
            ask(gateway, message(stream=True), conversation(), key=alice, fault="cut=700"),
            ask(gateway, message(), conversation(), key=alice, fault="status=529"),
            ask(gateway, message(), conversation(), key=alice, fault="status=400"),
            ask(gateway, {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}, key=alice,
                path="/v1/chat/completions"),
            ask(gateway, {"model": MODEL, "messages": message()["messages"]}, key=bob,
                path="/v1/messages/count_tokens"),
            # More at once than its account has room for: they wait for a slot.
            *(ask(gateway, message(), crowd, key=bob, fault="silence=0.1") for _ in range(6)),
            _leave(gateway, alice),
        ]
    )  # fmt: skip


async def plain(gateway: Gateway, number: int) -> None:
    """A round in which all is well."""
    name = {"X-Conversation-Id": f"plain {number % 3}"}
    await ask(gateway, message(stream=bool(number % 2)), name, key=key_of("bob"))


async def _leave(gateway: Gateway, key: str) -> None:
    """A client that goes away in the middle of an answer."""
    async with Wire.open(gateway) as wire:
        with contextlib.suppress(AssertionError):
            await wire.send(request(message(stream=True), key=key, fault="slow=0.05"))
            await wire.head()
            await wire.until_events(2)


class Traffic:
    """Rounds of `work` with pauses between them, from the start until `stop`, which fails if one has failed."""

    def __init__(self, gateway: Gateway, work: Callable[[Gateway, int], Awaitable[None]], pause: float) -> None:
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(gateway, work, pause))
        self._thread.start()

    def _run(self, gateway: Gateway, work: Callable[[Gateway, int], Awaitable[None]], pause: float) -> None:
        async def rounds() -> None:
            number = 0
            while not self._stopping.is_set():
                await work(gateway, number)
                number += 1
                await asyncio.sleep(pause)

        try:
            asyncio.run(rounds())
        except Exception as failure:
            self._failure = failure

    def stop(self) -> None:
        """May be called again."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
