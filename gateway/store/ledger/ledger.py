"""The ledger: what requests reserve, and one record of what each has used.

The store counts a record once, however often it is told, together with the aggregates and the money of the caller and
its team. A journal has every record too, for a store that was away or lost its data: lately written ones as they are,
older ones as totals of an hour. It does not know limits, prices or requests. Times are Unix milliseconds, money is
integer nano-dollars.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import add, attrgetter
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec

from gateway import log
from gateway.core.spending.quota import LEASE as LEASE_FOR
from gateway.core.spending.quota import (
    SUMS,
    Labels,
    Limits,
    Refused,
    labels,
    reservations_key,
    subject_keys,
)
from gateway.store.client.connection import Arg, ScriptError
from gateway.store.ledger.journal import Journal, compact, read
from gateway.store.scripts import (
    ADMIT,
    ENROLL,
    LEASE,
    NOTE,
    RESTORE,
    SETTLE,
    SWEEP,
    TAKE,
    TENANT_LIST,
    Script,
)

RECORDS = 100_000  # of a tenant, in its stream
REFUSED = 2  # how the reply to an admission begins that a limit refuses
SETTLED_FOR = 3 * 86_400_000  # ms that the store knows which requests are settled
TOTALS_FOR = 35 * 24  # hours
STALE = 30_000  # ms after which a reservation without its process is an estimate
TENANTS = "{pool}:tenants"
_ROWS = 50  # totals that one script restores, about
_REPLAYED = 2000  # entries that are replayed together
_AT_ONCE = 250  # of them that one script counts: the store is busy for as long
_HOUR = 3_600_000
Call = tuple[Script, tuple[Arg, ...]]  # what StoreClient.call and redis_py.run are called with
Run = Callable[[Script, tuple[Arg, ...]], Awaitable[Any]]
Alive = Callable[[], Collection[str]]  # the names of processes


class ReservationRecord(msgspec.Struct, frozen=True, array_like=True):
    """The intent of a request that arrived `at` (in `hour`, as Labels), held by `process`; `team` is "" for none.
    `input` tokens for `input_nano` are what is recorded should nobody settle it, `cost_nano` is what it reserves.
    `leases` and `reserved` are those of its Limits. `conversation` is the key of its conversation's bindings if it
    reserves less because of that, else ""."""

    process: str
    at: int
    hour: str
    caller: str
    team: str
    model: str
    account: str
    endpoint: str
    input: int
    input_nano: int
    cost_nano: int
    leases: tuple[int, ...] = ()
    reserved: tuple[int, ...] = ()
    conversation: str = ""


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="entry"):
    """What a request that arrived `at` has used, as it was known when it `ended`; "" for no team and no account. The
    nine numbers are core.spending.quota's SUMS: `requests` is 1, or 0 where none was sent upstream, `estimated` 1 or 0.
    `provisional` is what stands for a settlement that never came, until it comes."""

    id: str
    at: int
    ended: int
    caller: str
    team: str
    model: str
    account: str
    endpoint: str
    provisional: bool = False
    requests: int = 1
    estimated: int = 0
    input: int = 0
    cache_read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    output: int = 0
    cost_nano: int = 0
    savings_nano: int = 0


class Total(msgspec.Struct, frozen=True, array_like=True, tag="total"):
    """Entries of one `hour` (since 1970) together; `sums` as core.spending.quota's SUMS."""

    hour: int
    caller: str
    team: str
    model: str
    account: str
    sums: tuple[int, ...]


class Intent(msgspec.Struct, frozen=True, array_like=True, tag="intent"):
    """What a request reserves, written before any upstream has it: should its process die, nothing else may be left of
    it. Its entry, or a Cancelled of its id, answers it."""

    id: str
    held: ReservationRecord


class Cancelled(msgspec.Struct, frozen=True, array_like=True, tag="cancelled"):
    """A limit refused the request of this intent, and no upstream has had it."""

    id: str


Proposal = tuple[Arg, ...]  # the binding of a conversation, as `to_admit` takes it
Renewal = tuple[Arg, ...]  # key of a conversation, and from `model` on what renewal.lua is given


