"""How the pool's accounts stand, as one process knows it: outages, limits, failures, and the load they carry.

What answers change, what processes tell each other, and what is told to whom. It chooses nothing: the router does.
`now` is an argument everywhere (seconds of one monotonic clock).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.routing import broadcast
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.failing import Failing
from gateway.core.routing.groups import Groups
from gateway.core.routing.health import MODEL_PAUSE, PAUSES, TRIAL, Cause, Health, Outage, RetryBudget
from gateway.core.routing.load import Loads
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.rate_limits import KINDS, Domain
from gateway.core.routing.ring import Ring
from gateway.core.routing.stated_limits import Allowance, Stated

MANY = 4096  # entries of a table that clients' inventions may fill
FEATURES = 256  # sets of features remembered for an account
SUSPICIONS = 3  # conversations with a 429 that says nothing, which close a class of models
_WORTH_TELLING = 0.5  # seconds that a closure must have grown by to be worth telling
_MEASURABLE = 1000  # tokens from which on a body tells how many bytes make one
_FEWEST_BYTES = 1.5  # of text that make a token


Trial = tuple[str, Outage]  # whose, and the outage that it may end


class Standing:
    """`tell` spreads facts to other processes; `held` are the accounts whose credentials this process has, with a name
    for each credential (None: all of them). One that does not `judge` believes what others say of failing accounts."""

    def __init__(self, tell: Callable[[broadcast.Fact], None], judges: bool = True) -> None:
        self.tell = tell
        self.failing = Failing(lambda fact: self.tell(fact), judges)
        self.held: Mapping[str, str] | None = None
        self.loads = Loads()
        self.groups = Groups()
        self.retries = RetryBudget()
        self.picky: set[str] = set()  # accounts that have lately refused sets of optional features
        self.waiting = 0  # requests that wait for a limit
        self.bytes_a_token = 4.0  # of request bodies, as lately seen
        self.ring = Ring(PoolDocument())
        self._health: dict[str, Health] = {}
        self._organizations: dict[str, Outage] = {}
        self._domains: dict[tuple[str, str], Domain] = {}
        self._classes: dict[str, dict[str, Domain]] = {}  # the same, by organization

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
            if len(self._domains) >= MANY:  # models of clients' own invention
                self._forget_one()
            domain = self._domains[organization, limit_class] = Domain()
            self._classes.setdefault(organization, {})[limit_class] = domain
        return domain

    def state_limits(self, stated: Mapping[tuple[str, str], Stated], now: float) -> None:
        """The limits that operators state, by organization and class of models: these, and no others."""
        allowances: dict[tuple[str, str, bool], Allowance] = {}
        for (organization, limit_class), limits in stated.items():
            domain = self.domain(organization, limit_class)
            whose = organization, limits.group or limit_class, bool(limits.group)
            if whose not in allowances:
                before = domain.stated
                same = before is not None and before.stated == limits
                allowances[whose] = before if before is not None and same else Allowance(limits, now, before)
            domain.stated = allowances[whose]
        for place, domain in self._domains.items():
            if place not in stated:
                domain.stated = None

    def _forget_one(self) -> None:
        """The oldest domain that nothing is known of."""
        idle = (
            place
            for place, domain in self._domains.items()
            if not domain.asked and domain.input is None and domain.stated is None and domain.closed_until == 0.0
        )
        organization, limit_class = next(idle, None) or next(iter(self._domains))
        del self._domains[organization, limit_class]
        del self._classes[organization][limit_class]

    # What answers change.

    def learn(
        self,
        entry: Entry,
        limit_class: str,
        outcome: Outcome,
        asked: float | None,
        now: float,
        fresh: float = 0.0,
    ) -> None:
        """An exchange with an account has ended so, and not well; `asked` is its retry-after in seconds, `fresh` the
        input tokens that it had to compute. What may be the request's own fault is not told here."""
        if outcome is Outcome.LIMITED:
            self._close(entry.organization, limit_class, asked, now)
        elif outcome is Outcome.OVERSIZED:
            seconds = asked or 0.0
            self.domain(entry.organization, limit_class).close_from(fresh, seconds, now)
            self.tell(broadcast.ClosedFrom(entry.organization, limit_class, fresh, seconds))
        elif outcome is Outcome.SPENT:
            seconds = self.organization(entry.organization).begin(Cause.BILLING, now)
            self.tell(broadcast.Out(entry.organization, Cause.BILLING, seconds, entry.id))
        elif outcome is Outcome.UNAUTHORIZED:
            self.tell(broadcast.Suspected(entry.id))
        elif outcome is Outcome.UNSENT:
            health = self.health(entry.id)
            if health.never_sent(now) or health.outage.cause is Cause.UNREACHABLE:
                seconds = health.outage.begin(Cause.UNREACHABLE, now)
                self.tell(broadcast.Unreachable(entry.id, self.failing.process, seconds))

    def key_refused(self, account: str, now: float) -> float:
        """The account's own free probe has shown that its key is not accepted; returns the seconds that it is out."""
        seconds = self.health(account).outage.begin(Cause.CREDENTIAL, now)
        self.tell(broadcast.Out(account, Cause.CREDENTIAL, seconds, account, self.credential(account)))
        return seconds

    def _close(self, organization: str, limit_class: str, asked: float | None, now: float) -> None:
        domain = self.domain(organization, limit_class)
        before = domain.closed_until
        seconds = domain.close(asked, now)
        if domain.closed_until > before + _WORTH_TELLING or before <= now:
            self.tell(broadcast.Closed(organization, limit_class, seconds))

    def unexplained(self, entry: Entry, limit_class: str, unit: str, now: float) -> None:
        """A 429 said neither for how long nor of what, and nobody else refused the same request: it is about the class
        of models once it has come to several conversations with no success between."""
        domain = self.domain(entry.organization, limit_class)
        domain.unexplained.add(unit)
        if len(domain.unexplained) >= SUSPICIONS:
            domain.unexplained.clear()
            self._close(entry.organization, limit_class, None, now)

    def served(self, entry: Entry, domain: Domain | None, now: float, paid: bool = True) -> None:
        """An account's answer has begun well; `paid` says that it is to something that costs money."""
        health = self._health.get(entry.id)
        if health is not None and health.outage.cause is not None:
            self._back_again(entry, health.outage, paid)
        outage = self._organizations.get(entry.organization)
        if paid and outage is not None and outage.cause is not None:
            outage.end()
            self.tell(broadcast.Back(entry.id, paid=True, credential=self.credential(entry.id)))
        if domain is not None:
            domain.pause = 0.0
            if domain.unexplained:
                domain.unexplained.clear()

    def _back_again(self, entry: Entry, outage: Outage, paid: bool) -> None:
        cause = outage.cause
        outage.end()
        if cause is Cause.UNREACHABLE:
            self.tell(broadcast.Unreachable(entry.id, self.failing.process, 0.0))
        else:
            self.tell(broadcast.Back(entry.id, paid=paid, credential=self.credential(entry.id)))

    def reached(self, account: str) -> None:
        """A connection to the account can be had again."""
        entry, health = self.ring.accounts.get(account), self.health(account)
        health.unsent.clear()
        if entry is not None and health.outage.cause is Cause.UNREACHABLE:
            self._back_again(entry, health.outage, False)

    def credential(self, account: str) -> str:
        """What this process calls the credential that it has for an account."""
        return self.held.get(account, "") if self.held is not None else ""

    def try_again(self, entry: Entry, now: float, paid: bool = True) -> tuple[Trial, ...]:
        """A request goes to an account. If an outage of it, or of its organization, has run out this is the trial:
        nobody else asks meanwhile. What is not `paid` cannot show whether there is money again."""
        trials: tuple[Trial, ...] = ()
        health = self._health.get(entry.id)
        if health is not None and health.outage.cause is not None and health.outage.until <= now:
            health.outage.try_out(now)
            self._tell_trial(entry.id, health.outage, TRIAL)
            trials = ((entry.id, health.outage),)
        outage = self._organizations.get(entry.organization)
        if paid and outage is not None and outage.cause is not None and outage.until <= now:
            outage.try_out(now)
            self._tell_trial(entry.organization, outage, TRIAL)
            trials += ((entry.organization, outage),)
        return trials

    def try_no_more(self, trials: tuple[Trial, ...]) -> None:
        """The request that was these trials has ended without showing anything: another may be it."""
        for name, outage in trials:
            if outage.trial:
                outage.trial, outage.until = False, 0.0
                self._tell_trial(name, outage, 0.0)

    def _tell_trial(self, name: str, outage: Outage, seconds: float) -> None:
        if outage.cause is Cause.CREDENTIAL:
            self.tell(broadcast.Out(name, outage.cause, seconds, credential=self.credential(name)))
        elif outage.cause is Cause.BILLING:
            self.tell(broadcast.Out(name, outage.cause, seconds))

    def denied(self, entry: Entry, model: str, features: frozenset[str], now: float) -> None:
        """Another account has served what this one refused: it is not asked for the model with these features (none:
        for the model at all) for a while."""
        health = self.health(entry.id)
        if features:
            if len(health.features) >= FEATURES:
                del health.features[next(iter(health.features))]
            health.features[model, features] = now + MODEL_PAUSE
            self.picky.add(entry.id)
            self.tell(broadcast.FeaturesClosed(entry.id, model, sorted(features), MODEL_PAUSE))
            return
        if len(health.models) >= MANY:
            health.models.clear()  # of clients' own invention, most of them
        health.models[model] = now + MODEL_PAUSE
        self.tell(broadcast.ModelClosed(entry.id, model, MODEL_PAUSE))

    def barred(self, model: str, features: frozenset[str], now: float) -> frozenset[str]:
        """The accounts that have lately refused this model with some of these features."""
        found = set()
        for account in [*self.picky]:
            closed = self.health(account).features
            for (other, some), until in [*closed.items()]:
                if until <= now:
                    del closed[other, some]
                elif other == model and some <= features:
                    found.add(account)
            if not closed:
                self.picky.discard(account)
        return frozenset(found)

    def disputed(self, entry: Entry, model: str, features: frozenset[str], unit: str, now: float) -> None:
        """Another account has served what this one declined, which may have been the request's own: it is the features
        once that has come to several conversations."""
        disputes = self.health(entry.id).disputes
        if len(disputes) >= FEATURES:
            del disputes[next(iter(disputes))]
        seen = disputes.setdefault((model, features), {})
        seen[unit] = now
        if sum(now - at < MODEL_PAUSE for at in seen.values()) >= SUSPICIONS:
            del disputes[model, features]
            self.denied(entry, model, features, now)

    # What others tell, and what they are told.

    def heard(self, fact: broadcast.Fact, now: float) -> None:
        """News of another process."""
        if isinstance(fact, broadcast.Report):
            self._report(fact, now)
        elif isinstance(fact, broadcast.Closed):
            domain = self.domain(fact.organization, fact.limit_class)
            domain.closed_until = max(domain.closed_until, now + fact.seconds)
        elif isinstance(fact, broadcast.ClosedFrom):
            self.domain(fact.organization, fact.limit_class).close_from(fact.tokens, fact.seconds, now)
        elif isinstance(fact, broadcast.Failed | broadcast.Failing | broadcast.Trying | broadcast.Recovered):
            self.failing.heard(fact, now)
        elif isinstance(fact, broadcast.Out):
            if not self._believes(fact):
                return
            billing = fact.cause is Cause.BILLING
            outage = self.organization(fact.name) if billing else self.health(fact.name).outage
            if outage.cause is not fact.cause and outage.until > now + fact.seconds:
                return  # out for longer, and for another reason
            outage.cause, outage.until, outage.trial = fact.cause, now + fact.seconds, False
            outage.pause = max(outage.pause, fact.seconds, PAUSES[fact.cause].first)
        elif isinstance(fact, broadcast.Back):
            self._back(fact)
        elif isinstance(fact, broadcast.ModelClosed):
            self.health(fact.account).models[fact.model] = now + fact.seconds
        elif isinstance(fact, broadcast.FeaturesClosed) and fact.account in self.ring.accounts:
            features = self.health(fact.account).features
            if len(features) >= FEATURES:
                del features[next(iter(features))]
            features[fact.model, frozenset(fact.features)] = now + fact.seconds
            self.picky.add(fact.account)

    def _believes(self, fact: broadcast.Out) -> bool:
        """Whether an outage that another process tells of is one here as well: connections are its own experience, and
        so is a credential that this process has another of."""
        if fact.cause is Cause.CREDENTIAL:
            own = self.credential(fact.name)
            return not own or not fact.credential or fact.credential == own
        return fact.cause is not Cause.UNREACHABLE

    def _back(self, fact: broadcast.Back) -> None:
        health = self.health(fact.account)
        own = self.credential(fact.account)
        same = not own or not fact.credential or fact.credential == own
        if fact.wholly or (same and health.outage.cause is not Cause.UNREACHABLE):
            health.outage.end()
        entry = self.ring.accounts.get(fact.account)
        if entry is not None and (fact.paid or fact.wholly):
            self.organization(entry.organization).end()
        if fact.wholly:
            self.retries = RetryBudget()
            self._health[fact.account] = Health()
            self.picky.discard(fact.account)
            self.failing.forget(fact.account)
            for domain in self._classes.get(entry.organization, {}).values() if entry is not None else ():
                domain.reset()

    def picture(self, now: float) -> list[broadcast.Fact]:
        """Everything that is closed or out, as it would be told to a process that has just begun."""
        told = self.failing.picture(now)
        for name, health in self._health.items():
            if health.outage.cause is Cause.CREDENTIAL:
                wait, credential = health.outage.wait(now), self.credential(name)
                told.append(broadcast.Out(name, Cause.CREDENTIAL, wait, credential=credential))
            told += [
                broadcast.FeaturesClosed(name, model, sorted(features), until - now)
                for (model, features), until in health.features.items()
                if until > now
            ]
            told += [
                broadcast.ModelClosed(name, model, until - now) for model, until in health.models.items() if until > now
            ]
        for name, outage in self._organizations.items():
            if outage.cause is not None:
                told.append(broadcast.Out(name, outage.cause, outage.wait(now)))
        for (organization, limit_class), domain in self._domains.items():
            if domain.closed_until > now:
                told.append(broadcast.Closed(organization, limit_class, domain.closed_until - now))
            if domain.large_until > now:
                seconds = domain.large_until - now
                told.append(broadcast.ClosedFrom(organization, limit_class, domain.large_from, seconds))
        return told

    def rate_limits(self, organization: str, now: float) -> dict[str, dict[str, float]]:
        """What is known of an organization's: class -> limits, what is left of them, seconds it is closed."""
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
            if domain.large_until > now:
                row["closed_from"] = round(domain.large_from)
            if row:
                found[limit_class] = row
        return found

    def closed_classes(self, organization: str, now: float) -> list[str]:
        """The classes of models for which a 429 has closed an organization."""
        return [name for name, domain in self._classes.get(organization, {}).items() if domain.closed_until > now]

    def _report(self, fact: broadcast.Report, now: float) -> None:
        for workspace, tokens in fact.loads.items():
            self.loads.add_others(workspace, tokens, now)
        for seen in fact.domains:
            domain = self.domain(seen.organization, seen.limit_class)
            domain.others[fact.process] = (seen.reserved, seen.asked, now)
            for kind, (limit, left, age) in seen.buckets.items():
                domain.heard(kind, limit, left, now - age)

    def measured(self, size: int, tokens: float) -> None:
        """A body of `size` bytes was `tokens` of input. More than its text explains are those of what it names:
        documents by URL, files, results of a search."""
        if tokens > _MEASURABLE and size >= _FEWEST_BYTES * tokens:
            self.bytes_a_token += (min(8.0, size / tokens) - self.bytes_a_token) * 0.02

    def tell_report(self, now: float) -> None:
        """Tell others at once what they would hear within a second."""
        report = self.report(self.failing.process, now)
        if report is not None:
            self.tell(report)

    def report(self, process: str, now: float) -> broadcast.Report | None:
        """What others should know by now, None if nothing."""
        domains = []
        for (organization, limit_class), domain in self._domains.items():
            if domain.unreported or domain.asked:
                buckets = {}
                if domain.unreported:
                    for kind in KINDS:
                        bucket = getattr(domain, kind)
                        if bucket is not None:
                            seen = bucket.level - (bucket.at - bucket.seen) * bucket.limit / 60.0
                            buckets[kind] = (bucket.limit, seen, now - bucket.seen)
                domain.unreported = False
                domains.append(broadcast.Seen(organization, limit_class, domain.reserved, domain.asked, buckets))
        loads = self.loads.take_report()
        return broadcast.Report(process, loads, domains) if loads or domains else None
