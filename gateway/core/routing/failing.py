"""The accounts of a pool that fail where others do not: judged by how each conducts itself, avoided, and tried again.

Each process judges by its own exchanges and by what others tell of theirs. `now` is an argument everywhere (seconds of
one monotonic clock).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from hashlib import blake2b

from gateway.core.routing import broadcast
from gateway.core.routing.conduct import OWN, TRIAL, Conduct, Fault, stands_out

_MANY = 4096  # refusals remembered, which clients' inventions may fill
_SETTLED = 10.0  # seconds for which no second account is asked: two that are bad alike must not hide for longer


def unit_of(conversation: bytes) -> str:
    """A conversation as evidence names it, among processes."""
    return blake2b(conversation, digest_size=6).hexdigest()


class Failing:
    """Of one process, `process` by name. `tell` spreads facts; `due(account)` is told that a new conversation would be
    the trial of a failing account, and is to `grant` it (None: granted at once). One that does not `judge` believes
    what others say: it has no exchanges of its own."""

    def __init__(self, tell: Callable[[broadcast.Fact], None], judges: bool = True) -> None:
        self.marked: set[str] = set()  # the failing accounts
        self.due: Callable[[str], None] | None = None
        self.process = ""
        self.told: dict[str, broadcast.Failing] = {}  # who last said so, of each account
        self._sayers: dict[str, set[str]] = {}  # the processes that have said so, of each account
        self._tell = tell
        self._judges = judges
        self._conducts: dict[str, Conduct] = {}
        self._confirmed: dict[tuple[str, str], float] = {}  # (caller, kind of refusal) -> until

    def __contains__(self, account: str) -> bool:
        return account in self.marked

    def of(self, account: str) -> Conduct:
        """How an account conducts itself."""
        conduct = self._conducts.get(account)
        if conduct is None:
            conduct = self._conducts[account] = Conduct()
        return conduct

    def keep(self, accounts: Iterable[str]) -> None:
        """The pool has these accounts; others are forgotten."""
        kept = {*accounts}
        self._conducts = {name: self._conducts.get(name) or Conduct() for name in kept}
        self.marked &= kept
        self.told = {name: said for name, said in self.told.items() if name in kept}
        self._sayers = {name: said for name, said in self._sayers.items() if name in kept}

    # What exchanges show.

    def completed(self, account: str, conversation: bytes, sent_at: float, now: float) -> None:
        """An exchange with an account, begun at `sent_at`, has ended well."""
        conduct = self._conducts.get(account)
        if conduct is None:
            return  # it has been removed
        conduct.good(now)
        if conduct.pause and sent_at >= conduct.since and (conduct.tries(conversation) or conduct.clear):
            self._recover(account)
            self._tell(broadcast.Recovered(account, self.process))

    def bad(self, account: str, fault: Fault, conversation: bytes, now: float, unit: str = "") -> None:
        """An exchange of a conversation with an account has ended badly; `unit` is what it is evidence of, if not of
        the conversation."""
        conduct = self._conducts.get(account)
        if conduct is None:
            return
        trial = conduct.tries(conversation)
        unit = unit or unit_of(conversation)
        if (conduct.bad(fault, unit, now) or trial) and fault not in OWN:
            good, conduct.unreported = conduct.unreported, 0
            self._tell(broadcast.Failed(account, fault, unit, good, trial))
        if self._judge(account, trial, now):
            self._tell(self.said(account, now))

    def blames(self, account: str, conversation: bytes, now: float) -> bool:
        """Whether this conversation has lately ended badly on an account."""
        return self.of(account).has(unit_of(conversation), now)

    def _judge(self, account: str, trial: bool, now: float) -> bool:
        """Whether the account's being failing has just begun, or been prolonged."""
        conduct = self.of(account)
        if conduct.failing:
            if trial:
                conduct.again(now)
            return trial
        if not stands_out(conduct, self._conducts.values(), len(self._conducts), now):
            return False
        conduct.begin(now)
        self.marked.add(account)
        return True

    # Refusals that were asked of a second account.

    def confirmed(self, caller: str, kind: str, now: float) -> None:
        """A second account has refused the same request as well: refusals of this kind are this caller's own."""
        if len(self._confirmed) >= _MANY:
            self._confirmed.clear()
        self._confirmed[caller, kind] = now + _SETTLED

    def disproved(self, caller: str, kind: str) -> None:
        """Another account has served what one refused in this way: that was not the caller's own fault."""
        self._confirmed.pop((caller, kind), None)

    def is_confirmed(self, caller: str, kind: str, now: float) -> bool:
        """Whether a second account need not be asked."""
        return self._confirmed.get((caller, kind), 0.0) > now

    def inconclusive(self, account: str, conversation: bytes) -> None:
        """A trial showed nothing: another conversation may be it."""
        self.of(account).release(conversation)

    # Trials.

    def avoids(self, account: str, conversation: bytes, now: float) -> bool:
        """Whether this conversation should rather go elsewhere."""
        return account in self.marked and not self.of(account).tries(conversation)

    def try_out(self, account: str, conversation: bytes, now: float) -> bool:
        """Whether a new conversation becomes the trial of a failing account that is due for one."""
        conduct = self.of(account)
        if not conduct.due(now):
            return False
        if conduct.granted_until <= now and self.due is not None:
            self.due(account)
            return False
        conduct.try_out(conversation, now)
        self._tell(broadcast.Trying(account))
        return True

    def grant(self, account: str, now: float) -> None:
        """The next new conversation may be the account's trial."""
        conduct = self.of(account)
        if conduct.due(now):
            conduct.granted_until = now + TRIAL

    def postpone(self, account: str, now: float) -> None:
        """A trial need not be made: the account has failed without it."""
        conduct = self.of(account)
        if conduct.failing:
            conduct.again(now)
            self._tell(self.said(account, now))

    # What others say.

    def said(self, account: str, now: float) -> broadcast.Failing:
        """A failing account, as it is told to others."""
        conduct = self.of(account)
        due = max(0.0, conduct.until - now)
        told = broadcast.Failing(account, self.process, conduct.faults(now), due, conduct.pause)
        self.told[account] = told
        self._sayers.setdefault(account, set()).add(self.process)
        return told

    def heard(
        self, fact: broadcast.Failed | broadcast.Failing | broadcast.Trying | broadcast.Recovered, now: float
    ) -> None:
        """Another process tells of an account."""
        if fact.account not in self._conducts:
            return
        conduct = self.of(fact.account)
        if isinstance(fact, broadcast.Failed):
            known = conduct.failing
            conduct.heard(fact.good, now)
            conduct.bad(Fault(fact.fault) if fact.fault in _FAULTS else Fault.ERROR, fact.unit, now)
            if self._judges and self._judge(fact.account, fact.trial and known, now) and not known:
                self._tell(self.said(fact.account, now))  # whoever does not judge may not hear the other one say so
        elif isinstance(fact, broadcast.Failing):
            self._heard_failing(conduct, fact, now)
        elif isinstance(fact, broadcast.Trying):
            if conduct.failing:
                conduct.try_out(b"", now)
        else:
            self._recover(fact.account)

    def _heard_failing(self, conduct: Conduct, fact: broadcast.Failing, now: float) -> None:
        """Connections are each process's own experience, and whoever has exchanges judges by them."""
        self._sayers.setdefault(fact.account, set()).add(fact.process)
        own = bool(fact.faults) and fact.faults.keys() <= OWN
        if self._judges and (own or conduct.recent.recent(now)[1]):
            if conduct.failing and fact.pause > conduct.pause:
                conduct.adopt(fact.pause, fact.seconds, now)
            return
        conduct.adopt(fact.pause, fact.seconds, now)
        self.marked.add(fact.account)
        self.told[fact.account] = fact

    def forget(self, account: str) -> None:
        """An operator says that the account is in order: what it and others refused alike is asked of it again."""
        self._confirmed.clear()
        self._recover(account)

    def _recover(self, account: str) -> None:
        self.of(account).end()
        self.marked.discard(account)
        self.told.pop(account, None)
        self._sayers.pop(account, None)

    def outlive(self, running: Collection[str], now: float) -> list[str]:
        """The accounts that were failing as processes said which run no longer, and of which none has said so again
        though a trial is overdue: nobody avoids them any longer, and they are well as far as is known."""
        gone = [
            account
            for account in self.marked
            if self.of(account).until + TRIAL < now and not self._sayers.get(account, set()) & {*running}
        ]
        for account in gone:
            self._recover(account)
        return gone

    def picture(self, now: float) -> list[broadcast.Fact]:
        """The failing accounts, as they would be told to a process that has just begun."""
        told: list[broadcast.Fact] = []
        for account in self.marked:
            conduct, known = self.of(account), self.told.get(account)
            faults = known.faults if known is not None else conduct.faults(now)
            process = known.process if known is not None else self.process
            told.append(broadcast.Failing(account, process, faults, max(0.0, conduct.until - now), conduct.pause))
        return told


_FAULTS = frozenset(Fault)
