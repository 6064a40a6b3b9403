"""Where a request's conversation lives: found before it is sent, and settled by what answers it."""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic, perf_counter
from typing import Any

from gateway.core.routing.document import Entry
from gateway.core.routing.route import Route
from gateway.worker.affinity.bindings import Admission, Proposal
from gateway.worker.affinity.single_flight import SingleFlight
from gateway.worker.request.journey import Journey
from gateway.worker.request.settlement import Settlement

_WARM_ENOUGH = 150_000  # ms: half of the shortest cache lifetime; a stream that begins later than this renews at once


Asked = tuple[Proposal, Awaitable[Any]]  # where a conversation may live, and the store's reply


class Home:
    """Of a cold conversation's simultaneous requests one leads, the others wait for its answer to begin."""

    def __init__(self, admission: Admission, settlement: Settlement) -> None:
        self.flights = SingleFlight()
        self._admission = admission
        self._settlement = settlement

    async def find(self, x: Journey, route: Route, former: bytes | None, asked: Asked | None = None) -> None:
        """Bind the conversation, and take what the caller's limits allow; raises ApiError(429) where they do not.
        `former` is its key under the secret before this one; `asked` is what the store was asked already."""
        request = x.request
        caller, peeked = request.caller, request.peek
        if caller is None or peeked is None:
            return
        key = request.conversation
        admission, reservation = self._admission, x.reservation
        if asked is None:
            binding = await admission.bind(caller, key, peeked, route, former, reservation)
        else:
            binding = await admission.bound(*asked, route, reservation)
        x.binding = binding
        if binding is None or not request.endpoint.metered:
            return
        place = binding.key, binding.model
        if route.placement.warm and not self.flights.leads(place):
            return
        began = perf_counter()
        x.leader, waited = await self.flights.join(place, peeked)
        if waited:
            x.times.queued += perf_counter() - began
            x.binding = await self._admission.bind(caller, key, peeked, route, former)

    async def served(self, x: Journey, route: Route, entry: Entry) -> None:
        """An account's answer is about to go to the client: the conversation lives there now, and those who wait for
        its cache may go."""
        reason = route.served(entry, monotonic())
        if reason and x.binding is not None:
            await self._admission.rebind(x.binding, route, entry.workspace, reason)
        if x.leader is not None:
            self._settlement.renew(x, 0.0, 0)
            self.release(x)

    def stream_began(self, x: Journey) -> None:
        """A message has begun: its prompt is in the account's cache, and those who wait for that may go."""
        attempt, binding, route = x.attempt, x.binding, x.route
        attempt.renewed = perf_counter()
        warm = route is not None and route.placement.warm and route.placement.warm_for >= _WARM_ENOUGH
        if not warm or x.leader is not None:
            self._settlement.renew(x, 0.0, attempt.meter.usage.total_input)
        account = attempt.account
        if binding is not None and account is not None and binding.record.workspace == account.workspace:
            self.release(x)

    def release(self, x: Journey) -> None:
        """It leads no more."""
        if x.leader is not None and x.binding is not None:
            self.flights.release((x.binding.key, x.binding.model), x.leader)
            x.leader = None