class Ended(NamedTuple):
    """A request that is to be settled: its entry, packed too, what each subject of its Plan is debited (nothing for
    what is told again), and the renewal of its conversation's binding, if there is one."""

    entry: Entry
    packed: bytes
    debits: tuple[bytes, ...] = ()
    renewal: Renewal | None = None


sums_of = attrgetter(*SUMS)  # an entry's nine numbers
pack = pack_renewal = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Entry | Total | Intent | Cancelled).decode
unpack_reservation = msgspec.msgpack.Decoder(ReservationRecord).decode


_INTENT = pack(["intent", "", 0])[:-2]  # as far as it is the same for all


def pack_intent(request_id: str, record: bytes) -> bytes:
    """An Intent as `pack` makes it, of a record that is packed already."""
    return _INTENT + pack(request_id) + record


def tenant_of(caller: str, team: str) -> str:
    """Whose slot has the records of a caller (of `team`, "" for none)."""
    return f"t:{team}" if team else f"c:{caller}"


def subjects_of(caller: str, team: str) -> tuple[str, ...]:
    """Whom its requests are charged to, as core.spending.quota.Plan has them."""
    return (f"c:{caller}", f"t:{team}") if team else (f"c:{caller}",)


@lru_cache(maxsize=8192)
def _keys(callers: tuple[str, ...], team: str, hour: int) -> tuple[str, ...]:
    """What settle.lua is given for requests of this hour, all of one tenant."""
    tenant, when = tenant_of(callers[0], team), labels(hour * _HOUR)
    subjects = [f"c:{caller}" for caller in callers]
    if team:
        subjects.append(f"t:{team}")
    return (
        reservations_key(tenant),
        f"{{{tenant}}}:x:{when.hour}",
        f"{{{tenant}}}:u:h:{when.hour}",
        f"{{{tenant}}}:u:d:{when.day}",
        f"{{{tenant}}}:s",
        *(key for subject in subjects for key in subject_keys(tenant, subject)),
    )


# The calls, and what their replies say. `now` 0 is the store's own clock.


def to_admit(
    limits: Limits, request_id: str, reservation: bytes, cost_nano: int, when: Labels,
    binding: Proposal | None = None, now: int = 0, discount: int = 0, lighter: bytes = b"",
) -> Call:  # fmt: skip
    """Reserve what a request's limits ask. `reservation` is packed, b"" for none (a request that nobody settles);
    `binding` is (conversation key, model, proposed binding, generation, lifetime, in flight) as of admit.lua, for a
    request of a conversation. It reserves `discount` less, and is `lighter` then, unless another one of its
    conversation does already."""
    keys, asked = limits.keys, (request_id, reservation, limits.packed, cost_nano, when.day, when.month)
    if binding is None:
        return TAKE, (len(keys), *keys, now, *asked)
    count = 1 + len(keys)
    if not discount:
        return ADMIT, (count, binding[0], *keys, now, count, 11, *binding[1:], *asked)
    return ADMIT, (count, binding[0], *keys, now, count, 13, *binding[1:], *asked, discount, lighter)


def to_bind(binding: Proposal, now: int = 0) -> Call:
    """Read the binding of a conversation, or create it, for a request that reserves nothing."""
    return ADMIT, (1, binding[0], now, 1, 5, *binding[1:])


def refused_of(reply: list[Any], limits: Limits, at: int) -> Refused | None:
    """Why a request that was to be admitted `at` was not; None if it was."""
    return limits.refused(reply[1], reply[2], at) if reply[0] == REFUSED else None


def levels_of(reply: list[Any]) -> Sequence[int]:
    """The buckets' levels, for `Limits.headers`, of a request that was admitted."""
    return reply[3] if len(reply) > 3 else ()


