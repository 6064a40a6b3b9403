"""The pool as one process sees it, and the choices over it: who may serve, and where to go.

One predicate, `state`, decides eligibility for every path. Nothing here waits, sends or reads a clock: `now` is an
argument (seconds of one monotonic clock). What one request goes through is the business of `route`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import NamedTuple

from gateway.core.routing import broadcast
from gateway.core.routing.capabilities import LEARNED_FOR, Learned
from gateway.core.routing.document import Entry, PoolDocument
from gateway.core.routing.health import Classify
from gateway.core.routing.offers import Offers
from gateway.core.routing.ring import Ring
from gateway.core.routing.standing import MANY, Standing

LOAD_CAP = 1.25  # of the mean load, up to which a workspace takes new conversations
RAMP = 300.0  # seconds over which an account that joined a running pool comes up to that cap
_RAMP_FROM = 0.1
WORTH_A_MOVE = 10_000.0  # fresh tokens a minute below which no workspace has too much to do
_IDLE = 0.1  # of the mean load, below which a workspace is worth a prompt's prefix being written anew
_MORE = 10.0  # large requests
_ALIKE = 0.5  # of a large request, by which loads may differ and still be alike: then the ranking decides
_MEAN_FOR = 0.2  # seconds that the mean load is reckoned for: loads themselves are never stale

# Why an account cannot serve. The empty string: it can.
OPEN = ""
LIMITED = "limited"
OUT = "out"
DISABLED = "disabled"
DRAINING = "draining"
REMOVED = "removed"
FAILING = "failing"
MODEL = "model"
CREDENTIAL = "credential"  # this process does not hold it (yet)
FULL = "full"
LACKING = "lacking"  # its provider does not serve what the request asks for
State = tuple[str, float]  # why not, seconds until it may be otherwise (infinity: nobody knows)
_OPEN: State = (OPEN, 0.0)


class _Mean(NamedTuple):
    """The mean load by weight, of the last minute and the last hour; it holds until then."""

    until: float
    minute: float
    hour: float


class Router(Standing):
    """`classify(model)` names the class whose limits a model shares; `tell` spreads facts to other processes; `free`
    says whether an account has a slot now; `names(model)` are all names of a model: an account whose list has one of
    them serves it."""

    def __init__(
        self,
        classify: Classify,
        tell: Callable[[broadcast.Fact], None] = lambda fact: None,
        free: Callable[[str], bool] = lambda account: True,
        names: Callable[[str], Iterable[str]] = lambda model: (model,),
        judges: bool = True,
    ) -> None:
        super().__init__(tell, judges)
        self.classify = classify
        self.free = free
        self.offer = Offers(names)
        self._wall = 0.0  # Unix seconds less this process's clock
        self._ramps: dict[str, list[tuple[float, float]]] = {}
        self._means: dict[str, _Mean] = {}

    def apply(self, document: PoolDocument, now: float, wall: float = 0.0) -> None:
        """Route over this document from now on; `wall` is `now` in Unix seconds, the document's clock."""
        self.ring = Ring(document)
        self.offer.forget()
        self._means.clear()
        self._wall = wall - now
        self._ramps = {}
        self.failing.keep(self.ring.accounts)
        for entry in document.accounts:
            if entry.since > 0.0 and wall - entry.since < RAMP:
                for member in self.ring.members(entry.workspace, b"\0"):
                    self._ramps.setdefault(entry.workspace, []).append((member.weight, member.since))

    # Who may serve.

    def refused_need(self, account: str, learned: Iterable[Learned]) -> None:
        """An account has shown that it lacks these."""
        for each in learned:
            self.tell(broadcast.NeedRefused(account, each.model, each.need, each.verdict.value, LEARNED_FOR))

    def heard(self, fact: broadcast.Fact, now: float) -> None:
        """News of another process."""
        if isinstance(fact, broadcast.NeedRefused):
            self.offer.heard(fact, now)
            return
        super().heard(fact, now)

    def picture(self, now: float) -> list[broadcast.Fact]:
        """Everything that is closed, out or lacking, as it would be told to a process that has just begun."""
        return super().picture(now) + self.offer.learned(now)

    def state(
        self, entry: Entry, model: str, limit_class: str, fresh: float, warm: bool, now: float, claim: float = 0.0
    ) -> State:
        """Whether an account may get a request of `fresh` input tokens now; `warm` says that the conversation's cache
        is there, which a draining account still serves. `claim` are the tokens that some accounts reserve for it."""
        if entry.state != "active":
            if entry.state != "draining":
                return DISABLED, inf
            if not warm or 0.0 < entry.drain_until < now + self._wall:
                return DRAINING, inf
        if not self.offer.serves(entry, model):
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
            wait = domain.wait(fresh, now, claim)
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
        trial: bool = False,
        claim: float = 0.0,
    ) -> tuple[Entry | None, State]:
        """The account of `workspace` to ask: the first by rank that may serve, has a slot and is not failing, else one
        that is; (None, why) if none may. `full` comes with the account whose slot to wait for. The conversation may
        become the `trial` of a failing account."""
        best: State = (REMOVED, inf)
        full: Entry | None = None
        failing: Entry | None = None
        unheld = False
        failings, marked = self.failing, self.failing.marked
        members = self.ring.members(workspace, key)
        for entry in members:
            if entry.id in tried:
                continue
            state = self.state(entry, model, limit_class, fresh, warm, now, claim)
            if state is not _OPEN:
                unheld = unheld or state[0] == CREDENTIAL
                # What will pass, soonest first; else rather that only this process cannot.
                if state[1] < best[1] or (best[1] == inf and (best[0] in (REMOVED, MODEL) or state[0] == CREDENTIAL)):
                    best = state
            elif not self.free(entry.id):
                full = full or entry
            elif entry.id in marked and failings.avoids(entry.id, key, now):
                if trial and failings.try_out(entry.id, key, now):
                    return entry, _OPEN
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

    def first(
        self, workspace: str, key: bytes, model: str, limit_class: str, fresh: float, now: float, claim: float
    ) -> Entry | None:
        """The account that `pick` chooses for a warm conversation, if that is the first by rank."""
        members = self.ring.members(workspace, key)
        if not members:
            return None
        entry = members[0]
        state = self.state(entry, model, limit_class, fresh, True, now, claim)
        return entry if state is _OPEN and self.free(entry.id) else None

    def fails(self, workspace: str, key: bytes, now: float) -> bool:
        """Whether all accounts of the workspace are failing, and this conversation is no trial of one."""
        failings, marked = self.failing, self.failing.marked
        members = self.ring.members(workspace, b"\0") if marked else []
        return bool(members) and all(entry.id in marked and failings.avoids(entry.id, key, now) for entry in members)

    # Where to.

    def within_cap(self, workspace: str, model: str, now: float) -> bool:
        """Whether the workspace's load leaves room for new conversations."""
        load = self.loads.of(workspace, now)
        if not load:
            return True
        return load <= self.load_cap(workspace, model, now)

    def over_its_share(self, workspace: str, model: str, now: float) -> bool:
        """Whether the workspace has more to do than the others, in the last minute or the last hour, and enough of it
        to be worth a move."""
        loads = self.loads
        if loads.of(workspace, now) <= WORTH_A_MOVE:
            return False
        if not self.within_cap(workspace, model, now):
            return True
        _, mean = self._mean(model, now)
        return loads.of_hour(workspace, now) > LOAD_CAP * mean * self.ring.weight(workspace) + loads.p95

    def _idles(self, workspace: str, model: str, now: float) -> bool:
        """Whether the workspace would have had next to nothing of the last hour's work even with some large requests
        more."""
        _, mean = self._mean(model, now)
        loads = self.loads
        return loads.of_hour(workspace, now) + _MORE * loads.p95 < _IDLE * mean * self.ring.weight(workspace)

    def _least_busy(self, workspaces: list[str], now: float) -> str:
        """The least busy of the last minute, then of the last hour, of these that are in the order of a conversation's
        ranking: it goes by that where they differ by less than a part of a large request."""
        loads, ring, alike = self.loads, self.ring, _ALIKE * self.loads.p95
        for measure in (loads.of, loads.of_hour):
            if len(workspaces) == 1:
                break
            busy = [measure(workspace, now) / ring.weight(workspace) for workspace in workspaces]
            bound = min(busy) + alike
            workspaces = [name for name, load in zip(workspaces, busy, strict=True) if load <= bound]
        return workspaces[0]

    def load_cap(self, workspace: str, model: str, now: float) -> float:
        """The load (fresh tokens a minute) up to which a workspace takes new conversations."""
        mean, _ = self._mean(model, now)
        cap = LOAD_CAP * mean * self.ring.weight(workspace) + self.loads.p95
        ramps = self._ramps.get(workspace)
        if ramps:
            wall = now + self._wall
            part = sum(
                weight * (min(1.0, _RAMP_FROM + (1.0 - _RAMP_FROM) * max(0.0, wall - since) / RAMP) if since else 1.0)
                for weight, since in ramps
            )
            cap *= part / sum(weight for weight, _ in ramps)
        return cap

    def _mean(self, model: str, now: float) -> tuple[float, float]:
        """Load of a minute and of an hour by weight, over the workspaces that may take new conversations for `model`:
        those that fail do not count while there are others."""
        known = self._means.get(model)
        if known is None or known.until <= now:
            known = self._reckon(model, now)
            if len(self._means) > MANY:
                self._means.clear()
            self._means[model] = known
        return known.minute, known.hour

    def _reckon(self, model: str, now: float) -> _Mean:
        limit_class, marked = self.classify(model), self.failing.marked
        well: list[str] = []
        failing: list[str] = []
        for workspace in self.ring:
            takes = fails = False
            for entry in self.ring.members(workspace, b"\0"):
                if self.state(entry, model, limit_class, 0.0, False, now)[0] in (OPEN, LIMITED):
                    takes = takes or entry.id not in marked
                    fails = True
            if takes:
                well.append(workspace)
            elif fails:
                failing.append(workspace)
        counted, loads = well or failing, self.loads
        weights = sum(self.ring.weight(workspace) for workspace in counted) or 1.0
        return _Mean(
            now + _MEAN_FOR,
            sum(loads.of(workspace, now) for workspace in counted) / weights,
            sum(loads.of_hour(workspace, now) for workspace in counted) / weights,
        )

    def working(self, key: bytes, now: float, without: Collection[str] = ()) -> str | None:
        """The first workspace by rank that may serve something now, or else as soon as a limit has passed, and is not
        failing; without any, a failing one, or else the first that is meant to serve. Nobody asks the accounts that it
        has to be `without`."""
        failing = None
        for workspace in self.ring.rank(key):
            for entry in self.ring.members(workspace, key):
                if entry.id not in without and self.state(entry, "", "", 0.0, False, now)[0] in (OPEN, LIMITED):
                    if entry.id not in self.failing.marked:
                        return workspace
                    failing = failing or workspace
        return failing or self.ranked(key, "", without)

    def ranked(self, key: bytes, model: str, without: Collection[str] = ()) -> str | None:
        """Where a conversation goes by rank alone: the same on every replica that has seen the same pool."""
        for workspace in self.ring.rank(key):
            if any(
                entry.state == "active" and entry.id not in without and self.offer.serves(entry, model)
                for entry in self.ring.members(workspace, key)
            ):  # fmt: skip
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
        trial: bool = False,
        level: bool = False,
        claim: float = 0.0,
    ) -> tuple[str | None, bool]:
        """The workspace for a conversation that has to go somewhere, None if nobody may serve it, and whether it has
        room.

        Room means that the workspace's load is within its cap, and that limits allow what is not in a cache there.
        Where part of it is `cached` (workspace -> tokens) comes first, the larger part before. A conversation of no
        `group` then gets the first by rank that has room, or the least busy one if it is to keep loads `level`; another
        the least busy one of those in which the group's prefix is warm, if there are any. If none has room, it is one
        that limits allow, the least busy, else the one that lacks least. Where all its accounts are failing a workspace
        comes last, and has no room; but the conversation may become the `trial` of one.
        """
        roomy: list[str] = []
        worth: list[str] = []  # of these, those that hold the group's prefix, or have so little to do that it pays
        others: list[tuple[tuple[bool, bool, float], str]] = []  # without room: the more, the better
        marked = self.failing.marked
        order = self.ring.rank(key)
        if cached:
            order = [*sorted(cached, key=lambda name: -cached[name]), *(name for name in order if name not in cached)]
        for workspace in order:
            if workspace == avoid or workspace not in self.ring:
                continue
            own = cached.get(workspace, 0.0) if cached else 0.0
            shared = self.groups.shared(group, workspace, now) if group else None
            fresh = max(0.0, tokens - max(own, shared or 0.0))
            room = own > 0.0 or self.within_cap(workspace, model, now)
            entry, (why, _) = self.pick(
                workspace, key, model, limit_class, fresh, False, now, tried, trial and room, claim
            )
            avoided = entry is not None and entry.id in marked and self.failing.avoids(entry.id, key, now)
            if room and entry is not None and why == OPEN and not avoided:
                if own > 0.0 or not (group or level) or entry.id in marked:
                    return workspace, True
                roomy.append(workspace)
                if shared is not None or self._idles(workspace, model, now):
                    worth.append(workspace)
                continue
            if roomy:
                continue
            if entry is None:
                entry = self.reckoned(workspace, key, model, limit_class, now, tried)
                if entry is None:
                    continue
            domain = self._domains.get((entry.organization, limit_class))
            left = inf if domain is None else domain.headroom(now)
            well = not avoided and why in (OPEN, FULL)
            others.append(((well, why == OPEN, 0.0 if why == OPEN else -1e12 if why == FULL else left), workspace))
        if roomy:
            return self._least_busy(worth or roomy, now), True
        if not others:
            return None, False
        most = max(much for much, _ in others)
        return self._least_busy([workspace for much, workspace in others if much == most], now), False

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

    def opens_in(
        self, model: str, limit_class: str, now: float, fresh: float = 0.0, claim: float = 0.0
    ) -> tuple[float, bool]:
        """Seconds until any account may serve `model` again, with `fresh` tokens of input, and whether a limit is what
        keeps that one closed."""
        limited = out = inf
        for workspace in self.ring:
            for entry in self.ring.members(workspace, b"\0"):
                why, wait = self.state(entry, model, limit_class, fresh, False, now, claim)
                if why == LIMITED:
                    limited = min(limited, wait)
                elif why == OUT:
                    out = min(out, wait)
        return (limited, True) if limited < inf else (out, False)

    def closed_by(self, model: str, limit_class: str, now: float) -> list[str]:
        """What keeps accounts closed that are meant to serve `model`, each once: the cause of an outage, else the state
        as `state` names it; `denied` and `not_held` for what that calls out and credential."""
        found = set()
        for entry in self.ring.accounts.values():
            why, _ = self.state(entry, model, limit_class, 0.0, False, now)
            if why == OUT:
                outages = (self.health(entry.id).outage, self.organization(entry.organization))
                why = next((each.cause.value for each in outages if each.cause and each.until > now), "denied")
            elif why == CREDENTIAL:
                why = "not_held"
            if why not in (OPEN, MODEL):
                found.add(why)
        return sorted(found)

    def offers(self, model: str, without: Collection[str] = ()) -> bool:
        """Whether any account of the pool but these is meant to serve `model` ("" for any)."""
        return any(
            entry.state != "disabled" and entry.id not in without and self.offer.serves(entry, model)
            for entry in self.ring.accounts.values()
        )
