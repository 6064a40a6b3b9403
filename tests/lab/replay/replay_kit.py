"""Small streams and scripted policies for the tests of `gateway replay`."""

import json

from gateway.lab.replay.engine import replay
from gateway.lab.replay.policy import Account, Request, Send
from gateway.lab.replay.pool import Pace, Pool

PACE = Pace(first_token=1.0, prefill=1024.0, decode=100.0, refusal=0.25)  # 1 s, and 1 s for each two new blocks


def request(index, at, blocks, *, tokens=None, output=100, conversation=None, session=False):
    """Whole blocks unless `tokens` says otherwise; one conversation for equal first blocks."""
    size = 512 * len(blocks) if tokens is None else tokens
    conversation = conversation or b"c%d" % blocks[0]
    return Request(index, float(at), conversation, tuple(blocks), size, output, session=session)


def accounts(*names):
    return [Account.alone(name) for name in names]


class Scripted:
    """Sends request `n` where `plan[n]` says, step by step; keeps a log of all it is told."""

    name = "scripted"

    def __init__(self, plan):
        self.plan = {index: list(steps) for index, steps in plan.items()}
        self.moves = {}
        self.log = []

    def _next(self, what, request, now):
        self.log.append((round(now, 6), what, request.index))
        step = self.plan[request.index].pop(0)
        return Send(step) if isinstance(step, str) else step

    def begin(self, request, now):
        return self._next("begin", request, now)

    def waited(self, request, now):
        return self._next("waited", request, now)

    def answered(self, request, account, answer, now):
        if answer.status != 200:
            return self._next(answer, request, now)
        self.log.append((round(now, 6), answer, request.index))
        return None

    def finished(self, request, account, now):
        self.log.append((round(now, 6), "finished", request.index))

    def happened(self, event, now):
        self.log.append((now, event.event, None))

    def decision(self, request):
        return "scripted", "so"


def play(plan, requests, *, pool=None, ttl=300.0, limit=None, events=(), turns=False):
    """(policy, run) of a scripted policy over accounts a and b."""
    policy = Scripted(plan)
    pool = pool or Pool(accounts("a", "b"), ttl, limit)
    return policy, replay(policy, pool, PACE, requests, events, turns)


def write_trace(path, rows):
    """Rows of (ms, input, output, blocks)."""
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path
