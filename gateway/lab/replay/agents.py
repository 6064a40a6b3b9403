"""Synthetic agents: a seeded stream of conversations whose prompts grow turn by turn, as coding agents' do.

Every policy sees the same stream: a turn is due its think time after the answer before it would have ended, had that
turn read all but its newest tokens from a cache and waited for nothing (`Pace` says how long that takes). If that
answer has not ended by then, the turn comes as soon as it has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, count
from math import log

import msgspec

from gateway.lab.replay.policy import BLOCK, Request
from gateway.lab.replay.pool import Pace


class Agents(msgspec.Struct, frozen=True):
    """What the stream is drawn from. Sizes are tokens, times seconds; pairs are (median, sigma) of a log-normal."""

    conversations: int = 400
    seconds: float = 900.0  # conversations start evenly at random within these, and what is due later is left out
    turns: tuple[float, float] = (13.0, 0.4)
    turn_tokens: tuple[float, float] = (1500.0, 0.5)  # what a turn adds to the prompt, the answer before it included
    output_tokens: tuple[float, float] = (250.0, 0.8)
    groups: int = 20  # of conversations with the same tools and system prompt; the n-th as frequent as 1/n
    shared_tokens: tuple[int, int] = (12_000, 20_000)  # of tools and system prompt, evenly
    quick: tuple[float, float] = (0.80, 8.0)  # part of the pauses, and the mean of an exponential
    slow: tuple[float, float, float] = (0.17, 60.0, 0.25)  # part, and a log-normal
    absent: tuple[float, float] = (300.0, 300.0)  # all other pauses: at least, and the mean of an exponential beyond
    longest_prompt: int = 190_000  # a conversation ends there


def stream(agents: Agents, seed: int, pace: Pace) -> list[Request]:
    """The requests in the order of arrival, the first at 0 s; equal arguments give equal ones."""
    rnd = random.Random(seed)
    numbers = count()
    groups = [
        tuple(next(numbers) for _ in range(rnd.randint(*(tokens // BLOCK + 1 for tokens in agents.shared_tokens)) - 1))
        for _ in range(agents.groups)
    ]
    frequencies = list(accumulate(1 / rank for rank in range(1, agents.groups + 1)))
    turns: list[tuple[float, bytes, tuple[int, ...], int, int]] = []
    for number in range(agents.conversations):
        start = rnd.uniform(0.0, agents.seconds)
        shared = rnd.choices(groups, cum_weights=frequencies)[0]
        for at, blocks, prompt, output in _conversation(agents, pace, rnd, numbers, shared, start):
            if at <= agents.seconds:
                turns.append((at, b"agent-%d" % number, blocks, prompt, output))
    turns.sort(key=lambda turn: turn[0])
    first = turns[0][0]
    return [
        Request(index, at - first, conversation, blocks, prompt, output)
        for index, (at, conversation, blocks, prompt, output) in enumerate(turns)
    ]


def _conversation(
    agents: Agents, pace: Pace, rnd: random.Random, numbers: Iterator[int], shared: tuple[int, ...], at: float
) -> Iterator[tuple[float, tuple[int, ...], int, int]]:
    """(time, blocks, input tokens, output tokens) of each turn."""
    whole = list(shared)  # full blocks: the next turn has them too, unlike the last and shorter one
    tokens = len(shared) * BLOCK
    for _ in range(max(1, round(_lognormal(rnd, agents.turns)))):
        added = max(1, round(_lognormal(rnd, agents.turn_tokens)))
        tokens += added
        if tokens > agents.longest_prompt:
            return
        while len(whole) < tokens // BLOCK:
            whole.append(next(numbers))
        blocks = (*whole, next(numbers)) if tokens % BLOCK else tuple(whole)
        output = max(1, round(_lognormal(rnd, agents.output_tokens)))
        yield at, blocks, tokens, output
        at += pace.start(added) + pace.stream(output) + _pause(agents, rnd)


def _pause(agents: Agents, rnd: random.Random) -> float:
    """Seconds between an answer and the next turn."""
    kind = rnd.random()
    if kind < agents.quick[0]:
        return rnd.expovariate(1 / agents.quick[1])
    if kind < agents.quick[0] + agents.slow[0]:
        return _lognormal(rnd, agents.slow[1:])
    return agents.absent[0] + rnd.expovariate(1 / agents.absent[1])


def _lognormal(rnd: random.Random, shape: tuple[float, float]) -> float:
    median, sigma = shape
    return rnd.lognormvariate(log(median), sigma)
