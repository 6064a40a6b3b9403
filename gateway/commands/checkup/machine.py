"""This machine as `gateway doctor` finds it: the data directory, limits of the kernel, libraries."""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from gateway import __version__
from gateway.commands.checkup.finding import Finding, failed, ok, warning
from gateway.commands.checkup.store import size
from gateway.config.schema import Config

ABOUT = "machine"
LITTLE, TOO_LITTLE = 2_000_000_000, 200_000_000  # bytes free
BACKLOG = 4096  # connections that the listeners ask the kernel to queue
OTHER_FILES = 256  # open files of a worker besides connections


def check_machine(config: Config) -> Iterator[Finding]:
    """What is to say of it. `data_dir` is left as it was found."""
    yield _libraries()
    yield from working_directory(Path.cwd())
    yield _open_files(config)
    yield from _all_files(config)
    yield from _backlog()
    yield from check_data_dir(Path(config.data_dir))


def _libraries() -> Finding:
    missing = [name for name in ("uvloop", "hiredis", "httptools") if find_spec(name) is None]
    words = f"gateway {__version__}, Python {platform.python_version()}"
    if missing:
        return warning(ABOUT, "libraries", f"{words}; slow without {', '.join(missing)}", "install the whole package")
    return ok(ABOUT, "libraries", f"{words}, uvloop, hiredis, httptools")


def working_directory(folder: Path) -> Iterator[Finding]:
    """Whether `python -m` would take something there for a module of this program. Its own folder is no such."""
    hiding = []
    for name in sorted({name.partition(".")[0] for name in sys.modules} - {"__main__"}):
        there = PathFinder.find_spec(name, [str(folder)])
        origin = None if there is None else there.origin  # None too for a folder that is no package
        if origin is not None and not _same_file(origin, getattr(sys.modules.get(name), "__file__", None)):
            hiding.append(str(Path(origin).relative_to(folder)).removesuffix("/__init__.py"))
    if hiding:
        yield warning(
            ABOUT, "working directory", f"{', '.join(hiding)} in {folder}: `python -m gateway` runs it instead of ours",
            "use the `gateway` command, which does not, or rename it",
        )  # fmt: skip


def _same_file(one: str, other: str | None) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _open_files(config: Config) -> Finding:
    """A connection of a client needs one file, and one more while its request is with an upstream."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = config.limits.max_connections
    wanted = 2 * most + OTHER_FILES
    words = f"{_count(soft)} a process, {wanted:,} for limits.max_connections {most:,}"
    if soft in (resource.RLIM_INFINITY, -1) or soft >= wanted:
        return ok(ABOUT, "open files", words)
    how = "LimitNOFILE in systemd, ulimits in compose, ulimit -n"
    advice = f"raise it ({how}; here up to {_count(hard)}), or lower limits.max_connections"
    return warning(ABOUT, "open files", words, advice)


def _all_files(config: Config) -> Iterator[Finding]:
    most, wanted = _number("/proc/sys/fs/file-max"), config.workers * (2 * config.limits.max_connections + OTHER_FILES)
    if most is not None and most < wanted:
        yield warning(
            ABOUT, "open files of all", f"{most:,} on this machine, {wanted:,} for {config.workers} workers",
            "raise fs.file-max with sysctl",
        )  # fmt: skip


def _backlog() -> Iterator[Finding]:
    most = _number("/proc/sys/net/core/somaxconn")
    if most is None:
        return
    if most < BACKLOG:
        advice = f"sysctl -w net.core.somaxconn={BACKLOG}"
        yield warning(ABOUT, "somaxconn", f"{most}: a burst of more new connections waits for a retry", advice)
    else:
        yield ok(ABOUT, "somaxconn", f"{most:,}")


def check_data_dir(path: Path) -> Iterator[Finding]:
    """Whether the gateway can write there, how much room there is, and who holds its lock."""
    place = next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))
    if not place.is_dir():
        yield failed("data_dir", "writable", f"{place} is no directory", "move it away, or set another data_dir")
        return
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
            file.flush()
    except OSError as error:
        yield failed("data_dir", "writable", f"{place}: {error.strerror}", "make it this user's, with room on its disk")
        return
    made = "" if place == path or place == path.absolute() else " (to be made)"
    yield ok("data_dir", "writable", f"{path}{made}")
    yield _room(place)
    if not made:
        yield from _open_to_others(path)
        yield from _lock(path)


def _room(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    words, advice = f"{size(free)} free", "make room: the journal of usage and the embedded store are there"
    if free < TOO_LITTLE:
        return failed("data_dir", "free space", words, advice)
    return warning("data_dir", "free space", words, advice) if free < LITTLE else ok("data_dir", "free space", words)


def _open_to_others(path: Path) -> Iterator[Finding]:
    if path.stat().st_mode & stat.S_IROTH and any(each.stat().st_mode & stat.S_IROTH for each in path.glob("store.*")):
        yield warning("data_dir", "rights", "others can read the store's files", f"chmod -R go= {path}")


def _lock(path: Path) -> Iterator[Finding]:
    """The embedded store's lock: held by a gateway that runs, or left over, which harms nobody."""
    file = path / "store.lock"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        yield failed("data_dir", "lock", f"{file}: {error.strerror}", "give data_dir to the user the gateway runs as")
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if holder.isdigit() and _runs(int(holder)):
            yield ok("data_dir", "lock", f"held by process {holder}")
        else:
            yield warning(
                "data_dir", "lock", f"held, though process {holder or '?'} has gone",
                "its store is ending, or was left over: look for it with `fuser` and end it",
            )  # fmt: skip
    else:
        yield ok("data_dir", "lock", "free")
    finally:
        os.close(descriptor)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _count(limit: int) -> str:
    return "unlimited" if limit in (resource.RLIM_INFINITY, -1) or limit >= sys.maxsize else f"{limit:,}"
