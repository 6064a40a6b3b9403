"""Where the conversation lives: its binding from the store.

It does not know HTTP bodies or upstreams, and it chooses nothing: routes do. When the store is away it answers from
this process's own memory, else from the ranking alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, time
from typing import Any

import msgspec

from gateway import log
from gateway.config.schema import Caller, Config
from gateway.core.routing.binding import COLD, Record, pack, record_key, unpack
from gateway.core.routing.binding import moved as turned
from gateway.core.routing.broadcast import BoundConversation, BoundConversations, Fact, Forget
from gateway.core.routing.groups import group_of
from gateway.core.routing.route import Route
from gateway.core.wire.peek import Peek
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.client.connection import Asker
from gateway.store.ledger.ledger import Call, Renewal, pack_renewal, to_bind, to_renew_binding
from gateway.store.scripts import REBIND, RECALL
from gateway.worker.callers.limits import Reservation

MEMORY = 100_000  # conversations a process remembers
ACCOUNT_BOUND_FOR = 30 * 86_400  # seconds that a conversation is remembered whose history is bound to its account
_EXTENDED = 64  # times that the life of a record in constant use is extended while it lasts
_LONG_AGO = 1 << 52  # ms: a cache of then is warm no longer
_SPREAD_EVERY = 0.05  # seconds
_LATE = 1.0  # seconds for which what another process spreads of a flushed binding may be of before
_RESEED_AT_ONCE = 200
_RESEED_PAUSE = 0.02  # seconds between these


class Binding(msgspec.Struct):
    """One conversation's record for one model: `key` and `model` are its place in the store, `record` the process's
    copy of it, which a later decision of anybody's may have overtaken, and `stored` what the store had then. `leads`
    says that it is this request whose answer the record waits for as in flight."""

    key: str
    model: str
    record: Record
    stored: bytes = b""
    leads: bool = False


class Proposal(msgspec.Struct):
    """Where a conversation lives as far as this process knows, for the store to confirm: `record`, which is `fresh` if
    nobody remembers it. `in_flight` is how long an answer may take that will make it warm (ms; 0: it is)."""

    key: str
    model: str
    record: Record
    fresh: bool = False
    in_flight: int = 0


class Admission:
    """Bindings of one process: the store's truth, and a bounded memory of it. `moved(reason)` is told of rebinds,
    `tell` spreads them to other processes."""

    def __init__(
        self, config: Config, store: StoreClient, moved: Callable[[str], None], tell: Callable[[Fact], None]
    ) -> None:
        self._store = store
        self._moved = moved
        self._tell = tell
        self._memory: dict[tuple[str, str], Record] = {}
        self._skew = (time() - monotonic()) * 1000  # ms from this process's clock to the store's
        self._reseeding: asyncio.Task[None] | None = None
        self._unspread: list[BoundConversation] = []  # not yet spread
        self._flushed: list[tuple[Forget, float]] = []  # lately, and until when that is looked at
        self._reseed_again = False  # asked for while one was under way
        # What was never answered is not worth remembering for long: settlement extends the record's life.
        self._in_flight = int(config.timeouts.total * 1000)  # ms that a request may be on its way
        self._provisional = self._in_flight + 60_000
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._remember = int(config.affinity.remember * 1000)
        self._remember_account_bound = int(max(config.affinity.remember, ACCOUNT_BOUND_FOR) * 1000)

    @property
    def store_up(self) -> bool:
        """Whether the store can be asked."""
        return self._store.up

    @property
    def now_ms(self) -> int:
        """The store's clock as this process reckons it."""
        return int(monotonic() * 1000 + self._skew)

    async def bind(
        self,
        caller: Caller,
        conversation: bytes,
        peek: Peek,
        route: Route,
        former: bytes | None = None,
        reservation: Reservation | None = None,
    ) -> Binding | None:
        """Read the binding of (conversation, model), or create it where the route proposes; None if nobody may serve
        it now. The route knows it afterwards. The `reservation` of the caller's limits is taken with it; raises
        ApiError(429) where one refuses.

        `former` is the conversation's key under the secret before this one, whose binding a new one follows.
        """
        proposal = await self._propose(caller, conversation, peek, route, former)
        if proposal is None:
            return None
        try:
            asked = self._store.call(*self._call(proposal, reservation))
            if reservation is not None:
                reservation.asked = True
        except StoreDown:
            return self._alone(proposal, reservation, route)
        return await self.bound(proposal, asked, route, reservation)

    async def _propose(
        self, caller: Caller, conversation: bytes, peek: Peek, route: Route, former: bytes | None
    ) -> Proposal | None:
        key, model = record_key(caller.tenant, conversation), route.model
        remembered = self._memory.get((key, model))
        if remembered is None and former is not None:
            remembered = await self._recall(record_key(caller.tenant, former), model)
        if remembered is not None:
            cold = route.counts and remembered.warm_until <= self.now_ms
            return Proposal(key, model, remembered, False, self._in_flight if cold else 0)
        if route.counts:
            route.group = group_of(peek)
        workspace = route.propose(monotonic()) if self._store.up else self._ranked(route)
        if workspace is None:
            return None
        record = Record(workspace, group=route.group)
        if route.counts:
            record.in_flight_until = self.now_ms + self._in_flight
        return Proposal(key, model, record, True, self._in_flight if route.counts else 0)

    def warm_at(self, caller: Caller, conversation: bytes, model: str) -> Proposal | None:
        """The conversation's own binding, if this process remembers it as warm."""
        key = record_key(caller.tenant, conversation)
        record = self._memory.get((key, model))
        if record is None or not record.tokens or record.warm_until <= self.now_ms:
            return None
        return Proposal(key, model, record)

    def ask(self, proposal: Proposal, reservation: Reservation | None, asker: Asker) -> None:
        """Have the asker told the store's reply to it; what becomes of that, `bound` and `confirmed` say. Raises
        StoreDown."""
        self._store.ask(*self._call(proposal, reservation), asker)
        if reservation is not None:
            reservation.asked = True

    def _call(self, proposal: Proposal, reservation: Reservation | None) -> Call:
        """The script that confirms it, and takes the reservation."""
        packed, lifetime = self._to_keep(proposal.record)
        if proposal.fresh:
            lifetime = self._provisional
        place = proposal.key, proposal.model, packed, proposal.record.generation, lifetime, proposal.in_flight
        return to_bind(place) if reservation is None else reservation.call(place)

    async def bound(
        self, proposal: Proposal, asked: Awaitable[Any], route: Route, reservation: Reservation | None
    ) -> Binding | None:
        """The binding, once the store has answered what it was `asked`; else as `bind`."""
        key, model, in_flight = proposal.key, proposal.model, proposal.in_flight
        try:
            reply = await asked
            if reservation is not None:
                reservation.answered(reply)
            created, packed, now_ms = reply[:3]
            record = msgspec.structs.replace(proposal.record, kept_until=0) if created else unpack(packed)
        except (StoreDown, msgspec.MsgspecError):  # away, or the record cannot be read: settlement writes it anew
            return self._alone(proposal, reservation, route)
        self._skew = now_ms - monotonic() * 1000
        if created and not proposal.fresh:  # the store has lost what this process knows
            self.reseed()
        route.found(record, bool(created) and proposal.fresh, now_ms)
        leads = bool(in_flight) and (route.placement.created or record.is_cold(now_ms))
        if leads:
            record.in_flight_until = now_ms + in_flight  # for others, as the store has noted it
            if not created:
                packed = pack(record)
        binding = Binding(key, model, record, packed, leads)
        if route.placement.created:
            self._spread(binding)
        better = route.better(monotonic())
        if better is not None:
            workspace, reason = better
            await self.rebind(binding, route, workspace, reason, voluntary=reason == "home")
        self._keep(binding)
        return binding

    def confirmed(self, proposal: Proposal, record: Record, reply: list[Any]) -> Binding:
        """The binding of a conversation that lives where it was proposed, by the `record` in this reply."""
        self._skew = reply[2] - monotonic() * 1000
        binding = Binding(proposal.key, proposal.model, record, reply[1])
        self._keep(binding)
        return binding

    def _alone(self, proposal: Proposal, reservation: Reservation | None, route: Route) -> Binding | None:
        """The store is away: memory, else rank."""
        if reservation is not None:
            reservation.without_store()
        record = msgspec.structs.replace(proposal.record)  # another request's binding may have that one
        if proposal.fresh:
            workspace = self._ranked(route)
            if workspace is None:
                return None
            record = Record(workspace, in_flight_until=self.now_ms + self._in_flight)
        route.found(record, False, self.now_ms, "stateless")
        binding = Binding(proposal.key, proposal.model, record)
        self._keep(binding)
        return binding

    @staticmethod
    def _ranked(route: Route) -> str | None:
        return route.router.ranked(route.conversation, route.model)

    async def _recall(self, key: str, model: str) -> Record | None:
        try:
            packed = await self._store.call(RECALL, (1, key, model))
            return None if packed is None else unpack(packed)
        except (StoreDown, msgspec.MsgspecError):
            return None

    async def rebind(
        self, binding: Binding, route: Route, workspace: str, reason: str, voluntary: bool = False
    ) -> None:
        """Move the conversation, unless another request has moved it already; binding and route then say where to."""
        record = binding.record
        args = (
            1, binding.key, 0, binding.model, record.generation, record.workspace, workspace, reason, self._remember,
            int(voluntary), self._in_flight,
        )  # fmt: skip
        try:
            moved, packed = await self._store.call(REBIND, args)
            binding.record, binding.stored = unpack(packed), packed
        except (StoreDown, msgspec.MsgspecError):
            moved = False
            binding.record = turned(record, workspace, reason, self.now_ms, self._in_flight, voluntary)
        how = route.placement.how
        if how == "bound":
            how = "new" if reason == "cold" or not route.placement.warm else "moved"
        if moved and not route.placement.created:
            self._moved("account_bound" if record.account_bound and route.placement.warm else reason)
        route.rebound(binding.record, how, reason)
        binding.leads = bool(moved)
        self._keep(binding)
        self._spread(binding)

    def _spread(self, binding: Binding) -> None:
        """Tell others of a binding: they would look elsewhere for it, should the store lose it or go away."""
        if not self._unspread:
            asyncio.get_running_loop().call_later(_SPREAD_EVERY, self._spread_all)
        self._unspread.append(BoundConversation(binding.key, binding.model, pack(binding.record)))

    def _spread_all(self) -> None:
        bound, self._unspread = self._unspread, []
        self._tell(BoundConversations(bound))

    def heard(self, fact: BoundConversations) -> None:
        """Another process has bound conversations."""
        if self._flushed:
            self._flushed = _lately(self._flushed)
        for each in fact.bound:
            known, record = self._memory.get((each.key, each.model)), unpack(each.record)
            if any(_is_of(flushed, each.key, record.workspace) for flushed, _ in self._flushed):
                continue  # told before that process had heard of it
            if known is None or known.generation < record.generation:
                self._keep(Binding(each.key, each.model, record))

    def warm(self, caller: Caller, conversation: bytes, model: str) -> int:
        """Tokens of a conversation that this process takes to be in a cache."""
        record = self._memory.get((record_key(caller.tenant, conversation), model))
        return record.tokens if record is not None and record.warm_until > self.now_ms else 0

    def renewal(
        self, binding: Binding, workspace: str, age: float, ttl: int, tokens: int, size: int, account_bound: bool
    ) -> Renewal:
        """What tells the store that the conversation's cache is warm in the `workspace` that served it: its response
        began `age` seconds ago, entries live `ttl` seconds; the conversation holds `tokens` (0 while unknown), its body
        had `size` bytes. This process knows it at once."""
        record = binding.record
        age_ms, ttl_ms = int(age * 1000), ttl * 1000
        now_ms = int(monotonic() * 1000 + self._skew)
        warm_until = now_ms - age_ms + ttl_ms
        record.in_flight_until = COLD
        lifetime = self._remember_account_bound if account_bound else self._remember
        if record.kept_until < now_ms + lifetime - lifetime // _EXTENDED:
            record.kept_until = now_ms + lifetime
        else:
            lifetime = -lifetime
        if workspace == record.workspace:
            if warm_until > record.warm_until:
                record.warm_until = warm_until
            if tokens:
                record.tokens, record.size = tokens, size
            record.account_bound = record.account_bound or int(account_bound)
        else:
            record.detour, record.detour_warm_until = workspace, warm_until
        told = (workspace, record.generation, record.workspace, age_ms, ttl_ms, tokens, size, int(account_bound))
        return _renewal(binding, lifetime, told)

    def _to_keep(self, record: Record) -> tuple[bytes, int]:
        """A record for a store that may have lost it, and for how long (ms) it is kept there: as long as it says."""
        lifetime = self._remember_account_bound if record.account_bound else self._remember
        if record.kept_until > monotonic() * 1000 + self._skew + lifetime:  # another process's, or of before a reload
            record = msgspec.structs.replace(record, kept_until=0)
        return pack(record), lifetime

    def unanswered(self, binding: Binding) -> Renewal:
        """What tells the store that no answer to the request which `leads` is on its way any longer."""
        record = binding.record
        record.in_flight_until = COLD
        told = (record.workspace, record.generation, record.workspace, _LONG_AGO, 0, 0, 0, 0)
        return _renewal(binding, self._provisional, told)

    def renew(self, renewal: Renewal) -> None:
        """Post it. Nobody waits for it."""
        try:
            self._store.post(*to_renew_binding(renewal))
        except StoreDown:
            return  # the binding stays in memory, which is published when the store is back

    # The memory.

    def _keep(self, binding: Binding) -> None:
        memory, place = self._memory, (binding.key, binding.model)
        if place in memory:
            del memory[place]
        elif len(memory) >= MEMORY:
            del memory[next(iter(memory))]
        memory[place] = binding.record

    def forget(self, fact: Forget) -> None:
        """Bindings were flushed from the store."""
        self._flushed = [*_lately(self._flushed), (fact, monotonic() + _LATE)]
        self._unspread = [each for each in self._unspread if not _is_of(fact, each.key, unpack(each.record).workspace)]
        for place in [place for place, record in self._memory.items() if _is_of(fact, place[0], record.workspace)]:
            del self._memory[place]

    def reseed(self) -> None:
        """The store is back, or lost what it knew: give it this process's bindings, where it has none or older ones."""
        self._reseed_again = self._reseeding is not None and not self._reseeding.done()
        if not self._reseed_again:
            self._reseeding = asyncio.get_running_loop().create_task(self._reseed())

    async def _reseed(self) -> None:
        given = 0
        places = list(self._memory)
        try:
            for first in range(0, len(places), _RESEED_AT_ONCE):
                for key, model in places[first : first + _RESEED_AT_ONCE]:
                    record = self._memory.get((key, model))
                    if record is not None and record.tokens:
                        packed, lifetime = self._to_keep(record)
                        self._store.post(*to_bind((key, model, packed, record.generation, lifetime, 0)))
                        given += 1
                await asyncio.sleep(_RESEED_PAUSE)
        except StoreDown:
            return  # it will be back once more
        if given:
            log.info("bindings published", conversations=given)
        if self._reseed_again:
            self._reseed_again = False
            await self._reseed()


def _renewal(binding: Binding, lifetime: int, told: tuple[str | int, ...]) -> Renewal:
    """What settle.lua is given: the record for a store that still has what this request read, and what is `told` for
    one that has another by now."""
    before, binding.stored = binding.stored, pack(binding.record)
    return binding.key, binding.model, lifetime, before, binding.stored, pack_renewal(told)


def _lately(flushed: list[tuple[Forget, float]]) -> list[tuple[Forget, float]]:
    now = monotonic()
    return [(fact, until) for fact, until in flushed if until > now]


def _is_of(fact: Forget, key: str, workspace: str) -> bool:
    """Whether a binding is one of those that were flushed."""
    return (bool(fact.key) and key == fact.key) or (bool(fact.workspace) and workspace == fact.workspace)
