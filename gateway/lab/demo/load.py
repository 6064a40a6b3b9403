"""Holds the conversations of a plan through a gateway, with the real SDK, and adds up what the answers tell.

The history grows by both sides' words; two cache breakpoints a request, on the system prompt and the newest message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import anthropic
import msgspec

from gateway.lab.demo.plan import Plan

MAX_TOKENS = 256
AT_ONCE = 56  # conversations under way at a time
RETRIES = 12  # of the SDK, each after the pause that a 429 asks for
REQUEST_SECONDS = 60.0
_EPHEMERAL = {"type": "ephemeral"}


class Tally(msgspec.Struct):
    """What the answers added up to. `waits` are seconds to the first token of streamed answers; `refused` counts the
    429s that reached the client."""

    requests: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    refused: int = 0
    waits: list[float] = []
    failures: list[str] = []

    def add(self, usage: Any, output_tokens: int) -> None:
        """Count an answer by the usage that it tells."""
        self.requests += 1
        self.input_tokens += usage.input_tokens
        self.cache_read_input_tokens += usage.cache_read_input_tokens or 0
        self.cache_creation_input_tokens += usage.cache_creation_input_tokens or 0
        self.output_tokens += output_tokens


async def converse(plan: Plan, base_url: str, key: str, wander: bool, answered: Callable[[], None]) -> Tally:
    """Hold all conversations of the plan, `AT_ONCE` at a time; a conversation ends with its first failure."""
    tally = Tally()

    async def notice(response: Any) -> None:
        tally.refused += response.status_code == 429

    transport = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [notice]})
    sdk = anthropic.AsyncAnthropic(
        base_url=base_url, api_key=key, max_retries=RETRIES, timeout=REQUEST_SECONDS, http_client=transport
    )
    waiting = iter(range(len(plan.conversations)))

    async def talk() -> None:
        for index in waiting:
            try:
                await _conversation(sdk, plan, index, wander, tally, answered)
            except anthropic.AnthropicError as error:
                tally.failures.append(f"{type(error).__name__}: {error}")

    async with sdk:
        await asyncio.gather(*(talk() for _ in range(min(AT_ONCE, len(plan.conversations)))))
    return tally


async def _conversation(
    sdk: anthropic.AsyncAnthropic, plan: Plan, index: int, wander: bool, tally: Tally, answered: Callable[[], None]
) -> None:
    system = [{"type": "text", "text": plan.system, "cache_control": _EPHEMERAL}]
    history: list[dict[str, Any]] = []
    for turn, ident in zip(plan.conversations[index], plan.placement(index, wander), strict=False):
        newest = {"role": "user", "content": [{"type": "text", "text": turn.text, "cache_control": _EPHEMERAL}]}
        request = {
            "model": plan.model.id,
            "max_tokens": MAX_TOKENS,
            "system": system,
            "messages": [*history, newest],
            "extra_headers": {"X-Conversation-Id": ident},
        }
        answer = await (_streamed if turn.stream else _whole)(sdk, request, tally)
        history += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": answer}]
        answered()


async def _whole(sdk: anthropic.AsyncAnthropic, request: dict[str, Any], tally: Tally) -> str:
    message = await sdk.messages.create(**request)
    tally.add(message.usage, message.usage.output_tokens)
    return "".join(block.text for block in message.content if block.type == "text")


async def _streamed(sdk: anthropic.AsyncAnthropic, request: dict[str, Any], tally: Tally) -> str:
    began = time.perf_counter()
    parts: list[str] = []
    async for event in await sdk.messages.create(**request, stream=True):
        if event.type == "message_start":
            usage = event.message.usage
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            if not parts:
                tally.waits.append(time.perf_counter() - began)
            parts.append(event.delta.text)
        elif event.type == "message_delta":
            tally.add(usage, event.usage.output_tokens)
    return "".join(parts)
