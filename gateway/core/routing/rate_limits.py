"""Rate limits as one process sees them: what an organization has left for a class of models, and when it has more.

A bucket refills continuously, limit / 60 a second, as the API says; what answers reveal of it replaces what was
reckoned. Nobody asks for a limit that no answer has ever named: an unknown one does not bind. Times are seconds of one
clock; amounts are tokens or requests.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.routing.outcomes import Outcome

KINDS = ("requests", "input", "output")
FIRST_PAUSE = 5.0  # seconds that a 429 without retry-after closes for
LONGEST_PAUSE = 60.0
MAX_PAUSE = 86_400.0  # whatever an upstream asks for
_FULL = 0.9  # of a limit from which on all of it is there: answers round, and others ask meanwhile
_LARGE = 0.25  # of a limit from which on a request may be larger than it: its tokens are an estimate
_TELLING = 1.0  # seconds between what processes tell each other of limits
_STALE = 3.0  # seconds after which another process's reservations no longer count


class Bucket:
    """What is left of one limit. `level` was true at `at`, reckoned from what an answer said at `seen`; it may fall
    below zero."""

    __slots__ = ("at", "level", "limit", "seen")

    def __init__(self, limit: float, level: float, at: float) -> None:
        self.limit = limit
        self.level = level
        self.at = self.seen = at

    def __repr__(self) -> str:
        return f"<Bucket {self.level:.0f} of {self.limit:.0f}>"

    def left(self, now: float, beyond: float = 0.0) -> float:
        """What is there at `now`; it may be so much `beyond` the limit, as that is spoken for."""
        level, most = self.level + (now - self.at) * self.limit / 60.0, self.limit + beyond
        return level if level < most else most

    def reckon(self, now: float, beyond: float) -> None:
        """Something is sent: what has been there until now must not refill beyond the limit with it."""
        self.level, self.at = self.left(now, beyond), now

    def wait(self, need: float, now: float) -> float:
        """Seconds until `need` is there (or the bucket is full, if it cannot hold as much); 0 if it is now."""
        missing = (need if need < self.limit else self.limit) - self.left(now)
        return missing * 60.0 / self.limit if missing > 0 else 0.0

    def take(self, amount: float, now: float) -> None:
        self.level = self.left(now) - amount
        self.at = now


class Burning(Bucket):
    """What is left for output, of which each token also counts `times` in the bucket of input."""

    __slots__ = ("of", "times")

    def __init__(self, limit: float, of: Bucket, times: float, at: float) -> None:
        super().__init__(limit, limit, at)
        self.of = of
        self.times = times

    def take(self, amount: float, now: float) -> None:
        super().take(amount, now)
        self.of.take(amount * self.times, now)


class Stated(NamedTuple):
    """Limits a minute as an operator states them, where no answer names any: this process's share of them. `tokens` are
    of input and output together, one of output counting `burndown` times; None is no limit."""

    requests: float | None = None
    input: float | None = None
    output: float | None = None
    tokens: float | None = None
    burndown: float = 1.0


class Domain:
    """The limits of one organization for one class of models: three buckets, and a closure while a 429 lasts.

    `reserved` and `asked` are the fresh input tokens and the requests of this process that were sent and not answered
    yet; `others` the same of other processes, by process, with the time they were told. Of `stated` limits nobody tells
    what is left: what is sent is taken at once.
    """

    __slots__ = (
        "asked", "closed_until", "input", "large_from", "large_until", "look_at", "others", "output", "pause",
        "requests", "reserved", "stated", "unexplained", "unreported",
    )  # fmt: skip

    def __init__(self) -> None:
        self.closed_until = 0.0
        self.large_until = 0.0  # closed until then to requests of `large_from` fresh tokens or more
        self.large_from = 0.0
        self.unexplained: set[str] = set()  # conversations with a 429 that said nothing, since a request was served
        self.pause = 0.0  # seconds of the last closure without a retry-after, 0 once a request was served
        self.requests: Bucket | None = None
        self.input: Bucket | None = None
        self.output: Bucket | None = None
        self.reserved = 0.0
        self.asked = 0
        self.others: dict[str, tuple[float, int, float]] = {}
        self.unreported = False  # observed since it was last told to others
        self.look_at = 0.0  # when it is worth to look at an answer again
        self.stated: Stated | None = None

    def state(self, stated: Stated | None, now: float) -> None:
        """These limits hold from now on. What was used of others still counts, as a part of them."""
        if stated == self.stated:
            return
        before, self.stated = (self.requests, self.input, self.output), stated
        self.requests = self.input = self.output = None
        if stated is None:
            return
        least = [each for each in (stated.input, stated.tokens) if each is not None]
        if least:
            self.input = Bucket(min(least), min(least), now)
        if stated.requests is not None:
            self.requests = Bucket(stated.requests, stated.requests, now)
        if self.input is not None and stated.tokens is not None:
            limit = stated.tokens if stated.output is None else stated.output
            self.output = Burning(limit, self.input, stated.burndown, now)
        elif stated.output is not None:
            self.output = Bucket(stated.output, stated.output, now)
        for old, new in zip(before, (self.requests, self.input, self.output), strict=True):
            if old is not None and new is not None:
                new.level = old.left(now) / old.limit * new.limit

    def close(self, retry_after: float | None, now: float) -> float:
        """A 429 has come: closed for the seconds returned."""
        if retry_after is None and self.closed_until > now:  # sent before it was closed: it doubles nothing
            pause = self.pause or FIRST_PAUSE
        elif retry_after is None:
            pause = self.pause = min(LONGEST_PAUSE, self.pause * 2 or FIRST_PAUSE)
        else:
            pause = min(MAX_PAUSE, max(0.0, retry_after))
        self.closed_until = max(self.closed_until, now + pause)
        return pause

    def close_from(self, tokens: float, seconds: float, now: float) -> None:
        """Closed to requests of so many fresh tokens or more."""
        still = self.large_until > now
        self.large_from = min(tokens, self.large_from) if still else tokens
        self.large_until = max(self.large_until if still else 0.0, now + min(MAX_PAUSE, seconds))

    def means(self, fresh: float, retry_after: float | None, now: float, told: bool) -> Outcome:
        """What a 429 to a request of `fresh` input tokens is about, by what answers have said of the limits; `told`
        says that this one has."""
        wanting = self.lacks(fresh, now)
        bucket = self.input
        if retry_after is None:
            return Outcome.LIMITED if wanting else Outcome.UNEXPLAINED
        if bucket is not None and told and not wanting and bucket.left(now) >= _FULL * bucket.limit:
            return Outcome.OVERSIZED if fresh >= _LARGE * bucket.limit else Outcome.LIMITED
        return Outcome.LIMITED

    def lacks(self, fresh: float, now: float) -> bool:
        """Whether a known limit has no room for a request of so many fresh tokens (or of all it can hold)."""
        requests, tokens, output = self.requests, self.input, self.output
        if requests is not None and requests.left(now) < 1.0:
            return True
        if output is not None and output.left(now) < max(1.0, output.limit / 100):
            return True
        return tokens is not None and tokens.left(now) < min(fresh, _FULL * tokens.limit)

    def reset(self) -> None:
        """Forget what answers have said; what is under way stays reserved."""
        self.closed_until = self.large_until = self.pause = 0.0
        self.unexplained.clear()
        if self.stated is None:
            self.requests = self.input = self.output = None

    def observe(self, kind: str, limit: int, remaining: int, now: float) -> None:
        """What an answer said of the limit `kind`: requests, input or output."""
        bucket: Bucket | None = getattr(self, kind)
        if limit <= 0 or self.stated is not None:
            return
        if bucket is None:
            setattr(self, kind, Bucket(limit, min(remaining, limit), now))
        else:
            bucket.limit, bucket.level = limit, min(remaining, limit)
            bucket.at = bucket.seen = now
        self.unreported = True

    def heard(self, kind: str, limit: float, level: float, at: float) -> None:
        """What another process observed at `at`: counts if it is newer than what is known here."""
        if kind not in KINDS or self.stated is not None:
            return  # a newer version's, or another process's share
        bucket: Bucket | None = getattr(self, kind)
        if limit > 0 and (bucket is None or bucket.seen < at):
            setattr(self, kind, Bucket(limit, min(level, limit), at))

    def send(self, fresh: float, now: float) -> float:
        """A request of so many fresh input tokens is sent; returns what of them the limit can have taken, for
        `answer_began`."""
        bucket = self.input
        if self.stated is not None:
            if bucket is not None:
                bucket.take(min(fresh, bucket.limit), now)
            if self.requests is not None:
                self.requests.take(1.0, now)
            return 0.0
        if bucket is not None:
            bucket.reckon(now, self.reserved)
            fresh = min(fresh, bucket.limit)
        self.reserved += fresh
        self.asked += 1
        return fresh

    def answer_began(self, reserved: float) -> None:
        """The answer to what was sent has begun, or will not."""
        if self.asked:  # else its limits were stated when it was sent
            self.asked -= 1
        self.reserved = self.reserved - reserved if self.asked else 0.0

    def holds(self, fresh: float) -> bool:
        """Whether the limit is as large as so many input tokens, as far as it is known."""
        return self.input is None or fresh <= self.input.limit

    def takes_much(self, fresh: float) -> bool:
        """Whether so many input tokens are much of the limit, so that others should know at once."""
        return self.input is not None and fresh >= _LARGE * self.input.limit

    def wait(self, fresh: float, now: float) -> float:
        """Seconds until this domain may serve a request of `fresh` input tokens; 0 if it may now. What is as large as
        the limit waits until others would have told that they have taken of it."""
        wait = self.closed_until - now if self.closed_until > now else 0.0
        if self.large_until > now and fresh >= self.large_from:
            wait = max(wait, self.large_until - now)
        if self.input is None and self.requests is None and self.output is None:
            return wait
        reserved, asked = self.reserved, self.asked
        if self.others and self.stated is None:
            more, also = self._of_others(now)
            reserved += more
            asked += also
        # A level that was enough is enough: it only refills.
        bucket = self.input
        if bucket is not None:
            limit = bucket.limit
            # What is reserved will be taken, and an answer rounds to thousands.
            need = fresh + min(500.0, limit / 100)
            spare = limit / 60.0 * _TELLING if need >= limit else 0.0
            need = min(need, limit) + spare + reserved
            if need > bucket.level:
                missing = need - bucket.left(now, self.reserved + spare)
                if missing > 0:
                    wait = max(wait, missing * 60.0 / limit)
        bucket = self.requests
        if bucket is not None and 1 + asked > bucket.level:
            missing = 1 + asked - bucket.left(now)
            if missing > 0:
                wait = max(wait, missing * 60.0 / bucket.limit)
        bucket = self.output
        if bucket is not None and bucket.level < 1.0:
            wait = max(wait, bucket.wait(1.0, now))
        return wait

    def headroom(self, now: float) -> float:
        """Fresh input tokens that may be sent now, as far as it is known; infinity where no limit is known."""
        if self.closed_until > now:
            return self.closed_until * -1e6  # the one that opens first has most
        if self.input is None:
            return float("inf")
        more, _ = self._of_others(now) if self.stated is None else (0.0, 0)
        return self.input.left(now, self.reserved) - self.reserved - more

    def _of_others(self, now: float) -> tuple[float, int]:
        reserved, asked = 0.0, 0
        for process, (tokens, requests, at) in list(self.others.items()):
            if now - at > _STALE:
                del self.others[process]
            else:
                reserved += tokens
                asked += requests
        return reserved, asked
