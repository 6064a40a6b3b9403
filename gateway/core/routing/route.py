"""One request's way over the pool: where it goes first, whether it waits, what it does after each answer.

Decisions only. Its owner sends, sleeps and keeps the binding; it is told what happened and asked for the next step.
Times are seconds of the router's clock, random numbers are given.
"""

from __future__ import annotations

from math import inf

import msgspec

from gateway.core.routing.binding import Record
from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import Entry
from gateway.core.routing.failing import unit_of
from gateway.core.routing.outcomes import DISPUTED, Outcome
from gateway.core.routing.rate_limits import Domain
from gateway.core.routing.router import CREDENTIAL, FAILING, FULL, LACKING, LIMITED, MODEL, OPEN, REMOVED, Router
from gateway.core.routing.standing import Trial

MAX_WAIT = 10.0  # seconds that a request waits for a limit, at most
TOKENS_A_SECOND = 2000.0  # of cache that make it worth waiting a second
ACCOUNT_BOUND_FACTOR = 10.0  # what a history that only one account reads is worth more
MAX_WAITING = 1000  # requests of one process that wait for limits
MAX_ATTEMPTS = 10
LEAST_LOAD = 100.0  # tokens that a served request counts for at least, however much it reads from a cache
HOPE = 1.0  # seconds of refill that a request may lack and be sent nevertheless
_SHORTER = 0.03  # of a turn's body, by which the next one is shorter only if it has been compacted, or is another sort
_SAME = 0.95  # of the tokens that make an older cache as good as the present one


class Send(msgspec.Struct, frozen=True):
    """Ask this account; `full` says that a slot must be waited for first."""

    entry: Entry
    full: bool = False


class Wait(msgspec.Struct, frozen=True):
    """Sleep, without a slot, and ask again for a step."""

    seconds: float


class Refuse(msgspec.Struct, frozen=True):
    """Nobody can serve this now: 429 or 529, 404 where nobody is meant to; `seconds` until somebody may."""

    status: int
    seconds: float | None


Step = Send | Wait | Refuse
NONE: frozenset[str] = frozenset()


class Suspicion(msgspec.Struct, frozen=True):
    """An answer of an account that may be its own fault, or the request's: what another account says will show.
    `features` are the optional ones of the request."""

    entry: Entry
    outcome: Outcome
    features: frozenset[str] = NONE


