"""Whose an account-bound object is, and in which workspace it lives: files, batches, skills, sessions, containers.

The store's truth, a journal of what this gateway wrote, and a bounded memory of both. Where nobody can say whose an
object is, nobody is asked: a guess could show one caller another's. It does not know endpoints or bodies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import monotonic, time

import msgspec

from gateway import log
from gateway.config.schema import Caller, Config
from gateway.core.routing.broadcast import Fact, Owned
from gateway.core.routing.router import Router
from gateway.errors import ApiError
from gateway.store.client.client import StoreClient, StoreDown
from gateway.store.owners import (
    Call as StoreCall,
)
from gateway.store.owners import (
    Homes,
    Owner,
    OwnersJournal,
    homes_of,
    owner_of,
    to_disown,
    to_home,
    to_own,
    to_read,
    to_remember,
)
from gateway.worker.head import Head, without

MEMORY = 100_000  # objects a process remembers
_AT_ONCE = 128  # objects that the store is asked for in one go: a flood would make it look slow to everybody
_ALL_SERVE: frozenset[str] = frozenset()
_OWED = 10_000  # calls kept for a store that is away
UNKNOWN = "Not found"  # of a stranger's object as of none: the same words
APART = "The objects that this request names live on different accounts; create them anew to use them together."
AWAY = "The gateway cannot tell now where this object lives, as its store is away. Please try again later."


def objects_folder(config: Config) -> Path:
    """Where a gateway's processes journal whose objects are."""
    return Path(config.data_dir) / "objects"