def to_settle(batch: Sequence[Ended], now: int = 0, records: int = RECORDS) -> Call:
    """Count requests of one `place_of`, release what they reserved, and renew the bindings of their conversations. The
    reply is `settled_of`."""
    first = batch[0].entry
    callers: dict[str, int] = {}
    debits: list[Arg] = []
    counted: list[Arg] = []
    conversations: list[Arg] = []
    renewals: list[Arg] = []
    whole: tuple[bytes, ...] = ()
    for entry, packed, its, renewal in batch:
        number = callers.get(entry.caller)
        if number is None:
            number = callers[entry.caller] = len(callers) + 1
            debits.append(its[0] if its else b"")
        whole = its or whole
        counted += (number, packed)
        if renewal is not None:
            conversations.append(renewal[0])
            renewals += renewal[1:]
    team = 0
    if first.team:
        team = len(callers) + 1
        debits.append(whole[1] if whole else b"")
    hour, when = first.at // _HOUR, labels(first.at)
    keys = _keys(tuple(callers), first.team, hour) + tuple(conversations)
    ids = [each.entry.id for each in batch]
    sums = _sums(batch, callers) if len(ids) > 1 and len(set(ids)) == len(ids) else b""
    return SETTLE, (
        len(keys), *keys, now, when.day, when.month, records, len(debits), team, pack(ids), sums, *debits, *counted,
        *renewals,
    )  # fmt: skip


def _sums(batch: Sequence[Ended], callers: Mapping[str, int]) -> bytes:
    """What different requests add up to, as settle.lua is given it; b"" where their records have to be read."""
    sums: dict[tuple[int, str], list[int]] = {}
    for entry, _, _, _ in batch:
        used = sums_of(entry)
        if entry.provisional or not any(used):
            return b""
        place = callers[entry.caller], f"{entry.caller}\0{entry.model}\0{entry.account}"
        before = sums.get(place)
        sums[place] = list(used) if before is None else list(map(add, before, used))
    return pack([part for (number, field), sum_ in sums.items() for part in (number, field, sum_)])


def to_renew_binding(renewal: Renewal, now: int = 0) -> Call:
    """Renew the binding of a conversation, of which nothing is counted; the reply is `settled_of`."""
    return SETTLE, (1, renewal[0], now, "", "", 0, 0, 0, "", "", *renewal[1:])


def settled_of(reply: list[Any]) -> tuple[list[int], list[int]]:
    """Of each request 1 if it was counted, 2 if it took the place of an estimate, 0 if it had been counted, 3 if it is
    provisional and had been; of each renewal 1 if it was one, 0 if the binding belongs to another generation."""
    statuses, renewals = reply
    return statuses, renewals


def to_renew(tenant: str, subject: str, request_ids: Iterable[str], now: int = 0) -> Call:
    """Keep the leases that running requests (thousands at most) hold of one subject; the reply is how many it has."""
    return LEASE, (1, subject_keys(tenant, subject)[1], now, LEASE_FOR, *request_ids)


def to_note(tenant: str, subjects: Sequence[str], hour: str, held: Iterable[tuple[str, bytes]], now: int = 0) -> Call:
    """Note what requests of these subjects reserve that arrived in this `hour` (as Labels) and are on their way, for a
    store that has lost it or was not asked: (request id, packed record). The reply is how many it did not have."""
    keys = [reservations_key(tenant), f"{{{tenant}}}:x:{hour}"]
    for subject in subjects:
        keys += subject_keys(tenant, subject)
    return NOTE, (len(keys), *keys, now, LEASE_FOR, *[each for pair in held for each in pair])


def to_sweep(
    tenant: str, alive: Iterable[str], at: int, cursor: str = "0", subjects: Iterable[str] = (), now: int = 0,
    count: int = 500,
) -> Call:  # fmt: skip
    """Look at `count` reservations of a tenant, about, for those that no process `alive` will settle, `at` this time;
    and let go the leases of these subjects that have expired."""
    settled = [f"{{{tenant}}}:x:{labels(at - hours * _HOUR).hour}" for hours in range(3)]
    keys = [reservations_key(tenant), *settled, *(subject_keys(tenant, subject)[1] for subject in subjects)]
    return SWEEP, (len(keys), *keys, now, cursor, count, STALE, *alive)


def swept_of(reply: list[Any]) -> tuple[str, list[tuple[str, ReservationRecord]]]:
    """(cursor to go on with, "0" at the end; request ids and reservations to settle by `estimate_of`)."""
    cursor, flat = reply
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return cursor.decode(), [(request_id.decode(), unpack_reservation(packed)) for request_id, packed in pairs]


def estimate_of(request_id: str, held: ReservationRecord, now: int) -> Entry:
    """What is recorded of a request that nobody settled: its input. Journal it once the store has counted it."""
    return Entry(
        request_id, held.at, now, held.caller, held.team, held.model, held.account, held.endpoint, provisional=True,
        estimated=1, input=held.input, cost_nano=held.input_nano,
    )  # fmt: skip


