"""What the figures were measured on, and who else used it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def busy_seconds() -> float:
    """CPU time that has been used so far by everybody, on all CPUs together."""
    _, user, nice, system, _, _, *others = Path("/proc/stat").read_text().partition("\n")[0].split()
    return sum(map(int, (user, nice, system, *others[:3]))) / os.sysconf("SC_CLK_TCK")  # irq, softirq, steal


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