class Owners:
    """Owners of one process. `tell` spreads them to other processes."""

    def __init__(
        self,
        config: Config,
        store: StoreClient,
        router: Router,
        journal: OwnersJournal,
        tell: Callable[[Fact], None],
    ) -> None:
        self._store = store
        self._router = router
        self._journal = journal
        self._tell = tell
        self._memory: dict[str, Owner] = {}
        self._homes: dict[str, Homes] = {}
        self._owed: deque[StoreCall] = deque(maxlen=_OWED)
        self._callers: Mapping[str, Caller] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._share = config.share

    def know(self, callers: Mapping[str, Caller]) -> None:
        """All callers by id."""
        self._callers = callers

    def _shares(self, caller: Caller) -> bool:
        return caller.team is not None and (caller.share or self._share) == "team"

    def visible(self, caller: Caller, owner: Owner) -> bool:
        """Whether an object of this owner is the caller's as well: its own, or its team's if both share."""
        if owner.caller == caller.id:
            return True
        if not self._shares(caller):
            return False
        creator = self._callers.get(owner.caller)
        if creator is None:  # it has left; what it shared is still its team's
            return owner.team == caller.team and self._share == "team"
        return creator.team == caller.team and self._shares(creator)

    # Where things are.

    async def where(self, caller: Caller, ids: Collection[str]) -> str:
        """The workspace of objects that the caller names. Raises ApiError: 404 for one that is not the caller's, 400
        where they live apart, 529 where nobody can tell."""
        found = await self.find(ids)
        workspaces = set()
        for owner in found:
            if owner is None or not self.visible(caller, owner) or owner.workspace not in self._router.ring:
                raise ApiError(404, UNKNOWN)
            workspaces.add(owner.workspace)
        if len(workspaces) > 1:
            raise ApiError(400, APART)
        return workspaces.pop()

    async def find(self, ids: Collection[str]) -> list[Owner | None]:
        """The owner of each object, None where it has none. Raises ApiError(529) where nobody can tell."""
        found = {each: self._memory.get(each) for each in ids}
        missing = [each for each, owner in found.items() if owner is None]
        try:
            for first in range(0, len(missing), _AT_ONCE):
                part = missing[first : first + _AT_ONCE]
                replies = await asyncio.gather(*[self._store.call(*to_read(each)) for each in part])
                for each, reply in zip(part, replies, strict=True):
                    owner = found[each] = owner_of(reply)
                    if owner is not None:
                        self._keep(each, owner)
        except (StoreDown, msgspec.MsgspecError):
            raise ApiError(529, AWAY, retry_after=1, cause="store_away") from None
        return [found[each] for each in ids]

    async def known(self, ids: Collection[str]) -> frozenset[str]:
        """Those of `ids` that are somebody's. Raises ApiError(529) where nobody can tell."""
        ids = list(ids)
        owners = await self.find(ids)
        return frozenset(each for each, owner in zip(ids, owners, strict=True) if owner is not None)

    async def in_header(self, head: Head) -> frozenset[str]:
        """The user profile that a header names: its line stays where it is somebody's, else it fits no account."""
        known = await self.known([head.profile])
        if not known:
            head.lines = without(head.lines, b"anthropic-user-profile-id")
        return known

    async def home(self, caller: Caller) -> str:
        """The workspace where the caller's share group creates its objects: chosen once, and anew where it takes
        nothing new any more. Raises ApiError(529) where nobody can tell."""
        group = self._group(caller)
        homes = await self._agree(group, "", "")  # as it is now: another process may have chosen another
        for _ in range(3):
            present = homes[0] if homes else ""
            if present and self._takes(present):
                return present
            proposed = self._router.working(group.encode()[:64], monotonic(), self._without)
            if proposed is None:
                if self._without and not self._router.offers("", self._without):
                    raise ApiError(404, "Not found: no account of this gateway serves objects.")
                break
            homes = await self._agree(group, present, proposed)
        words = "No account can take new objects now: none is in service. Please try again later."
        raise ApiError(529, words, retry_after=5, cause=",".join(self._router.closed_by("", "", monotonic())))

    async def homes(self, caller: Caller) -> tuple[str, ...]:
        """All workspaces that may hold objects of the caller's share group, the present home first: as they are now,
        for another process may have chosen another."""
        group, alone = self._group(caller), _alone(caller)
        homes = await self._agree(group, "", "")
        if group != alone:  # from before it shared
            homes = (*homes, *(each for each in await self._agree(alone, "", "") if each not in homes))
        return tuple(each for each in homes if each in self._router.ring)

    async def _agree(self, group: str, present: str, proposed: str) -> tuple[str, ...]:
        known = self._homes.get(group)
        try:
            homes = homes_of(await self._store.call(*to_home(group, present, proposed, _now())))
            if known is not None and (known.at > homes.at or not set(known.workspaces) <= set(homes.workspaces)):
                # It has lost its data, or some of it.
                homes = homes_of(await self._store.call(*to_remember(group, known)))
        except (StoreDown, msgspec.MsgspecError):
            if not proposed and known is not None:
                return known.workspaces
            raise ApiError(529, AWAY, retry_after=1, cause="store_away") from None
        if homes.workspaces and homes != known:
            self._homes[group] = homes
            self.write(lambda journal: journal.home(group, homes))
        return homes.workspaces

    def _group(self, caller: Caller) -> str:
        return f"t:{caller.team}" if self._shares(caller) else _alone(caller)

    def _takes(self, workspace: str) -> bool:
        ring = self._router.ring
        return workspace in ring and any(
            entry.state == "active" and entry.id not in self._without for entry in ring.members(workspace, b"")
        )

    @property
    def _without(self) -> frozenset[str]:
        """Accounts whose provider has no objects."""
        return self._router.offer.without("batches", "") if self._router.offer.partial else _ALL_SERVE

    # What changes.

    async def created(self, caller: Caller, object_id: str, workspace: str, lifetime: int) -> None:
        """An account has made an object for the caller, who may be told once this returns; `lifetime` in milliseconds,
        0 for ever."""
        await self.adopt(object_id, Owner(workspace, caller.id, caller.team or "", _now()), lifetime)

    async def adopt(self, object_id: str, owner: Owner, lifetime: int) -> Owner:
        """Record whose an object is, unless it is somebody's already; returns whose it then is."""
        self.write(lambda journal: journal.own(object_id, owner, lifetime, owner.at))
        kept: Owner | None = owner
        call = to_own(object_id, owner, lifetime)
        try:
            kept = owner_of(await self._store.call(*call))
        except (StoreDown, msgspec.MsgspecError):
            self.owe(call)
        if kept is not None:
            self._keep(object_id, kept)
            self._tell(Owned(object_id, kept.workspace, kept.caller, kept.team, kept.at))
        return kept or owner

    async def deleted(self, object_id: str) -> None:
        """Its owner has deleted an object."""
        self._memory.pop(object_id, None)
        self.write(lambda journal: journal.disown(object_id, _now()))
        self._tell(Owned(object_id))
        call = to_disown(object_id)
        try:
            await self._store.call(*call)
        except StoreDown:
            self.owe(call)

    def owe(self, call: StoreCall) -> None:
        """The store could not be told: it is once it is back. (Should this process end before, the journal does it.)"""
        self._owed.append(call)

    def reseed(self) -> None:
        """The store is back."""
        owed = list(self._owed)
        self._owed.clear()
        for call in owed:
            try:
                self._store.post(*call)
            except StoreDown:
                self.owe(call)

    def write(self, write: Callable[[OwnersJournal], None]) -> None:
        """Append to the journal. A full disk must not fail what an account has done already."""
        try:
            write(self._journal)
        except OSError as error:
            log.error("the journal of objects cannot be written", reason=str(error))

    def heard(self, fact: Owned) -> None:
        """Another process says whose an object is, or that it is gone."""
        if fact.workspace:
            self._keep(fact.object, Owner(fact.workspace, fact.caller, fact.team, fact.at))
        else:
            self._memory.pop(fact.object, None)

    def rest(self) -> None:
        """Let what this process has journaled be compacted; now and then, and at the end."""
        self._journal.close()

    def _keep(self, object_id: str, owner: Owner) -> None:
        memory = self._memory
        if object_id not in memory and len(memory) >= MEMORY:
            del memory[next(iter(memory))]
        memory[object_id] = owner


def _alone(caller: Caller) -> str:
    return f"c:{caller.id}"


def _now() -> int:
    return int(time() * 1000)
