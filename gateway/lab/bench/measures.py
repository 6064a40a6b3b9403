"""The measures: jobs over all subjects in turn, several short repetitions, medians. Each returns plain figures.

Names end in their unit; `added_` is a subject's figure less that of the upstream asked directly in the same repetition.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import isnan
from statistics import median

from gateway.lab.bench.jobs import (
    Answered,
    Burst,
    Closed,
    Held,
    Hold,
    Large,
    Latency,
    Open,
    Release,
    Sent,
    Streamed,
    Streams,
)
from gateway.lab.bench.plan import Settings, Subject
from gateway.lab.bench.processes import BenchError, open_files_limit, resident_bytes
from gateway.lab.bench.rig import Rig

Figures = dict[str, float]
CONNECTIONS = 32
SHARE = 0.3  # of saturation, for the open loop
_OPEN_CONNECTIONS = 64
_WARM = 0.3  # seconds
_SPREAD = 0.7  # seconds over which streams begin
_SMALL_RATE = 500.0  # requests a second beside the large ones
_LARGE_PAUSE = 0.2
_SETTLE = 0.5  # seconds until memory counts as settled


def warm_up(rig: Rig) -> None:
    """See every conversation once through everybody, so that nothing is measured at its first time."""
    lane = "json" if rig.has("json") else "short"
    for subject in rig.subjects.values():
        rig.load(Closed(subject.targets[lane], CONNECTIONS, min(1.0, rig.settings.seconds / 3)), Answered, 1.0)


def json(rig: Rig) -> dict[str, Figures]:
    """Plain requests in a closed loop over CONNECTIONS connections."""
    runs = _closed(rig, CONNECTIONS, rig.settings.seconds / rig.settings.repeats)
    figures = _latencies({name: [answer.latency for answer, _ in them] for name, them in runs.items()})
    for name, them in runs.items():
        figures[name]["requests_per_second"] = median(answer.requests / answer.seconds for answer, _ in them)
        if rig.subjects[name].pid:
            figures[name]["cpu_us_per_request"] = median(answer.cpu / answer.requests * 1e6 for answer, _ in them)
    store = median(used / answer.total * 1e6 for answer, used in runs["gateway"])
    if not isnan(store):
        figures["gateway"]["store_cpu_us_per_request"] = store
    return figures


def latency(rig: Rig, saturation: float) -> dict[str, dict[str, Figures]]:
    """Added latency: one connection, and a fixed rate of SHARE of `saturation` (requests a second)."""
    seconds = rig.settings.seconds / rig.settings.repeats
    alone = _closed(rig, 1, seconds * 0.6)
    rate = max(1.0, saturation * SHARE)
    opened: dict[str, list[Latency]] = {name: [] for name in rig.subjects}
    for _ in range(rig.settings.repeats):
        for name, subject in rig.subjects.items():
            job = Open(subject.targets["json"], _OPEN_CONNECTIONS, rate, seconds, min(_WARM, seconds))
            opened[name].append(rig.load(job, Answered, seconds).latency)
    at_rate = _latencies(opened)
    for figures in at_rate.values():
        figures["rate"] = rate
    return {
        "closed_1": _latencies({name: [answer.latency for answer, _ in them] for name, them in alone.items()}),
        "open": at_rate,
    }


def sse(rig: Rig, secure: bool) -> dict[str, Figures]:
    """Long streams and short ones: cost = streams * a + deltas * b. The events that open and end a stream are in a."""
    end = "_tls" if secure else ""
    settings = rig.settings
    kinds = {"long": (1, settings.events, settings.pace), "short": (4, settings.few_events, settings.few_pace)}
    proxies = _proxies(rig)
    runs: dict[tuple[str, str], list[Streamed]] = {(one.name, kind): [] for one in proxies for kind in kinds}
    for subject in proxies:
        for kind in kinds:
            rig.load(Burst(subject.targets[kind + end], settings.streams), Answered, 2.0)
    for _ in range(rig.settings.repeats):
        for subject in proxies:
            for kind, (rounds, deltas, pace) in kinds.items():
                seconds = deltas / pace
                job = Streams(subject.targets[kind + end], settings.streams, rounds, min(_SPREAD, seconds), subject.pid)
                runs[subject.name, kind].append(rig.load(job, Streamed, rounds * seconds))
    return {one.name: _fit(settings, runs[one.name, "long"], runs[one.name, "short"]) for one in proxies}


def _fit(settings: Settings, long: list[Streamed], short: list[Streamed]) -> Figures:
    long_cost, short_cost = (median(run.cpu / run.streams for run in runs) * 1e6 for runs in (long, short))
    each = (long_cost - short_cost) / (settings.events - settings.few_events)
    return {
        "cpu_us_per_event": median(run.cpu / run.events for run in long) * 1e6,
        "fit_us_per_event": each,
        "fit_us_per_stream": long_cost - each * settings.events,
        "events_per_stream": long[0].events / long[0].streams,
        "events_per_second": median(run.events / run.seconds for run in long),
    }


def memory(rig: Rig) -> dict[str, Figures]:
    """Growth of resident memory with open streams that have begun and wait for more."""
    count = min(rig.settings.idle_streams, (open_files_limit() - 256) // 2)
    figures = {}
    for subject in _proxies(rig):
        time.sleep(_SETTLE)
        before = resident_bytes(subject.pid)
        held = rig.load(Hold(subject.targets["stall"], count), Held, 10.0)
        time.sleep(_SETTLE)
        after = resident_bytes(subject.pid)
        rig.load(Release(), Held, 1.0)
        each = (after - before) / held.streams
        figures[subject.name] = {
            "streams": float(held.streams),
            "idle_mb": before / 1e6,
            "kb_per_stream": each / 1e3,
            "mb_of_10000_streams_in_2_workers": (2 * before + 10_000 * each) / 1e6,
        }
    time.sleep(_SETTLE)
    return figures


def stall(rig: Rig) -> dict[str, Figures]:
    """The longest wait of small requests beside each large one, which goes to another upstream; the median, and the
    worst."""
    figures = {}
    size, count = rig.settings.large_mb, rig.settings.large_count
    for name, subject in rig.subjects.items():
        seconds = count * (_LARGE_PAUSE + 0.1) + 0.5
        rig.begin(rig.generator, Open(subject.targets["json"], 16, _SMALL_RATE, seconds, samples=True))
        rig.begin(rig.second_generator, Large(subject.targets["large"], size, count, _LARGE_PAUSE))
        small = rig.finish(rig.generator, Answered, seconds)
        sent = rig.finish(rig.second_generator, Sent, seconds)
        longest = [
            max((wait for due, wait in small.samples if began - 0.005 <= due <= ended), default=0.0)
            for began, ended in sent.windows
        ]
        seen = [wait for wait in longest if wait]
        if not seen:
            raise BenchError(f"no small request ran beside a large one through {name}")
        figures[name] = {
            "stall_ms": median(seen) * 1000,
            "worst_ms": max(seen) * 1000,
            "large_ms": median(ended - began for began, ended in sent.windows) * 1000,
        }
    return figures


def _proxies(rig: Rig) -> list[Subject]:
    return [subject for subject in rig.subjects.values() if subject.pid]


def _closed(rig: Rig, connections: int, seconds: float) -> dict[str, list[tuple[Answered, float]]]:
    """Runs by subject, each with the CPU seconds that the store used meanwhile."""
    runs: dict[str, list[tuple[Answered, float]]] = {name: [] for name in rig.subjects}
    for _ in range(rig.settings.repeats):
        for name, subject in rig.subjects.items():
            before = rig.store_cpu()
            job = Closed(subject.targets["json"], connections, seconds, min(_WARM, seconds), subject.pid)
            answer = rig.load(job, Answered, seconds)
            runs[name].append((answer, rig.store_cpu() - before))
    return runs


def _latencies(runs: dict[str, list[Latency]]) -> dict[str, Figures]:
    """Medians, and what each subject adds to the direct way."""
    direct = runs["direct"]
    figures: dict[str, Figures] = {}
    for name, them in runs.items():
        figures[name] = {"p50_ms": _median(them, "p50"), "p99_ms": _median(them, "p99")}
        if name != "direct":
            for part in ("p50", "p99"):
                pairs = zip(them, direct, strict=True)
                figures[name][f"added_{part}_ms"] = median(
                    getattr(one, part) - getattr(base, part) for one, base in pairs
                )
    return figures


def _median(them: Iterable[Latency], part: str) -> float:
    found: float = median(getattr(one, part) for one in them)
    return found
