"""Weighted rendezvous hashing: the order in which workspaces, and accounts inside one, serve a conversation.

A ranking depends on the key, the names and the weights alone, so every replica computes the same one. It does not
know health, load or bindings: eligibility filters the ranking, it never changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from math import log

from gateway.core.routing.document import Entry, PoolDocument

_SPAN = 2.0**64


def distance(key: bytes, name: bytes, weight: float) -> float:
    """How far `name` is from `key`; the nearest wins.

    With u uniform in (0, 1) drawn from the keyed digest, -ln(u) / weight is an exponential variable of rate `weight`,
    so each name is nearest with probability proportional to its weight, and raising a weight only brings it nearer.
    """
    digest = int.from_bytes(blake2b(name, digest_size=8, key=key).digest(), "big")
    return -log((digest + 0.5) / _SPAN) / weight


class Ring:
    """The workspaces of one pool document. `epoch` is the document's."""

    def __init__(self, document: PoolDocument) -> None:
        self.epoch = document.epoch
        self.accounts: dict[str, Entry] = {entry.id: entry for entry in document.accounts}
        self._members: dict[str, list[Entry]] = {}
        for entry in document.accounts:
            self._members.setdefault(entry.workspace, []).append(entry)
        self._weights = {name: sum(entry.weight for entry in members) for name, members in self._members.items()}
        self._workspaces = [(name, b"w:" + name.encode(), self._weights[name]) for name in sorted(self._members)]

    def __contains__(self, workspace: str) -> bool:
        return workspace in self._members

    def __len__(self) -> int:
        return len(self._workspaces)

    def __iter__(self) -> Iterator[str]:
        """The names of all workspaces."""
        return iter(self._members)

    def weight(self, workspace: str) -> float:
        """The sum of its accounts' weights, 0 for an unknown workspace."""
        return self._weights.get(workspace, 0.0)

    def rank(self, key: bytes) -> list[str]:
        """All workspaces, home first: the order of failover. `key` is 1 to 64 bytes."""
        distances = ((distance(key, tag, weight), name) for name, tag, weight in self._workspaces)
        return [name for _, name in sorted(distances)]

    def members(self, workspace: str, key: bytes) -> list[Entry]:
        """The accounts of a workspace in the order in which they serve `key`; empty for an unknown workspace."""
        members = self._members.get(workspace, [])
        if len(members) < 2:
            return members
        return sorted(members, key=lambda entry: (distance(key, b"a:" + entry.id.encode(), entry.weight), entry.id))

    def order(self, key: bytes) -> list[Entry]:
        """All accounts, workspace by workspace, in the order in which they serve `key`."""
        return [entry for workspace in self.rank(key) for entry in self.members(workspace, key)]
