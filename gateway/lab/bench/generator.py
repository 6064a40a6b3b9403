"""The load generator: one loop for each kind of job.

Run as `python -m gateway.lab.bench.generator`; reads jobs from standard input and ends with it. It does not know who
answers.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import cycle
from time import monotonic
from typing import Any

import msgspec

from gateway.lab.bench.client import SILENCE, Client, LoadError, connected, waited, waited_until
from gateway.lab.bench.jobs import (
    Answered,
    Burst,
    Closed,
    Failed,
    Held,
    Hold,
    Job,
    Large,
    Latency,
    Open,
    Release,
    Result,
    Sent,
    Streamed,
    Streams,
)
from gateway.lab.bench.processes import cpu_seconds
from gateway.lab.bench.traffic import large_request, requests

_PR_SET_TIMERSLACK = 29


def closed(job: Closed) -> Answered:
    ask = cycle(requests(job.target, stream=False))
    latencies: list[float] = []
    total = 0
    began = ended = cpu_began = cpu_ended = 0.0
    with connected(job.target.port, job.connections) as (epoll, clients):
        now = monotonic()
        opens, closes = now + job.warm, now + job.warm + job.seconds
        for client in clients.values():
            client.ask(next(ask), now)
        busy = len(clients)
        while busy:
            ready = waited(epoll, clients)
            now = monotonic()
            if not began and now >= opens:
                began, cpu_began = now, cpu_seconds(job.watch)
            if not ended and now >= closes:
                ended, cpu_ended = now, cpu_seconds(job.watch)
            for client in ready:
                if not client.answered():
                    continue
                now = monotonic()
                total += 1
                if ended:
                    busy -= 1
                    continue
                if began:
                    latencies.append(now - client.due)
                client.ask(next(ask), now)
    return Answered(len(latencies), total, ended - began, cpu_ended - cpu_began, latency_of(latencies))


def open_loop(job: Open) -> Answered:
    ask = cycle(requests(job.target, stream=False))
    samples: list[tuple[float, float]] = []
    backlog: deque[float] = deque()
    count = max(1, int(job.rate * (job.warm + job.seconds)))
    with connected(job.target.port, job.connections) as (epoll, clients):
        idle = deque(clients.values())
        start = monotonic() + 0.01
        sent = done = 0
        while done < count:
            now = monotonic()
            while sent < count and (due := start + sent / job.rate) <= now:
                sent += 1
                if idle:
                    idle.popleft().ask(next(ask), due)
                else:
                    backlog.append(due)
            ready = waited_until(epoll, clients, start + sent / job.rate) if sent < count else waited(epoll, clients)
            for client in ready:
                if not client.answered():
                    continue
                done += 1
                samples.append((client.due, monotonic() - client.due))
                if backlog:
                    client.ask(next(ask), backlog.popleft())
                else:
                    idle.append(client)
            if len(backlog) > job.rate * SILENCE:
                raise LoadError(f"{len(backlog)} requests wait: {job.rate:.0f} a second are too many")
    samples = [sample for sample in samples if sample[0] >= start + job.warm]
    latency = latency_of(latency for _, latency in samples)
    return Answered(len(samples), count, job.seconds, 0.0, latency, samples if job.samples else [])


def streams(job: Streams) -> Streamed:
    ask = cycle(requests(job.target, stream=True))
    sizes: set[int] = set()
    events = 0
    with connected(job.target.port, job.streams) as (epoll, clients):
        todo = deque(clients.values())
        busy = len(clients)
        cpu = cpu_seconds(job.watch)
        began = monotonic()
        gap = job.spread / job.streams
        while busy:
            while todo and began + (job.streams - len(todo)) * gap <= monotonic():
                todo.popleft().ask(next(ask), 0.0)
            ready = (
                waited_until(epoll, clients, began + (job.streams - len(todo)) * gap)
                if todo
                else waited(epoll, clients)
            )
            for client in ready:
                if not client.streamed():
                    continue
                events += client.events
                sizes.add(client.events)
                client.events = 0
                client.rounds += 1
                if client.rounds < job.rounds:
                    client.ask(next(ask), 0.0)
                else:
                    busy -= 1
        seconds = monotonic() - began
        cpu = cpu_seconds(job.watch) - cpu
    if len(sizes) != 1:
        raise LoadError(f"streams of one kind had between {min(sizes)} and {max(sizes)} events")
    return Streamed(job.streams * job.rounds, events, seconds, cpu)


def burst(job: Burst) -> Answered:
    ask = requests(job.target, stream=False)
    with connected(job.target.port, job.connections) as (epoll, clients):
        for index, client in enumerate(clients.values()):
            client.ask(ask[index % len(ask)], 0.0)
        done = 0
        while done < job.connections:
            done += sum(client.answered() for client in waited(epoll, clients))
    return Answered(done, done, 0.0, 0.0, Latency())


_holding: list[Client] = []


def hold(job: Hold) -> Held:
    ask = requests(job.target, stream=True)
    release(Release())
    epoll = select.epoll()
    silent: dict[int, Client] = {}
    try:
        for index in range(job.streams):
            client = Client(job.target.port)
            _holding.append(client)
            client.ask(ask[index % len(ask)], 0.0)
            silent[client.sock.fileno()] = client
            epoll.register(client.sock.fileno(), select.EPOLLIN)
            while len(silent) > 50 or (silent and index == job.streams - 1):
                for client in waited(epoll, silent):
                    client.streamed()
                    if client.events:
                        epoll.unregister(client.sock.fileno())
                        del silent[client.sock.fileno()]
    finally:
        epoll.close()
    return Held(len(_holding))


def release(job: Release) -> Held:
    for client in _holding:
        client.sock.close()
    _holding.clear()
    return Held(0)


def large(job: Large) -> Sent:
    os.setpriority(os.PRIO_PROCESS, 0, 10)  # not at the cost of the load whose latency is measured
    request = large_request(job.target, int(job.megabytes * 1_000_000))
    windows = []
    with connected(job.target.port, 1) as (epoll, clients):
        (client,) = clients.values()
        for _ in range(job.count):
            time.sleep(job.pause)
            began = monotonic()
            client.sock.settimeout(SILENCE)
            client.sock.sendall(request)
            client.sock.setblocking(False)
            while not any(one.answered() for one in waited(epoll, clients)):
                pass
            windows.append((began, monotonic()))
    return Sent(windows)


def latency_of(latencies: Iterable[float]) -> Latency:
    ordered = sorted(latencies)
    if not ordered:
        raise LoadError("no answer within the measured time")
    last = len(ordered) - 1
    p50, p99 = ordered[last // 2], ordered[min(last, len(ordered) * 99 // 100)]
    return Latency(p50 * 1000, p99 * 1000, ordered[last] * 1000)


WORK: dict[type[Any], Callable[[Any], Result]] = {
    Closed: closed, Open: open_loop, Streams: streams, Burst: burst, Hold: hold, Release: release, Large: large,
}  # fmt: skip


def main() -> None:
    gc.disable()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanoseconds; else waits are 50 µs too long
    decode = msgspec.json.Decoder(Job).decode
    for line in sys.stdin.buffer:
        job = decode(line)
        try:
            result = WORK[type(job)](job)
        except (LoadError, OSError) as error:
            result = Failed(str(error) or type(error).__name__)
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
