"""One request's way over the pool: where it goes first, whether it waits, what it does after each answer.

Decisions only. Its owner sends, sleeps and keeps the binding; it is told what happened and asked for the next step.
Times are seconds of the router's clock, random numbers are given.
"""

from __future__ import annotations

from math import inf

import msgspec

from gateway.core.routing.binding import Record
from gateway.core.routing.document import Entry
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.rate_limits import Domain
from gateway.core.routing.router import CREDENTIAL, FULL, LIMITED, OPEN, Router

MAX_WAIT = 10.0  # seconds that a request waits for a limit, at most
TOKENS_A_SECOND = 2000.0  # of cache that make it worth waiting a second
ACCOUNT_BOUND_FACTOR = 10.0  # what a history that only one account reads is worth more
MAX_WAITING = 1000  # requests of one process that wait for limits
MAX_ATTEMPTS = 10
LEAST_LOAD = 100.0  # tokens that a served request counts for at least, however much it reads from a cache
HOPE = 1.0  # seconds of refill that a request may lack and be sent nevertheless
WORTH_A_MOVE = 10_000.0  # fresh tokens a minute below which no workspace has too much to do
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


class Route:
    """`conversation` is the ranking's key; `size` bytes of body; `ttl` the cache lifetime in seconds that the request
    asks for; `deadline` the time by which it must be answered; `own_limit` names the limit of an endpoint whose
    requests do not count against the model's; `group` names those that share its prefix, as far as it is known.

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
    away = ""  # why its home does not serve it, "" while it does
    pinned = ""
    created = warm = sticky = account_bound = once = False
    cached = 0.0
    tried: frozenset[str] = frozenset()
    _chosen = False  # the home was chosen for its room just now
    _again: Entry | None = None
    _pause = 0.0
    _repeated = False
    _moved = False  # this request has rebound its conversation: once is enough
    _denied: Entry | None = None
    _limited: frozenset[str] = frozenset()
    _attempts = 0
    _waited = 0.0
    _pending = False
    _reserved = 0.0
    _load = ""
    _loaded = 0.0
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

    def propose(self, now: float) -> str | None:
        """The workspace for a conversation that nobody remembers; None if nobody may serve it now."""
        if self.pinned:
            return self.pinned
        workspace, _ = self._place(now)
        self._chosen = True
        return workspace

    def _place(self, now: float) -> tuple[str | None, bool]:
        return self.router.place(self.conversation, self.model, self.limit_class, self.tokens, now, group=self.group)

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
            if more > -record.size / 2:  # else it has been compacted, or is another sort of request
                self.tokens = max(1.0, record.tokens + more / self.router.bytes_a_token)
        self._warmth(record)
        self.group = self.group or record.group
        if not created:
            self._chosen = False

    def _warmth(self, record: Record) -> None:
        in_use = record.warm_until > self.now_ms and record.workspace == self.workspace
        self.warm = in_use and record.tokens > 0
        self.sticky = self.warm or (in_use and not self.created) or bool(self.pinned)
        self.cached = min(self.tokens, float(record.tokens)) if self.warm else 0.0

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
        if self.sticky:
            return self._home(record, now) if self.warm else None
        why = self._why_not(record.workspace, now)
        if not why or (why == "load" and self.account_bound):
            return None
        workspace, good = self._place(now)
        self._chosen = True
        if workspace is None or workspace == record.workspace:
            return None
        if not good and (why == "load" or (why in (LIMITED, FULL) and not self._open(workspace, now))):
            return None  # nobody has room
        return workspace, "cold" if why in (LIMITED, FULL, "load") else why

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
        if why == OPEN and entry is not None and not self.router.within_cap(workspace, self.model, now):
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
            and self.router.loads.of(record.workspace, now) > WORTH_A_MOVE
            and not self.router.within_cap(record.workspace, self.model, now)
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
                self.away = ""
                return Send(entry, why == FULL)
            full = entry
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

    def _elsewhere(self, now: float, short: float | None, full: Entry | None) -> Step:
        """Another workspace; `short` are the seconds for which its home lacks room, if that is all it lacks, `full` the
        home's account that lacks a slot."""
        router, home = self.router, self.workspace or ""
        cached = self._cached_elsewhere(home)
        key, model, limit_class = self.conversation, self.model, self.limit_class
        avoid = "" if self._chosen and not self.away else home
        target, _ = router.place(
            key, model, limit_class, self.tokens, now, group=self.group, cached=cached, tried=self.tried, avoid=avoid
        )
        entry, why, wait = None, OPEN, 0.0
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
        if not self._attempts and not router.offers(self.model):
            return Refuse(404, None)
        if seconds is not None and seconds < inf:
            return Refuse(429, seconds)
        if self.away == FULL:
            return Refuse(529, 1.0)
        wait, limited = router.opens_in(self.model, self.limit_class, now)
        return Refuse(429 if limited else 529, wait if wait < inf else None)

    def interrupted(self, entry: Entry, now: float) -> None:
        """The account's answer has broken off, though it had begun well."""
        self.router.learn(entry, self.model, self.limit_class, Outcome.BROKEN, None, now)

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
        domain.reserved += fresh
        domain.asked += 1
        self.domain, self._reserved, self._pending = domain, fresh, True
        if self.counts:
            self._load, self._loaded = entry.workspace, max(fresh, LEAST_LOAD)
            self._sent_at = now
            router.loads.add(entry.workspace, self._loaded, now)
        router.try_again(entry, now, self.counts)

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
            domain.asked -= 1
            domain.reserved = domain.reserved - self._reserved if domain.asked else 0.0

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
        router.loads.correct(workspace, load - self._loaded, self._sent_at)
        if output and self.domain is not None and self.domain.output is not None:
            self.domain.output.take(output, now)

    def answered(
        self, entry: Entry, outcome: Outcome, retry_after: float | None, now: float, random: float, repeat: bool = False
    ) -> bool:
        """An exchange has this outcome, which is not SERVED. Returns whether it is worth asking for another step;
        `repeat` allows to send again what was sent and not answered."""
        self.answer_began()
        router = self.router
        router.learn(entry, self.model, self.limit_class, outcome, retry_after, now)
        self.settle(0.0, 0.0, 0, now)
        home = entry.workspace == self.workspace
        if outcome is Outcome.LIMITED:
            if entry.id in self._limited:
                self._give_up_on(entry)
            self._limited |= {entry.id}
        elif outcome is Outcome.OVERLOADED:
            return self._repeat_overloaded(entry, home, now, random)
        elif outcome is Outcome.DENIED:
            if self._denied is not None or (self.pinned and not self.model):
                return False  # of an object each account of its workspace says the same
            self._denied = entry
            self._give_up_on(entry)
        elif outcome in (Outcome.UNAUTHORIZED, Outcome.SPENT, Outcome.UNSENT):
            self._give_up_on(entry)
        elif outcome is Outcome.FAILED or (outcome is Outcome.BROKEN and repeat):
            if self.once or self._repeated or not router.retries.take(now):
                return False
            self._repeated = True
            self._give_up_on(entry)
        else:
            return False
        if home:
            self.away = _AWAY[outcome]
            if outcome is Outcome.FAILED and router.failing(entry.id, now):
                self.away = "errors"
        return True

    def _repeat_overloaded(self, entry: Entry, home: bool, now: float, random: float) -> bool:
        """The model is overloaded: once more in place where the cache is worth the wait, else once elsewhere."""
        if self._repeated or not self.router.retries.take(now):
            return False
        self._repeated = True
        pause = 0.5 + 1.5 * random
        if home and self._may_wait(pause, now):
            self._again, self._pause = entry, pause
            self._waited += pause
            return True
        if self.pinned:
            return False
        self._give_up_on(entry)
        if home:
            self.away = "overloaded"
        return True

    def served(self, entry: Entry, now: float) -> str:
        """This account's answer goes to the client. Returns why the conversation should now be bound to its workspace,
        "" if it should not."""
        self.answer_began()
        self.router.served(entry, self.domain, now, self.counts)
        if self.group:
            self.router.groups.touch(self.group, entry.workspace, now + self.ttl)
        denied = self._denied
        if denied is not None and denied.id != entry.id and self.model and self.counts:
            self.router.no_model(denied, self.model, now)
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
    Outcome.UNSENT: "unsent",
    Outcome.FAILED: "failed",
    Outcome.BROKEN: "failed",
}
# Reasons for which a conversation is served elsewhere once and keeps its binding.
_DETOURS = frozenset({"overloaded", "failed", "unsent", CREDENTIAL, FULL})