def to_list_tenants() -> Call:
    """All tenants that were ever enrolled."""
    return TENANT_LIST, (1, TENANTS)


def to_enroll(tenants: Iterable[str]) -> Call:
    """Note that there are these tenants, in TENANTS."""
    return ENROLL, (1, TENANTS, *tenants)


# The journal.

Place = tuple[str, int]  # tenant, hour


class UsageJournal:
    """Every intent, and every entry that this gateway's processes told the store of, in `folder`, which they share.
    Each is appended before the store has answered; only an estimate afterwards, if it was counted. One process does the
    rest, one thing at a time: what gives something to the store raises what `run` does, with a part of it given, and
    OSError. Of an intent without an entry, whose process is not among those `alive()`, an estimate is made."""

    def __init__(self, folder: Path, records: int = RECORDS) -> None:
        self._folder = folder
        self._journal = Journal(folder)
        self._records = records

    def append(self, packed: bytes) -> None:
        """Keep a packed entry. Raises OSError."""
        self._journal.append(packed)

    def extend(self, packed: Sequence[bytes]) -> None:
        """Keep them all, in one write. Raises OSError; none is kept then."""
        self._journal.extend(packed)

    def close(self) -> None:
        """Let what this process has written be compacted; the next entry begins anew. For every process, at its end
        and every few minutes."""
        self._journal.close()

    async def replay(self, run: Run, now: int, since: int = 0) -> int:
        """Tell the store of every entry that ended `since`; how many it had not counted. What is so old that it would
        not know it again is left out: it was counted long ago."""
        return await self._tell(run, lambda entry: entry.ended >= since, now)

    async def restore(self, run: Run, now: int) -> int:
        """Give back the totals of all hours that the store has lost; how many hours of tenants those were. After each
        start, and after each flush."""
        found = await asyncio.to_thread(_look, self._folder, now, 0)
        return len(await self._restore(run, found.totals))

    async def estimate(self, run: Run, now: int, alive: Alive) -> int:
        """Have the requests counted that processes which are gone have left without an entry; how many the store had
        not counted."""
        before = set(alive())
        found = await asyncio.to_thread(_look, self._folder, now, 0)
        return await self._estimate(run, _left(found, before, alive), now)

    async def _estimate(self, run: Run, left: dict[str, ReservationRecord], now: int) -> int:
        """Have estimates of them counted, and journaled if they were."""
        made = [estimate_of(*each, now) for each in left.items()]
        known = [Ended(each, pack(each)) for each in made if not _forgotten(each, now)]
        counted = 0
        async for entry, status in self._replay(run, known):
            if status == 1:
                self._journal.append(pack(entry))
                counted += 1
        self._journal.close()  # so that it can be compacted
        return counted

    async def compact(self, run: Run, now: int, safe_before: int, alive: Alive) -> None:
        """Fold what ended before `safe_before` (the store has had it for ten minutes by now) into totals, and forget
        totals that are too old. An hour is marked in the store before its entries are folded, so that a store without
        the mark is one that has lost them."""
        before = set(alive())
        found = await asyncio.to_thread(_look, self._folder, now, safe_before)
        new = await self._restore(run, {place: found.totals.get(place, []) for place in found.folded})
        if new:
            await self._tell(run, lambda entry: place_of(entry) in new, now)
        settled: set[str] = set()  # estimates that gave way, perhaps to an entry in another gateway's journal
        left = _left(found, before, alive)
        await self._estimate(run, left, now)
        known = [each for each in found.estimates if not _forgotten(each.entry, now)]
        async for entry, status in self._replay(run, known):
            if status == 0:
                settled.add(entry.id)

        def fold(records: Iterable[bytes]) -> Iterator[bytes]:
            return _fold(records, found.folded, settled, left, now, safe_before)

        await asyncio.to_thread(compact, self._folder, fold)

    async def _tell(self, run: Run, wanted: Callable[[Entry], bool], now: int) -> int:
        """Have entries counted that the store does not know; how many those were."""
        entries = (each for each in _entries(self._folder) if wanted(each[0]) and not _forgotten(each[0], now))
        counted = 0
        while many := await asyncio.to_thread(lambda: list(islice(entries, _REPLAYED))):
            async for _, status in self._replay(run, many):
                counted += status in (1, 2)
        return counted

    async def _replay(self, run: Run, entries: Sequence[Ended]) -> AsyncIterator[tuple[Entry, int]]:
        """Have them counted; each, with what `to_settle` says is replied."""
        places: dict[Place, list[Ended]] = {}
        for each in entries:
            places.setdefault(place_of(each.entry), []).append(each)
        await _enroll(run, places)
        for those in places.values():
            for first in range(0, len(those), _AT_ONCE):  # one at a time: each keeps the store busy for a while
                for counted in await self._counted(run, those[first : first + _AT_ONCE]):
                    yield counted

    async def _counted(self, run: Run, part: Sequence[Ended]) -> list[tuple[Entry, int]]:
        """Have these counted; those that cannot be, which stay in the journal, are left out."""
        try:
            statuses, _ = settled_of(await run(*to_settle(part, records=self._records)))
        except ScriptError as error:
            if len(part) == 1:
                log.error("a request cannot be counted", request_id=part[0].entry.id, reason=str(error))
                return []
            half = len(part) // 2
            return [*await self._counted(run, part[:half]), *await self._counted(run, part[half:])]
        return [(ended.entry, status) for ended, status in zip(part, statuses, strict=True)]

    async def _restore(self, run: Run, totals: dict[Place, list[Total]]) -> set[Place]:
        """The places that were not marked."""
        name = await asyncio.to_thread(_name, self._folder)
        await _enroll(run, totals)
        new: set[Place] = set()
        for places, call in _restoring(name, totals):  # one at a time: each keeps the store busy for a while
            new.update(places[number - 1] for number in await run(*call))
        return new


