"""What requests reserve and what they have used, told to the store: limits, budgets and the ledger of one process.

It does not know what limits mean (core.spending.quota does), nor how the store counts (store.ledger and its scripts
do).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import monotonic, time
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.config.schema import Caller, CallerLimits, Config, Team
from gateway.core.spending.keyring import CALLERS, TEAMS
from gateway.core.spending.local_limits import LocalLimits
from gateway.core.spending.pricing import Catalogue, Model, Price
from gateway.core.spending.quota import (
    BUDGETS,
    COUNT,
    Headers,
    Limits,
    Plan,
    Quota,
    Refused,
    estimate_cost,
    labels,
    warm_discount,
)
from gateway.core.wire.by_reference import tokens_elsewhere
from gateway.core.wire.peek import Peek
from gateway.core.wire.server_tools import extras
from gateway.errors import ApiError
from gateway.records import Finished
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.ledger.ledger import (
    REFUSED,
    Call,
    Cancelled,
    Ended,
    Entry,
    Proposal,
    Renewal,
    ReservationRecord,
    UsageJournal,
    levels_of,
    pack,
    pack_intent,
    refused_of,
    sums_of,
    tenant_of,
    to_admit,
    to_enroll,
    to_note,
    to_renew,
    unpack,
)
from gateway.store.ledger.tick_journal import TickJournal
from gateway.worker.callers.settling import Settling
from gateway.worker.endpoints import Endpoint

_FREE = Model(
    id="", display_name="", limit_class="", price=Price(input=0, output=0, write_5m=0, write_1h=0, read=0)
)  # fmt: skip
_NANO = 1_000_000_000
NO_BOOSTS: Mapping[tuple[str, str], float] = {}
OTHER = "other"
_MOST_OUTPUT = 128_000
_CONTEXT = 1_000_000
_NOTED_AT_ONCE = 200
_ITS_MAX_TOKENS = ("max_tokens",)
_MAX_TOKENS = {"chat": ("max_completion_tokens", "max_tokens"), "complete": ("max_tokens_to_sample",)}


class _Model(msgspec.Struct, frozen=True):
    """What a request's reservation needs of its model; `name` is OTHER where nobody knows it: clients may write
    anything. `priced` is as the catalogue has it, or free."""

    name: str
    max_output: int
    context: int
    priced: Model


class Reservation(msgspec.Struct, eq=False):
    """What one request that arrived `at` (Unix ms) asks of its caller's limits, in nano-dollars too; `noted` if it is
    reserved until somebody settles it. It is `lighter` by its `discount` where that counts."""

    accounting: Accounting
    plan: Plan
    limits: Limits
    request_id: str
    record: bytes
    at: int
    cost: int = 0
    discount: int = 0
    lighter: bytes = b""
    noted: bool = False
    taken: bool = False
    local: bool = False  # of the local limits, without the store
    asked: bool = False  # the store, which may have taken it
    stored: bool = False  # the store has it
    journaled: bool = False
    levels: Sequence[int] = ()
    now: int = 0  # when the store said these, by its clock; 0 where it refused

    def call(self, binding: Proposal | None) -> Call:
        """The script that takes it, with the binding of a conversation if there is one; its intent is journaled in the
        same tick. What its tenant has used until now goes ahead of it."""
        accounting, tenant = self.accounting, self.plan.tenant
        if tenant in accounting.settling.waiting:
            accounting.settling.flush(tenant)
        if self.noted:
            accounting.journal.intend(self)
        return to_admit(
            self.limits, self.request_id, self.record, self.cost, labels(self.at), binding,
            discount=self.discount, lighter=self.lighter,
        )  # fmt: skip

    def answered(self, reply: list[Any]) -> None:
        """The store's reply. Raises ApiError(429) where a limit refuses."""
        self.levels = levels_of(reply)
        refused = refused_of(reply, self.limits, self.at) if reply[0] == REFUSED else None
        if refused is not None:
            if self.noted:
                self.accounting.journal.keep(pack(Cancelled(self.request_id)))
            self.noted = False  # nothing was taken, so nothing is to be settled
            raise _refusal(refused)
        self.taken = self.stored = True
        self.accounting.found_short(self.plan.tenant, len(reply) > 4 and reply[4] == 1)
        self.now = reply[2]

    def without_store(self) -> None:
        """The store is away, or too slow: take it of the local limits. Raises ApiError where they refuse, and where
        the journal has not got it either."""
        if self.taken:
            return
        if self.noted and not self.accounting.journal.insist(self):
            self.noted = self.asked  # the store may have it, which then hears of its end
            words = "The gateway cannot keep account of this request now. Please try again later."
            raise ApiError(529, words, retry_after=1, limit=("gateway", "journal"))
        self.accounting.take_locally(self)
        self.taken = self.local = True

    @property
    def intent(self) -> bytes:
        """What is journaled before any upstream has the request."""
        return pack_intent(self.request_id, self.record)

    @property
    def place(self) -> tuple[str, tuple[str, ...], str]:
        """Where the store keeps it: the tenant, the subjects, the hour."""
        return self.plan.tenant, self.plan.subjects, labels(self.at).hour

    def headers(self) -> Headers:
        """What is left of the caller's own limits, as rate-limit headers."""
        return self.limits.headers(self.levels, self.now or self.at) if self.levels else []

    def warnings(self, claude_code: bool) -> Headers:
        """Of the budgets that are used beyond a soft threshold, as headers of an answer; not of a refusal, which says
        more, and which Claude Code would not show beside them."""
        warned = self.limits.warned(self.levels, self.at) if self.taken else None
        return [] if warned is None else warned.headers(claude_code)

    @property
    def leases(self) -> tuple[str, ...]:
        """The subjects of which it holds a slot."""
        return tuple(self.plan.subjects[number - 1] for number in self.limits.leases)


