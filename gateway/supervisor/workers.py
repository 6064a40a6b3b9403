"""The worker processes: started, kept alive, told what to do, listened to, and ended in order.

It does not know what its messages mean to the pool, nor the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from gateway import log
from gateway.listen.bind import Unstartable
from gateway.records import Finished
from gateway.telemetry.totals import Totals
from gateway.worker.control import Broadcast, Channel, Drain, Message, Numbers, Ready, Returned, Scrape, Start

_START_WAIT = 30.0  # seconds a worker may take until it serves
_SCRAPE_WAIT = 1.0  # seconds a worker may take to tell its numbers
_PULL_EVERY = 2.5  # seconds between unasked looks at what is told of now
_WHOLE_EVERY = 15.0  # seconds after which all numbers are looked at, so that little is lost when a worker is killed
_UNTOLD = 600_000  # ms in which a worker that died may have journaled what it could not tell the store
_OVERDUE = 15.0  # seconds after its drain limit in which a worker has cut off what was left, and ended
_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before a worker that died is replaced


class Running(Protocol):
    """A worker that runs, as a process does; `wait` blocks."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int | None: ...


Spawn = Callable[[int, socket.socket], Running]  # starts worker number so and so, whose end of the channel this is


def processes(listeners: list[socket.socket]) -> Spawn:
    """Workers that are processes, each with its own of the listeners."""

    def spawn(index: int, control: socket.socket) -> Running:
        listener = listeners[index]
        with control:
            return subprocess.Popen(  # noqa: S603 - it must be forked by this thread; our own interpreter
                [sys.executable, "-P", "-m", "gateway.worker.process", str(control.fileno()), str(listener.fileno())],
                pass_fds=(control.fileno(), listener.fileno()),
                stdin=subprocess.DEVNULL,
                process_group=0,
            )

    return spawn


class Worker:
    """One worker, as its supervisor sees it."""

    def __init__(self, index: int, name: str, process: Running, channel: Channel) -> None:
        self.index = index
        self.name = name
        self.process = process
        self.channel = channel
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.asked: dict[int, asyncio.Event] = {}  # scrapes that somebody waits for
        self.in_flight: dict[str, int] = {}  # requests that accounts have of it, as it last said

    def __repr__(self) -> str:
        return f"<Worker {self.index} pid={self.process.pid} ready={self.ready.is_set()}>"


