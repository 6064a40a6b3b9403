"""Shared by the simulator's tests: bodies, a clock, and a raw client."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic

from gateway.lab.simulator import Account, Record, Simulator, World

MODEL = "claude-sonnet-4-5"
MINIMUM = 1024


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], object]) -> None:
    """Lets the event loop run until the condition holds; `TimeoutError` after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)


def words(tokens: int, tag: str = "x") -> str:
    """Text of about `tokens` tokens, different for each tag."""
    return (f"{tag} " + "abc " * tokens)[: tokens * 4]


def text(content: str, cache: str | None = None) -> dict[str, Any]:
    """A text block; `cache` is a TTL."""
    block: dict[str, Any] = {"type": "text", "text": content}
    if cache is not None:
        block["cache_control"] = {"type": "ephemeral", "ttl": cache}
    return block


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    """A Messages body; strings alternate between user and assistant."""
    roles = ("user", "assistant")
    made = [
        one if isinstance(one, dict) and "role" in one else {"role": roles[index % 2], "content": one}
        for index, one in enumerate(messages or ("hello",))
    ]
    return {"model": MODEL, "max_tokens": 1000, "messages": made, **fields}


def headers(account: Account, **more: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {"x-api-key": account.api_key, "anthropic-version": "2023-06-01", **named}


def request_bytes(sim: Simulator, data: dict[str, Any] | bytes, fault: str | None = None, account: int = 0) -> bytes:
    """A whole HTTP request for /v1/messages."""
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    head = [f"{name}: {value}" for name, value in headers(sim.world.accounts[account]).items()]
    if fault is not None:
        head.append(f"x-sim-fault: {fault}")
    lines = ["POST /v1/messages HTTP/1.1", "host: sim", *head, f"content-length: {len(payload)}", "", ""]
    return "\r\n".join(lines).encode() + payload


async def exchange(sim: Simulator, data: bytes, *, until: bytes | None = None) -> tuple[bytes, str]:
    """Everything the server sends back, and how it ended: `eof`, `reset`, or `open` once `until` was seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    got = bytearray()
    ending = "eof"
    try:
        writer.write(data)
        while True:
            piece = await asyncio.wait_for(reader.read(65536), 10)
            if not piece:
                break
            got += piece
            if until is not None and until in got:
                ending = "open"
                break
    except ConnectionError:
        ending = "reset"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(got), ending


def unchunk(data: bytes) -> tuple[bytes, bool]:
    """The body of a chunked answer and whether its end was reached."""
    _, _, rest = data.partition(b"\r\n\r\n")
    made = b""
    while rest:
        size, found, after = rest.partition(b"\r\n")
        if not found:
            return made, False
        length = int(size, 16)
        if length == 0:
            return made, True
        made += after[:length]
        rest = after[length + 2 :]
    return made, False


@contextlib.contextmanager
def background(world: World | None = None, **settings: Any) -> Iterator[Simulator]:
    """A simulator on a thread of its own, for clients that block."""
    sim = Simulator(world or World.grid(2), **settings)
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with sim:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield sim
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


@contextlib.contextmanager
def sdk_of(sim: Simulator, account: int = 0, **options: Any) -> Iterator[anthropic.Anthropic]:
    """The real client, straight at the simulator, with one account's key."""
    key = sim.world.accounts[account].api_key
    with anthropic.Anthropic(api_key=key, base_url=sim.base_url, max_retries=0, **options) as client:
        yield client


def last_finished(sim: Simulator) -> Record:
    """The latest record, once its answer has ended: a client on another thread may see the last byte first."""
    deadline = time.monotonic() + 10
    while not sim.requests[-1].finished:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return sim.requests[-1]