class Accounting:
    """Of the process that is called `process`; `processes()` are how many of them, of all gateways, there are."""

    def __init__(
        self,
        config: Config,
        store: StoreClient,
        catalogue: Catalogue,
        journal: UsageJournal,
        process: str,
        processes: Callable[[], int],
    ) -> None:
        self._processes = processes
        self._local_limits = LocalLimits()
        self._store = store
        self.journal = TickJournal(journal)
        self._process = process
        self._plans: dict[str, tuple[Caller, Plan]] = {}
        self.settling = Settling(store, self._refused)
        self._enrolled: set[str] = set()  # tenants of whom the store was told
        self._short: set[str] = set()  # tenants who have money left for a few requests alone
        self._models: dict[str, _Model] = {}
        self._ids: dict[str, str] = {}  # in the catalogue, of names by which models have answered
        self._refused_at = 0  # when the store first refused to count a request (Unix ms); 0: it counted all since
        self.configure(config, catalogue)

    def configure(self, config: Config, catalogue: Catalogue) -> None:
        """Follow a new configuration."""
        self._teams_strict = config.teams_strict
        self._strict = config.budget_mode == "strict"
        self._deny = config.on_store_loss == "deny"
        self._catalogue = catalogue
        self._models.clear()
        self._ids.clear()
        self.know({team.id: team for team in config.teams})

    def know(
        self,
        teams: Mapping[str, Team],
        boosts: Mapping[tuple[str, str], float] = NO_BOOSTS,
        moved: Container[str] = (),
    ) -> None:
        """Callers and their limits may be others than before: these are the teams there are, the dollars that callers
        and teams may spend more, as (kind, id), and the callers who may have spent something in other teams."""
        self._teams = {team.id: team.limits for team in teams.values()}
        self._boosts = boosts
        self._moved = moved
        self._plans.clear()

    def plan(self, caller: Caller) -> Plan:
        """The caller's limits and its team's. Raises ApiError(403) for a team without limits where that is an error."""
        known = self._plans.get(caller.id)
        if known is None or known[0] is not caller:  # a request may have begun before its caller changed
            boost = self._boosts.get((CALLERS, caller.id), 0.0)
            subjects = [(f"c:{caller.id}", _quota(caller.limits, boost, caller.id in self._moved))]
            if caller.team is not None:
                if self._teams_strict and caller.team not in self._teams:  # of a caller made at run time
                    raise ApiError(403, f"Your team, {caller.team}, is not defined at this gateway.")
                boost = self._boosts.get((TEAMS, caller.team), 0.0)
                subjects.append((f"t:{caller.team}", _quota(self._teams.get(caller.team), boost)))
            known = self._plans[caller.id] = caller, Plan(caller.tenant, subjects)
        return known[1]

    def _model(self, name: str) -> _Model:
        found = self._catalogue.find(name)
        if len(self._models) > 4096:
            self._models.clear()
        model = self._models[name] = _Model(
            OTHER if found is None else found.id,
            _MOST_OUTPUT if found is None else found.max_output,
            _CONTEXT if found is None else found.context,
            self._catalogue.priced(name) or _FREE,
        )
        return model

    # Before the upstream.

    def ask(
        self,
        caller: Caller,
        plan: Plan,
        request_id: str,
        at: float,
        endpoint: Endpoint,
        peeked: Peek,
        tokens: int,
        warm: int,
        conversation: str = "",
    ) -> Reservation | None:
        """What a request asks of its caller's plan; None if nothing. `tokens` of input are expected, of which `warm`
        are in a cache, that of the `conversation` with this key."""
        arrived = int(at * 1000)
        if not endpoint.metered:
            limits = plan.limits(COUNT)
            return Reservation(self, plan, limits, request_id, b"", arrived) if limits.packed else None
        limits, fields = plan.message, peeked.fields
        model = self._models.get(peeked.model) or self._model(peeked.model)
        fast = "speed" in fields and peeked.value("speed") == "fast"
        us = "inference_geo" in fields and peeked.value("inference_geo") == "us"
        priced = model.priced
        price = priced.price if priced.above is None and not fast else priced.price_for(tokens, fast)
        fresh = tokens * price.input
        if us:
            fresh = priced.in_us(fresh)
        cost, discount = 0, 0
        if limits.reserved:
            writes = 3600 if peeked.cache_ttl == 3600 else 300 if peeked.caches else 0
            elsewhere = tokens_elsewhere(peeked, model.context, endpoint.chat)
            if elsewhere:
                tokens += elsewhere
                price = priced.price_for(tokens, fast)
            most = _most(endpoint, peeked, model.max_output)
            cost = estimate_cost(price, tokens, most, self._strict, writes)
            if warm and not self._strict:
                discount = warm_discount(price, warm if warm < tokens else tokens, writes)
            if us or "tools" in fields or "fallbacks" in fields:
                cost, discount = self._beside(model, peeked, tokens, most, writes, fast, us, cost, discount)
            tokens -= elsewhere
        hour = labels(arrived).hour
        record = ReservationRecord(
            self._process, arrived, hour, caller.id, caller.team or "", model.name, "", endpoint.name, tokens, fresh,
            cost, limits.leases, limits.reserved,
        )  # fmt: skip
        lighter = pack(replace(record, cost_nano=cost - discount, conversation=conversation)) if discount else b""
        return Reservation(self, plan, limits, request_id, pack(record), arrived, cost, discount, lighter, True)

    def _beside(
        self, model: _Model, peeked: Peek, tokens: int, most: int, writes: int, fast: bool, us: bool, cost: int,
        discount: int,
    ) -> tuple[int, int]:  # fmt: skip
        """Nano-dollars to reserve for a request, and how many of them it may not need, with what it may have done
        beside: every model that may read the prompt counts as if it did."""
        more = extras(peeked)
        for name in more.models:
            other = (self._models.get(name) or self._model(name)).priced
            cost += estimate_cost(other.price_for(tokens, fast), tokens, most, self._strict, writes)
        if us:
            cost, discount = model.priced.in_us(cost), model.priced.in_us(discount)
        return cost + more.searches * self._catalogue.fees.web_search, discount

    async def batch(self, caller: Caller, request_id: str) -> None:
        """Take what creating a batch asks: a request, and that money is left. Raises ApiError(429) where a limit
        refuses."""
        plan = self.plan(caller)
        if plan.batch.packed:
            await self.take(Reservation(self, plan, plan.batch, request_id, b"", int(time() * 1000)))

    async def take(self, reservation: Reservation) -> None:
        """Take what a request asks that has no conversation. Raises ApiError(429) where a limit refuses."""
        try:
            reply = self._store.call(*reservation.call(None))
            reservation.asked = True
            reservation.answered(await reply)
        except StoreDown:
            reservation.without_store()

    def take_locally(self, reservation: Reservation) -> None:
        """Take it of the local limits. Raises ApiError where that refuses."""
        if self._deny and reservation.limits.reserved:
            words = "Your budget cannot be checked now, as the gateway's store is away. Please try again later."
            raise ApiError(529, words, retry_after=1, limit=("caller", "store_away"), cause="store_away")
        if reservation.limits.rows:
            refused = self._local_limits.take(reservation.limits.rows, self._processes(), monotonic())
            if refused is not None:
                raise _refusal(Refused(refused[0], max(1, ceil(refused[1]))))

    def store_returned(self) -> None:
        """The store counts again."""
        self._local_limits.clear()
        self._tell_waiting()

    def take_refused(self) -> int:
        """Since when (Unix ms) the store, though there, has not counted all it was told; 0 if it has. It is to be told
        what was journaled."""
        since, self._refused_at = self._refused_at, 0
        if since:
            self._tell_waiting()
        return since

    def _tell_waiting(self) -> None:
        """What the journal has no room for, the store is told by this process alone."""
        for packed in self.journal.waiting:
            record = unpack(packed)
            if isinstance(record, Entry):
                self.settling.tell([Ended(record, packed)])

    def _refused(self) -> None:
        self._refused_at = self._refused_at or int(time() * 1000)

    def note(self, running: Iterable[Reservation]) -> None:
        """The store may have lost what requests on their way reserve, or was not there to be told: note it again. Which
        tenants there are as well: of callers by token nobody else knows."""
        tenants = sorted(self._enrolled)
        for first in range(0, len(tenants), _NOTED_AT_ONCE):
            with suppress(StoreDown):
                self._store.post(*to_enroll(tenants[first : first + _NOTED_AT_ONCE]))
        held: defaultdict[tuple[str, tuple[str, ...], str], list[Reservation]] = defaultdict(list)
        for reservation in running:
            if reservation.taken:
                held[reservation.place].append(reservation)
        for place, those in held.items():
            for first in range(0, len(those), _NOTED_AT_ONCE):
                some = those[first : first + _NOTED_AT_ONCE]
                try:
                    self._store.post(*to_note(*place, [(each.request_id, each.record) for each in some]))
                except StoreDown:
                    return
                for each in some:
                    each.stored = True

    # After it.

    def found_short(self, tenant: str, short: bool) -> None:
        """A limit of the tenant's has money left for less than ten requests such as the last one; or not."""
        if short:
            self._short.add(tenant)
        else:
            self._short.discard(tenant)

    def settlement(self, record: Finished, reservation: Reservation, sent: bool, renewal: Renewal | None) -> None:
        """Tell the store what a request has used; `sent` if an upstream had it. `renewal` is that of its conversation's
        binding, if there is one."""
        limits, plan = reservation.limits, reservation.plan
        at_once = bool(limits.leases) or (bool(limits.reserved) and (self._strict or plan.tenant in self._short))
        entry = self._count(record, plan.tenant, plan.debits, sent, renewal, at_once)
        if reservation.local:
            self._local_limits.give(limits.rows, sums_of(entry))

    def items(self, record: Finished) -> None:
        """Tell the store what items of a batch have used."""
        self._count(record, tenant_of(record.caller, record.team), (), True, None, True)

    def _count(
        self,
        record: Finished,
        tenant: str,
        debits: tuple[bytes, ...],
        sent: bool,
        renewal: Renewal | None,
        at_once: bool,
    ) -> Entry:
        usage = record.usage
        entry = Entry(
            record.request_id, int(record.at * 1000), int(time() * 1000), record.caller, record.team,
            self._ids.get(record.answered_model) or self._counted_by(record), record.account, record.endpoint, False,
            int(sent), int(record.estimated), usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h,
            usage.output, record.cost_nano_usd, record.savings_nano_usd,
        )  # fmt: skip
        packed = pack(entry)
        try:
            self.journal.keep(packed)
        finally:
            self._tell(tenant, Ended(entry, packed, debits, renewal), at_once)
        return entry

    def _counted_by(self, record: Finished) -> str:
        """The model under which a request is counted: the one that answered, by its id in the catalogue, whatever name
        it goes by where it was served. Of a cloud's name that nobody knows the one that was asked is meant."""
        answered = record.answered_model
        found = self._catalogue.find(answered)
        if found is not None and len(self._ids) < 4096:
            self._ids[answered] = found.id
        if found is None and (record.provider or not answered):
            found = self._catalogue.find(record.model)
        return found.id if found is not None else answered or OTHER

    def _tell(self, tenant: str, ended: Ended, at_once: bool) -> None:
        if not ended.debits:
            self.settling.tell([ended])
        else:
            self.settling.add(tenant, ended, at_once)
        if tenant not in self._enrolled:  # readers need not wait for the next sweep
            self._enrolled.add(tenant)
            with suppress(StoreDown):
                self._store.post(*to_enroll((tenant,)))

    def renew(self, running: Iterable[Reservation]) -> None:
        """Keep the slots of requests that are still running."""
        held: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for reservation in running:
            if not reservation.stored or not reservation.limits.leases:
                continue
            for subject in reservation.leases:
                held[reservation.plan.tenant, subject].append(reservation.request_id)
        for (tenant, subject), ids in held.items():
            for first in range(0, len(ids), 1000):
                try:
                    self._store.post(*to_renew(tenant, subject, ids[first : first + 1000]))
                except StoreDown:
                    return

    def flush(self) -> None:
        """Tell the store of all that has ended until now: somebody is about to look."""
        self.settling.flush_all()

    def rest(self) -> None:
        """Tell the store what waits, and let what was journaled be compacted; now and then, and at the end."""
        self.flush()
        self.journal.close()


