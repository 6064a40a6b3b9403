"""Whether an account fails where the others do not, and how one that does comes back: by trials, one at a time.

Good and bad ends of exchanges go in; nothing of limits, credentials or money, which close an account by themselves. A
bad end counts once a minute for each kind and unit (a conversation, or a set of optional features), so that one
conversation that always fails, or one client's odd requests, prove nothing. Times are seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from gateway.core.routing.health import Errors

EVIDENCE = 60.0  # seconds for which a bad end is remembered
FIRST_PAUSE = 10.0  # seconds until a failing account gets its first trial; each that follows doubles it
LONGEST_PAUSE = 300.0
TRIAL = 30.0  # seconds within which a trial's answer is expected
_NEWEST = 0.3  # what the latest exchange counts for in `share`; the one before it 0.7 times as much, and so on
_MOST = 256  # units remembered
_FEW = 5  # bad ends in the last minute from which on a smaller share tells something
_TRIALS = 8  # conversations that are remembered as such
_CLEAR = 0.1  # of the latest exchanges: below it a failing account is well again without a trial
_TOLD = 20  # good ends that others hear of with a bad one, at most: more say nothing new


class Fault(StrEnum):
    """How an exchange ended badly."""

    REFUSAL = "refusals"  # that another account did not give
    ERROR = "errors"  # 5xx but 529, an error as first event, no answer of the API
    CUT = "cuts"  # sent, and no whole answer
    KEY = "keys"  # 401: of those who have the same key alone
    UNSENT = "connections"  # no connection


OWN = frozenset({Fault.KEY, Fault.UNSENT})  # a process's own experience, which it tells nobody


class Conduct:
    """One account's. It is `failing` from `since` until a trial went well; the next trial is due at `until`, `pause`
    seconds after the last."""

    __slots__ = (
        "_faults", "granted_until", "pause", "recent", "share", "since", "tried", "trying_until", "unreported", "until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.share = 0.0  # of bad ends, among the latest
        self.recent = Errors()  # of the last minute
        self.unreported = 0  # good ends since others were last told of a bad one
        self._faults: dict[tuple[str, str], float] = {}  # (kind, unit) -> when
        self.since = self.until = self.pause = 0.0
        self.tried: tuple[bytes, ...] = ()  # the conversations that are its trials: an answer may take its time
        self.trying_until = 0.0
        self.granted_until = 0.0  # until then the next new conversation may be its trial

    def __repr__(self) -> str:
        return f"<Conduct {'failing' if self.failing else 'well'} share={self.share:.2f}>"

    @property
    def failing(self) -> bool:
        return self.pause > 0.0

    def good(self, now: float) -> None:
        """An exchange has ended well."""
        self.share *= 1.0 - _NEWEST
        self.recent.count(False, now)
        self.unreported += 1

    def heard(self, good: int, now: float) -> None:
        """Another process has had so many exchanges that ended well."""
        self.share *= (1.0 - _NEWEST) ** min(good, _TOLD)
        for _ in range(min(good, _TOLD)):
            self.recent.count(False, now)

    def bad(self, fault: Fault, unit: str, now: float) -> bool:
        """An exchange has ended badly; True if that is new for its kind and unit, and therefore counts."""
        faults, key = self._faults, (fault.value, unit)
        before = faults.pop(key, None)
        faults[key] = now if before is None or now - before >= EVIDENCE else before
        while len(faults) > _MOST:
            del faults[next(iter(faults))]
        if faults[key] != now:
            return False
        self.share += (1.0 - self.share) * _NEWEST
        self.recent.count(True, now)
        return True

    def faults(self, now: float) -> dict[str, int]:
        """Of the last minute: how many conversations (or sets of features) ended badly, by kind."""
        found: dict[str, int] = {}
        for (kind, _), at in self._faults.items():
            if now - at < EVIDENCE:
                found[kind] = found.get(kind, 0) + 1
        return found

    def has(self, unit: str, now: float) -> bool:
        """Whether this conversation, or set of features, ended badly in the last minute."""
        return any(now - self._faults.get((fault, unit), -EVIDENCE) < EVIDENCE for fault in Fault)

    def units(self, now: float) -> int:
        """How many conversations, or sets of features, ended badly in the last minute."""
        return len({unit for (_, unit), at in self._faults.items() if now - at < EVIDENCE})

    # Failing.

    def begin(self, now: float) -> None:
        """It is failing from now on."""
        self.since, self.pause = now, FIRST_PAUSE
        self._wait(now)

    def again(self, now: float) -> None:
        """A trial went badly."""
        self.pause = min(LONGEST_PAUSE, self.pause * 2)
        self._wait(now)

    def _wait(self, now: float) -> None:
        self.until = now + self.pause
        self.tried, self.trying_until, self.granted_until = (), 0.0, 0.0

    def adopt(self, pause: float, seconds: float, now: float) -> None:
        """Another process says that it is failing, and when its next trial is due."""
        self.since = self.since or now
        self.pause, self.until = pause, now + seconds

    def due(self, now: float) -> bool:
        """Whether it may have a trial now."""
        return self.pause > 0.0 and self.until <= now and self.trying_until <= now

    def try_out(self, conversation: bytes, now: float) -> None:
        """This conversation is its trial, or (empty) one of another process is: no other meanwhile."""
        self.trying_until, self.granted_until = now + TRIAL, 0.0
        if conversation:
            self.tried = (*self.tried[1 - _TRIALS :], conversation)

    def tries(self, conversation: bytes) -> bool:
        """Whether this conversation is a trial of it."""
        return conversation in self.tried

    def release(self, conversation: bytes) -> None:
        """A trial showed nothing: another conversation may be it."""
        if conversation in self.tried:
            self.tried = tuple(each for each in self.tried if each != conversation)
            self.trying_until = 0.0

    @property
    def clear(self) -> bool:
        """Whether it has done well of late although it was failing."""
        return self.share < _CLEAR

    def end(self) -> None:
        """It is well again: what it did is forgotten."""
        self.share = self.since = self.until = self.pause = self.trying_until = 0.0
        self.tried, self.granted_until, self.unreported = (), 0.0, 0
        self._faults.clear()
        self.recent = Errors()


def needed(accounts: int) -> int:
    """Of how many conversations, in a pool of so many accounts, the bad ends make one failing; 0: it cannot be."""
    return 0 if accounts < 2 else 2 if accounts < 4 else 3


def stands_out(of: Conduct, others: Iterable[Conduct], accounts: int, now: float) -> bool:
    """Whether one account of so many fails clearly more than the rest: in enough conversations, in most of its latest
    exchanges or in a fifth of the last minute's, and at more than three times the rate of half of the others. The rest
    may fail as well: of what others do well, a process hears little."""
    conversations = needed(accounts)
    if not conversations or of.units(now) < conversations:
        return False
    bad, all_of = of.recent.recent(now)
    lately = of.share > 1.0 - (1.0 - _NEWEST) ** conversations - 1e-9
    if not all_of or not (lately or (bad >= _FEW and bad >= all_of * 0.2)):
        return False
    rest = [each.recent.recent(now) for each in others if each is not of]
    rates = sorted(failed / asked for failed, asked in rest if asked)
    return not rates or bad > 3 * rates[(len(rates) - 1) // 2] * all_of
