"""The pool document: the accounts that all replicas agree to route over, and how it follows from what they announce.

Pure data and one function. It does not know Redis, which stores the document, nor credentials, which never enter it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

STATES = ("active", "draining", "disabled")
Overrides = Mapping[str, Mapping[str, object]]  # account id -> new values of some of OVERRIDABLE's fields


def _state(value: object) -> str | None:
    return value if isinstance(value, str) and value in STATES else None


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2.5e11
    return float(value) if good else None  # type: ignore[arg-type]


def _weight(value: object) -> float | None:
    return _number(value) or None


# What operators may override; each gives the value, or None for one that only a newer version understands.
OVERRIDABLE: dict[str, Callable[[object], object]] = {
    "state": _state,
    "weight": _weight,
    "drain_until": _number,
}


class Entry(msgspec.Struct, frozen=True, order=True):
    """One account as the pool sees it: `weight` > 0, `state` one of STATES.

    `drain_until` is the deadline of a drain in Unix seconds, 0 for none and in any other state. `since` is when the
    account joined a running pool, 0 for those of the first document; announcements leave it 0.
    """

    id: str
    workspace: str
    organization: str
    weight: float = 1.0
    models: tuple[str, ...] = ("*",)
    state: str = "active"
    drain_until: float = 0.0
    since: float = 0.0


class PoolDocument(msgspec.Struct, frozen=True):
    """`epoch` grows by one with each change; `accounts` are sorted by id, each of which is there once."""

    epoch: int = 0
    accounts: tuple[Entry, ...] = ()


class Announcement(msgspec.Struct, frozen=True):
    """What one live gateway says of itself: the accounts it holds credentials for, as its file defines them.

    `since` is when it loaded that file (Unix seconds): of two definitions of one account the later loaded one counts.
    `workers` is how many processes of it serve, `names` what they are called.
    """

    process: str
    since: float
    accounts: tuple[Entry, ...]
    workers: int = 1
    names: tuple[str, ...] = ()


def reconcile(
    previous: PoolDocument | None, live: Sequence[Announcement], overrides: Overrides | None = None, now: float = 0.0
) -> PoolDocument:
    """The document that follows from `previous`, the live processes' announcements and the operators' overrides.

    An account joins when every live process holds it and leaves when none does, so that in a rolling deploy no
    process meets a ring it cannot serve. One that joins accounts already there does so `since` `now` (Unix seconds).
    The same inputs give the same document everywhere; an unchanged one is returned as it is, with its epoch.
    """
    if not live:
        return previous or PoolDocument()
    known = {entry.id: entry.since for entry in previous.accounts} if previous else {}
    held_by_all = set.intersection(*({entry.id for entry in each.accounts} for each in live))
    defined = {name: entry for name, entry in definitions(live).items() if name in held_by_all or name in known}
    joined = now if known.keys() & defined.keys() else 0.0
    for name, entry in defined.items():
        values = {**effective((overrides or {}).get(name, {})), "since": known.get(name, joined)}
        account = msgspec.structs.replace(entry, **values)
        if account.state != "draining":
            account = msgspec.structs.replace(account, drain_until=0.0)
        defined[name] = account
    accounts = tuple(sorted(defined.values(), key=lambda entry: entry.id))
    if previous is not None and previous.accounts == accounts:
        return previous
    return PoolDocument((previous.epoch if previous else 0) + 1, accounts)


def definitions(live: Iterable[Announcement]) -> dict[str, Entry]:
    """Every account that is announced, by id, as the file that was loaded last defines it."""
    latest = sorted(live, key=lambda each: (each.since, each.process))
    return {entry.id: entry for announcement in latest for entry in announcement.accounts}


def resume(
    last: PoolDocument, overrides: Overrides, own: Announcement, live: Sequence[Announcement] = ()
) -> PoolDocument:
    """The document to go on with where the others cannot be asked yet: the one agreed `last`, with the definitions of
    `own` and of those who are `live` already.

    Accounts that none of them holds stay, as others may hold them, and new ones wait until all agree. A pool of which
    this process holds nothing is not this process's pool.
    """
    known = tuple({own.process: own, **{each.process: each for each in live}}.values())
    if not {entry.id for entry in last.accounts} & {entry.id for entry in own.accounts}:
        return reconcile(PoolDocument(last.epoch), known, overrides)
    return reconcile(last, (Announcement("", 0.0, last.accounts), *known), overrides)


def effective(override: Mapping[str, object]) -> dict[str, object]:
    """What of one account's override this version understands. A new state brings its own deadline, or none."""
    read = {name: OVERRIDABLE[name](value) for name, value in override.items() if name in OVERRIDABLE}
    values = {name: value for name, value in read.items() if value is not None}
    return {"drain_until": 0.0, **values} if "state" in values else values