def _most(endpoint: Endpoint, peeked: Peek, most: int) -> int:
    """Tokens of output that the answer may have at most; `most` is the model's limit."""
    for name in _MAX_TOKENS.get(endpoint.name, _ITS_MAX_TOKENS):
        limit = peeked.value(name)
        if type(limit) is int and limit >= 0:
            return limit if limit < most else most
    return most


def _refusal(refused: Refused) -> ApiError:
    return ApiError(
        429, refused.message, retry_after=refused.wait, kind=refused.error_type, retry=not refused.budget,
        limit=("caller", refused.row.kind.label),
    )  # fmt: skip


def _quota(limits: CallerLimits | None, boost: float = 0.0, carried: bool = False) -> Quota:
    if limits is None:
        return Quota()
    budget = limits.budget_usd
    return Quota(
        limits.requests_per_minute,
        limits.input_tokens_per_minute,
        limits.output_tokens_per_minute,
        limits.concurrency,
        soft=budget.soft,
        message=budget.message,
        boost_nano=round(boost * _NANO),
        carried=carried,
        **{f"{period}_nano": round(usd * _NANO) for period in BUDGETS if (usd := getattr(budget, period)) is not None},
    )


def usage_folder(config: Config) -> Path:
    """Where a gateway's processes journal what requests have used."""
    return Path(config.data_dir) / "usage"