class Route:
    """`conversation` is the ranking's key; `size` bytes of body; `ttl` the cache lifetime in seconds that the request
    asks for; `deadline` the time by which it must be answered; `own_limit` names the limit of an endpoint whose
    requests do not count against the model's; `group` names those that share its prefix, as far as it is known;
    `caller` is whose it is.

    `workspace` is its home, None until it has one; there the conversation is `warm` while its cache lives, and
    `sticky` if it is warm or its first answer is on its way. `pinned` is the one workspace that may serve it, "" if
    any may; what is done `once` is not repeated after a failure. `how` is what the x-gateway-route header says,
    `reason` why.
    """

    workspace: str | None = None
    record: Record | None = None
    domain: Domain | None = None  # the limits of the account that was asked last
    now_ms = 0
    how = "none"
    reason = ""
    group = ""
    caller = ""
    away = ""  # why its home does not serve it, "" while it does
    pinned = ""
    created = warm = sticky = account_bound = once = False
    rewritten = False  # its history is not the one that is in the cache
    cached = 0.0
    tried = NONE
    barred = NONE  # accounts that have lately refused what it asks for
    lacking = NONE  # accounts whose provider does not serve what it asks for
    _suspicions: tuple[Suspicion, ...] = ()
    _chosen = False  # the home was chosen for its room just now
    _again: Entry | None = None
    _trials: tuple[Trial, ...] = ()  # what it is the trial of
    _pause = 0.0
    _insisted = False  # an overloaded account was asked twice
    _repeated = False  # another account was asked after a failure: once is enough
    _moved = False  # this request has rebound its conversation: once is enough
    _limited = NONE
    _attempts = 0
    _waited = 0.0
    _pending = False
    _fresh_sent = 0.0  # input tokens that the account asked last has to compute
    _reserved = 0.0  # of them, for its limit
    _load = ""
    _loaded = 0.0
    _loaded_at = 0.0
    _sent_at = 0.0

    def __init__(
        self,
        router: Router,
        conversation: bytes,
        model: str,
        size: int,
        ttl: float,
        deadline: float,
        own_limit: str = "",
    ) -> None:
        self.router = router
        self.conversation = conversation
        self.model = model
        self.limit_class = own_limit or router.classify(model)
        self.size = size
        self.counts = not own_limit
        self.tokens = size / router.bytes_a_token if self.counts else 0.0
        self.ttl = ttl
        self.deadline = deadline

    # Where it lives.

    def pin(self, workspace: str, how: str = "pinned") -> None:
        """Only this workspace may serve it: an object that the request needs lives there."""
        self.pinned = self.workspace = workspace
        self.sticky = True  # draining accounts still have their objects
        self.how = how

    def bar(self, features: frozenset[str], now: float) -> None:
        """It asks for these optional features: accounts that have lately refused them are not asked."""
        self.barred = self.router.barred(self.model, features, now)
        self.tried |= self.barred

    def leave_out(self, accounts: frozenset[str]) -> None:
        """These cannot serve it, whatever happens."""
        self.lacking = accounts
        self.tried |= accounts

    def unfit(self, entry: Entry, again: bool, now: float) -> None:
        """The account has refused what nobody knew that it lacks: it is asked `again` without that, or not for this
        request. That is nobody's fault."""
        self.answer_began()
        self.router.try_no_more(self._trials)
        self._trials = ()
        self.settle(0.0, 0.0, 0, now)
        if again:
            self._again = entry
            return
        self.leave_out(self.lacking | {entry.id})
        if entry.workspace == self.workspace:
            self.away = LACKING

    def propose(self, now: float) -> str | None:
        """The workspace for a conversation that nobody remembers; None if nobody may serve it now."""
        if self.pinned:
            return self.pinned
        workspace, _ = self._place(now)
        self._chosen = True
        if workspace is not None and self.counts:
            self._reserve(workspace, self._fresh(workspace, now), now)
        return workspace

    def _place(self, now: float, avoid: str = "") -> tuple[str | None, bool]:
        key, model, limit_class = self.conversation, self.model, self.limit_class
        return self.router.place(
            key,
            model,
            limit_class,
            self.tokens,
            now,
            group=self.group,
            tried=self.tried if self.counts else self.tried - self.lacking,  # others of it may well go there
            avoid=avoid,
            trial=self.counts,
        )

    def _reserve(self, workspace: str, fresh: float, now: float) -> None:
        """Its load goes there from now on: whatever else chooses counts it."""
        if self._load:
            self._release()
        self._load, self._loaded, self._loaded_at = workspace, max(fresh, LEAST_LOAD), now
        self.router.loads.add(workspace, self._loaded, now)

    def _follow(self, workspace: str) -> None:
        """It goes there, whatever it would have chosen itself."""
        if self._load and self._load != workspace and not self._attempts:
            self._release()

    def _release(self) -> None:
        """Its load goes nowhere."""
        self.router.loads.correct(self._load, -self._loaded, self._loaded_at)
        self._load = ""

    def found(self, record: Record, created: bool, now_ms: int, how: str = "") -> None:
        """The binding as it stands at `now_ms` of the store's clock; `created` if it is new. `how` overrides the
        header's word."""
        self.record = record
        self.now_ms = now_ms
        self.workspace = self.pinned or record.workspace
        self.created = created
        self.how = "pinned" if self.pinned else how or ("new" if created else "bound")
        self.account_bound = bool(record.account_bound) or self.account_bound
        if record.tokens and self.counts:
            more = self.size - record.size
            self.rewritten = more < -record.size * _SHORTER
            if not self.rewritten:
                self.tokens = max(1.0, record.tokens + more / self.router.bytes_a_token)
        self._warmth(record)
        self.group = self.group or record.group
        if not created:
            self._chosen = False
        if self._load:
            self._follow(self.workspace)

    def _warmth(self, record: Record) -> None:
        here, now_ms = record.workspace == self.workspace, self.now_ms
        self.warm = here and record.warm_until > now_ms and record.tokens > 0
        in_use = here and not self.created and not record.is_cold(now_ms)
        self.sticky = self.warm or in_use or bool(self.pinned)
        self.cached = min(self.tokens, float(record.tokens)) if self.warm and not self.rewritten else 0.0
        if self.barred and (self.warm or self.pinned):  # it is asked all the same: only its own answer moves it
            members = self.router.ring.members(self.workspace or "", b"\0")
            self.tried -= {entry.id for entry in members if entry.id in self.barred - self.lacking}

    def _fresh(self, workspace: str, now: float, cached: dict[str, float] | None = None) -> float:
        """Tokens that this workspace would have to compute."""
        known = self.cached if workspace == self.workspace else cached.get(workspace, 0.0) if cached else 0.0
        if not known and self.group:
            known = self.router.groups.shared(self.group, workspace, now) or 0.0
        return self.tokens - known if known < self.tokens else 0.0

    def better(self, now: float) -> tuple[str, str] | None:
        """Where a conversation should be rebound before it is sent, and why: to what it is pinned to, a cold one whose
        workspace has no room for it, or a warm one that may go home. None if it stays."""
        record = self.record
        if record is None or not self.counts:
            return None
        if self.pinned:
            return (self.pinned, "object") if record.workspace != self.pinned else None
        if self.created:
            return None
        failing = bool(self.router.failing.marked) and self._leaves(record.workspace, now)
        if self.sticky and not failing:
            return self._home(record, now) if self.warm else None
        why = FAILING if failing else self._why_not(record.workspace, now)
        if not why or (why == "load" and self.account_bound):
            return None
        workspace, good = self._place(now, record.workspace if why == "load" else "")
        self._chosen = True
        if workspace is None or workspace == record.workspace:
            return None
        if not good and (
            why == "load"
            or (why == FAILING and self._fails(workspace, now))
            or (why in (LIMITED, FULL) and not self._open(workspace, now))
        ):
            return None  # nobody has room
        self._reserve(workspace, self._fresh(workspace, now), now)
        return workspace, "cold" if why in (LIMITED, FULL, "load") else why

    def _fails(self, workspace: str, now: float) -> bool:
        """Whether a workspace would serve it by a failing account, or not at all."""
        key, model, limit_class = self.conversation, self.model, self.limit_class
        fresh = self._fresh(workspace, now)
        entry, _ = self.router.pick(workspace, key, model, limit_class, fresh, False, now, self.tried)
        return entry is None or self.router.failing.avoids(entry.id, key, now)

    def _leaves(self, workspace: str, now: float) -> bool:
        """Whether its home fails, and it has nothing to lose there: no cache, or an answer of its own has ended badly
        there, and its history can be read elsewhere."""
        router, key = self.router, self.conversation
        if not router.fails(workspace, key, now):
            return False
        if not self.warm:
            return True
        members = router.ring.members(workspace, key)
        return not self.account_bound and any(router.failing.blames(entry.id, key, now) for entry in members)

    def _open(self, workspace: str, now: float) -> bool:
        """Whether an account of this workspace may take the conversation now, whatever its load."""
        fresh = self._fresh(workspace, now)
        key, model, limit_class = self.conversation, self.model, self.limit_class
        return self.router.pick(workspace, key, model, limit_class, fresh, False, now, self.tried)[1][0] == OPEN

    def _why_not(self, workspace: str, now: float) -> str:
        fresh = self._fresh(workspace, now)
        entry, (why, _) = self.router.pick(
            workspace, self.conversation, self.model, self.limit_class, fresh, False, now
        )
        if why == OPEN and entry is not None and self.router.over_its_share(workspace, self.model, now):
            return "load"
        return "" if why == CREDENTIAL else why

    def _home(self, record: Record, now: float) -> tuple[str, str] | None:
        """A move back to where the same cache is still warm, if the present workspace has more than its share."""
        if (
            record.previous
            and not self.account_bound
            and record.previous_warm_until > self.now_ms
            and record.previous_tokens >= _SAME * record.tokens
            and record.voluntary + self.ttl * 1000 <= self.now_ms
            and record.previous in self.router.ring
            and self.router.over_its_share(record.workspace, self.model, now)
            and self._why_not(record.previous, now) == OPEN
        ):
            return record.previous, "home"
        return None

    def rebound(self, record: Record, how: str, reason: str) -> None:
        """The binding was moved, by this request or (its record says where to) by another."""
        self.record = record
        self.how, self.reason = how, reason
        self._moved = True
        if record.workspace != self.workspace and not self.pinned:
            self.workspace = record.workspace
        self._follow(record.workspace)
        self._warmth(record)
        self.away = ""

    @property
    def warm_for(self) -> int:
        """Milliseconds that the cache at home was still warm for when the binding was read; negative if cold."""
        return self.record.warm_until - self.now_ms if self.record is not None else 0

    # What to do next.

    def next(self, now: float, random: float) -> Step:
        """The next step; `random` is in [0, 1)."""
        if self._pause:
            pause, self._pause = self._pause, 0.0
            return Wait(pause)
        if self._attempts >= MAX_ATTEMPTS:
            return self.refuse(now)
        router = self.router
        again, self._again = self._again, None
        if again is not None:
            again = router.ring.accounts.get(again.id)  # as it is by now
        if again is not None:
            fresh = self._fresh(again.workspace, now)
            if router.state(again, self.model, self.limit_class, fresh, self.sticky, now)[0] == OPEN:
                return Send(again)
        home, short, full = self.workspace, None, None
        if home is not None:
            fresh = self._fresh(home, now)
            entry, (why, wait) = router.pick(
                home, self.conversation, self.model, self.limit_class, fresh, self.sticky, now, self.tried
            )
            if entry is not None and (why == OPEN or self.sticky or self.pinned):
                well = self._well(now) if entry.id in router.failing.marked and not self.sticky else None
                if well is not None:
                    self.away = FAILING
                    return Send(well)
                self.away = ""
                return Send(entry, why == FULL)
            full = entry
            if why == REMOVED and self.tried:
                why = LACKING if self.lacking else MODEL if self.barred else why
            self.away = self.away or why
            if why == LIMITED:
                if self._may_wait(wait, now):
                    pause = wait + random * min(0.5, 0.05 + wait / 4)
                    self._waited += pause
                    return Wait(pause)
                short = wait
            if self.pinned:
                return self.refuse(now, short)
        return self._elsewhere(now, short, full)

    def _well(self, now: float) -> Entry | None:
        """An account of another workspace that may serve it and does not fail, None if its own is as good."""
        router, key, model, limit_class = self.router, self.conversation, self.model, self.limit_class
        home = self.workspace or ""
        if not router.fails(home, key, now):
            return None
        target, _ = router.place(
            key, model, limit_class, self.tokens, now, group=self.group, tried=self.tried, avoid=home
        )
        if target is None:
            return None
        entry, (why, _) = router.pick(target, key, model, limit_class, self._fresh(target, now), False, now, self.tried)
        return entry if entry is not None and why == OPEN and entry.id not in router.failing.marked else None

    def _elsewhere(self, now: float, short: float | None, full: Entry | None) -> Step:
        """Another workspace; `short` are the seconds for which its home lacks room, if that is all it lacks, `full` the
        home's account that lacks a slot."""
        router, home = self.router, self.workspace or ""
        cached = self._cached_elsewhere(home)
        key, model, limit_class = self.conversation, self.model, self.limit_class
        avoid = "" if self._chosen and not self.away else home
        target, _ = router.place(
            key, model, limit_class, self.tokens, now, group=self.group, cached=cached, tried=self.tried, avoid=avoid,
            level=self.away == LIMITED,
        )  # fmt: skip
        entry, why, wait = None, OPEN, 0.0
        if target is not None and short is not None and self._worth_more(target, short, cached, now):
            return Refuse(429, short)
        if target is not None:
            fresh = self._fresh(target, now, cached)
            entry, (why, wait) = router.pick(target, key, model, limit_class, fresh, False, now, self.tried)
            if entry is not None and why == OPEN:
                return Send(entry)
        if full is not None:
            return Send(full, True)
        if short is not None:
            # Nobody has room for it, and at its home it needs least: it may hope there if it nearly fits.
            there = router.reckoned(home, key, model, limit_class, now, self.tried)
            if there is not None:
                return self._hope(there, short, now)
        if target is None:
            return self.refuse(now)
        if entry is not None:
            return Send(entry, True)
        entry = router.reckoned(target, key, model, limit_class, now, self.tried)
        return self.refuse(now) if entry is None else self._hope(entry, wait, now)

    def _worth_more(self, target: str, short: float, cached: dict[str, float] | None, now: float) -> bool:
        """Whether the cache at home, which lacks room for so many seconds, is worth more than what a move could win: it
        lives that long, and what would be lost is more than the target's whole limit."""
        if not self.warm or short * 1000 >= self.warm_for:
            return False
        members = self.router.ring.members(target, self.conversation)
        fresh = self._fresh(target, now, cached)
        return not any(self.router.domain(each.organization, self.limit_class).holds(fresh) for each in members)

    def _hope(self, entry: Entry, short: float, now: float) -> Step:
        """By reckoning the account lacks room for so many seconds. What is reckoned may be a little wrong; a refusal of
        the upstream's, though, would close the account to everybody."""
        if short > HOPE:
            least, _ = self.router.opens_in(self.model, self.limit_class, now, self.tokens)
            return self.refuse(now, min(short, least))
        if entry.workspace == self.workspace:
            self.away = ""
        return Send(entry, not self.router.free(entry.id))

    def _cached_elsewhere(self, home: str) -> dict[str, float] | None:
        """Tokens of this conversation that other workspaces still hold."""
        record = self.record
        if record is None or not (record.detour or record.previous):
            return None
        found: dict[str, float] = {}
        if record.previous and record.previous != home and record.previous_warm_until > self.now_ms:
            found[record.previous] = min(self.tokens, float(record.previous_tokens))
        if record.detour and record.detour != home and record.detour_warm_until > self.now_ms:
            found[record.detour] = max(found.get(record.detour, 0.0), min(self.tokens, float(record.tokens)))
        return found or None

    def _allowance(self) -> float:
        """Seconds that the cache at home is worth waiting for, in all."""
        if self.pinned:
            return MAX_WAIT
        if not self.warm:
            return 0.0
        return min(MAX_WAIT, self.cached / TOKENS_A_SECOND) * (ACCOUNT_BOUND_FACTOR if self.account_bound else 1.0)

    def _may_wait(self, seconds: float, now: float) -> bool:
        return (
            self._waited + seconds <= self._allowance()
            and now + seconds * 1.25 + 0.1 < self.deadline
            and self.router.waiting < MAX_WAITING
        )

    def refuse(self, now: float, seconds: float | None = None) -> Refuse:
        """What the client is told when nobody is left to ask; `seconds` if its own account says when."""
        router = self.router
        if not self._attempts and not router.offers(self.model, self.lacking):
            return Refuse(404, None)
        if seconds is not None and seconds < inf:
            return Refuse(429, seconds)
        if self.away == FULL:
            return Refuse(529, 1.0)
        wait, limited = router.opens_in(self.model, self.limit_class, now)
        return Refuse(429 if limited else 529, wait if wait < inf else None)

    def interrupted(self, entry: Entry, now: float) -> None:
        """The account's answer has broken off, though it had begun well."""
        self._blame(entry.id, Fault.CUT, now)

    def completed(self, entry: Entry, now: float) -> None:
        """The account's answer has come whole."""
        if self.counts:
            self.router.failing.completed(entry.id, self.conversation, self._sent_at, now)

    def means(self, outcome: Outcome, retry_after: float | None, now: float, told: bool) -> Outcome:
        """What an answer of the account that was asked last is about: a 429 may be about this request alone. `told`
        says that it named what is left of limits."""
        if outcome is Outcome.LIMITED and self.domain is not None:
            return self.domain.means(self._fresh_sent, retry_after, now, told)
        return outcome

    # What happened.

    def sent(self, entry: Entry, now: float) -> None:
        """The request goes to this account."""
        router = self.router
        self._attempts += 1
        if self._attempts == 1:
            router.retries.request(now)
        home = entry.workspace == self.workspace
        fresh = self._fresh(entry.workspace, now, None if home else self._cached_elsewhere(""))
        domain = router.domain(entry.organization, self.limit_class)
        self.domain, self._fresh_sent, self._pending = domain, fresh, True
        self._reserved = domain.send(fresh, now)
        if self.counts:
            self._sent_at = now
            self._reserve(entry.workspace, fresh, now)
            if domain.takes_much(fresh):
                router.tell_report(now)
        self._trials = router.try_again(entry, now, self.counts)

    def open_still(self, entry: Entry, now: float) -> bool:
        """Whether an account may still be asked, now that its slot has come."""
        present = self.router.ring.accounts.get(entry.id)
        if present is None:
            return False
        fresh = self._fresh(entry.workspace, now)
        sticky = self.sticky and entry.workspace == self.workspace
        why, wait = self.router.state(present, self.model, self.limit_class, fresh, sticky, now)
        return why == OPEN or (why == LIMITED and wait <= HOPE)

    def no_slot(self, entry: Entry) -> None:
        """No slot of this account came free in time."""
        self._give_up_on(entry)
        self.away = self.away or FULL

    def _give_up_on(self, entry: Entry) -> None:
        self.tried |= {entry.id}

    def answer_began(self) -> None:
        """The account's answer has begun (or will not come): its own headers now say what is left."""
        domain = self.domain
        if self._pending and domain is not None:
            self._pending = False
            domain.answer_began(self._reserved)

    def ended(self) -> None:
        """It goes no further: what waited for the account's answer need not."""
        self.answer_began()
        self.router.try_no_more(self._trials)
        self._trials = ()

    def settle(self, fresh: float, read: float, output: int, now: float, exact: bool = True) -> None:
        """Tokens of input that the answer did not and did read from a cache, and of output; not `exact` if they are an
        estimate. Counts once for each time it was sent."""
        router, workspace = self.router, self._load
        if not workspace:
            return
        self._load = ""
        total = fresh + read
        load = 0.0
        if total:
            load = fresh if fresh > LEAST_LOAD else LEAST_LOAD
            router.loads.sized(load)
            if exact:
                router.measured(self.size, total)
            if read and self.group and not self.cached:
                router.groups.read(self.group, read)
        router.loads.correct(workspace, load - self._loaded, self._loaded_at)
        if output and self.domain is not None and self.domain.output is not None:
            self.domain.output.take(output, now)

    def answered(
        self,
        entry: Entry,
        outcome: Outcome,
        retry_after: float | None,
        now: float,
        random: float,
        repeat: bool = False,
        kind: str = "",
        features: frozenset[str] = NONE,
    ) -> bool:
        """An exchange has this outcome, which is not SERVED. Returns whether it is worth asking for another step;
        `repeat` allows to send again what was sent and not answered. `kind` names refusals alike, `features` are the
        optional ones that the request asks for."""
        self.answer_began()
        router = self.router
        router.learn(entry, self.limit_class, outcome, retry_after, now, self._fresh_sent)
        if self._trials and outcome in (Outcome.UNSENT, Outcome.UNABLE):
            router.try_no_more(self._trials)
        self._trials = ()
        if outcome in _LOAD:
            self._load = ""  # it stays: an account that only refuses or breaks is not idle
        else:
            self.settle(0.0, 0.0, 0, now)
        home = entry.workspace == self.workspace
        if outcome is Outcome.LIMITED:
            if entry.id in self._limited:
                self._give_up_on(entry)
            self._limited |= {entry.id}
        elif outcome is Outcome.OVERLOADED:
            return self._repeat_overloaded(entry, home, now, random)
        elif outcome in DISPUTED:
            if not self._disputes(entry, outcome, kind, features, now):
                return False
        elif outcome in (Outcome.UNAUTHORIZED, Outcome.SPENT, Outcome.UNSENT, Outcome.UNABLE):
            if outcome is Outcome.UNSENT and self.counts:
                router.failing.bad(entry.id, Fault.UNSENT, self.conversation, now)
            elif outcome is Outcome.UNAUTHORIZED:
                self._suspect(entry, outcome, features)
            self._give_up_on(entry)
        elif outcome in (Outcome.FAILED, Outcome.IMPROPER, Outcome.BROKEN):
            again = outcome is not Outcome.BROKEN or repeat
            if not again or self.once or not self._may_repeat(now):
                self._confirm(entry, outcome, now)
                return False
            self._suspect(entry, outcome, features)
            self._repeated = True
            self._give_up_on(entry)
        else:
            self._confirm(entry, outcome, now)
            return False
        if home:
            self.away = _AWAY[outcome]
            if outcome in _FAULTS and router.fails(entry.workspace, self.conversation, now):
                self.away = "errors"
        return True

    # Whose fault it is.

    @property
    def _is_disputed(self) -> bool:
        """Whether an account has refused it as the client's mistake, perhaps."""
        return any(each.outcome in DISPUTED for each in self._suspicions)

    def _blame(self, account: str, fault: Fault, now: float) -> None:
        """What is pinned has no other account that could excuse this one: then a caller counts once."""
        if self.counts:
            unit = unit_of(b"caller " + self.caller.encode()) if self.pinned else ""
            self.router.failing.bad(account, fault, self.conversation, now, unit)

    def _suspect(self, entry: Entry, outcome: Outcome, features: frozenset[str]) -> None:
        self._suspicions += (Suspicion(entry, outcome, features),)

    def _disputes(self, entry: Entry, outcome: Outcome, kind: str, features: frozenset[str], now: float) -> bool:
        """Whether another account is to be asked whether it refuses the request as well."""
        failing = self.router.failing
        if self._is_disputed:
            failing.confirmed(self.caller, kind, now)
            self._unexplained(entry, outcome, now)
            self._confirm(entry, outcome, now)
            return False
        if (self.pinned and not self.model) or failing.is_confirmed(self.caller, kind, now):
            failing.inconclusive(entry.id, self.conversation)
            self._unexplained(entry, outcome, now)
            return False  # of an object each account of its workspace says the same
        self._suspect(entry, outcome, features)
        self._give_up_on(entry)
        if outcome is not Outcome.DENIED and outcome is not Outcome.DECLINED:
            accounts = self.router.ring.accounts.values()
            self.tried |= {each.id for each in accounts if each.organization == entry.organization}
        return True

    def _unexplained(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """What several accounts say alike may be the caller's own fault: it is theirs once several callers hear it."""
        alike = [each.entry for each in self._suspicions if each.outcome is Outcome.UNEXPLAINED]
        if outcome is Outcome.UNEXPLAINED:
            for each in (*alike, entry):
                unit = unit_of(b"caller " + self.caller.encode())
                self.router.unexplained(each, self.limit_class, unit, now)

    def _confirm(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """The request ends with an answer that is not good. What two accounts say alike tells nothing of either."""
        alike = DISPUTED if outcome in DISPUTED else _FAULTS
        excused = [each for each in self._suspicions if each.outcome in alike]
        self._suspicions = tuple(each for each in self._suspicions if each.outcome not in alike)
        for each in excused:
            self.router.failing.inconclusive(each.entry.id, self.conversation)
        if not excused and outcome in _FAULTS:
            self._blame(entry.id, _FAULTS[outcome], now)
        else:
            self.router.failing.inconclusive(entry.id, self.conversation)

    def unserved(self, now: float) -> None:
        """No account has served it, and none will: what remains is what happened on those that were asked."""
        suspicions, self._suspicions = self._suspicions, ()
        for each in suspicions:
            if each.outcome in _FAULTS:
                self._blame(each.entry.id, _FAULTS[each.outcome], now)
            elif each.outcome is Outcome.UNEXPLAINED:
                self.router.unexplained(each.entry, self.limit_class, unit_of(self.conversation), now)

    def _convict(self, by: Entry, now: float) -> None:
        """Another account has served what these did not."""
        router, suspicions = self.router, self._suspicions
        self._suspicions = ()
        for entry, outcome, features in ((each.entry, each.outcome, each.features) for each in suspicions):
            if entry.id == by.id or not self.counts:
                continue
            unit = ""
            if outcome is Outcome.UNEXPLAINED:
                router.unexplained(entry, self.limit_class, unit_of(self.conversation), now)
                continue
            if outcome is Outcome.OVERSIZED:
                continue
            if outcome in DISPUTED and self.model and (features or outcome is Outcome.DENIED):
                if outcome is Outcome.DENIED:
                    router.denied(entry, self.model, features, now)
                else:
                    router.disputed(entry, self.model, features, unit_of(self.conversation), now)
                unit = " ".join((self.model, *sorted(features)))
            fault = Fault.KEY if outcome is Outcome.UNAUTHORIZED else _FAULTS.get(outcome, Fault.REFUSAL)
            router.failing.bad(entry.id, fault, self.conversation, now, unit)

    def _may_repeat(self, now: float) -> bool:
        """Whether it may be sent again after a failure. The budget is of requests that are repeated: one whose account
        was asked twice has paid for another account."""
        if self._repeated or self._is_disputed:
            return False
        return self._insisted or self.router.retries.take(now)

    def _repeat_overloaded(self, entry: Entry, home: bool, now: float, random: float) -> bool:
        """The model is overloaded: once more in place where the cache is worth the wait, and once elsewhere."""
        pause = 0.5 + 1.5 * random
        in_place = home and not self._insisted and self._may_wait(pause, now)
        if (self.pinned and not in_place) or not self._may_repeat(now):
            return False
        if in_place:
            self._insisted = True
            self._again, self._pause = entry, pause
            self._waited += pause
            return True
        self._repeated = True
        self._give_up_on(entry)
        if home:
            self.away = "overloaded"
        return True

    def served(self, entry: Entry, now: float) -> str:
        """This account's answer goes to the client. Returns why the conversation should now be bound to its workspace,
        "" if it should not."""
        self.answer_began()
        self._trials = ()
        self.router.served(entry, self.domain, now, self.counts)
        if self.group:
            self.router.groups.touch(self.group, entry.workspace, now + self.ttl)
        router = self.router
        if self._suspicions:
            self._convict(entry, now)
            if self.away == "failed" and router.fails(self.workspace or "", self.conversation, now):
                self.away = "errors"
        if self.record is None or entry.workspace == self.workspace:
            return ""
        if not self.counts:  # what costs nothing is no reason to move what does
            self.how, self.reason = "detour" if self.how != "stateless" else self.how, self.away
            return ""
        if self.created:
            return self.away or "out"  # no cache anywhere yet: it lives where it was served first
        if self.away == FULL and not self.sticky and not self._moved:
            return FULL  # nothing is lost by staying there
        if self.away in _DETOURS or self._moved:
            self.how = "detour" if self.how != "stateless" else self.how
            self.reason = self.away
            return ""
        return self.away or "out"


# Why the home does not serve, by the outcome of asking it.
_AWAY = {
    Outcome.LIMITED: "limited",
    Outcome.UNAUTHORIZED: "out",
    Outcome.SPENT: "out",
    Outcome.DENIED: "model",
    Outcome.DECLINED: "refused",
    Outcome.OVERSIZED: "limited",
    Outcome.UNEXPLAINED: "limited",
    Outcome.UNABLE: "unsent",
    Outcome.UNSENT: "unsent",
    Outcome.FAILED: "failed",
    Outcome.BROKEN: "failed",
    Outcome.IMPROPER: "failed",
}
# Ends of exchanges that speak against an account, unless another one's is alike.
_FAULTS = {Outcome.FAILED: Fault.ERROR, Outcome.IMPROPER: Fault.ERROR, Outcome.BROKEN: Fault.CUT}
# Those after which the account had the request, whatever it made of it.
_LOAD = frozenset({*_FAULTS, Outcome.DENIED, Outcome.DECLINED, Outcome.REFUSED, Outcome.OVERLOADED})
# Reasons for which a conversation is served elsewhere once and keeps its binding.
_DETOURS = frozenset({"overloaded", "failed", "unsent", CREDENTIAL, FULL, LACKING})
