"""Whether an account, or a whole organization, can be used: what puts it out, and how it comes back.

Limits are another matter (see limits). An account that is out comes back by a probe, or by one real request at a time
once its pause is over. Times are seconds of one clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

import msgspec

MODEL_PAUSE = 600.0  # seconds that an account without access to a model, or to a feature, is not asked for it
TRIAL = 30.0  # seconds within which a trial request's answer is expected
_UNSENT_WITHIN = 10.0
_UNSENT_LIMIT = 3
_ERROR_WINDOW = 60.0


class Cause(StrEnum):
    """Why something is out."""

    CREDENTIAL = "credential"  # 401: the key is not accepted
    BILLING = "billing"  # spend cap, no credit, on hold: the whole organization
    UNREACHABLE = "unreachable"  # no connection to be had: by this process, which believes no other in that


class Pause(msgspec.Struct, frozen=True):
    """Seconds: the first pause, the longest; each that follows is twice as long as the one before."""

    first: float
    longest: float


PAUSES = {
    Cause.CREDENTIAL: Pause(60.0, 3600.0),
    Cause.BILLING: Pause(60.0, 3600.0),
    Cause.UNREACHABLE: Pause(10.0, 10.0),  # the prober asks every 5 seconds
}


class Outage:
    """Out, for how long, and why. One for each account and one for each organization."""

    __slots__ = ("cause", "pause", "trial", "until")

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.trial = False  # its time had come, and a request is finding out
        self.until = 0.0
        self.pause = 0.0

    def __repr__(self) -> str:
        return f"<Outage {self.cause or 'none'}>"

    def begin(self, cause: Cause, now: float) -> float:
        """Out from now on, or still; returns the pause in seconds. Answers that were under way do not lengthen it."""
        if self.cause is cause and not self.trial and self.until > now:
            return self.until - now
        self.trial = False
        bounds = PAUSES[cause]
        self.pause = min(bounds.longest, self.pause * 2) if self.cause is cause else bounds.first
        self.cause = cause
        self.until = now + self.pause
        return self.pause

    def wait(self, now: float) -> float:
        """Seconds until it may be tried; 0 if it is not out, or its time has come."""
        return max(0.0, self.until - now) if self.cause is not None else 0.0

    def try_out(self, now: float) -> None:
        """One request tries it: nobody else does meanwhile."""
        self.trial = True
        self.until = now + TRIAL

    def end(self) -> bool:
        """Back; True if it had been out."""
        was = self.cause is not None
        self.cause, self.until, self.pause, self.trial = None, 0.0, 0.0, False
        return was


class Errors:
    """Failures among the exchanges of the last minute or so: two half windows."""

    __slots__ = ("_at", "_now", "_then")

    def __init__(self) -> None:
        self._now = [0, 0]  # failures, exchanges
        self._then = [0, 0]
        self._at = 0.0

    def count(self, failed: bool, now: float) -> None:
        if now - self._at > _ERROR_WINDOW / 2:
            self._then = self._now if now - self._at < _ERROR_WINDOW else [0, 0]
            self._now = [0, 0]
            self._at = now
        self._now[0] += failed
        self._now[1] += 1

    def recent(self, now: float) -> tuple[int, int]:
        """(failures, exchanges)."""
        age = now - self._at
        if age > _ERROR_WINDOW:
            return 0, 0
        return self._now[0] + self._then[0], self._now[1] + self._then[1]


class Health:
    """One account's: its outage, the models it may not use, and with which optional features."""

    __slots__ = ("disputes", "features", "models", "outage", "unsent")

    def __init__(self) -> None:
        self.outage = Outage()
        self.models: dict[str, float] = {}  # model -> closed until
        self.disputes: dict[tuple[str, frozenset[str]], dict[str, float]] = {}  # not yet closed: conversation -> when
        self.features: dict[tuple[str, frozenset[str]], float] = {}  # (model, features) -> closed until
        self.unsent: deque[float] = deque(maxlen=_UNSENT_LIMIT)

    def never_sent(self, now: float) -> bool:
        """A connection could not be had; True if that makes it unreachable."""
        self.unsent.append(now)
        return len(self.unsent) == _UNSENT_LIMIT and now - self.unsent[0] < _UNSENT_WITHIN


class RetryBudget:
    """Of recent requests a share may be repeated: of the last ten seconds or so, at least as many as a small pool
    needs to hide that one of its accounts is overloaded."""

    SHARE = 0.2
    LEAST = 10
    WINDOW = 10.0

    def __init__(self) -> None:
        self._at = 0.0
        self._requests = [0, 0]
        self._retries = [0, 0]

    def request(self, now: float) -> None:
        if now - self._at >= self.WINDOW:
            self._turn(now)
        self._requests[1] += 1

    def take(self, now: float) -> bool:
        """Whether one more repeat is within the budget; counts it if so."""
        if now - self._at >= self.WINDOW:
            self._turn(now)
        age = min(1.0, (now - self._at) / self.WINDOW)
        before = 1.0 - age
        allowed = max(self.LEAST, self.SHARE * (self._requests[0] * before + self._requests[1]))
        if self._retries[0] * before + self._retries[1] + 1 > allowed:
            return False
        self._retries[1] += 1
        return True

    def _turn(self, now: float) -> None:
        recent = now - self._at < 2 * self.WINDOW
        for counts in (self._requests, self._retries):
            counts[0] = counts[1] if recent else 0
            counts[1] = 0
        self._at = self._at + self.WINDOW if recent else now  # no window is longer than another


Classify = Callable[[str], str]  # model -> the class whose limits it shares
