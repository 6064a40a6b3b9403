"""The comparison that `gateway demo` shows: one plan twice, conversations kept together and placed at random.

Each run has a world of its own: simulator, gateway and store are new processes, so that nothing is warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec

from gateway.config.schema import Log, encode
from gateway.lab.demo.load import Tally, converse
from gateway.lab.demo.plan import Plan
from gateway.lab.demo.report import Comparison, Run
from gateway.lab.demo.world import (
    DemoError,
    announced,
    child,
    demo_config,
    new_key,
    private_directory,
    simulated_upstream,
)

PACE = ("--ttft=0.25", "--ttft-sigma=0.2", "--tokens-per-second=200", "--tokens-per-event=8", "--answer-tokens=24-48")
Progress = Callable[[bool, int], None]


class World(msgspec.Struct, frozen=True):
    """Where to send requests, with which key, and where the simulator tells what it saw."""

    gateway_url: str
    key: str
    upstream_url: str


class _Seen(msgspec.Struct):
    status: int


def compare(plan: Plan, progress: Progress) -> Comparison:
    """Run the plan twice. `progress` hears whether conversations wander, and how many requests are answered.

    Raises DemoError."""
    return Comparison.of(plan, _run(plan, False, progress), _run(plan, True, progress))


def _run(plan: Plan, wander: bool, progress: Progress) -> Run:
    count = 0

    def answered() -> None:
        nonlocal count
        count += 1
        progress(wander, count)

    progress(wander, 0)
    with _world(plan) as world:
        began = time.perf_counter()
        tally = asyncio.run(converse(plan, world.gateway_url, world.key, wander, answered))
        wall = time.perf_counter() - began
        if tally.requests != plan.requests:
            failed, first = plan.requests - tally.requests, (*tally.failures, "a cut stream")[0].splitlines()[0]
            raise DemoError(f"{failed:,} of {plan.requests:,} requests were not answered; the first: {first}")
        seen = httpx.get(f"{world.upstream_url}/_sim/requests", timeout=30).raise_for_status()
    statuses = [each.status for each in msgspec.json.decode(seen.content, type=list[_Seen])]
    return _numbers(plan, tally, statuses.count(429), wall)


def _numbers(plan: Plan, tally: Tally, upstream_429: int, wall: float) -> Run:
    fresh, read, written = tally.input_tokens, tally.cache_read_input_tokens, tally.cache_creation_input_tokens
    return Run(
        requests=tally.requests,
        input_tokens=fresh + read + written,
        cache_read_share=round(read / (fresh + read + written), 4),
        input_usd=round(plan.model.cost(fresh, read, written, 0, 0) / 1e9, 4),
        output_usd=round(plan.model.cost(0, 0, 0, 0, tally.output_tokens) / 1e9, 4),
        upstream_429=upstream_429,
        client_429=tally.refused,
        ttft_p50=_quantile(tally.waits, 0.5),
        ttft_p95=_quantile(tally.waits, 0.95),
        wall_seconds=round(wall, 1),
    )


def _quantile(values: list[float], share: float) -> float | None:
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3) if values else None


@contextlib.contextmanager
def _world(plan: Plan) -> Iterator[World]:
    """Simulator and gateway, both new. The secret comes from the seed, so that placement repeats."""
    key = new_key()
    with private_directory() as directory, simulated_upstream(*PACE, f"--itpm={plan.limit}") as upstream:
        secret = hashlib.sha256(f"demo {plan.seed}".encode()).hexdigest()
        config = demo_config(upstream, key, directory / "data", secret=(secret,), log=Log(level="warning"))
        file, log = directory / "config", directory / "gateway.log"
        file.write_bytes(encode(config))
        with child([sys.executable, "-P", "-m", "gateway.lab.demo.gateway", str(file)], log=log) as process:
            line = announced(process)
            if not line:
                raise DemoError(f"the gateway did not start: {_last_line(log)}")
            yield World(line.decode().strip(), key, upstream.base_url)


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip() or "it said nothing").splitlines()[-1]
