"""The pool document: the accounts that all replicas agree to route over, and how it follows from what they announce.

Pure data and one function. It does not know Redis, which stores the document, nor credentials, which never enter it.
"""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, frozen=True, order=True):
    """One account as the pool sees it: `weight` > 0, `state` one of active, draining, disabled."""

    id: str
    workspace: str
    organization: str
    weight: float = 1.0
    models: tuple[str, ...] = ("*",)
    state: str = "active"


class PoolDocument(msgspec.Struct, frozen=True):
    """`epoch` grows by one with each change; `accounts` are sorted by id."""

    epoch: int = 0
    accounts: tuple[Entry, ...] = ()


class Announcement(msgspec.Struct, frozen=True):
    """What one live gateway says of itself: the accounts it holds credentials for, as its file defines them.

    `since` is when it loaded that file (Unix seconds): of two definitions of one account the later loaded one counts.
    """

    process: str
    since: float
    accounts: tuple[Entry, ...]


def reconcile(
    previous: PoolDocument | None, live: list[Announcement], overrides: dict[str, dict[str, object]] | None = None
) -> PoolDocument:
    """The document that follows from `previous`, the live processes' announcements and the operators' overrides.

    An account joins when every live process holds it and leaves when none does, so that in a rolling deploy no
    process meets a ring it cannot serve. The same inputs give the same document everywhere; an unchanged one is
    returned as it is, with its epoch. `overrides` maps account id to new values of `state` and `weight`.
    """
    if not live:
        return previous or PoolDocument()
    known = {entry.id for entry in previous.accounts} if previous else set()
    held_by_all = set.intersection(*({entry.id for entry in each.accounts} for each in live))
    definitions: dict[str, Entry] = {}
    for announcement in sorted(live, key=lambda each: (each.since, each.process)):
        for entry in announcement.accounts:
            if entry.id in held_by_all or entry.id in known:
                definitions[entry.id] = entry
    for name, values in (overrides or {}).items():
        if name in definitions:
            definitions[name] = msgspec.structs.replace(definitions[name], **values)
    accounts = tuple(sorted(definitions.values(), key=lambda entry: entry.id))
    if previous is not None and previous.accounts == accounts:
        return previous
    return PoolDocument((previous.epoch if previous else 0) + 1, accounts)
