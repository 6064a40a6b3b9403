"""Holds the conversations of a plan through a gateway, as an SDK would, and adds up what the answers tell.

The history grows by both sides' words; two cache breakpoints a request, on the system prompt and the newest message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from gateway.lab.demo.plan import Plan

MAX_TOKENS = 256
AT_ONCE = 56  # conversations under way at a time
RETRIES = 12  # each after the pause that a 429 asks for
REQUEST_SECONDS = 60.0
_AGAIN = frozenset({408, 409, 429}) | frozenset(range(500, 600))
_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds, where the answer asks for none
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

    def add(self, usage: dict[str, Any], output_tokens: int) -> None:
        """Count an answer by the usage that it tells."""
        self.requests += 1
        self.input_tokens += usage["input_tokens"]
        self.cache_read_input_tokens += usage.get("cache_read_input_tokens") or 0
        self.cache_creation_input_tokens += usage.get("cache_creation_input_tokens") or 0
        self.output_tokens += output_tokens


class Failure(Exception):
    """A request that was not answered, for people to read."""


async def converse(plan: Plan, base_url: str, key: str, wander: bool, answered: Callable[[], None]) -> Tally:
    """Hold all conversations of the plan, `AT_ONCE` at a time; a conversation ends with its first failure."""
    tally = Tally()
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    waiting = iter(range(len(plan.conversations)))

    async def talk() -> None:
        for index in waiting:
            try:
                await _conversation(_Client(client, tally), plan, index, wander, answered)
            except (Failure, httpx.HTTPError) as error:
                tally.failures.append(f"{type(error).__name__}: {error}")

    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(
        base_url=base_url, headers=headers, timeout=REQUEST_SECONDS, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(talk() for _ in range(min(AT_ONCE, len(plan.conversations)))))
    return tally


async def _conversation(client: _Client, plan: Plan, index: int, wander: bool, answered: Callable[[], None]) -> None:
    system = [{"type": "text", "text": plan.system, "cache_control": _EPHEMERAL}]
    history: list[dict[str, Any]] = []
    for turn, ident in zip(plan.conversations[index], plan.placement(index, wander), strict=False):
        newest = {"role": "user", "content": [{"type": "text", "text": turn.text, "cache_control": _EPHEMERAL}]}
        body = {
            "model": plan.model.id,
            "max_tokens": MAX_TOKENS,
            "system": system,
            "messages": [*history, newest],
            "stream": turn.stream,
        }
        answer = await client.ask(body, ident)
        history += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": answer}]
        answered()


class _Client:
    """Asks as an SDK does: what may succeed later is repeated after a pause."""

    def __init__(self, http: httpx.AsyncClient, tally: Tally) -> None:
        self._http = http
        self._tally = tally

    async def ask(self, body: dict[str, Any], conversation: str) -> str:
        """The text of the answer."""
        began = time.perf_counter()
        content = msgspec.json.encode(body)
        headers = {"content-type": "application/json", "X-Conversation-Id": conversation}
        for attempt in range(RETRIES + 1):
            async with self._http.stream("POST", "/v1/messages", content=content, headers=headers) as response:
                if response.status_code == 200:
                    return await (self._streamed(response, began) if body["stream"] else self._whole(response))
                said = (await response.aread()).decode(errors="replace")
            self._tally.refused += response.status_code == 429
            if response.status_code not in _AGAIN or attempt == RETRIES:
                break
            asked = response.headers.get("retry-after", "")
            await asyncio.sleep(float(asked) if asked.isdecimal() else min(_PAUSE * 2**attempt, _LONGEST_PAUSE))
        raise Failure(f"{response.status_code} {said[:200]}")

    async def _whole(self, response: httpx.Response) -> str:
        message = msgspec.json.decode(await response.aread())
        self._tally.add(message["usage"], message["usage"]["output_tokens"])
        return "".join(block["text"] for block in message["content"] if block["type"] == "text")

    async def _streamed(self, response: httpx.Response, began: float) -> str:
        parts: list[str] = []
        usage: dict[str, Any] = {}
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            event = msgspec.json.decode(line[len("data: ") :])
            if event["type"] == "message_start":
                usage = event["message"]["usage"]
            elif event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
                if not parts:
                    self._tally.waits.append(time.perf_counter() - began)
                parts.append(event["delta"]["text"])
            elif event["type"] == "message_delta":
                self._tally.add(usage, event["usage"]["output_tokens"])
            elif event["type"] == "error":
                raise Failure(event["error"]["message"])
        return "".join(parts)
