"""One benchmark, from start to report. A measure that fails is reported as failed; the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gateway import __version__
from gateway.lab.bench import machine, measures
from gateway.lab.bench.plan import Settings
from gateway.lab.bench.processes import BenchError
from gateway.lab.bench.report import Report
from gateway.lab.bench.rig import Rig


def run(settings: Settings, progress: Callable[[str], None]) -> Report:
    """Measure everything that `settings` asks for. BenchError if it cannot even start."""
    began = time.monotonic()
    described = machine.describe()
    busy = machine.busy()
    results: dict[str, Any] = {}
    failures: list[str] = []
    with Rig(settings, progress) as rig:

        def measure(name: str, work: Callable[[], Any]) -> Any:
            progress(f"measuring {name}")
            try:
                results[name] = work()
            except (BenchError, OSError) as error:
                failures.append(f"{name}: {error}")
            rig.tidy(name)
            return results.get(name)

        results["start"] = {"gateway": {"seconds": sorted(rig.start_seconds)[len(rig.start_seconds) // 2]}}
        measures.warm_up(rig)
        if settings.does("memory"):  # first: later, memory that busier times have left free would hide the growth
            measure("memory", lambda: measures.memory(rig))
        if settings.does("json") or settings.does("latency"):
            plain = measure("json", lambda: measures.json(rig))
            if plain and settings.does("latency"):
                rate = plain["gateway"]["requests_per_second"]
                measure("latency", lambda: measures.latency(rig, rate))
        if settings.does("latency"):
            measure("stall", lambda: measures.stall(rig))
        if settings.does("sse"):
            measure("sse", lambda: measures.sse(rig, secure=False))
            if rig.has("long_tls"):
                measure("sse_tls", lambda: measures.sse(rig, secure=True))
        notes, versions = [*busy, *rig.notes], rig.versions
    return Report(
        version=__version__,
        machine={**described, **versions},
        settings=settings,
        seconds=round(time.monotonic() - began, 1),
        measures=results,
        notes=notes,
        failures=failures,
    )