class Workers:
    """`count` workers, which `spawn` starts. `order()` makes the first message to a new one; `heard` gets the
    broadcasts of each, after the others got it; `returned(since)` is told that one has the store back, which went away
    then (Unix ms), or has died."""

    def __init__(
        self,
        count: int,
        spawn: Spawn,
        order: Callable[[], Start],
        heard: Callable[[bytes], None],
        returned: Callable[[int], None],
    ) -> None:
        self.totals = Totals()
        self.lately = Totals()  # of samples: less of it, and newer
        self.ended: Callable[[list[Finished]], None] = lambda records: None  # told of requests that have ended
        self.looked: Callable[[], None] = lambda: None  # called after each unasked look
        self._count = count
        self._spawn = spawn
        self._order = order
        self._heard = heard
        self._returned = returned
        self._workers: dict[int, Worker] = {}
        self._stillborn = False  # a worker has died before it served
        self._stopping = asyncio.Event()
        self._scrapes = itertools.count(1)
        self._whole_at = 0.0  # when all numbers were last asked for
        self._in_flight: Counter[str] | None = None  # the sum, until a worker says otherwise
        self._tasks: set[asyncio.Task[None]] = set()

    def states(self) -> dict[str, bool]:
        """Which workers there are, and whether each serves."""
        return {str(worker.index): worker.ready.is_set() for worker in self._workers.values()}

    def names(self) -> tuple[str, ...]:
        """What the workers that live are called, as Start tells them."""
        return tuple(sorted(worker.name for worker in self._workers.values()))

    def in_flight(self) -> Mapping[str, int]:
        """How many requests each account has of all workers, as they last said."""
        if self._in_flight is None:
            self._in_flight = sum((Counter(worker.in_flight) for worker in self._workers.values()), Counter[str]())
        return self._in_flight

    @property
    def stopping(self) -> bool:
        """Workers that end are not replaced any more."""
        return self._stopping.is_set()

    def tell(self, message: Message, but: Worker | None = None) -> None:
        """Send it to every worker, `but` to this one. Broadcast goes only to those who serve: it does not keep."""
        for worker in self._workers.values():
            if worker is not but and (worker.ready.is_set() or not isinstance(message, Broadcast)):
                worker.channel.send(message)

    async def start(self) -> None:
        """Start the workers and wait until all serve, or until `stop`. Raises Unstartable if one cannot."""
        for index in range(self._count):
            self._task(self._keep(index))
        await asyncio.sleep(0)
        deadline = time.monotonic() + _START_WAIT
        while not self._stopping.is_set():
            workers = self._workers.values()
            if len(workers) == self._count and all(worker.ready.is_set() for worker in workers):
                self._task(self._pull())
                return
            if self._stillborn or time.monotonic() > deadline:
                self.kill()
                raise Unstartable("a worker process does not start; the log above says why")
            await asyncio.sleep(0.01)

    async def refresh(self, whole: bool = False) -> None:
        """Fresh numbers from every worker for `lately`, and if `whole` for `totals`; or its last ones if it does not
        answer in time. Those that answer have read what they were told before."""
        workers, number, answers = list(self._workers.values()), next(self._scrapes), []
        if whole:
            self._whole_at = time.monotonic()
        for worker in workers:
            answer = worker.asked[number] = asyncio.Event()
            answers.append(answer.wait())
            worker.channel.send(Scrape(number, whole))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SCRAPE_WAIT):
                    await asyncio.gather(*answers)
        finally:
            for worker in workers:
                worker.asked.pop(number, None)

    def stop(self) -> None:
        """Start no more workers."""
        self._stopping.set()

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers.values():
            worker.process.kill()

    async def drain(self, limit: float) -> None:
        """Let all workers finish what runs within `limit` seconds, and wait until they are gone: one that hangs is
        killed."""
        workers = list(self._workers.values())
        self.tell(Drain(limit))
        gone = [asyncio.create_task(asyncio.to_thread(worker.process.wait)) for worker in workers]
        if not gone:
            return
        _, hanging = await asyncio.wait(gone, timeout=limit + _OVERDUE)
        for worker, task in zip(workers, gone, strict=True):
            if task in hanging:
                log.error("a worker does not end; it is killed", worker=worker.index)
                worker.process.kill()
        await asyncio.gather(*gone)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, index: int) -> None:
        """Worker `index`, however often it dies."""
        deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code: int | str | None
            try:
                worker = await self._start(index)
                code = await self._watch(worker)
                self._stillborn = self._stillborn or not worker.ready.is_set()
            except OSError as error:  # no process or descriptor to be had now
                code = str(error)
            if self._stopping.is_set():
                return
            lived = time.monotonic() - began
            deaths = deaths + 1 if lived < 10 else 0
            log.error("worker died; starting another", worker=index, exit=code, lived_seconds=round(lived, 1))
            self._returned(int(time.time() * 1000) - _UNTOLD)
            await asyncio.sleep(_BACKOFF[min(deaths, len(_BACKOFF) - 1)])

    async def _watch(self, worker: Worker) -> int | str | None:
        """Wait until the worker is gone; one that does not begin to serve in time is ended."""
        try:
            async with asyncio.timeout(_START_WAIT) as limit:
                ready = asyncio.create_task(worker.ready.wait())
                gone = asyncio.create_task(worker.gone.wait())
                await asyncio.wait((ready, gone), return_when=asyncio.FIRST_COMPLETED)
                limit.reschedule(None)
        except TimeoutError:
            worker.process.kill()
        finally:
            ready.cancel()
            gone.cancel()
        await worker.gone.wait()
        return worker.process.returncode

    async def _start(self, index: int) -> Worker:
        ours, theirs = socket.socketpair()
        process = self._spawn(index, theirs)
        ours.setblocking(False)
        try:
            channel = Channel(*await asyncio.open_connection(sock=ours))
        except OSError:
            process.kill()
            await asyncio.to_thread(process.wait)
            raise
        order = self._order()
        worker = self._workers[index] = Worker(index, order.process, process, channel)
        channel.send(order)
        self._task(self._listen_to(worker))
        return worker

    async def _listen_to(self, worker: Worker) -> None:
        while (message := await worker.channel.receive()) is not None:
            match message:
                case Broadcast(data):
                    self.tell(message, but=worker)
                    self._heard(data)
                case Numbers():
                    self._take(worker, message)
                case Ready():
                    worker.ready.set()
                case Returned(since):
                    self._returned(since)
        worker.channel.close()
        await asyncio.to_thread(worker.process.wait)
        self.lately.end(worker.index)
        await asyncio.to_thread(self.totals.end, worker.index)
        del self._workers[worker.index]
        self._in_flight = None
        for answer in worker.asked.values():
            answer.set()  # there will be none
        worker.gone.set()

    def _take(self, worker: Worker, numbers: Numbers) -> None:
        self.lately.replace(worker.index, numbers.sample)
        if numbers.metrics:
            self.totals.replace(worker.index, numbers.metrics)
        worker.in_flight = numbers.in_flight
        self._in_flight = None
        answer = worker.asked.get(numbers.answers)
        if answer is not None:
            answer.set()
        if numbers.ended:
            self.ended(numbers.ended)

    async def _pull(self) -> None:
        at = time.monotonic()
        while True:
            at = max(at + _PULL_EVERY, time.monotonic())
            await asyncio.sleep(at - time.monotonic())
            await self.refresh(whole=time.monotonic() - self._whole_at >= _WHOLE_EVERY)
            try:
                self.looked()
            except Exception:  # whatever it was, the next look must come
                log.exception("looking at the workers' numbers failed")
