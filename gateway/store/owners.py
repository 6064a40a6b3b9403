"""Who owns an account-bound object (a file, a batch, a skill ...) and on which workspace it lives; where a share group
creates its own; how far a batch is metered.

The store has it for all processes; a journal has it too, for a store that lost its data. Each gateway gives back what
it wrote itself, in any order and as often as it likes: a record in the store wins over one given back, metered lines
only grow, an id that was disowned stays so for TOMBSTONE. Providers do not use an id again. Who may see an object, the
caller decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.store.client.connection import Arg
from gateway.store.ledger.journal import Journal, compact, read
from gateway.store.scripts import DISOWN, HOME, METER, OWN, Script

TOMBSTONE = 86_400_000  # ms
AT_ONCE = 32  # scripts that a replay has under way
Call = tuple[Script, tuple[Arg, ...]]  # what StoreClient.call and redis_py.run are called with
Run = Callable[[Script, tuple[Arg, ...]], Awaitable[Any]]


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Of an object created by `caller` (of `team`, "" for none) on `workspace`, `at` this time (Unix ms)."""

    workspace: str
    caller: str
    team: str
    at: int


class Homes(msgspec.Struct, frozen=True, array_like=True):
    """Where a share group has created objects: the present workspace, chosen `at` this time (Unix ms), then former
    ones; none where it has not."""

    at: int = 0
    workspaces: tuple[str, ...] = ()


pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Owner).decode
_homes = msgspec.msgpack.Decoder(Homes).decode


def owner_key(object_id: str) -> str:
    """Where the store keeps an object's owner."""
    return f"{{o:{object_id}}}"


def metered_key(object_id: str) -> str:
    """Where it keeps how many lines of a batch's results are metered: in the slot of its owner."""
    return f"{{o:{object_id}}}:m"


def home_key(group: str) -> str:
    """Where it keeps the homes of a share group."""
    return f"{{h:{group}}}"


# The calls, and what their replies say (raises msgspec.MsgspecError for what no gateway wrote). Lifetimes are
# milliseconds, 0 for ever.


def to_own(object_id: str, owner: Owner, lifetime: int) -> Call:
    """Record the owner unless there is one; the reply is as of `to_read`."""
    return OWN, (1, owner_key(object_id), pack(owner), lifetime)


def to_read(object_id: str) -> Call:
    """Ask for an object's owner."""
    return OWN, (1, owner_key(object_id), b"", 0)


def owner_of(reply: bytes | None) -> Owner | None:
    """The owner as it now stands; None for an id that nobody owns."""
    return None if reply is None else unpack(reply)


def to_disown(object_id: str, tombstone: int = TOMBSTONE) -> Call:
    """Forget an object that is gone; the reply is 1 if it had an owner."""
    return DISOWN, (2, owner_key(object_id), metered_key(object_id), tombstone)


def to_home(group: str, expected: str, proposed: str, at: int) -> Call:
    """Make `proposed` the group's home from `at` on (Unix ms) if that is still `expected` ("" for none) or there is
    none; an empty `proposed` only asks."""
    return HOME, (1, home_key(group), expected, proposed, at)


def to_remember(group: str, homes: Homes) -> Call:
    """Give back what the store may have lost: the later choice is the present home, and none is forgotten."""
    return HOME, (1, home_key(group), "", homes.workspaces[0], homes.at, *homes.workspaces)


def homes_of(reply: bytes | None) -> Homes:
    """The group's homes as they now stand."""
    return Homes() if reply is None else _homes(reply)


def to_meter(object_id: str, known: int | None, lines: int, lifetime: int) -> Call:
    """Advance a batch's metered lines from `known` (None: whatever they are, if fewer) to `lines`; with 0 only ask. The
    reply is [1 if this call advanced them, lines as they now stand]."""
    return METER, (1, metered_key(object_id), "" if known is None else known, lines or "", lifetime)


# The journal.


class _Own(msgspec.Struct, frozen=True, array_like=True, tag="own"):
    id: str
    owner: Owner
    lifetime: int
    at: int


class _Disown(msgspec.Struct, frozen=True, array_like=True, tag="disown"):
    id: str
    at: int


class _Home(msgspec.Struct, frozen=True, array_like=True, tag="home"):
    group: str
    workspaces: tuple[str, ...]
    at: int


class _Metered(msgspec.Struct, frozen=True, array_like=True, tag="metered"):
    id: str
    lines: int
    lifetime: int
    at: int


_Record = _Own | _Disown | _Home | _Metered
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


def _expired(record: _Own | _Metered, now: int) -> bool:
    return record.lifetime != 0 and record.at + record.lifetime <= now


