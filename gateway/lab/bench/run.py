"""One benchmark, from start to report. A measure that fails is reported as failed; the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway import __version__
from gateway.lab.bench import machine
from gateway.lab.bench.measures import WORK
from gateway.lab.bench.plan import MEASURES, Settings
from gateway.lab.bench.processes import BenchError
from gateway.lab.bench.report import Report
from gateway.lab.bench.rig import Rig
from gateway.lab.bench.row import Row


def run(settings: Settings, progress: Callable[[str], None]) -> Report:
    """Measure everything that `settings` asks for. BenchError if it cannot even start."""
    began = time.monotonic()
    described = machine.describe()
    rows: list[Row] = []
    failures: list[str] = []
    with Rig(settings, progress) as rig:
        for name in MEASURES:
            if name not in settings.measures:
                continue
            progress(f"measuring {name}")
            try:
                rows += WORK[name](rig)
            except (BenchError, OSError) as error:
                failures.append(f"{name}: {error}")
            rig.tidy(name)
    return Report(
        version=__version__,
        machine={**described, **rig.versions},
        settings=settings,
        seconds=time.monotonic() - began,
        rows=rows,
        good=rig.good,
        bad=rig.bad,
        problem=rig.problem,
        notes=rig.notes,
        failures=failures,
    )
