"""Whose fault a bad answer was: the account's, where another one serves the same request, or the request's own.

What one account says is a suspicion until another one has answered, or none is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import Entry
from gateway.core.routing.failing import unit_of
from gateway.core.routing.outcomes import DISPUTED, WORDED, Outcome
from gateway.core.routing.placement import Suspicion

if TYPE_CHECKING:
    from gateway.core.routing.route import Route

# Ends of exchanges that speak against an account, unless another one's is alike.
FAULTS = {Outcome.FAILED: Fault.ERROR, Outcome.IMPROPER: Fault.ERROR, Outcome.BROKEN: Fault.CUT}


def blame(route: Route, account: str, fault: Fault, now: float) -> None:
    """What is pinned has no other account that could excuse this one: then a caller counts once."""
    if route.counts:
        unit = unit_of(b"caller " + route.caller.encode()) if route.placement.pinned else ""
        route.router.failing.bad(account, fault, route.conversation, now, unit)


def suspect(route: Route, entry: Entry, outcome: Outcome, features: frozenset[str], kind: str = "") -> None:
    """Another account will show whose fault this answer was."""
    route.past.suspicions += (Suspicion(entry, outcome, features, kind),)


def confirms(route: Route, outcome: Outcome, kind: str) -> bool:
    """Whether this refusal and those before it show that the request is at fault: two in like words do, or three."""
    alike = [each.kind for each in route.past.suspicions if each.outcome is outcome]
    return len(alike) > 1 or bool(alike and (kind in alike or outcome not in WORDED))


def disputes(route: Route, entry: Entry, outcome: Outcome, kind: str, features: frozenset[str], now: float) -> bool:
    """Whether another account is to be asked whether it refuses the request as well. Two that refuse it in unlike ways
    or words may do so each for a reason of its own: neither confirms the other."""
    failing = route.router.failing
    if confirms(route, outcome, kind):
        failing.confirmed(route.caller, kind, now)
        unexplained(route, entry, outcome, now)
        confirm(route, entry, outcome, now)
        return False
    if (route.placement.pinned and not route.model) or failing.is_confirmed(route.caller, kind, now):
        failing.inconclusive(entry.id, route.conversation)
        unexplained(route, entry, outcome, now)
        return False  # of an object each account of its workspace says the same
    suspect(route, entry, outcome, features, kind)
    route.give_up_on(entry)
    if outcome is not Outcome.DENIED and outcome is not Outcome.DECLINED:
        accounts = route.router.ring.accounts.values()
        route.tried |= {each.id for each in accounts if each.organization == entry.organization}
    return True


def unexplained(route: Route, entry: Entry, outcome: Outcome, now: float) -> None:
    """What several accounts say alike may be the caller's own fault: it is theirs once several callers hear it."""
    alike = [each.entry for each in route.past.suspicions if each.outcome is Outcome.UNEXPLAINED]
    if outcome is Outcome.UNEXPLAINED:
        for each in (*alike, entry):
            unit = unit_of(b"caller " + route.caller.encode())
            route.router.unexplained(each, route.limit_class, unit, now)


def confirm(route: Route, entry: Entry, outcome: Outcome, now: float) -> None:
    """The request ends with an answer that is not good. What two accounts say alike tells nothing of either."""
    alike = DISPUTED if outcome in DISPUTED else FAULTS
    excused = [each for each in route.past.suspicions if each.outcome in alike]
    route.past.suspicions = tuple(each for each in route.past.suspicions if each.outcome not in alike)
    for each in excused:
        route.router.failing.inconclusive(each.entry.id, route.conversation)
    if not excused and outcome in FAULTS:
        blame(route, entry.id, FAULTS[outcome], now)
    else:
        route.router.failing.inconclusive(entry.id, route.conversation)


def conclude(route: Route, now: float) -> None:
    """No account has served it, and none will: what remains is what happened on those that were asked."""
    suspicions, route.past.suspicions = route.past.suspicions, ()
    for each in suspicions:
        if each.outcome in FAULTS:
            blame(route, each.entry.id, FAULTS[each.outcome], now)
            continue
        if each.outcome is Outcome.UNEXPLAINED:
            route.router.unexplained(each.entry, route.limit_class, unit_of(route.conversation), now)
        route.router.failing.inconclusive(each.entry.id, route.conversation)


def convict(route: Route, by: Entry, now: float) -> None:
    """Another account has served what these did not."""
    router, suspicions = route.router, route.past.suspicions
    route.past.suspicions = ()
    for each in suspicions:
        entry, outcome, features = each.entry, each.outcome, each.features
        if entry.id == by.id or not route.counts:
            continue
        unit = ""
        if outcome in DISPUTED:
            router.failing.disproved(route.caller, each.kind)
        if outcome is Outcome.UNEXPLAINED:
            router.unexplained(entry, route.limit_class, unit_of(route.conversation), now)
            continue
        if outcome is Outcome.OVERSIZED:
            continue
        if outcome in DISPUTED and route.model and (features or outcome is Outcome.DENIED):
            if outcome is Outcome.DENIED:
                router.denied(entry, route.model, features, now)
            else:
                router.disputed(entry, route.model, features, unit_of(route.conversation), now)
            unit = " ".join((route.model, *sorted(features)))
        fault = Fault.KEY if outcome is Outcome.UNAUTHORIZED else FAULTS.get(outcome, Fault.REFUSAL)
        router.failing.bad(entry.id, fault, route.conversation, now, unit)
