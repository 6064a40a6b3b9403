"""The measures: the same job through all sides in turn, round after round. Each gives rows of a figure a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import isnan
from statistics import median

import msgspec

from gateway.lab.bench.jobs import BODY_BYTES, Hold, Load
from gateway.lab.bench.plan import EVENTS, Side
from gateway.lab.bench.processes import open_files_limit
from gateway.lab.bench.rig import TENANTS, Reading, Rig
from gateway.lab.bench.row import Row

RATE = 200.0  # requests a second
LARGE = 2_000_000
_SPREAD = 0.7  # seconds over which streams begin
_WARM = 1.0  # seconds
_SETTLE = 1.0  # seconds until memory counts as settled
_OTHER_FILES = 256  # of a process, besides connections

Readings = dict[str, list[Reading]]


def start(rig: Rig) -> Iterator[Row]:
    """Of the gateway alone, on a directory of its own each time."""
    yield Row("start to ready: CPU", "s", {"gateway": [cpu for cpu, _ in rig.started]}, most=0.8)
    yield Row("start to ready", "s", {"gateway": [took for _, took in rig.started]})


def idle(rig: Rig) -> Iterator[Row]:
    """Of the gateway alone, before its first request."""
    side, seconds = rig.sides["gateway"], rig.settings.seconds
    time.sleep(_SETTLE)
    busy, store = [], []
    for _ in range(rig.settings.rounds):
        before, began = rig.used(side), time.monotonic()
        time.sleep(seconds)
        after, took = rig.used(side), time.monotonic() - began
        busy.append((after.side - before.side) / took * 100)
        store.append((after.store - before.store) / took * 100)
    yield Row("idle: CPU", "%", {"gateway": busy}, most=1)
    yield Row("idle: CPU of Redis", "%", {"gateway": store})
    yield Row("idle: PSS", "MB", {"gateway": [rig.memory(side) / 1e6]}, most=60)


def json(rig: Rig) -> Iterator[Row]:
    readings = _rounds(rig, lambda side: _json(side, rig.settings.seconds))
    yield _row("JSON request, 32 connections: CPU", "µs", _each(readings, _cpu_of_answer), readings, ratio=6)
    yield from _store(rig, "Redis, one tenant", readings)


def rate(rig: Rig) -> Iterator[Row]:
    readings = _rounds(rig, lambda side: _json(side, rig.settings.seconds, rate=RATE))
    yield _row(f"JSON request, {RATE:.0f} a second: CPU", "µs", _each(readings, _cpu_of_answer), readings, ratio=12)


def tenants(rig: Rig) -> Iterator[Row]:
    readings = _rounds(rig, lambda side: _json(side, rig.settings.seconds, tenants=TENANTS), alone=True)
    yield from _store(rig, f"Redis, {TENANTS} tenants", readings)


def body(rig: Rig) -> Iterator[Row]:
    job = lambda side: _json(side, rig.settings.seconds, connections=2, size=LARGE)  # noqa: E731
    readings = _rounds(rig, job)
    found = {name: [value / 1e3 for value in them] for name, them in _each(readings, _cpu_of_answer).items()}
    yield _row(f"body of {LARGE / 1e6:g} MB: CPU", "ms", found, readings, ratio=3)


def event(rig: Rig) -> Iterator[Row]:
    yield from _events(rig, "plain", "SSE event: CPU", 1.3)


def event_tls(rig: Rig) -> Iterator[Row]:
    if rig.has("tls"):
        yield from _events(rig, "tls", "SSE event, TLS upstream: CPU", 1.8)


def bedrock(rig: Rig) -> Iterator[Row]:
    """What a signature and frames cost beyond a plain request and a plain event of the same gateway."""
    side = rig.sides["gateway"]
    lanes = [Side(name, side.pids, {"plain": side.targets[name]}) for name in ("plain", "bedrock")]
    signed = _each(_rounds(rig, lambda lane: _json(lane, rig.settings.seconds), among=lanes), _cpu_of_answer)
    beyond = [ours - plain for ours, plain in zip(signed["bedrock"], signed["plain"], strict=True)]
    yield Row("JSON request, signed for AWS: CPU beyond a plain one", "µs", {"gateway": beyond}, most=40)
    framed = _each(_rounds(rig, lambda lane: _stream(rig, lane, "plain"), among=lanes), _cpu_of_event)
    times = [ours / plain for ours, plain in zip(framed["bedrock"], framed["plain"], strict=True)]
    yield Row("event in frames of AWS: CPU by that of a plain one", "x", {"gateway": times}, most=2.5)


def latency(rig: Rig) -> Iterator[Row]:
    """What each side adds to the upstream asked directly in the same round."""
    readings = _rounds(rig, lambda side: _json(side, rig.settings.seconds / 2, connections=1), direct=True)
    direct = readings.pop("direct")
    found = {
        name: [(one.loaded.p50 - base.loaded.p50) * 1e3 for one, base in zip(them, direct, strict=True)]
        for name, them in readings.items()
    }
    yield _row("added latency, p50, one connection", "ms", found, readings, most=0.25)


def streams(rig: Rig) -> Iterator[Row]:
    """Memory of all of a side while streams are open that have begun and wait for more."""
    count = min(rig.settings.streams, (open_files_limit() - _OTHER_FILES) // 2)
    if count < rig.settings.streams:
        rig.notes.append(f"a process may open {open_files_limit()} files here: {count} streams")
    for lane, words, most in (("still", "", 250), ("still-tls", ", TLS upstream", 1000)):
        if not rig.has(lane):
            continue
        found: dict[str, list[float]] = {}
        readings: Readings = {}
        for name, side in rig.sides.items():
            readings[name] = [rig.read(side, Hold(side.targets[lane], count))]
            time.sleep(_SETTLE)
            found[name] = [rig.memory(side) / 1e6]
            rig.release()
        yield _row(f"{count:,} open streams{words}: PSS", "MB", found, readings, most=most)


def _json(
    side: Side,
    seconds: float,
    *,
    connections: int = 32,
    rate: float = 0.0,
    tenants: int = 1,
    size: int = BODY_BYTES,
) -> Load:
    target = side.targets["plain"]
    target = msgspec.structs.replace(target, keys=target.keys[:tenants])
    return Load(target=target, connections=connections, seconds=seconds, rate=rate, size=size)


def _events(rig: Rig, lane: str, title: str, ratio: float) -> Iterator[Row]:
    readings = _rounds(rig, lambda side: _stream(rig, side, lane))
    yield _row(title, "µs", _each(readings, _cpu_of_event), readings, ratio=ratio)


def _stream(rig: Rig, side: Side, lane: str) -> Load:
    spread = min(_SPREAD, rig.settings.seconds)
    count = rig.settings.paced_streams
    return Load(target=side.targets[lane], connections=count, spread=spread, stream=True, events=EVENTS)


def _store(rig: Rig, title: str, readings: Readings) -> Iterator[Row]:
    used = _each(readings, lambda reading: reading.used.store / reading.loaded.answers * 1e6)["gateway"]
    if not any(map(isnan, used)):
        yield Row(f"{title}: CPU a request", "µs", {"gateway": used}, most=30)


def _rounds(
    rig: Rig,
    job_of: Callable[[Side], Load],
    *,
    alone: bool = False,
    direct: bool = False,
    among: Sequence[Side] = (),
) -> Readings:
    """Readings by side: of the gateway `alone`, of those `among` which it shall be, or of all, with the upstream asked
    `direct`ly in each round too. First a short one of plain requests that does not count, so that nothing is measured
    at its first time."""
    sides = among or ([rig.sides["gateway"]] if alone else [*rig.sides.values(), *([rig.direct] if direct else [])])
    for side in sides:
        warm = min(_WARM, rig.settings.seconds / 3)
        rig.read(
            side, msgspec.structs.replace(job_of(side), seconds=warm, rate=0.0, spread=0.0, stream=False, events=0)
        )
    readings: Readings = {side.name: [] for side in sides}
    for _ in range(rig.settings.rounds):
        for side in sides:
            readings[side.name].append(rig.read(side, job_of(side)))
    return readings


def _each(readings: Readings, figure: Callable[[Reading], float]) -> dict[str, list[float]]:
    return {name: [figure(reading) for reading in them] for name, them in readings.items()}


def _cpu_of_answer(reading: Reading) -> float:
    return reading.used.side / reading.loaded.answers * 1e6


def _cpu_of_event(reading: Reading) -> float:
    return reading.used.side / reading.loaded.events * 1e6


def _row(
    title: str,
    unit: str,
    found: dict[str, list[float]],
    readings: Readings,
    *,
    most: float | None = None,
    ratio: float | None = None,
) -> Row:
    """With what the load generator used beside each side, percent of a CPU."""
    busy = {name: median(one.loaded.cpu / one.loaded.seconds for one in them) * 100 for name, them in readings.items()}
    return Row(title, unit, found, most=most, ratio=ratio, generator=busy)


WORK: dict[str, Callable[[Rig], Iterator[Row]]] = {
    "start": start, "idle": idle, "json": json, "rate": rate, "tenants": tenants, "event": event,
    "event-tls": event_tls, "bedrock": bedrock, "body": body, "latency": latency, "streams": streams,
}  # fmt: skip
"""By name."""