class _Live:
    """What records say together that still holds at `now`. They are taken in the order of their times; each may come
    more than once."""

    def __init__(self, records: Iterable[bytes], now: int) -> None:
        self.owned: dict[str, _Own] = {}
        self.gone: dict[str, _Disown] = {}
        self.homes: dict[str, _Home] = {}
        self.metered: dict[str, _Metered] = {}
        self.unread: list[bytes] = []  # a newer version's
        known: list[_Record] = []
        for each in records:
            try:
                known.append(_decode(each))
            except msgspec.MsgspecError:
                self.unread.append(each)
        known.sort(key=lambda record: record.at)
        for record in known:
            self._take(record)
        self.owned = {id_: own for id_, own in self.owned.items() if not _expired(own, now)}
        self.metered = {id_: each for id_, each in self.metered.items() if not _expired(each, now)}
        self.gone = {id_: gone for id_, gone in self.gone.items() if gone.at + TOMBSTONE > now}

    def _take(self, record: _Record) -> None:
        match record:
            case _Home():
                before = self.homes.get(record.group)
                homes = dict.fromkeys((*record.workspaces, *(before.workspaces if before else ())))
                self.homes[record.group] = msgspec.structs.replace(record, workspaces=tuple(homes))
            case _Disown():
                self.gone[record.id] = record
                self.owned.pop(record.id, None)
                self.metered.pop(record.id, None)
            case _ if record.id in self.gone and record.at < self.gone[record.id].at + TOMBSTONE:
                pass
            case _Own():
                present = self.owned.get(record.id)
                if present is None or _expired(present, record.at) or _extends(record, present):
                    self.owned[record.id] = record
            case _Metered():
                told = self.metered.get(record.id)
                if told is None or _expired(told, record.at) or record.lines > told.lines:
                    self.metered[record.id] = record

    def records(self) -> Iterator[bytes]:
        for kept in (self.gone, self.owned, self.metered, self.homes):
            yield from map(_encode, kept.values())
        yield from self.unread


def _extends(record: _Own, present: _Own) -> bool:
    """Whether it is the same owner's, and lives longer."""
    if (record.owner.workspace, record.owner.caller) != (present.owner.workspace, present.owner.caller):
        return False
    if record.lifetime == 0 or present.lifetime == 0:
        return present.lifetime != 0
    return record.at + record.lifetime > present.at + present.lifetime


class OwnersJournal:
    """What this gateway's processes told the store, in `folder`, which they share. Each record is appended before the
    store is told; `append`'s OSError is passed on. Times (`at`, `now`) are Unix ms."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal(folder)

    def own(self, object_id: str, owner: Owner, lifetime: int, at: int) -> None:
        """As `to_own`."""
        self._journal.append(_encode(_Own(object_id, owner, lifetime, at)))

    def disown(self, object_id: str, at: int) -> None:
        """As `to_disown`."""
        self._journal.append(_encode(_Disown(object_id, at)))

    def home(self, group: str, homes: Homes) -> None:
        """The group's homes as the store said they are; the last choice counts, and nothing that was a home is lost."""
        self._journal.append(_encode(_Home(group, homes.workspaces, homes.at)))

    def metered(self, object_id: str, lines: int, lifetime: int, at: int) -> None:
        """As `to_meter`."""
        self._journal.append(_encode(_Metered(object_id, lines, lifetime, at)))

    def close(self) -> None:
        """Let what this process has written be compacted; the next record begins anew. For every process, at its end
        and once an hour: a record that is held back for as long as TOMBSTONE can outlive its object's end."""
        self._journal.close()

    def compact(self, now: int) -> None:
        """Forget what is over. For one process, about once an hour, in a thread. Raises OSError."""
        compact(self._folder, lambda records: _Live(records, now).records())

    async def replay(self, run: Run, now: int) -> int:
        """Give the store back what it lacks, and tell it again what is gone; how many live records it was offered.

        `run` is StoreClient.call or redis_py.run with its client. Raises what that does, with a part of them given, and
        OSError."""
        live = await asyncio.to_thread(lambda: _Live(read(self._folder), now))
        calls = list(_calls(live, now))
        for first in range(0, len(calls), AT_ONCE):
            work = [_run(run, call) for call in calls[first : first + AT_ONCE]]
            for result in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        return len(calls) - len(live.gone)


async def _run(run: Run, call: Call) -> None:
    await run(*call)


def _calls(live: _Live, now: int) -> Iterator[Call]:
    def left(record: _Own | _Metered) -> int:
        return record.lifetime and record.at + record.lifetime - now

    for gone in live.gone.values():
        yield to_disown(gone.id, gone.at + TOMBSTONE - now)
    for own in live.owned.values():
        yield to_own(own.id, own.owner, left(own))
    for each in live.metered.values():
        yield to_meter(each.id, None, each.lines, left(each))
    for home in live.homes.values():
        if home.workspaces:
            yield to_remember(home.group, Homes(home.at, home.workspaces))
