"""The pool as one process sees it, and the choices over it: who may serve, where to go, what answers change.

One predicate, `state`, decides eligibility for every path. Nothing here waits, sends or reads a clock: `now` is an
argument (seconds of one monotonic clock). What one request goes through is the business of `route`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from math import inf

from gateway.core import news as say
from gateway.core.document import Entry, PoolDocument
from gateway.core.groups import Groups
from gateway.core.health import (
    FAILURES,
    MODEL_PAUSE,
    PAUSES,
    TRIAL,
    Cause,
    Classify,
    Errors,
    Health,
    Outage,
    RetryBudget,
    stands_out,
)
from gateway.core.limits import KINDS, Domain
from gateway.core.load import Loads
from gateway.core.ring import Ring
from gateway.core.routing import Outcome

BOUND = 1.25  # of the mean load, up to which a workspace takes new conversations
RAMP = 300.0  # seconds over which an account that joined a running pool comes up to that bound
_RAMP_FROM = 0.1
_MEAN_FOR = 0.2  # seconds that the mean load is reckoned for
_MATCHES = 4096
_NEWS = 0.5  # seconds that a closure must have grown by to be worth telling
_MEASURABLE = 1000  # tokens from which on a body tells how many bytes make one

# Why an account cannot serve. The empty string: it can.
OPEN = ""
LIMITED = "limited"
OUT = "out"
DISABLED = "disabled"
DRAINING = "draining"
REMOVED = "removed"
MODEL = "model"
CREDENTIAL = "credential"  # this process does not hold it (yet)
FULL = "full"

State = tuple[str, float]  # why not, seconds until it may be otherwise (infinity: nobody knows)
_OPEN: State = (OPEN, 0.0)


class Router:
    """`classify(model)` names the class whose limits a model shares; `tell` spreads news to other processes; `free`
    says whether an account has a slot now. `held` are the accounts whose credentials this process has."""

    def __init__(
        self,
        classify: Classify,
        tell: Callable[[say.News], None] = lambda news: None,
        free: Callable[[str], bool] = lambda account: True,
    ) -> None:
        self.classify = classify
        self.tell = tell
        self.free = free
        self.held: frozenset[str] | None = None  # None: all of them
        self.loads = Loads()
        self.groups = Groups()
        self.retries = RetryBudget()
        self.waiting = 0  # requests that wait for a limit
        self.bytes_a_token = 4.0  # of request bodies, as lately seen
        self._health: dict[str, Health] = {}
        self._organizations: dict[str, Outage] = {}
        self._domains: dict[tuple[str, str], Domain] = {}
        self._classes: dict[str, dict[str, Domain]] = {}  # the same, by organization
        self._serves: dict[tuple[str, str], bool] = {}
        self._ramps: dict[str, list[tuple[float, float]]] = {}
        self._means: dict[str, tuple[float, float]] = {}
        self.ring = Ring(PoolDocument())

    def apply(self, document: PoolDocument, now: float, wall: float = 0.0) -> None:
        """Route over this document from now on; `wall` is `now` in Unix seconds, the document's clock."""
        self.ring = Ring(document)
        self._serves.clear()
        self._means.clear()
        self._wall = wall - now
        self._ramps = {}
        for entry in document.accounts:
            if entry.since > 0.0 and wall - entry.since < RAMP:
                for member in self.ring.members(entry.workspace, b"\0"):
                    self._ramps.setdefault(entry.workspace, []).append((member.weight, member.since))

    # Who may serve.

    def health(self, account: str) -> Health:
        health = self._health.get(account)
        if health is None:
            health = self._health[account] = Health()
        return health

    def organization(self, name: str) -> Outage:
        outage = self._organizations.get(name)
        if outage is None:
            outage = self._organizations[name] = Outage()
        return outage

    def domain(self, organization: str, limit_class: str) -> Domain:
        domain = self._domains.get((organization, limit_class))
        if domain is None:
            if len(self._domains) >= _MATCHES:  # models of clients' own invention
                self._forget_one()
            domain = self._domains[organization, limit_class] = Domain()
            self._classes.setdefault(organization, {})[limit_class] = domain
        return domain

    def _forget_one(self) -> None:
        """The oldest domain that nothing is known of."""
        idle = (
            place
            for place, domain in self._domains.items()
            if not domain.asked and domain.input is None and domain.closed_until == 0.0
        )
        organization, limit_class = next(idle, None) or next(iter(self._domains))
        del self._domains[organization, limit_class]
        del self._classes[organization][limit_class]

    def serves(self, entry: Entry, model: str) -> bool:
        """Whether the account is meant to serve `model` ("" for any)."""
        known = self._serves.get((entry.id, model))
        if known is None:
            known = not model or any(fnmatchcase(model, pattern) for pattern in entry.models)
            if len(self._serves) >= _MATCHES:
                self._serves.clear()
            self._serves[entry.id, model] = known
        return known

    def state(self, entry: Entry, model: str, limit_class: str, fresh: float, warm: bool, now: float) -> State:
        """Whether an account may get a request of `fresh` input tokens now; `warm` says that the conversation's cache
        is there, which a draining account still serves."""
        if entry.state != "active":
            if entry.state != "draining":
                return DISABLED, inf
            if not warm or 0.0 < entry.drain_until < now + self._wall:
                return DRAINING, inf
        if not self.serves(entry, model):
            return MODEL, inf
        if self.held is not None and entry.id not in self.held:
            return CREDENTIAL, inf
        health = self._health.get(entry.id)
        if health is not None:
            if health.outage.cause is not None and health.outage.until > now:
                return OUT, health.outage.until - now
            if health.models and health.models.get(model, 0.0) > now:
                return OUT, health.models[model] - now
        outage = self._organizations.get(entry.organization)
        if outage is not None and outage.until > now:
            return OUT, outage.until - now
        domain = self._domains.get((entry.organization, limit_class))
        if domain is not None:
            wait = domain.wait(fresh, now)
            if wait > 0.0:
                return LIMITED, wait
        return _OPEN

    def pick(
        self,
        workspace: str,
        key: bytes,
        model: str,
        limit_class: str,
        fresh: float,
        warm: bool,
        now: float,
        tried: Iterable[str] = (),
    ) -> tuple[Entry | None, State]:
        """The account of `workspace` to ask: the first by rank that may serve, has a slot, and does not stand out by
        errors; (None, why) if none may. `full` comes with the account whose slot to wait for."""
        best: State = (REMOVED, inf)
        full: Entry | None = None
        failing: Entry | None = None
        unheld = False
        members = self.ring.members(workspace, key)
        for entry in members:
            if entry.id in tried:
                continue
            state = self.state(entry, model, limit_class, fresh, warm, now)
            if state is not _OPEN:
                unheld = unheld or state[0] == CREDENTIAL
                # What will pass, soonest first; else rather that only this process cannot.
                if state[1] < best[1] or (best[1] == inf == state[1] and best[0] != CREDENTIAL):
                    best = state
            elif not self.free(entry.id):
                full = full or entry
            elif len(members) > 1 and self.failing(entry.id, now):
                failing = failing or entry
            else:
                return entry, _OPEN
        if failing is not None:
            return failing, _OPEN
        if full is not None:
            return full, (FULL, 0.0)
        if unheld and best[0] == OUT:
            return None, (CREDENTIAL, inf)  # another process may serve it there
        return None, best

    def failing(self, account: str, now: float) -> bool:
        """Whether an account's failures stand out from the pool's."""
        health = self._health.get(account)
        if health is None or health.errors.recent(now)[0] < FAILURES:
            return False
        others: list[Errors] = [each.errors for each in self._health.values()]
        return stands_out(health.errors, others, now)

    # Where to.

    def within_bound(self, workspace: str, model: str, now: float) -> bool:
        """Whether the workspace's load leaves room for new conversations."""
        load = self.loads.of(workspace, now)
        if not load:
            return True
        return load <= self.bound(workspace, model, now)

    def bound(self, workspace: str, model: str, now: float) -> float:
        """The load (fresh tokens a minute) up to which a workspace takes new conversations."""
        bound = BOUND * self._mean(model, now) * self.ring.weight(workspace) + self.loads.p95
        ramps = self._ramps.get(workspace)
        if ramps:
            wall = now + self._wall
            share = sum(
                weight * (min(1.0, _RAMP_FROM + (1.0 - _RAMP_FROM) * max(0.0, wall - since) / RAMP) if since else 1.0)
                for weight, since in ramps
            )
            bound *= share / sum(weight for weight, _ in ramps)
        return bound

    def _mean(self, model: str, now: float) -> float:
        """Load by weight, over the workspaces that may take new conversations for `model`."""
        known = self._means.get(model)
        if known is not None and known[0] > now:
            return known[1]
        limit_class = self.classify(model)
        load = weights = 0.0
        for workspace in self.ring:
            for entry in self.ring.members(workspace, b"\0"):
                if self.state(entry, model, limit_class, 0.0, False, now)[0] in (OPEN, LIMITED):
                    load += self.loads.of(workspace, now)
                    weights += self.ring.weight(workspace)
                    break
        mean = load / weights if weights else 0.0
        if len(self._means) > _MATCHES:
            self._means.clear()
        self._means[model] = (now + _MEAN_FOR, mean)
        return mean

    def ranked(self, key: bytes, model: str) -> str | None:
        """Where a conversation goes by rank alone: the same on every replica that has seen the same pool."""
        for workspace in self.ring.rank(key):
            if any(
                entry.state == "active" and self.serves(entry, model) for entry in self.ring.members(workspace, key)
            ):
                return workspace
        return None

    def place(
        self,
        key: bytes,
        model: str,
        limit_class: str,
        tokens: float,
        now: float,
        *,
        group: str = "",
        cached: dict[str, float] | None = None,
        tried: Iterable[str] = (),
        avoid: str = "",
    ) -> tuple[str | None, bool]:
        """The workspace for a conversation that has to go somewhere, None if nobody may serve it, and whether it has
        room.

        Room means that the workspace's load is within its bound, and that limits allow what is not in a cache there.
        Where part of it is `cached` (workspace -> tokens) comes first, the larger part before. A conversation of no
        `group` then gets the first by rank that has room; another the least busy one that has, of those in which the
        group's prefix is warm if there are any. If none has room, it is one that limits allow, the least busy, else the
        one that lacks least.
        """
        roomiest: tuple[bool, float, float] = (False, -inf, -inf)
        fallback: str | None = None
        best: tuple[bool, float] | None = None
        chosen: str | None = None
        order = self.ring.rank(key)
        if cached:
            order = [*sorted(cached, key=lambda name: -cached[name]), *(name for name in order if name not in cached)]
        for workspace in order:
            if workspace == avoid or workspace not in self.ring:
                continue
            own = cached.get(workspace, 0.0) if cached else 0.0
            shared = self.groups.shared(group, workspace, now) if group else None
            fresh = max(0.0, tokens - max(own, shared or 0.0))
            entry, (why, _) = self.pick(workspace, key, model, limit_class, fresh, False, now, tried)
            room = own > 0.0 or self.within_bound(workspace, model, now)
            if room and entry is not None and why == OPEN and not self.failing(entry.id, now):
                if own > 0.0 or not group:
                    return workspace, True
                # Of those that hold the group's prefix, else of all: the least busy.
                rank = (shared is None, self.loads.of(workspace, now) / self.ring.weight(workspace))
                if best is None or rank < best:
                    best, chosen = rank, workspace
                continue
            if best is not None:
                continue
            if entry is None:
                entry = self.reckoned(workspace, key, model, limit_class, now, tried)
                if entry is None:
                    continue
            domain = self._domains.get((entry.organization, limit_class))
            left = inf if domain is None else domain.headroom(now)
            load = self.loads.of(workspace, now) / self.ring.weight(workspace)
            much = (why == OPEN, 0.0 if why == OPEN else -1e12 if why == FULL else left, -load)
            if much > roomiest:
                roomiest, fallback = much, workspace
        if chosen is not None:
            return chosen, True
        return fallback, False

    def reckoned(
        self, workspace: str, key: bytes, model: str, limit_class: str, now: float, tried: Iterable[str]
    ) -> Entry | None:
        """An account that at most lacks room, and that only by reckoning: no answer has closed it."""
        for entry in self.ring.members(workspace, key):
            if entry.id not in tried and self.state(entry, model, limit_class, 0.0, False, now)[0] in (OPEN, LIMITED):
                domain = self._domains.get((entry.organization, limit_class))
                if domain is None or domain.closed_until <= now:
                    return entry
        return None

    def opens_in(self, model: str, limit_class: str, now: float, fresh: float = 0.0) -> tuple[float, bool]:
        """Seconds until any account may serve `model` again, with `fresh` tokens of input, and whether a limit is what
        keeps that one closed."""
        limited = out = inf
        for workspace in self.ring:
            for entry in self.ring.members(workspace, b"\0"):
                why, wait = self.state(entry, model, limit_class, fresh, False, now)
                if why == LIMITED:
                    limited = min(limited, wait)
                elif why == OUT:
                    out = min(out, wait)
        return (limited, True) if limited < inf else (out, False)

    def offers(self, model: str) -> bool:
        """Whether any account of the pool is meant to serve `model` ("" for any)."""
        return any(entry.state != "disabled" and self.serves(entry, model) for entry in self.ring.accounts.values())

    # What answers change.

    def learn(
        self, entry: Entry, model: str, limit_class: str, outcome: Outcome, asked: float | None, now: float
    ) -> None:
        """An exchange with an account has ended so, and not well; `asked` is its retry-after in seconds."""
        health = self.health(entry.id)
        if outcome is Outcome.LIMITED:
            domain = self.domain(entry.organization, limit_class)
            before = domain.closed_until
            seconds = domain.close(asked, now)
            if domain.closed_until > before + _NEWS or before <= now:
                self.tell(say.Closed(entry.organization, limit_class, seconds))
        elif outcome is Outcome.SPENT:
            seconds = self.organization(entry.organization).begin(Cause.BILLING, now)
            self.tell(say.Out(entry.organization, Cause.BILLING, seconds, entry.id))
        elif outcome is Outcome.UNAUTHORIZED:
            seconds = health.outage.begin(Cause.CREDENTIAL, now)
            self.tell(say.Out(entry.id, Cause.CREDENTIAL, seconds, entry.id))
        elif outcome is Outcome.UNSENT:
            health.errors.count(True, now)
            if health.never_sent(now) or health.outage.cause is Cause.UNREACHABLE:
                seconds = health.outage.begin(Cause.UNREACHABLE, now)
                self.tell(say.Out(entry.id, Cause.UNREACHABLE, seconds, entry.id))
        else:
            health.errors.count(outcome is Outcome.FAILED or outcome is Outcome.BROKEN, now)

    def served(self, entry: Entry, domain: Domain | None, now: float, paid: bool = True) -> None:
        """An account has answered well; `paid` says that it was something that costs money."""
        health = self._health.get(entry.id)
        if health is None:
            health = self._health[entry.id] = Health()
        health.errors.count(False, now)
        back = health.outage.cause is not None and health.outage.end()
        outage = self._organizations.get(entry.organization)
        if paid and outage is not None and outage.cause is not None:
            back = outage.end()
        if back:
            self.tell(say.Back(entry.id, paid=paid))
        if domain is not None:
            domain.pause = 0.0

    def try_again(self, entry: Entry, now: float, paid: bool = True) -> None:
        """A request goes to an account. If its outage has run out this is the trial: nobody else asks meanwhile. What
        is not `paid` cannot show whether there is money again."""
        health = self._health.get(entry.id)
        if health is not None and health.outage.cause is not None and health.outage.until <= now:
            health.outage.try_out(now)
            self.tell(say.Out(entry.id, health.outage.cause, TRIAL))
        outage = self._organizations.get(entry.organization)
        if paid and outage is not None and outage.cause is not None and outage.until <= now:
            outage.try_out(now)
            self.tell(say.Out(entry.organization, outage.cause, TRIAL))

    def no_model(self, entry: Entry, model: str, now: float) -> None:
        """Another account has served what this one denied: it is not asked for the model for a while."""
        models = self.health(entry.id).models
        if len(models) >= _MATCHES:
            models.clear()  # of clients' own invention, most of them
        models[model] = now + MODEL_PAUSE
        self.tell(say.ModelClosed(entry.id, model, MODEL_PAUSE))

    # What others tell, and what they are told.

    def heard(self, news: say.News, now: float) -> None:
        """News of another process."""
        if isinstance(news, say.Report):
            self._report(news, now)
        elif isinstance(news, say.Closed):
            domain = self.domain(news.organization, news.limit_class)
            domain.closed_until = max(domain.closed_until, now + news.seconds)
        elif isinstance(news, say.Out):
            billing = news.cause is Cause.BILLING
            outage = self.organization(news.name) if billing else self.health(news.name).outage
            if outage.cause is not news.cause and outage.until > now + news.seconds:
                return  # out for longer, and for another reason
            outage.cause, outage.until, outage.trial = news.cause, now + news.seconds, False
            outage.pause = max(outage.pause, news.seconds, PAUSES[news.cause].first)
        elif isinstance(news, say.Back):
            self._back(news)
        elif isinstance(news, say.ModelClosed):
            self.health(news.account).models[news.model] = now + news.seconds

    def _back(self, news: say.Back) -> None:
        health = self.health(news.account)
        health.outage.end()
        health.unsent.clear()
        entry = self.ring.accounts.get(news.account)
        if entry is not None and (news.paid or news.wholly):
            self.organization(entry.organization).end()
        if news.wholly:
            self.retries = RetryBudget()
            self._health[news.account] = Health()
            for domain in self._classes.get(entry.organization, {}).values() if entry is not None else ():
                domain.reset()

    def picture(self, now: float) -> list[say.News]:
        """Everything that is closed or out, as it would be told to a process that has just begun."""
        told: list[say.News] = []
        for name, health in self._health.items():
            if health.outage.cause is not None:
                told.append(say.Out(name, health.outage.cause, health.outage.wait(now)))
            told += [say.ModelClosed(name, model, until - now) for model, until in health.models.items() if until > now]
        for name, outage in self._organizations.items():
            if outage.cause is not None:
                told.append(say.Out(name, outage.cause, outage.wait(now)))
        for (organization, limit_class), domain in self._domains.items():
            if domain.closed_until > now:
                told.append(say.Closed(organization, limit_class, domain.closed_until - now))
        return told

    def limits(self, organization: str, now: float) -> dict[str, dict[str, float]]:
        """What is known of an organization's limits: class -> limits, what is left of them, seconds it is closed."""
        found: dict[str, dict[str, float]] = {}
        for limit_class, domain in self._classes.get(organization, {}).items():
            row: dict[str, float] = {}
            for kind in KINDS:
                bucket = getattr(domain, kind)
                if bucket is not None:
                    row[f"{kind}_limit"] = bucket.limit
                    row[f"{kind}_left"] = max(0.0, round(bucket.left(now)))
            if domain.closed_until > now:
                row["closed_for"] = round(domain.closed_until - now, 1)
            if row:
                found[limit_class] = row
        return found

    def closed_classes(self, organization: str, now: float) -> list[str]:
        """The classes of models for which a 429 has closed an organization."""
        return [name for name, domain in self._classes.get(organization, {}).items() if domain.closed_until > now]

    def _report(self, news: say.Report, now: float) -> None:
        for workspace, tokens in news.loads.items():
            self.loads.add_others(workspace, tokens, now)
        for seen in news.domains:
            domain = self.domain(seen.organization, seen.limit_class)
            domain.others[news.process] = (seen.reserved, seen.asked, now)
            for kind, (limit, left, age) in seen.buckets.items():
                domain.heard(kind, limit, left, now - age)

    def measured(self, size: int, tokens: float) -> None:
        """A body of `size` bytes was `tokens` of input."""
        if tokens > _MEASURABLE:
            ratio = min(8.0, max(1.0, size / tokens))
            self.bytes_a_token += (ratio - self.bytes_a_token) * 0.02

    def report(self, process: str, now: float) -> say.Report | None:
        """What others should know by now, None if nothing."""
        domains = []
        for (organization, limit_class), domain in self._domains.items():
            if domain.news or domain.asked:
                buckets = {}
                if domain.news:
                    for kind in KINDS:
                        bucket = getattr(domain, kind)
                        if bucket is not None:
                            buckets[kind] = (bucket.limit, bucket.level, now - bucket.at)
                domain.news = False
                domains.append(say.Seen(organization, limit_class, domain.reserved, domain.asked, buckets))
        loads = self.loads.take_report()
        return say.Report(process, loads, domains) if loads or domains else None
