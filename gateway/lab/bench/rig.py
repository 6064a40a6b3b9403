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
from types import TracebackType
from typing import TypeVar

import msgspec

from gateway.lab.bench import gateway, nginx, upstream
from gateway.lab.bench.jobs import Failed, Job, Result, Target
from gateway.lab.bench.plan import Settings, Subject, Upstream, lanes
from gateway.lab.bench.processes import BenchError, Child, children, free_port, pin
from gateway.lab.bench.store import Store

_UPSTREAM_WAIT = 30.0  # seconds
_NGINX_TRIES = 3  # its port may be taken between the choice and the start
_Answer = TypeVar("_Answer", bound=Result)


class Rig:
    """Everything that runs. A context: what was started ends with it."""

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        self.settings = settings
        self.progress = progress
        self.notes: list[str] = []
        self.start_seconds: list[float] = []
        self.versions: dict[str, str] = {}
        self.subjects: dict[str, Subject] = {}
        self._stack = contextlib.ExitStack()
        self._folder = Path()
        self._all = os.sched_getaffinity(0)
        usable = sorted(self._all)
        self.measured = usable[-1:] if len(usable) > 1 else []
        self.others = usable[:-1] if len(usable) > 1 else []
        self._store: Store | None = None
        self._gateway: Child | None = None
        self._upstreams: list[Upstream] = []

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    # What measures use.

    def load(self, job: Job, kind: type[_Answer], seconds: float) -> _Answer:
        """Have the load generator do a job that takes about `seconds`."""
        self.begin(self.generator, job)
        return self.finish(self.generator, kind, seconds)

    def begin(self, generator: Child, job: Job) -> None:
        generator.say(msgspec.json.encode(job))

    def finish(self, generator: Child, kind: type[_Answer], seconds: float) -> _Answer:
        line = generator.line(seconds * 3 + 60)
        result: Result = msgspec.json.decode(line, type=Result)
        if isinstance(result, Failed):
            raise BenchError(result.reason)
        assert isinstance(result, kind)  # noqa: S101 - each job has one kind of result
        return result

    def store_cpu(self) -> float:
        """CPU seconds that the store has used, nan where nobody knows."""
        return math.nan if self._store is None else self._store.cpu_seconds()

    def has(self, lane: str) -> bool:
        """Whether there is such a lane in this run."""
        return any(each.lane.name == lane for each in self._upstreams)

    def tidy(self, measure: str) -> None:
        """After a measure: note what was not as it should be, and drop the log, which would fill the disk."""
        if self._gateway is None:
            return
        with open(self._gateway.log, "rb") as log:
            lines = astray = 0
            for line in log:
                lines += b'"route":' in line
                astray += b'"route":"stateless"' in line
        if astray:
            self.notes.append(f"{measure}: {astray} of {lines} requests went without the store, which was too slow")
        os.truncate(self._gateway.log, 0)

    # Starting.

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        if self.others:
            self._stack.callback(os.sched_setaffinity, 0, self._all)
            os.sched_setaffinity(0, self.others)
        if self.settings.redis:
            self._store = store = self._know(Store(self.settings.redis))
            store.require_empty()
            self._stack.callback(store.empty)
        self._start_upstreams()
        self.generator, self.second_generator = self._generator("load"), self._generator("load-2")
        for attempt in range(1 if self.settings.only else self.settings.repeats):
            self._start_gateway(attempt)
        if self.settings.nginx:
            self._start_nginx()
        direct = {each.lane.name: Target(each.port, each.keys[0], each.lane.model) for each in self._upstreams}
        self.subjects["direct"] = Subject("direct", 0, direct)

    def _run(self, name: str, command: list[str], *, piped: bool = False, anywhere: bool = False) -> Child:
        child = Child(command, self._folder / f"{name}.log", piped=piped, cpus=self._all if anywhere else ())
        self._stack.callback(child.stop)
        return child

    def _generator(self, name: str) -> Child:
        return self._run(name, [sys.executable, "-P", "-m", "gateway.lab.bench.generator"], piped=True)

    def _know(self, store: Store) -> Store:
        self.versions["store"] = store.version
        self._stack.callback(store.close)
        return store

    def _start_upstreams(self) -> None:
        certificate = None
        if self.settings.tls and self.settings.does("sse"):
            try:
                certificate = upstream.make_certificate(self._folder)
            except BenchError as error:
                self.notes.append(f"no TLS upstream: {error}")
        wanted = lanes(self.settings, certificate)
        self.progress(f"starting {len(wanted)} upstreams")
        static = self.settings.upstream == "static"
        started = [
            (lane, self._run(f"upstream-{lane.name}", upstream.command(lane, static=static), piped=True, anywhere=True))
            for lane in wanted
        ]
        self._upstreams = [upstream.announced(lane, child.line(_UPSTREAM_WAIT)) for lane, child in started]
        for lane, child in started:
            pin(child.pid, self.others)
            if lane.aside:
                os.setpriority(os.PRIO_PROCESS, child.pid, 10)

    def _start_gateway(self, attempt: int) -> None:
        self.progress("starting the gateway")
        if self._gateway is not None:
            self._gateway.stop()
        redis, data = self.settings.redis, self._folder / f"data-{attempt}"
        key = "sk-" + secrets.token_hex(24)
        config = self._folder / f"gateway-{attempt}.yaml"
        config.touch(0o600)
        config.write_bytes(gateway.configuration(self._upstreams, key=key, data=data, redis=redis))
        began = time.time()
        command = [sys.executable, "-P", "-m", "gateway", "serve", "--config", str(config)]
        # Where a CPU is set aside for the worker, starting still has all of them, as it would otherwise.
        child = self._gateway = self._run(f"gateway-{attempt}", command, anywhere=True)
        port, at = gateway.serving(child)
        self.start_seconds.append(at - began)
        if not redis:
            try:
                self._store = self._know(Store(f"unix://{data}/store.sock"))
            except BenchError as error:
                self.notes.append(f"the store's CPU time is not known: {error}")
        worker = gateway.worker_of(child)
        for pid in (child.pid, *children(child.pid)):
            pin(pid, self.measured if pid == worker else self.others)
        targets = {each.lane.name: Target(port, key, each.lane.model) for each in self._upstreams}
        self.subjects["gateway"] = Subject("gateway", worker, targets)

    def _start_nginx(self) -> None:
        binary = nginx.find()
        if binary is None:
            self.notes.append("nginx is not on this machine: no ratios")
            return
        self.versions["nginx"] = nginx.version(binary)
        for attempt in range(_NGINX_TRIES):
            folder = self._folder / f"nginx-{attempt}"
            folder.mkdir()
            routes = [(free_port(), each) for each in self._upstreams]
            path = folder / "nginx.conf"
            path.write_text(nginx.configuration(routes, folder, max(64, self.settings.streams)))
            child = self._run(f"nginx-{attempt}", nginx.command(binary, path))
            worker = nginx.worker_of(child)
            if worker:
                pin(worker, self.measured)
                targets = {each.lane.name: Target(port, each.keys[0], each.lane.model) for port, each in routes}
                self.subjects["nginx"] = Subject("nginx", worker, targets)
                return
        raise BenchError(f"nginx does not start; {child.last_words()}")
