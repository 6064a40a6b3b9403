"""Rate limits as one process sees them: what an organization has left for a class of models, and when it has more.

A bucket refills continuously, limit / 60 a second, as the API says; what answers reveal of it replaces what was
reckoned. Nobody asks for a limit that no answer has ever named: an unknown one does not bind. Times are seconds of one
clock; amounts are tokens or requests.
"""

from __future__ import annotations

from gateway.core.routing.buckets import Bucket
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.stated_limits import Allowance

KINDS = ("requests", "input", "output")
FIRST_PAUSE = 5.0  # seconds that a 429 without retry-after closes for
LONGEST_PAUSE = 60.0
MAX_PAUSE = 86_400.0  # whatever an upstream asks for
_FULL = 0.9  # of a limit from which on all of it is there: answers round, and others ask meanwhile
_LARGE = 0.25  # of a limit from which on a request may be larger than it: its tokens are an estimate
_TELLING = 1.0  # seconds between what processes tell each other of limits
_STALE = 3.0  # seconds after which another process's reservations no longer count


class Domain:
    """The limits of one organization for one class of models: three buckets, and a closure while a 429 lasts.

    `reserved` and `asked` are the fresh input tokens and the requests of this process that were sent and not answered
    yet; `others` the same of other processes, by process, with the time they were told. Where limits are `stated`,
    they hold instead of what answers say.
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
        self.stated: Allowance | None = None

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
        if self.stated is not None:
            return self.stated.wait(fresh, 0.0, now) > 0.0
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
        self.requests = self.input = self.output = None

    def observe(self, kind: str, limit: int, remaining: int, now: float) -> None:
        """What an answer said of the limit `kind`: requests, input or output."""
        bucket: Bucket | None = getattr(self, kind)
        if limit <= 0:
            return
        if bucket is None:
            setattr(self, kind, Bucket(limit, min(remaining, limit), now))
        else:
            bucket.limit, bucket.level = limit, min(remaining, limit)
            bucket.at = bucket.seen = now
        self.unreported = True

    def heard(self, kind: str, limit: float, level: float, at: float) -> None:
        """What another process observed at `at`: counts if it is newer than what is known here."""
        if kind not in KINDS:
            return  # a newer version's
        bucket: Bucket | None = getattr(self, kind)
        if limit > 0 and (bucket is None or bucket.seen < at):
            setattr(self, kind, Bucket(limit, min(level, limit), at))

    def send(self, fresh: float, now: float) -> float:
        """A request of so many fresh input tokens is sent; returns what of them the limit can have taken, for
        `answer_began`."""
        bucket = self.input
        if bucket is not None:
            bucket.reckon(now, self.reserved)
            fresh = min(fresh, bucket.limit)
        self.reserved += fresh
        self.asked += 1
        return fresh

    def answer_began(self, reserved: float) -> None:
        """The answer to what was sent has begun, or will not."""
        self.asked -= 1
        self.reserved = self.reserved - reserved if self.asked else 0.0

    def holds(self, fresh: float) -> bool:
        """Whether the limit is as large as so many input tokens, as far as it is known."""
        bucket = self.input if self.stated is None else self.stated.input
        return bucket is None or fresh <= bucket.limit

    def takes_much(self, fresh: float) -> bool:
        """Whether so many input tokens are much of the limit, so that others should know at once."""
        return self.input is not None and fresh >= _LARGE * self.input.limit

    def wait(self, fresh: float, now: float, claim: float = 0.0) -> float:
        """Seconds until this domain may serve a request of `fresh` input tokens; 0 if it may now. What is as large as
        the limit waits until others would have told that they have taken of it. `claim` are the tokens that stated
        limits reserve."""
        wait = self.closed_until - now if self.closed_until > now else 0.0
        if self.large_until > now and fresh >= self.large_from:
            wait = max(wait, self.large_until - now)
        if self.stated is not None:
            return max(wait, self.stated.wait(fresh, claim, now))
        if self.input is None and self.requests is None and self.output is None:
            return wait
        reserved, asked = self.reserved, self.asked
        if self.others:
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
        if self.stated is not None:
            return self.stated.headroom(now)
        if self.input is None:
            return float("inf")
        more, _ = self._of_others(now)
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