async def _enroll(run: Run, places: Iterable[Place]) -> None:
    """Note the tenants of these: of some, whose callers are gone, nobody else says any more that they were there."""
    tenants = sorted({tenant for tenant, _ in places})
    for first in range(0, len(tenants), _AT_ONCE):
        await run(*to_enroll(tenants[first : first + _AT_ONCE]))


class _Found(msgspec.Struct):
    """What is in a journal: totals by place, estimates, the places of entries that can be folded, and the intents of
    requests that have not ended, by their ids."""

    totals: dict[Place, list[Total]]
    estimates: list[Ended]
    folded: set[Place]
    intents: dict[str, ReservationRecord]


def _look(folder: Path, now: int, safe_before: int) -> _Found:
    found = _Found({}, [], set(), {})
    for packed in read(folder):
        with contextlib.suppress(msgspec.MsgspecError):
            record = unpack(packed)
            if type(record) is Total:
                found.totals.setdefault((tenant_of(record.caller, record.team), record.hour), []).append(record)
            elif type(record) is Intent:
                found.intents[record.id] = record.held
            elif type(record) is Cancelled:
                found.intents.pop(record.id, None)
            elif type(record) is Entry:
                found.intents.pop(record.id, None)
                if record.provisional:
                    found.estimates.append(Ended(record, packed))
                if _folds(record, now, safe_before):
                    found.folded.add(place_of(record))
    oldest = now // _HOUR - TOTALS_FOR
    found.totals = {place: totals for place, totals in found.totals.items() if place[1] >= oldest}
    for estimate, *_ in found.estimates:  # as in _fold
        found.intents.pop(estimate.id, None)
    return found


def _left(found: _Found, before: set[str], alive: Alive) -> dict[str, ReservationRecord]:
    """The intents of processes that were alive neither before the journal was looked at nor are since."""
    running = before.union(alive())
    return {id_: held for id_, held in found.intents.items() if held.process not in running}


def _entries(folder: Path) -> Iterator[Ended]:
    for packed in read(folder):
        if packed.startswith(_INTENT):
            continue
        with contextlib.suppress(msgspec.MsgspecError):
            record = unpack(packed)
            if type(record) is Entry:
                yield Ended(record, packed)


def place_of(entry: Entry) -> Place:
    """Where the store counts it: what belongs together can be settled together."""
    return tenant_of(entry.caller, entry.team), entry.at // _HOUR


