"""What happens during a replay besides requests: changes of the pool, trouble upstream, loss of store or process.

Reads and checks them; the pool and the policies act on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal[
    "add", "remove", "weight", "drain", "disable", "enable",
    "burst", "overload",
    "flush", "store_down", "store_up", "restart",
]  # fmt: skip

_NEEDS: dict[str, tuple[str, ...]] = {
    "add": ("account",),
    "remove": ("account",),
    "weight": ("account", "weight"),
    "drain": ("account",),
    "disable": ("account",),
    "enable": ("account",),
    "burst": ("account", "seconds"),
    "overload": ("seconds",),
}
_MAY: dict[str, tuple[str, ...]] = {
    "add": ("weight", "workspace", "organization"),
    "burst": ("retry_after",),
    "overload": ("account", "retry_after"),
}
_OPTIONS = ("account", "seconds", "retry_after", "weight", "workspace", "organization")
UPSTREAM = ("burst", "overload")  # nobody tells a policy: it learns from the answers


class EventsError(ValueError):
    """The events cannot be played; the message names the entry and what to change."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event `at` seconds after the first request.

    `add`: an account joins (by default with weight 1 and a workspace and an organization of its own). `remove`,
    `drain`, `disable`, `enable`, `weight`: what an operator does to one. `burst`: its organization answers 429 for
    `seconds`, with `retry_after` (default: what is left of it). `overload`: the account, or every one, answers 529 for
    `seconds`. `flush`: the store lost everything. `store_down`, `store_up`: it is out of reach until then. `restart`:
    the process lost its memory.
    """

    at: float
    event: Kind
    account: str | None = None
    seconds: float | None = None
    retry_after: float | None = None
    weight: float | None = None
    workspace: str | None = None
    organization: str | None = None


def load(path: Path) -> list[Event]:
    """The events of a JSON file, a list of objects; `EventsError` in one line if it is not one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise EventsError(f"{path}: line {error.lineno}: {error.msg}; it must be one JSON list of events") from None
    except OSError as error:
        raise EventsError(f"{path}: {error.strerror}; name a file of events, or none") from None
    except UnicodeDecodeError:
        raise EventsError(f"{path}: not UTF-8 text; it must be one JSON list of events") from None
    if not isinstance(found, list):
        raise EventsError(f"{path}: it must be one JSON list of events")
    events = []
    for number, entry in enumerate(found, 1):
        try:
            events.append(msgspec.convert(entry, Event))
        except msgspec.ValidationError as error:
            raise EventsError(f"{path}: entry {number}: {error}") from None
    return events


def check(events: Sequence[Event], accounts: Iterable[str], source: str = "events") -> list[Event]:
    """The events in the order of time; `EventsError` if one lacks something or means an account that is not there."""
    for number, event in enumerate(events, 1):
        complaint = _complaint(event)
        if complaint:
            raise EventsError(f"{source}: entry {number}: {complaint}")
    present = set(accounts)
    ever = set(present)
    for number, event in sorted(enumerate(events, 1), key=lambda pair: pair[1].at):
        name = event.account
        if name is None:
            continue
        if event.event == "add":
            if name in ever:
                raise EventsError(f"{source}: entry {number}: {name} is no new account; give it another name")
            present.add(name)
            ever.add(name)
        elif name not in present:
            known = ", ".join(sorted(present, key=lambda each: (len(each), each)))
            raise EventsError(f"{source}: entry {number}: no account {name} at {event.at:g} s; there are {known}")
        elif event.event == "remove":
            present.remove(name)
            if not present:
                raise EventsError(f"{source}: entry {number}: {name} is the last account; leave one")
    return sorted(events, key=lambda event: event.at)


def _complaint(event: Event) -> str:
    """What is wrong with an event by itself."""
    needs, may = _NEEDS.get(event.event, ()), _MAY.get(event.event, ())
    for name in _OPTIONS:
        value = getattr(event, name)
        if value is None:
            if name in needs:
                return f"{event.event} needs {name}"
        elif name not in needs + may:
            return f"{event.event} takes no {name}"
    if event.at < 0:
        return "at must not be negative"
    if event.account == "":
        return "account must not be empty"
    if event.weight is not None and event.weight <= 0:
        return "weight must be above 0"
    if event.seconds is not None and event.seconds <= 0:
        return "seconds must be above 0"
    if event.retry_after is not None and event.retry_after < 0:
        return "retry_after must not be negative"
    return ""


def churn(seconds: float, accounts: Sequence[str]) -> list[Event]:
    """The events that go with synthetic agents, spread over a run of so many seconds: four accounts added, two of the
    first removed, four organizations that refuse for a while, the store emptied, the process started anew."""
    last = len(accounts) - 1
    gone = [*reversed(accounts[1:]), "added-2", "added-3"]  # the first account is kept
    plan = [
        (0.12, "burst", accounts[0], 12.0, 6.0),
        (0.18, "add", "added-1", None, None),
        (0.26, "add", "added-2", None, None),
        (0.32, "burst", accounts[min(2, max(0, last - 2))], 30.0, 15.0),
        (0.38, "restart", None, None, None),
        (0.44, "remove", gone[0], None, None),
        (0.50, "add", "added-3", None, None),
        (0.56, "burst", "added-1", 45.0, 20.0),
        (0.62, "flush", None, None, None),
        (0.68, "add", "added-4", None, None),
        (0.74, "remove", gone[1], None, None),
        (0.82, "burst", accounts[0], 60.0, 30.0),
    ]
    return [
        msgspec.convert(
            {"at": round(share * seconds, 1), "event": kind, "account": name, "seconds": lasts, "retry_after": retry},
            Event,
        )
        for share, kind, name, lasts, retry in plan
    ]
