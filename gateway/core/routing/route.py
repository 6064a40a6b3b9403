"""One request's way over the pool: where it goes first, whether it waits, what it does after each answer.

Decisions only. Its owner sends, sleeps and keeps the binding; it is told what happened and asked for the next step.
Times are seconds of the router's clock, random numbers are given.
"""

from __future__ import annotations

from math import inf

import msgspec

from gateway.core.routing.binding import Record
from gateway.core.routing.blame import FAULTS, blame, conclude, confirm, convict, disputes, suspect
from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import Entry
from gateway.core.routing.outcomes import DISPUTED, Outcome
from gateway.core.routing.placement import LEAST_LOAD, NONE, Past, Placement, Reserved
from gateway.core.routing.router import CREDENTIAL, FAILING, FULL, LACKING, LIMITED, MODEL, OPEN, REMOVED, Router

MAX_WAIT = 10.0  # seconds that a request waits for a limit, at most
TOKENS_A_SECOND = 2000.0  # of cache that make it worth waiting a second
ACCOUNT_BOUND_FACTOR = 10.0  # what a history that only one account reads is worth more
MAX_WAITING = 1000  # requests of one process that wait for limits
MAX_ATTEMPTS = 10
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


class Route(msgspec.Struct, eq=False):
    """`conversation` is the ranking's key; `size` bytes of body; `ttl` the cache lifetime in seconds that the request
    asks for; `deadline` the time by which it must be answered; `own_limit` names the limit of an endpoint whose
    requests do not count against the model's; `group` names those that share its prefix, as far as it is known;
    `caller` is whose it is, `claim` the tokens that some accounts reserve for it: all of its input, and as much output
    as the answer may have.

    What is done `once` is not repeated after a failure. `placement` says where it lives, `past` what has come of it so
    far, `reserved` what it has taken of an account's limits and load.
    """

    router: Router
    conversation: bytes
    model: str
    size: int
    ttl: float
    deadline: float
    own_limit: str = ""
    group: str = ""
    caller: str = ""
    claim: float = 0.0
    once: bool = False
    tried: frozenset[str] = NONE
    barred: frozenset[str] = NONE  # accounts that have lately refused what it asks for
    lacking: frozenset[str] = NONE  # accounts whose provider does not serve what it asks for
    limit_class: str = ""
    counts: bool = True
    tokens: float = 0.0
    placement: Placement = msgspec.field(default_factory=Placement)
    past: Past = msgspec.field(default_factory=Past)
    reserved: Reserved = msgspec.field(default_factory=Reserved)

    def __post_init__(self) -> None:
        if self.own_limit:
            self.limit_class, self.counts = self.own_limit, False
        else:
            self.limit_class = self.router.classify(self.model)
            self.tokens = self.size / self.router.bytes_a_token

    # Where it lives.

    def pin(self, workspace: str, how: str = "pinned") -> None:
        """Only this workspace may serve it: an object that the request needs lives there."""
        self.placement.pinned = self.placement.workspace = workspace
        self.placement.sticky = True  # draining accounts still have their objects
        self.placement.how = how

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
        self.router.try_no_more(self.past.trials)
        self.past.trials = ()
        self.settle(0.0, 0.0, 0, now)
        if again:
            self.past.again = entry
            return
        self.leave_out(self.lacking | {entry.id})
        if entry.workspace == self.placement.workspace:
            self.placement.away = LACKING

    def propose(self, now: float) -> str | None:
        """The workspace for a conversation that nobody remembers; None if nobody may serve it now."""
        if self.placement.pinned:
            return self.placement.pinned
        workspace, _ = self._place(now)
        self.placement.chosen = True
        if workspace is not None and self.counts:
            self.reserved.take_load(self.router.loads, workspace, self._fresh(workspace, now), now)
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
            claim=self.claim,
        )

    def _follow(self, workspace: str) -> None:
        """It goes there, whatever it would have chosen itself."""
        reserved = self.reserved
        if reserved.workspace and reserved.workspace != workspace and not self.past.attempts:
            reserved.give_load(self.router.loads)

    def found(self, record: Record, created: bool, now_ms: int, how: str = "") -> None:
        """The binding as it stands at `now_ms` of the store's clock; `created` if it is new. `how` overrides the
        header's word."""
        place = self.placement
        place.record = record
        place.now_ms = now_ms
        place.workspace = place.pinned or record.workspace
        place.created = created
        place.how = "pinned" if place.pinned else how or ("new" if created else "bound")
        place.account_bound = bool(record.account_bound) or place.account_bound
        if record.tokens and self.counts:
            more = self.size - record.size
            place.rewritten = more < -record.size * _SHORTER
            if not place.rewritten:
                before, self.tokens = self.tokens, max(1.0, record.tokens + more / self.router.bytes_a_token)
                if self.claim:
                    self.claim += self.tokens - before
        self._warmth(record)
        self.group = self.group or record.group
        if not created:
            place.chosen = False
        if self.reserved.workspace:
            self._follow(place.workspace)

    def _warmth(self, record: Record) -> None:
        place = self.placement
        here, now_ms = record.workspace == place.workspace, place.now_ms
        place.warm = here and record.warm_until > now_ms and record.tokens > 0
        place.sticky = (
            place.warm or bool(place.pinned) or (here and not place.created and not record.is_cold(now_ms))
        )  # fmt: skip
        place.cached = min(self.tokens, float(record.tokens)) if place.warm and not place.rewritten else 0.0
        if self.barred and (place.warm or place.pinned):  # it is asked all the same: only its own answer moves it
            members = self.router.ring.members(place.workspace or "", b"\0")
            self.tried -= {entry.id for entry in members if entry.id in self.barred - self.lacking}

    def straight(self, record: Record, now_ms: int, now: float) -> Entry | None:
        """The account to which `found`, `better` and `next` would have it sent at once, where its conversation is warm
        by this binding. None where there is more to consider; they are asked then."""
        router, place = self.router, self.placement
        more, warm = self.size - record.size, float(record.tokens)
        if (
            router.failing.marked or record.previous or record.warm_until <= now_ms or not warm
            or more < -record.size * _SHORTER
        ):  # fmt: skip
            return None
        place.record, place.now_ms, place.workspace, place.how = record, now_ms, record.workspace, "bound"
        place.warm = place.sticky = True
        if record.account_bound:
            place.account_bound = True
        before, tokens = self.tokens, warm + more / router.bytes_a_token
        self.tokens = tokens if tokens > 1.0 else 1.0
        if self.claim:
            self.claim += self.tokens - before
        place.cached = warm if warm < tokens else self.tokens
        self.group = record.group
        fresh = tokens - warm if tokens > warm else 0.0
        entry = router.first(record.workspace, self.conversation, self.model, self.limit_class, fresh, now, self.claim)
        return entry if entry is None or entry.id not in self.tried else None

    def _fresh(self, workspace: str, now: float, cached: dict[str, float] | None = None) -> float:
        """Tokens that this workspace would have to compute."""
        place = self.placement
        known = place.cached if workspace == place.workspace else cached.get(workspace, 0.0) if cached else 0.0
        if not known and self.group:
            known = self.router.groups.shared(self.group, workspace, now) or 0.0
        return self.tokens - known if known < self.tokens else 0.0

    def better(self, now: float) -> tuple[str, str] | None:
        """Where a conversation should be rebound before it is sent, and why: to what it is pinned to, a cold one whose
        workspace has no room for it, or a warm one that may go home. None if it stays."""
        record = self.placement.record
        if record is None or not self.counts:
            return None
        if self.placement.pinned:
            return (self.placement.pinned, "object") if record.workspace != self.placement.pinned else None
        if self.placement.created:
            return None
        failing = bool(self.router.failing.marked) and self._leaves(record.workspace, now)
        if self.placement.sticky and not failing:
            return self._home(record, now) if self.placement.warm and record.previous else None
        why = FAILING if failing else self._why_not(record.workspace, now)
        if not why or (why == "load" and self.placement.account_bound):
            return None
        workspace, good = self._place(now, record.workspace if why == "load" else "")
        self.placement.chosen = True
        if workspace is None or workspace == record.workspace:
            return None
        if not good and (
            why == "load"
            or (why == FAILING and self._fails(workspace, now))
            or (why in (LIMITED, FULL) and not self._open(workspace, now))
        ):
            return None  # nobody has room
        self.reserved.take_load(self.router.loads, workspace, self._fresh(workspace, now), now)
        return workspace, "cold" if why in (LIMITED, FULL, "load") else why

    def _fails(self, workspace: str, now: float) -> bool:
        """Whether a workspace would serve it by a failing account, or not at all."""
        key, model, limit_class = self.conversation, self.model, self.limit_class
        fresh = self._fresh(workspace, now)
        entry, _ = self.router.pick(workspace, key, model, limit_class, fresh, False, now, self.tried, claim=self.claim)
        return entry is None or self.router.failing.avoids(entry.id, key, now)

    def _leaves(self, workspace: str, now: float) -> bool:
        """Whether its home fails, and it has nothing to lose there: no cache, or an answer of its own has ended badly
        there, and its history can be read elsewhere."""
        router, key = self.router, self.conversation
        if not router.fails(workspace, key, now):
            return False
        if not self.placement.warm:
            return True
        members = router.ring.members(workspace, key)
        return not self.placement.account_bound and any(router.failing.blames(entry.id, key, now) for entry in members)

    def _open(self, workspace: str, now: float) -> bool:
        """Whether an account of this workspace may take the conversation now, whatever its load."""
        fresh = self._fresh(workspace, now)
        key, model, limit_class = self.conversation, self.model, self.limit_class
        _, (why, _) = self.router.pick(
            workspace, key, model, limit_class, fresh, False, now, self.tried, claim=self.claim
        )
        return why == OPEN

    def _why_not(self, workspace: str, now: float) -> str:
        fresh = self._fresh(workspace, now)
        entry, (why, _) = self.router.pick(
            workspace, self.conversation, self.model, self.limit_class, fresh, False, now, claim=self.claim
        )
        if why == OPEN and entry is not None and self.router.over_its_share(workspace, self.model, now):
            return "load"
        return "" if why == CREDENTIAL else why

    def _home(self, record: Record, now: float) -> tuple[str, str] | None:
        """A move back to where the same cache is still warm, if the present workspace has more than its share."""
        place = self.placement
        if (
            not place.account_bound
            and record.previous_warm_until > place.now_ms
            and record.previous_tokens >= _SAME * record.tokens
            and record.voluntary + self.ttl * 1000 <= place.now_ms
            and record.previous in self.router.ring
            and self.router.over_its_share(record.workspace, self.model, now)
            and self._why_not(record.previous, now) == OPEN
        ):
            return record.previous, "home"
        return None

    def rebound(self, record: Record, how: str, reason: str) -> None:
        """The binding was moved, by this request or (its record says where to) by another."""
        self.placement.record = record
        self.placement.how, self.placement.reason = how, reason
        self.placement.moved = True
        if record.workspace != self.placement.workspace and not self.placement.pinned:
            self.placement.workspace = record.workspace
        self._follow(record.workspace)
        self._warmth(record)
        self.placement.away = ""

    # What to do next.

    def next(self, now: float, random: float) -> Step:
        """The next step; `random` is in [0, 1)."""
        place, past = self.placement, self.past
        if past.pause:
            pause, past.pause = past.pause, 0.0
            return Wait(pause)
        if past.attempts >= MAX_ATTEMPTS:
            return self.refuse(now)
        router = self.router
        again, past.again = past.again, None
        if again is not None:
            again = router.ring.accounts.get(again.id)  # as it is by now
        if again is not None:
            fresh = self._fresh(again.workspace, now)
            if router.state(again, self.model, self.limit_class, fresh, place.sticky, now, self.claim)[0] == OPEN:
                return Send(again)
        home, short, full = place.workspace, None, None
        if home is not None:
            fresh = self._fresh(home, now)
            entry, (why, wait) = router.pick(
                home, self.conversation, self.model, self.limit_class, fresh, place.sticky, now, self.tried,
                claim=self.claim,
            )  # fmt: skip
            if entry is not None and (why == OPEN or place.sticky or place.pinned):
                well = self._well(now) if entry.id in router.failing.marked and not place.sticky else None
                if well is not None:
                    place.away = FAILING
                    return Send(well)
                place.away = ""
                return Send(entry, why == FULL)
            full = entry
            if why == REMOVED and self.tried:
                why = LACKING if self.lacking else MODEL if self.barred else why
            place.away = place.away or why
            if why == LIMITED:
                if self._may_wait(wait, now):
                    pause = wait + random * min(0.5, 0.05 + wait / 4)
                    past.waited += pause
                    return Wait(pause)
                short = wait
            if place.pinned:
                return self.refuse(now, short)
        return self._elsewhere(now, short, full)

    def _well(self, now: float) -> Entry | None:
        """An account of another workspace that may serve it and does not fail, None if its own is as good."""
        router, key, model, limit_class = self.router, self.conversation, self.model, self.limit_class
        home = self.placement.workspace or ""
        if not router.fails(home, key, now):
            return None
        target, _ = router.place(
            key, model, limit_class, self.tokens, now, group=self.group, tried=self.tried, avoid=home, claim=self.claim
        )
        if target is None:
            return None
        fresh = self._fresh(target, now)
        entry, (why, _) = router.pick(target, key, model, limit_class, fresh, False, now, self.tried, claim=self.claim)
        return entry if entry is not None and why == OPEN and entry.id not in router.failing.marked else None

    def _elsewhere(self, now: float, short: float | None, full: Entry | None) -> Step:
        """Another workspace; `short` are the seconds for which its home lacks room, if that is all it lacks, `full` the
        home's account that lacks a slot."""
        router, home = self.router, self.placement.workspace or ""
        cached = self.placement.elsewhere(home, self.tokens)
        key, model, limit_class = self.conversation, self.model, self.limit_class
        avoid = "" if self.placement.chosen and not self.placement.away else home
        target, _ = router.place(
            key, model, limit_class, self.tokens, now, group=self.group, cached=cached, tried=self.tried, avoid=avoid,
            level=self.placement.away == LIMITED, claim=self.claim,
        )  # fmt: skip
        entry, why, wait = None, OPEN, 0.0
        if target is not None and short is not None and self._worth_more(target, short, cached, now):
            return Refuse(429, short)
        if target is not None:
            fresh = self._fresh(target, now, cached)
            entry, (why, wait) = router.pick(
                target, key, model, limit_class, fresh, False, now, self.tried, claim=self.claim
            )
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
        if not self.placement.warm or short * 1000 >= self.placement.warm_for:
            return False
        members = self.router.ring.members(target, self.conversation)
        fresh = self._fresh(target, now, cached)
        return not any(self.router.domain(each.organization, self.limit_class).holds(fresh) for each in members)

    def _hope(self, entry: Entry, short: float, now: float) -> Step:
        """By reckoning the account lacks room for so many seconds. What is reckoned may be a little wrong; a refusal of
        the upstream's, though, would close the account to everybody."""
        if short > HOPE:
            least, _ = self.router.opens_in(self.model, self.limit_class, now, self.tokens, self.claim)
            return self.refuse(now, min(short, least))
        if entry.workspace == self.placement.workspace:
            self.placement.away = ""
        return Send(entry, not self.router.free(entry.id))

    def _allowance(self) -> float:
        """Seconds that the cache at home is worth waiting for, in all."""
        place = self.placement
        if place.pinned:
            return MAX_WAIT
        if not place.warm:
            return 0.0
        return min(MAX_WAIT, place.cached / TOKENS_A_SECOND) * (ACCOUNT_BOUND_FACTOR if place.account_bound else 1.0)

    def _may_wait(self, seconds: float, now: float) -> bool:
        return (
            self.past.waited + seconds <= self._allowance()
            and now + seconds * 1.25 + 0.1 < self.deadline
            and self.router.waiting < MAX_WAITING
        )

    def refuse(self, now: float, seconds: float | None = None) -> Refuse:
        """What the client is told when nobody is left to ask; `seconds` if its own account says when."""
        router = self.router
        if not self.past.attempts and not router.offers(self.model, self.lacking):
            return Refuse(404, None)
        if seconds is not None and seconds < inf:
            return Refuse(429, seconds)
        if self.placement.away == FULL:
            return Refuse(529, 1.0)
        wait, limited = router.opens_in(self.model, self.limit_class, now)
        return Refuse(429 if limited else 529, wait if wait < inf else None)

    def interrupted(self, entry: Entry, now: float) -> None:
        """The account's answer has broken off, though it had begun well."""
        blame(self, entry.id, Fault.CUT, now)

    def completed(self, entry: Entry, now: float) -> None:
        """The account's answer has come whole."""
        if self.counts:
            self.router.failing.completed(entry.id, self.conversation, self.reserved.sent_at, now)

    def means(self, outcome: Outcome, retry_after: float | None, now: float, told: bool) -> Outcome:
        """What an answer of the account that was asked last is about: a 429 may be about this request alone. `told`
        says that it named what is left of limits."""
        if outcome is Outcome.LIMITED and self.reserved.domain is not None:
            return self.reserved.domain.means(self.reserved.fresh, retry_after, now, told)
        return outcome

    # What happened.

    def sent(self, entry: Entry, now: float) -> None:
        """The request goes to this account."""
        router, taken, past, place = self.router, self.reserved, self.past, self.placement
        past.attempts += 1
        if past.attempts == 1:
            router.retries.request(now)
        home = entry.workspace == place.workspace
        fresh = self._fresh(entry.workspace, now, None if home else place.elsewhere("", self.tokens))
        domain = router.domain(entry.organization, self.limit_class)
        taken.domain, taken.fresh, taken.pending = domain, fresh, True
        taken.tokens = domain.send(fresh, now)
        if domain.stated is not None:
            taken.settle_hold(0.0, 0.0, now)
            taken.hold = domain.stated.send(fresh, self.claim, now)
        if self.counts:
            taken.sent_at = now
            taken.take_load(router.loads, entry.workspace, fresh, now)
            if domain.input is not None and domain.takes_much(fresh):
                router.tell_report(now)
        past.trials = router.try_again(entry, now, self.counts)

    def open_still(self, entry: Entry, now: float) -> bool:
        """Whether an account may still be asked, now that its slot has come."""
        present = self.router.ring.accounts.get(entry.id)
        if present is None:
            return False
        fresh = self._fresh(entry.workspace, now)
        sticky = self.placement.sticky and entry.workspace == self.placement.workspace
        why, wait = self.router.state(present, self.model, self.limit_class, fresh, sticky, now, self.claim)
        return why == OPEN or (why == LIMITED and wait <= HOPE)

    def no_slot(self, entry: Entry) -> None:
        """No slot of this account came free in time."""
        self.give_up_on(entry)
        self.placement.away = self.placement.away or FULL

    def give_up_on(self, entry: Entry) -> None:
        """It is not asked again for this request."""
        self.tried |= {entry.id}

    def answer_began(self) -> None:
        """The account's answer has begun (or will not come): its own headers now say what is left."""
        domain = self.reserved.domain
        if self.reserved.pending and domain is not None:
            self.reserved.pending = False
            domain.answer_began(self.reserved.tokens)

    def ended(self) -> None:
        """It goes no further: what waited for the account's answer need not."""
        if self.reserved.pending:
            self.answer_began()
        if self.past.trials:
            self.router.try_no_more(self.past.trials)
            self.past.trials = ()

    def settle(self, fresh: float, read: float, output: int, now: float, exact: bool = True) -> None:
        """Tokens of input that the answer did not and did read from a cache, and of output; not `exact` if they are an
        estimate. Counts once for each time it was sent."""
        router, taken = self.router, self.reserved
        workspace = taken.workspace
        if taken.hold is not None:
            taken.settle_hold(fresh, output, now)
        if not workspace:
            return
        taken.workspace = ""
        total = fresh + read
        load = 0.0
        if total:
            load = fresh if fresh > LEAST_LOAD else LEAST_LOAD
            router.loads.sized(load)
            if exact:
                router.measured(self.size, total)
            if read and self.group and not self.placement.cached:
                router.groups.read(self.group, read)
        if load != taken.load:
            router.loads.correct(workspace, load - taken.load, taken.load_at)
        if output and taken.domain is not None and taken.domain.output is not None:
            taken.domain.output.take(output, now)

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
        router.learn(entry, self.limit_class, outcome, retry_after, now, self.reserved.fresh)
        if self.past.trials and outcome in (Outcome.UNSENT, Outcome.UNABLE):
            router.try_no_more(self.past.trials)
        self.past.trials = ()
        if outcome in _LOAD:
            self.reserved.workspace = ""  # it stays: an account that only refuses or breaks is not idle
            self.reserved.settle_hold(self.reserved.fresh if outcome in FAULTS else 0.0, 0.0, now)
        else:
            self.settle(0.0, 0.0, 0, now)
        home = entry.workspace == self.placement.workspace
        if outcome is Outcome.LIMITED:
            if entry.id in self.past.limited:
                self.give_up_on(entry)
            self.past.limited |= {entry.id}
        elif outcome is Outcome.OVERLOADED:
            return self._repeat_overloaded(entry, home, now, random)
        elif outcome in DISPUTED:
            if not disputes(self, entry, outcome, kind, features, now):
                return False
        elif outcome in (Outcome.UNAUTHORIZED, Outcome.SPENT, Outcome.UNSENT, Outcome.UNABLE):
            if outcome is Outcome.UNSENT and self.counts:
                router.failing.bad(entry.id, Fault.UNSENT, self.conversation, now)
            elif outcome is Outcome.UNAUTHORIZED:
                suspect(self, entry, outcome, features)
            self.give_up_on(entry)
        elif outcome in (Outcome.FAILED, Outcome.IMPROPER, Outcome.BROKEN):
            again = outcome is not Outcome.BROKEN or repeat
            if not again or self.once or not self._may_repeat(now):
                confirm(self, entry, outcome, now)
                return False
            suspect(self, entry, outcome, features)
            self.past.repeated = True
            self.give_up_on(entry)
        else:
            confirm(self, entry, outcome, now)
            return False
        if home:
            self.placement.away = _AWAY[outcome]
            if outcome in FAULTS and router.fails(entry.workspace, self.conversation, now):
                self.placement.away = "errors"
        return True

    def _may_repeat(self, now: float) -> bool:
        """Whether it may be sent again after a failure. The budget is of requests that are repeated: one whose account
        was asked twice has paid for another account."""
        if self.past.repeated:
            return False
        return self.past.insisted or self.router.retries.take(now)

    def _repeat_overloaded(self, entry: Entry, home: bool, now: float, random: float) -> bool:
        """The model is overloaded: once more in place where the cache is worth the wait, and once elsewhere."""
        pause = 0.5 + 1.5 * random
        in_place = home and not self.past.insisted and self._may_wait(pause, now)
        if (self.placement.pinned and not in_place) or not self._may_repeat(now):
            return False
        if in_place:
            self.past.insisted = True
            self.past.again, self.past.pause = entry, pause
            self.past.waited += pause
            return True
        self.past.repeated = True
        self.give_up_on(entry)
        if home:
            self.placement.away = "overloaded"
        return True

    def unserved(self, now: float) -> None:
        """No account has served it, and none will: what remains is what happened on those that were asked."""
        conclude(self, now)

    def served(self, entry: Entry, now: float) -> str:
        """This account's answer goes to the client. Returns why the conversation should now be bound to its workspace,
        "" if it should not."""
        place = self.placement
        self.answer_began()
        self.past.trials = ()
        self.router.served(entry, self.reserved.domain, now, self.counts)
        if self.group:
            self.router.groups.touch(self.group, entry.workspace, now + self.ttl)
        router = self.router
        if self.past.suspicions:
            convict(self, entry, now)
            if place.away == "failed" and router.fails(place.workspace or "", self.conversation, now):
                place.away = "errors"
        if place.record is None or entry.workspace == place.workspace:
            return ""
        if not self.counts:  # what costs nothing is no reason to move what does
            place.how, place.reason = (
                "detour" if place.how != "stateless" else place.how,
                place.away,
            )
            return ""
        if place.created:
            return place.away or "out"  # no cache anywhere yet: it lives where it was served first
        if place.away == FULL and not place.sticky and not place.moved:
            return FULL  # nothing is lost by staying there
        if place.away in _DETOURS or place.moved:
            place.how = "detour" if place.how != "stateless" else place.how
            place.reason = place.away
            return ""
        return place.away or "out"


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
# Those after which the account had the request, whatever it made of it.
_LOAD = frozenset({*FAULTS, Outcome.DENIED, Outcome.DECLINED, Outcome.REFUSED, Outcome.OVERLOADED})
# Reasons for which a conversation is served elsewhere once and keeps its binding.
_DETOURS = frozenset({"overloaded", "failed", "unsent", CREDENTIAL, FULL, LACKING})
