"""The load generator: does jobs through bare sockets, and does not know who answers.

Run as `python -m gateway.lab.bench.generator`; reads jobs from standard input and ends with it.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from contextlib import closing
from itertools import cycle
from statistics import median
from time import monotonic, process_time

import msgspec

from gateway.lab.bench.client import SILENCE, Fleet
from gateway.lab.bench.jobs import Failed, Hold, Job, Load, Loaded, Result
from gateway.lab.bench.traffic import requests

_OPENING = 50  # streams that wait for their first event at a time


def load(job: Load) -> Loaded:
    ask = cycle(requests(job.target, stream=job.stream, size=job.size))
    count = max(1, round(job.rate * job.seconds)) if job.rate else job.connections
    gap = 1 / job.rate if job.rate else job.spread / job.connections
    took: list[float] = []
    with closing(Fleet(job.target, job.events)) as fleet:
        idle = deque(fleet.add() for _ in range(job.connections))
        sent, began, cpu = 0, monotonic(), process_time()
        ends = began + (0 if job.rate else job.seconds)
        while fleet.busy or sent < count:
            now = monotonic()
            while sent < count and idle and (due := began + sent * gap) <= now:
                sent += 1
                if not fleet.ask(idle[0], next(ask), due):
                    continue
                idle.popleft()
            wait = max(0.0, began + sent * gap - now) if idle and sent < count else SILENCE
            ready = fleet.ready(wait)
            if not ready and wait == SILENCE:
                fleet.give_up(fleet.busy)
                break
            for client in ready:
                if not fleet.answered(client):
                    continue
                now = monotonic()
                took.append(now - client.due)
                if now >= ends or not fleet.ask(client, next(ask), now):
                    idle.append(client)
        return _loaded(fleet, fleet.answers, monotonic() - began, process_time() - cpu, median(took or [0.0]))


def hold(job: Hold, fleet: Fleet) -> Loaded:
    ask = cycle(requests(job.target, stream=True))
    began, cpu, held = monotonic(), process_time(), 0
    while held + fleet.bad < job.streams:
        silent = {fleet.add() for _ in range(min(_OPENING, job.streams - held - fleet.bad))}
        for client in list(silent):
            if not fleet.ask(client, next(ask), 0.0):
                silent.remove(client)
        while silent:
            ready = fleet.ready(SILENCE)
            if not ready:
                fleet.give_up(len(silent))
                break
            for client in ready:
                over = fleet.answered(client)
                if client.events and not over:
                    fleet.leave(client)
                    held += 1
                if client.events or over:
                    silent.discard(client)
    return _loaded(fleet, held, monotonic() - began, process_time() - cpu, 0.0)


def _loaded(fleet: Fleet, answers: int, seconds: float, cpu: float, p50: float) -> Loaded:
    return Loaded(answers, fleet.events, fleet.bad, fleet.problem, seconds, cpu, p50)


def main() -> None:
    gc.disable()
    decode = msgspec.json.Decoder(Job).decode
    held = None
    for line in sys.stdin.buffer:
        job = decode(line)
        result: Result
        try:
            if held is not None:
                held.close()
            if isinstance(job, Load):
                result = load(job)
            else:
                held = Fleet(job.target)
                result = hold(job, held)
        except OSError as error:
            result = Failed(str(error))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
