"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_QUIET = 0.4  # of all cores: what others may use without disturbing much
PACKAGES = ("uvloop", "httptools", "uvicorn", "hiredis", "redis", "msgspec", "prometheus-client")


def describe() -> dict[str, object]:
    """CPU model, cores, kernel, Python and the packages of the data path."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def busy() -> list[str]:
    """A warning where others use the CPUs."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < cores * _QUIET:
        return []
    return [
        f"the machine was busy before (load {load:.1f}, {cores} cores): latencies mean little, CPU times are too high"
    ]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
