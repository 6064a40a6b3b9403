"""Processes of the benchmark: started so that they end with it, and their CPU time and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path

MAX_FILES = 65_536
_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _OWN, _ENDED = 1, slice(11, 13), slice(13, 15)  # of /proc/PID/stat, after the name
_LISTEN = "0A"


class BenchError(Exception):
    """Something failed, so that there is nothing to report of it."""


class Child:
    """A process that ends with this one. What it says on stderr, and on stdout unless that is piped, goes to `log`."""

    def __init__(self, command: list[str], log: Path, *, piped: bool = False, cpus: Iterable[int] = ()) -> None:
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - commands are ours
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                preexec_fn=_prepare(set(cpus)),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, timeout: float) -> bytes:
        """The next line of a piped child, or BenchError."""
        assert self.process.stdout is not None  # noqa: S101 - told to the type checker
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise BenchError(f"{self.log.stem}: {'ended' if ready else 'no answer'}; {self.last_words()}")
        return line

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None  # noqa: S101 - told to the type checker
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def last_words(self) -> str:
        lines = self.log.read_bytes()[-4000:].decode("utf-8", "replace").splitlines()
        return f"the end of its log: {' | '.join(lines[-8:]) or '(empty)'}"

    def stop(self, timeout: float = 15.0) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _prepare(cpus: set[int]) -> Callable[[], None]:
    """What a child does between fork and exec. Everything it needs is looked up before the fork."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
    parent = os.getpid()
    files = open_files_limit()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        if cpus:
            os.sched_setaffinity(0, cpus)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before the request was made
                os._exit(1)

    return prepare


def open_files_limit() -> int:
    """How many files a child may have open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pids: Iterable[int], without: Container[int] = ()) -> list[int]:
    """These processes and all their descendants, but for those `without` and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[_PARENT]), []).append(int(entry.name))
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in found and pid not in without:
            found.append(pid)
            todo += children.get(pid, ())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of all threads of these processes and of their children that have ended, system time included. A process
    that is not there any more has left its own to its parent."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _own_cpu_seconds(pid) + sum(map(int, _stat(pid)[_ENDED])) / _TICKS
    return total


def _own_cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # the kernel's own clock of that process, in nanoseconds
    except OSError:
        return sum(map(int, _stat(pid)[_OWN])) / _TICKS


def _stat(pid: int) -> list[bytes]:
    """The fields of a process after its name. OSError if there is none."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes, what they share with others by halves, thirds and so on. OSError."""
    maps = (Path(f"/proc/{pid}/smaps_rollup").read_bytes() for pid in pids)
    found = (re.search(rb"^Pss: +([0-9]+) kB", each, re.MULTILINE) for each in maps)
    return sum(int(each[1]) * 1024 for each in found if each)


def listeners(port: int) -> list[int]:
    """The processes of this machine that have a listening socket on that TCP port, as far as they may be seen."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{rest[5]}]")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(os.readlink(file) in sockets for file in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
    return found


def command_of(pid: int) -> bytes:
    """The command line of a process, words separated by NUL."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Keep every thread of a process on these CPUs, where there are any."""
    chosen = set(cpus)
    for task in Path(f"/proc/{pid}/task").iterdir() if chosen else ():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), chosen)