def _forgotten(entry: Entry, now: int) -> bool:
    """Whether the store may not know any more that it has counted the entry."""
    return entry.at // _HOUR * _HOUR + SETTLED_FOR <= now + _HOUR


def _folds(entry: Entry, now: int, safe_before: int) -> bool:
    return _forgotten(entry, now) or (entry.ended < safe_before and not entry.provisional)


def _fold(
    records: Iterable[bytes], places: set[Place], settled: set[str], left: Collection[str], now: int, safe_before: int
) -> Iterator[bytes]:
    """The records that are kept as they are, and totals of the others. Intents are kept whose requests have not ended,
    and were not left by a process that is gone: an entry comes after its intent, perhaps in a later segment."""
    oldest = now // _HOUR - TOTALS_FOR
    sums: dict[tuple[int, str, str, str, str], tuple[int, ...]] = {}
    seen: set[str] = set()
    intents: dict[str, bytes] = {}
    estimated: set[str] = set()  # by another process, perhaps in a segment that was begun before the intent's
    for packed in records:
        try:
            record = unpack(packed)
        except msgspec.MsgspecError:
            yield packed  # a newer version's
            continue
        if isinstance(record, Intent):
            intents[record.id] = packed
            continue
        if isinstance(record, Cancelled):
            intents.pop(record.id, None)
            continue
        if isinstance(record, Entry):
            intents.pop(record.id, None)
            if record.provisional:
                estimated.add(record.id)
                if record.id in settled:
                    continue
            if place_of(record) not in places or not _folds(record, now, safe_before):
                yield packed
                continue
            if record.id in seen:
                continue
            seen.add(record.id)
            hour, added = record.at // _HOUR, sums_of(record)
        else:
            hour, added = record.hour, record.sums
        if hour >= oldest and any(added):
            name = (hour, record.caller, record.team, record.model, record.account)
            before = sums.get(name)
            sums[name] = added if before is None else tuple(map(add, before, added))
    for id_, packed in intents.items():
        if id_ not in left and id_ not in estimated:
            yield packed
    for name, total in sums.items():
        yield pack(Total(*name, total))


def _restoring(name: str, totals: dict[Place, list[Total]]) -> Iterator[tuple[list[Place], Call]]:
    """Calls that restore the places, each some hours of one tenant's day."""
    days: dict[tuple[str, str], list[Place]] = {}
    for place in sorted(totals):
        days.setdefault((place[0], labels(place[1] * _HOUR).day), []).append(place)
    for places in days.values():
        part: list[Place] = []
        for place in places:
            part.append(place)
            if sum(len(totals[each]) for each in part) >= _ROWS:
                yield part, _to_restore(name, part, totals)
                part = []
        if part:
            yield part, _to_restore(name, part, totals)


def _to_restore(name: str, places: Sequence[Place], totals: dict[Place, list[Total]]) -> Call:
    """Restore these hours of one tenant and one day; the reply says which of them (1 the first) the store had lost."""
    tenant, hour = places[0]
    when = labels(hour * _HOUR)
    hours = [labels(each * _HOUR).hour for _, each in places]
    keys = [f"{{{tenant}}}:j:{when.day}", f"{{{tenant}}}:u:d:{when.day}"]
    keys += [f"{{{tenant}}}:u:h:{hour}" for hour in hours]
    charged: dict[str, int] = {}  # where in keys
    args: list[Arg] = [when.day, when.month]
    for place, label in zip(places, hours, strict=True):
        rows = []
        for total in totals[place]:
            numbers = []
            for subject in subjects_of(total.caller, total.team):
                if subject not in charged:
                    keys.append(subject_keys(tenant, subject)[0])
                    charged[subject] = len(keys)
                numbers.append(charged[subject])
            rows.append((f"{total.caller}\0{total.model}\0{total.account}", numbers, *total.sums))
        args += (f"{name}:{label}", msgspec.msgpack.encode(rows))
    return RESTORE, (len(keys), *keys, *args)


def _name(folder: Path) -> str:
    """The journal's own name, made by whoever asks first."""
    path = folder / "name"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f"name-{token_hex(8)}"
    new.write_text(token_hex(8))
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(new)  # whole at once, or not at all
    new.unlink()
    return path.read_text()
