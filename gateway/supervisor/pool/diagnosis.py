"""How an account stands and why, in words for operators; and what its limits have left. It decides nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config.rules import moment_text
from gateway.core.routing.conduct import Fault
from gateway.core.routing.document import Entry
from gateway.core.routing.health import Cause, Outage
from gateway.core.routing.router import LIMITED, Router

STATES = ("available", "limited", "draining", "disabled", "out", "failing")
KINDS = {"requests": "requests", "input": "input_tokens", "output": "output_tokens"}  # of limits, as labels have them

# By cause: what is wrong and what helps; how it is tried again; how once its pause is over, and nobody has tried yet.
_OUT = {
    Cause.CREDENTIAL: (
        "The upstream does not accept its key. Give it a valid key; ",
        "it is asked again now and then.",
        "the next probe or request tries it.",
    ),
    Cause.BILLING: (
        "The upstream says that its organization is out of credit, over its spending limit or on hold: settle that in "
        "its console. ",
        "One request tries it again when its pause is over.",
        "The next request tries it.",
    ),
    Cause.UNREACHABLE: (
        "No connection to it can be had. ",
        "It is tried every few seconds.",
        "The next probe or request tries it.",
    ),
}
# What an exchange was that ended so: by status, or by the word for what went wrong before one came.
_FAULTS = {
    "401": "401: its key was not accepted",
    "402": "402: its organization has to pay first",
    "403": "403: it may not do what was asked",
    "429": "429: over a rate limit",
    "500": "500: the upstream failed",
    "529": "529: the upstream is overloaded",
    "not_sent": "no connection could be had",
    "no_credential": "no credential for it could be had",
    "timeout": "no answer in time",
    "upstream": "the connection was closed before an answer was complete",
}


class Diagnosis(msgspec.Struct, frozen=True):
    """`state` is one of STATES, `reason` a word or two for programs, `why` a sentence. `until` is when that may be
    otherwise by itself, in seconds of the clock that was given; 0 where nobody knows. `by` names the process that
    judged, `faults` counts the last minute's by kind, where the state rests on them."""

    state: str
    reason: str
    why: str
    until: float = 0.0
    by: str = ""
    faults: dict[str, int] = {}

    def lasts(self, later: Diagnosis) -> bool:
        """Whether this state is still the same later: what an account fails by may change while it fails."""
        return self.state == later.state and (self.reason == later.reason or self.state == "failing")


def diagnose(router: Router, entry: Entry, now: float, wall: float) -> Diagnosis:
    """How the account stands at `now`, which is `wall` in Unix seconds."""
    if entry.state == "draining":
        if 0.0 < entry.drain_until <= wall:
            return Diagnosis("draining", _SET, "It was drained, and its time is over: nothing goes there.")
        until = entry.drain_until - wall + now if entry.drain_until else 0.0
        why = "It is being drained: it serves conversations whose cache is warm there, and gets no others."
        return Diagnosis("draining", _SET, why, until)
    if entry.state != "active":
        return Diagnosis(entry.state, _SET, "It is switched off, by configuration or an operator: nothing goes there.")
    outage = _outage(router, entry)
    if outage is not None and outage.cause is not None:
        # Also once its time has come: it is not back before an answer has shown that.
        what, pausing, due = _OUT[outage.cause]
        if outage.until > now:
            return Diagnosis("out", outage.cause, what + pausing, outage.until)
        return Diagnosis("out", outage.cause, what + due)
    if entry.id in router.failing:
        return _failing(router, entry, now)
    state, _ = router.state(entry, "", "", 0.0, True, now)
    closed = router.closed_classes(entry.organization, now)
    if state == LIMITED or closed:
        until = min((router.domain(entry.organization, name).closed_until for name in closed), default=0.0)
        why = f"The upstream has answered 429 for {_and(closed)}: requests for that go elsewhere until then."
        return Diagnosis("limited", ", ".join(closed), why, until)
    health = router.health(entry.id)
    denied = [model for model, until in health.models.items() if until > now]
    denied += sorted(f"{model} with {_and([*some])}" for (model, some), until in health.features.items() if until > now)
    if denied:
        return Diagnosis("available", "", f"It serves requests, but was denied {_and(denied)}.")
    return Diagnosis("available", "", "It serves requests.")


_KINDS = {
    Fault.REFUSAL: "refusals of what another account served",
    Fault.ERROR: "errors of the upstream's",
    Fault.CUT: "answers broken off in the middle",
    Fault.KEY: "refusal of its key",
    Fault.UNSENT: "no connection",
}


def _failing(router: Router, entry: Entry, now: float) -> Diagnosis:
    """Where others do not: what happened, when it is tried again, and who says so."""
    told = router.failing.told.get(entry.id)
    faults, by = (told.faults, told.process) if told is not None else ({}, "")
    happened = [
        f"{_KINDS[Fault(kind)]} in {count} {'conversation' if count == 1 else 'conversations'}"
        for kind, count in faults.items()
        if kind in _KINDS
    ]
    conduct = router.failing.of(entry.id)
    due = conduct.until <= now
    why = [
        f"It fails where other accounts do not: {_and(happened)} within a minute."
        if happened
        else "It failed where other accounts did not, and nothing has shown since that it is well.",
        "New conversations go elsewhere; " + ("the next one tries it." if due else "one of them tries it then."),
    ]
    if by:
        why.append(f"Judged by {by}.")
    return Diagnosis("failing", ", ".join(sorted(faults)), " ".join(why), 0.0 if due else conduct.until, by, faults)


_SET = "by configuration or an operator"


def _outage(router: Router, entry: Entry) -> Outage | None:
    """The account's own or its organization's: the one that lasts longer; None where it is not out."""
    outages = (router.health(entry.id).outage, router.organization(entry.organization))
    return max((each for each in outages if each.cause is not None), key=lambda each: each.until, default=None)


def _and(names: list[str]) -> str:
    shown = sorted(names)[:5]
    return " and ".join((", ".join(shown[:-1]), shown[-1])) if len(shown) > 1 else "".join(shown) or "a class of models"


def headroom(router: Router, organization: str, now: float, wall: float) -> list[dict[str, Any]]:
    """What is known of an organization's limits, by class of models and kind: `ratio` of `of` is left, and all of it at
    `resets_at`, or None if it is now."""
    rows = []
    for limit_class, row in sorted(router.rate_limits(organization, now).items()):
        for kind, name in KINDS.items():
            if row.get(f"{kind}_limit"):
                left, of = row[f"{kind}_left"], row[f"{kind}_limit"]
                seconds = full_in(left, of, row.get("closed_for", 0.0))
                rows.append(
                    {
                        "class": limit_class,
                        "limit": name,
                        "remaining": round(left),
                        "of": round(of),
                        "ratio": round(left / of, 4),
                        "resets_at": moment_text(round(wall + seconds)) if seconds else None,
                    }
                )
    return rows


def full_in(left: float, of: float, closed_for: float) -> float:
    """Seconds until a limit is whole again: it refills evenly in a minute, and nothing passes while it is closed."""
    return max((of - left) * 60.0 / of, closed_for)


def fault(code: str) -> str | None:
    """What an exchange that ended so says of an account; None where it was good, or the client's own mistake."""
    known = _FAULTS.get(code)
    if known is not None or not code.isdecimal():
        return known or code or None
    status = int(code)
    if 200 <= status < 300 or 400 <= status < 500:
        return None
    return f"{code}: the upstream failed" if status >= 500 else f"{code}: no answer of the API"
