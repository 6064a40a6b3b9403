"""Whose turn it is when many wait for one thing: deficit round-robin over tenants, by estimated tokens.

Tenants take turns. A turn is worth one quantum of tokens; a tenant whose next waiter costs more saves its turns up. All
tenants weigh the same. Interactive waiters come before batch ones. It knows neither what is waited for nor the time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from math import inf
from typing import Generic, TypeVar

MOST = 1000  # that wait
_ONE_IN = 4  # of them may be of one tenant
_BATCH_EVERY = 8  # grants, one goes to batch, however many interactive ones wait
_LEAST_COST = 1 / 16  # quanta: a waiter takes its place however little it asks for, so no turn serves more than 16
_MOST_COST = 4.0  # quanta: waits are short, who asks for much must not wait in vain; it bounds a grant's work, too
_NOTHING: Mapping[str, int] = {}

Item = TypeVar("Item", bound=Hashable)


class _Line(Generic[Item]):
    """One tenant's waiters of one kind, with their costs, and what it may spend before its next turn."""

    __slots__ = ("credit", "tenant", "waiters")

    def __init__(self, tenant: str, credit: float) -> None:
        self.tenant = tenant
        self.credit = credit
        self.waiters: OrderedDict[Item, float] = OrderedDict()  # its first one is found at once, unlike a dict's


_Ring = OrderedDict[str, _Line[Item]]  # by tenant, in the order of their turns; a tenant without waiters is not in it


class FairQueue(Generic[Item]):
    """A bounded queue; a turn is worth `quantum` tokens, `most` may wait, a quarter of them of one tenant. Every
    operation is O(1), but that a grant must look at the tenants it passes over."""

    def __init__(self, quantum: float, most: int = MOST) -> None:
        self.size = 0
        self._quantum = quantum
        self._most = most
        self._most_each = max(1, most // _ONE_IN)
        self._interactive: _Ring[Item] = OrderedDict()
        self._batch: _Ring[Item] = OrderedDict()
        self._places: dict[Item, tuple[_Ring[Item], _Line[Item]]] = {}
        self._streak = 0  # grants to interactive waiters since batch waits

    def __repr__(self) -> str:
        return f"<FairQueue size={self.size} interactive={len(self._interactive)} batch={len(self._batch)}>"

    def push(self, tenant: str, cost: float, item: Item, batch: bool = False) -> bool:
        """Let an item wait, that does not wait yet; False if the queue, or the tenant's part of it, is full. `cost` are
        tokens; 0 is unknown and counts as a whole turn."""
        if self.size >= self._most or self._waiting(tenant) >= self._most_each:
            return False
        ring, quantum = self._batch if batch else self._interactive, self._quantum
        line = ring.get(tenant)
        if line is None:  # a newcomer comes last and has saved nothing, so that leaving never pays
            line = ring[tenant] = _Line(tenant, quantum)
        line.waiters[item] = min(max(cost, _LEAST_COST * quantum), _MOST_COST * quantum) if cost > 0 else quantum
        self._places[item] = ring, line
        self.size += 1
        return True

    def pop(self, held: Mapping[str, int] = _NOTHING, most: float = inf) -> Item | None:
        """Who is next, None if nobody waits. `held` says how much each tenant has already of what is waited for: those
        that have `most` or more are passed over, unless all have that wait."""
        ring = self._next_ring()
        if not ring:
            return None
        tenants, passed = len(ring), 0  # how many were passed over, one after the other
        while True:
            tenant = next(iter(ring))
            if held.get(tenant, 0) >= most:
                passed += 1
                if passed == tenants:
                    most = inf
            else:
                passed, line = 0, ring[tenant]
                item, cost = next(iter(line.waiters.items()))
                if cost <= line.credit:
                    line.credit -= cost
                    self.remove(item)
                    return item
                line.credit += self._quantum
            ring.move_to_end(tenant)

    def remove(self, item: Item) -> None:
        """An item waits no more; one that does not wait is ignored."""
        place = self._places.pop(item, None)
        if place is not None:
            ring, line = place
            del line.waiters[item]
            if not line.waiters:
                del ring[line.tenant]
            self.size -= 1

    def waits(self, tenant: str) -> bool:
        """Whether an item of this tenant waits."""
        return tenant in self._interactive or tenant in self._batch

    def _waiting(self, tenant: str) -> int:
        lines = self._interactive.get(tenant), self._batch.get(tenant)
        return sum(len(line.waiters) for line in lines if line is not None)

    def _next_ring(self) -> _Ring[Item]:
        """Interactive or batch, as the next grant goes."""
        if not self._batch:
            self._streak = 0
            return self._interactive
        self._streak += 1
        if self._interactive and self._streak < _BATCH_EVERY:
            return self._interactive
        self._streak = 0
        return self._batch
