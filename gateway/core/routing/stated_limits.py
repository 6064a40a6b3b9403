"""Rate limits that an operator states, where no answer tells them: what one process has left of its share.

What is sent is taken at once, by estimate, and put right when its answer has ended. Times are seconds of one clock;
amounts are tokens or requests.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from gateway.core.routing.buckets import Bucket, DailyBucket

_ENOUGH = 0.5  # of a limit, for what reserves more: most of that comes back soon, and other processes leave room
_KINDS = ("requests", "input", "output", "tokens", "day")


class Stated(NamedTuple):
    """One process's share of limits a minute, and of one a day; None is no limit. `input` is uncached input; `tokens`
    and `day` are of that and output together, one of output counting `burndown` times. An account that `reserves` takes
    of these two, at sending, all input and as much output as the answer may have. Classes of models of one `group`
    share what is left ("": each has its own)."""

    requests: float | None = None
    input: float | None = None
    output: float | None = None
    tokens: float | None = None
    day: float | None = None
    burndown: float = 1.0
    reserves: bool = False
    group: str = ""


class Allowance:
    """What is left of `stated` limits. What was used of those `before` still counts, as the same part."""

    __slots__ = ("day", "input", "output", "requests", "stated", "tokens")

    def __init__(self, stated: Stated, now: float, before: Allowance | None = None) -> None:
        self.stated = stated
        self.requests: Bucket | None = None
        self.input: Bucket | None = None
        self.output: Bucket | None = None
        self.tokens: Bucket | None = None
        self.day: Bucket | None = None
        for kind in _KINDS:
            limit = getattr(stated, kind)
            if limit is None:
                continue
            old = None if before is None else getattr(before, kind)
            level = limit if old is None else old.left(now) / old.limit * limit
            setattr(self, kind, (DailyBucket if kind == "day" else Bucket)(limit, level, now))

    def wait(self, fresh: float, claim: float, now: float) -> float:
        """Seconds until a request of `fresh` input tokens may be sent; `claim` is all of its input and its output, as
        an account that reserves takes it."""
        wait = 0.0 if self.requests is None else self.requests.wait(1.0, now)
        if self.output is not None:
            wait = max(wait, self.output.wait(1.0, now))
        if self.input is not None:
            wait = max(wait, self.input.wait(fresh, now))
        reserves = claim > 0.0 and self.stated.reserves
        for bucket in (self.tokens, self.day):
            if bucket is not None:
                need = min(claim, _ENOUGH * bucket.limit) if reserves else fresh
                wait = max(wait, bucket.wait(need, now))
        return wait

    def headroom(self, now: float) -> float:
        """Input tokens that may be sent now; infinity where no limit of tokens is stated."""
        return min((each.left(now) for each in (self.input, self.tokens, self.day) if each is not None), default=inf)

    def send(self, fresh: float, claim: float, now: float) -> Hold:
        """A request is sent: take what it will use, as far as anybody knows."""
        need = claim if claim > 0.0 and self.stated.reserves else fresh
        if self.requests is not None:
            self.requests.take(1.0, now)
        return Hold(self, _taken(self.input, fresh, now), _taken(self.tokens, need, now), _taken(self.day, need, now))


class Hold(NamedTuple):
    """What a request has taken of an allowance until its answer has ended."""

    allowance: Allowance
    input: float
    tokens: float
    day: float

    def settle(self, fresh: float, output: float, now: float) -> None:
        """It has used so many tokens of uncached input and of output."""
        allowance = self.allowance
        used = fresh + output * allowance.stated.burndown
        if allowance.output is not None:
            allowance.output.take(output, now)
        if allowance.input is not None:
            allowance.input.take(fresh - self.input, now)
        if allowance.tokens is not None:
            allowance.tokens.take(used - self.tokens, now)
        if allowance.day is not None:
            allowance.day.take(used - self.day, now)


def _taken(bucket: Bucket | None, need: float, now: float) -> float:
    """What of `need` the bucket gives: no limit gives more than it has."""
    if bucket is None:
        return 0.0
    amount = need if need < bucket.limit else bucket.limit
    bucket.take(amount, now)
    return amount
