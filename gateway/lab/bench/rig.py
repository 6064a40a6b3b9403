"""The test rig: upstreams, the gateway with everything on, nginx and the load generator, all started from here."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway.lab.bench import gateway, machine, nginx, upstream
from gateway.lab.bench.jobs import Failed, Hold, Job, Loaded, Result, Target
from gateway.lab.bench.plan import Settings, Side, Upstream, lanes
from gateway.lab.bench.processes import BenchError, Child, cpu_seconds, free_port, listeners, pin, pss_bytes, tree
from gateway.lab.bench.store import Store
from gateway.store.embedded import SOCKET_PATH_BYTES

TENANTS = 200
_UPSTREAM_WAIT = 30.0  # seconds
_LONGEST = "data-99/store.sock"
_NGINX_TRIES = 3  # its port may be taken between the choice and the start
_QUIET = 0.15  # CPUs that others may use without disturbing much
_AFTER = 0.1  # seconds for what a side does once an answer has gone, such as settling


class Used(msgspec.Struct, frozen=True):
    """CPU seconds."""

    side: float
    store: float
    upstream: float


class Reading(msgspec.Struct, frozen=True):
    """What one job through one side brought, and the CPU seconds that it took."""

    loaded: Loaded
    used: Used


class Rig:
    """Everything that runs. A context: what was started ends with it. `started` are CPU seconds and seconds of the
    clock of each start of the gateway."""

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        self.settings = settings
        self.progress = progress
        self.notes: list[str] = []
        self.versions: dict[str, str] = {}
        self.sides: dict[str, Side] = {}
        self.started: list[tuple[float, float]] = []
        self.good = self.bad = 0
        self.problem = ""
        self._stack = contextlib.ExitStack()
        self._folder = Path()
        self._all = os.sched_getaffinity(0)
        usable = sorted(self._all)
        self._measured = usable[-1:] if len(usable) > 1 else []
        self._others = usable[:-1] if len(usable) > 1 else []
        self._store: Store | None = None
        self._gateway: Child | None = None
        self._upstreams: list[Upstream] = []
        self._mark = self._elsewhere(), time.monotonic()

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What measures use.

    def read(self, side: Side, job: Job) -> Reading:
        """Have the load generator do a job. BenchError if no answer was good."""
        before = self.used(side)
        self._generator.say(msgspec.json.encode(job))
        result = msgspec.json.decode(self._generator.line(self.settings.seconds * 10 + 120), type=Result)
        if isinstance(result, Failed):
            raise BenchError(f"{side.name}: {result.reason}")
        self.good += result.answers
        self.bad += result.bad
        if result.bad and not self.problem:
            self.problem = f"{side.name}: {result.problem}"
        if not result.answers:
            raise BenchError(f"{side.name} gave no good answer: {result.problem}")
        time.sleep(_AFTER)
        after = self.used(side)
        used = Used(after.side - before.side, after.store - before.store, after.upstream - before.upstream)
        return Reading(result, used)

    def release(self) -> None:
        """Close the streams that are held."""
        self._generator.say(msgspec.json.encode(Hold(self.direct.targets["plain"], 0)))
        self._generator.line(60)

    def used(self, side: Side) -> Used:
        """What has been used so far, by this side and by those that all sides have in common."""
        store = math.nan if self._store is None else self._store.cpu_seconds()
        return Used(cpu_seconds(self._tree(side)), store, cpu_seconds(each.pid for each in self._upstreams))

    def memory(self, side: Side) -> int:
        """Bytes (PSS) of a side."""
        return pss_bytes(self._tree(side))

    def has(self, lane: str) -> bool:
        """Whether there is such a lane in this run."""
        return any(each.lane.name == lane for each in self._upstreams)

    def tidy(self, measure: str) -> None:
        """After a measure: note what was not as it should be, and drop the log, which would fill the disk."""
        before, since = self._mark
        self._mark = used, now = self._elsewhere(), time.monotonic()
        busy = (used - before) / (now - since)
        if busy > _QUIET:
            self.notes.append(f"{measure}: other programs kept {busy:.2f} CPUs busy: figures may be too high")
        assert self._gateway is not None  # noqa: S101 - started
        with open(self._gateway.log, "rb") as log:
            lines = astray = 0
            for line in log:
                lines += b'"route":' in line
                astray += b'"route":"stateless"' in line
        if astray:
            self.notes.append(f"{measure}: {astray} of {lines} requests went without the store, which was too slow")
        os.truncate(self._gateway.log, 0)

    def _elsewhere(self) -> float:
        """CPU seconds that have been used so far by programs that have nothing to do with this run."""
        ours = [os.getpid(), *(pid for side in self.sides.values() for pid in side.pids)]
        if self._store is not None and self._store.pid:
            ours.append(self._store.pid)
        return machine.busy_seconds() - cpu_seconds(tree(ours))

    def _tree(self, side: Side) -> list[int]:
        return tree(side.pids, () if self._store is None else (self._store.pid,))

    # Starting.

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        if len(str(self._folder / _LONGEST)) > SOCKET_PATH_BYTES:
            raise BenchError(f"{self._folder} is too long for the path of a socket: set TMPDIR to a shorter one")
        if self._others:
            self._stack.callback(os.sched_setaffinity, 0, self._all)
            os.sched_setaffinity(0, self._others)
        if self.settings.redis:
            self._store = store = self._know(Store(self.settings.redis))
            store.require_empty()
            self._stack.callback(store.empty)
        self._start_upstreams()
        command = [sys.executable, "-P", "-m", "gateway.lab.bench.generator"]
        self._generator = self._run("load", command, piped=True)
        for attempt in range(self.settings.rounds if "start" in self.settings.measures else 1):
            self._start_gateway(attempt)
        self._start_nginx()
        if self.settings.peer:
            self._find_peer()
        direct = {each.lane.name: Target(each.port, each.keys[:1], each.lane.model) for each in self._upstreams}
        self.direct = Side("direct", (), direct)

    def _run(self, name: str, command: list[str], *, piped: bool = False, anywhere: bool = False) -> Child:
        child = Child(command, self._folder / f"{name}.log", piped=piped, cpus=self._all if anywhere else ())
        self._stack.callback(child.stop)
        return child

    def _know(self, store: Store) -> Store:
        self.versions["store"] = store.version
        self._stack.callback(store.close)
        return store

    def _start_upstreams(self) -> None:
        certificate = None
        if {"event-tls", "streams"} & set(self.settings.measures):
            try:
                certificate = upstream.make_certificate(self._folder)
            except BenchError as error:
                self.notes.append(f"no TLS upstream: {error}")
        wanted, first = lanes(self.settings, certificate), self.settings.upstream_port
        self.progress(f"starting {len(wanted)} upstreams")
        started = []
        for number, lane in enumerate(wanted):
            command = upstream.command(lane, first + number if first else 0)
            started.append((lane, self._run(f"upstream-{lane.name}", command, piped=True, anywhere=True)))
        self._upstreams = [upstream.announced(lane, child.line(_UPSTREAM_WAIT), child.pid) for lane, child in started]
        for each in self._upstreams:
            pin(each.pid, self._others)

    def _start_gateway(self, attempt: int) -> None:
        self.progress("starting the gateway")
        if self._gateway is not None:
            self._gateway.stop()
        redis, data = self.settings.redis, self._folder / f"data-{attempt}"
        keys = ["sk-" + secrets.token_hex(24) for _ in range(TENANTS)]
        config = self._folder / f"gateway-{attempt}.yaml"
        config.touch(0o600)
        config.write_bytes(gateway.configuration(self._upstreams, keys=keys, data=data, redis=redis))
        began = time.monotonic()
        command = [sys.executable, "-P", "-m", "gateway", "serve", "--config", str(config)]
        # Where a CPU is set aside for the sides, starting still has all of them, as it would otherwise.
        child = self._gateway = self._run(f"gateway-{attempt}", command, anywhere=True)
        port = gateway.serving(child)
        took = time.monotonic() - began
        if not redis:
            self._store = self._know(Store(f"unix://{data}/store.sock"))
        targets = {each.lane.name: Target(port, keys, each.lane.model) for each in self._upstreams}
        self.sides["gateway"] = side = Side("gateway", (child.pid,), targets)
        self.started.append((self.used(side).side, took))
        for pid in self._tree(side):
            pin(pid, self._measured)
        if self._store is not None and not redis:
            pin(self._store.pid, self._others)

    def _start_nginx(self) -> None:
        binary = nginx.find()
        if binary is None:
            self.notes.append("nginx is not on this machine: the gateway's own figures only")
            return
        self.versions["nginx"] = nginx.version(binary)
        for attempt in range(_NGINX_TRIES):
            folder = self._folder / f"nginx-{attempt}"
            folder.mkdir()
            routes = [(free_port(), each) for each in self._upstreams]
            path = folder / "nginx.conf"
            path.write_text(nginx.configuration(routes, folder, max(64, self.settings.paced_streams)))
            child = self._run(f"nginx-{attempt}", nginx.command(binary, path))
            if nginx.serves(child):
                for pid in tree([child.pid]):
                    pin(pid, self._measured)
                targets = {each.lane.name: Target(port, each.keys[:1], each.lane.model) for port, each in routes}
                self.sides["nginx"] = Side("nginx", (child.pid,), targets)
                return
        raise BenchError(f"nginx does not start; {child.last_words()}")

    def _find_peer(self) -> None:
        """A server that somebody else started; it has the CPU of the other sides while it is measured."""
        url = urlsplit(self.settings.peer)
        host, port, path = url.hostname or "", url.port or 80, url.path.rstrip("/")
        pids = listeners(port)
        if not pids:
            raise BenchError(f"no process of this machine that may be looked at listens on port {port}")
        targets = {
            each.lane.name: Target(port, [self.settings.peer_key], each.lane.model, host, path)
            for each in self._upstreams
        }
        for each in self._upstreams:
            self.progress(f"the peer finds {each.lane.model} at port {each.port} of 127.0.0.1")
        for pid in tree(pids):
            self._stack.callback(pin, pid, os.sched_getaffinity(pid))
            pin(pid, self._measured)
        self.sides["peer"] = Side("peer", tuple(pids), targets)
