"""Who may call: the callers that a file defines and those made at run time, as one table of their keys' digests.

Teams and boosts of money are made at run time too, and kept in the same way.

Pure data and functions. It knows neither the configuration's own types nor the store, and no key ever enters it. Times
of records are Unix milliseconds, 0 for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

KEPT = 90 * 86_400_000  # ms that a key is shown after its end
ACTIVE, EXPIRED, REVOKED, SUSPENDED = "active", "expired", "revoked", "suspended"
CARRIED_FOR = 40 * 86_400_000  # ms for which what a caller spent in a former team counts: longer than any period
CALLERS, TEAMS, BOOSTS = "callers", "teams", "boosts"  # kinds of records, as Stored has them
PERSON, SERVICE = "person", "service"


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something made at run time; of two records of one id the one with the higher `revision` counts. One that was
    `deleted_at` some time is kept as that: whoever still knows it as it was would give it back. `nonce` is a word of
    whoever wrote it, never used before: what two write at one moment are two records, though they say the same."""

    created_at: int = 0
    revision: int = 1
    deleted_at: int = 0
    nonce: str = ""


class CallerRecord(Record, frozen=True, omit_defaults=True):
    """A caller, which all its keys share. `limits` are as the configuration file has them, without those that are none.
    `former` are the teams that it was in before ("" for none), and when it left them; `again` is how many callers of
    its id were deleted before it."""

    team: str | None = None
    models: tuple[str, ...] = ("*",)
    limits: dict[str, object] = {}
    metadata: dict[str, str] = {}
    kind: str = SERVICE
    label: str = ""
    email: str = ""
    status: str = ACTIVE
    former: dict[str, int] = {}
    again: int = 0

    def carried(self, now: float) -> list[str]:
        """The former teams in which it may have spent what still counts at `now` (ms)."""
        return [team for team, left in self.former.items() if left + CARRIED_FOR > now]


class TeamRecord(Record, frozen=True, omit_defaults=True):
    """A team; `limits` and `key_policy` are as the configuration file has them, without what is none."""

    name: str = ""
    models: tuple[str, ...] = ("*",)
    limits: dict[str, object] = {}
    key_policy: dict[str, object] = {}
    metadata: dict[str, str] = {}


class BoostRecord(Record, frozen=True, omit_defaults=True):
    """More money for a caller or a team (`kind`: CALLERS or TEAMS) of the id `whose`: `usd` more in each of its
    budgets, `until` then. `by` is who gave it."""

    kind: str = TEAMS
    whose: str = ""
    usd: float = 0.0
    until: int = 0
    reason: str = ""
    by: str = ""

    def counts(self, now: float) -> bool:
        """Whether it does at `now` (ms)."""
        return not self.deleted_at and now < self.until


RECORDS: dict[str, type[Record]] = {CALLERS: CallerRecord, TEAMS: TeamRecord, BOOSTS: BoostRecord}


class KeyRecord(msgspec.Struct, frozen=True):
    """A key made at run time: `digest` is the SHA-256 hex of it, `hint` its last characters, `label` what its caller's
    keys are told apart by ("" for nothing).

    `lifetime` is how long it was meant to live (ms, 0 for ever) and its successor will; `expires_at` and `revoked_at`
    only ever come nearer. `of_file`: a file defined its caller when it was made, so that without one it is nobody's.
    """

    caller: str
    digest: str
    hint: str = ""
    created_at: int = 0
    expires_at: int = 0
    revoked_at: int = 0
    lifetime: int = 0
    of_file: bool = False
    replaced_by: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if len(bytes.fromhex(self.digest)) != 32:
            raise ValueError("not a SHA-256 digest")

    @property
    def end(self) -> float:
        """When it stopped or will stop to count; infinity for never."""
        return min(self.revoked_at or math.inf, self.expires_at or math.inf)

    def state(self, now: float) -> str:
        if self.revoked_at:
            return REVOKED
        return ACTIVE if now < self.end else EXPIRED


class Stored(msgspec.Struct, frozen=True):
    """All that was made at run time, by its ids, deleted records too. `version` differs after every change."""

    version: str = ""
    callers: dict[str, CallerRecord] = {}
    keys: dict[str, KeyRecord] = {}
    teams: dict[str, TeamRecord] = {}
    boosts: dict[str, BoostRecord] = {}

    def __bool__(self) -> bool:
        return bool(self.keys or any(self.records(kind) for kind in RECORDS))

    def records(self, kind: str) -> dict[str, Any]:
        """The records of this kind."""
        found: dict[str, Any] = getattr(self, kind)
        return found

    @property
    def present(self) -> dict[str, CallerRecord]:
        """The callers that were not deleted."""
        return _present(self.callers)

    @property
    def present_teams(self) -> dict[str, TeamRecord]:
        """The teams that were not deleted."""
        return _present(self.teams)

    def same(self, other: Stored) -> bool:
        """Whether both say the same, whatever the version."""
        return self.keys == other.keys and all(self.records(kind) == other.records(kind) for kind in RECORDS)


R = TypeVar("R", bound=Record)


def _present(records: Mapping[str, R]) -> dict[str, R]:
    return {name: record for name, record in records.items() if not record.deleted_at}


def usable(stored: Stored, now: float) -> Stored:
    """What is needed to recognise callers from `now` (ms) on, and to limit them: the keys that have not ended, and what
    counts; of teams also that they were deleted."""
    keys = {name: key for name, key in stored.keys.items() if now < key.end}
    boosts = {name: boost for name, boost in stored.boosts.items() if boost.counts(now)}
    return Stored(stored.version, stored.present, keys, stored.teams, boosts)


def stale(stored: Stored, now: float) -> list[str]:
    """The keys that ended so long ago that nobody asks any more."""
    return [name for name, key in stored.keys.items() if key.end + KEPT <= now]


def missing(stored: Stored, known: Stored, now: float) -> Stored:
    """What a gateway knows and the store has lost: records, keys, and the end of keys.

    Offering it is always right: what ends a key is never undone, and of two records the later stays.
    """
    gone = set(stale(known, now))
    records: dict[str, Any] = {kind: _later(known.records(kind), stored.records(kind)) for kind in RECORDS}
    keys = {name: key for name, key in known.keys.items() if name not in gone and _adds(key, stored.keys.get(name))}
    return Stored(keys=keys, **records)


def _later(known: Mapping[str, R], stored: Mapping[str, R]) -> dict[str, R]:
    """Those of `known` that are missing in `stored`, or were followed by those that are known."""
    return {
        name: record
        for name, record in known.items()
        if (present := stored.get(name)) is None or record.revision > present.revision
    }


def _adds(key: KeyRecord, present: KeyRecord | None) -> bool:
    if present is None:
        return True
    revoked = 0 < key.revoked_at < (present.revoked_at or math.inf)
    return revoked or 0 < key.expires_at < (present.expires_at or math.inf)


class Configured(Protocol):
    """A caller as a file defines it: `digests` of its keys there, which count until `expires` (Unix seconds)."""

    @property
    def id(self) -> str: ...
    @property
    def digests(self) -> tuple[str, ...]: ...
    @property
    def expires(self) -> float | None: ...


C = TypeVar("C", bound=Configured)


class Keyring(Generic[C]):
    """The table. `callers` are all callers by id, with or without a key: where a file defines one, it is the file's.
    `made` turns a record and its id into a caller, or None where the record makes no sense: its keys open nothing; nor
    do those of callers whose team was deleted. `teams` are the ids of those that a file defines. `suspended` are
    callers whose keys are known and refused, `moved` those who may have spent something in another team at `now` (ms).
    """

    def __init__(
        self,
        configured: Iterable[C],
        stored: Stored,
        made: Callable[[str, CallerRecord], C | None],
        teams: Container[str] = (),
        now: float = 0.0,
    ) -> None:
        in_file = {caller.id: caller for caller in configured}
        deleted = {name for name, team in stored.teams.items() if team.deleted_at and name not in teams}
        present = {name: each for name, each in stored.present.items() if name not in in_file}
        recorded = {name: made(name, each) for name, each in present.items() if each.team not in deleted}
        self.suspended = frozenset(name for name, each in present.items() if each.status == SUSPENDED)
        self.moved = frozenset(name for name, each in present.items() if each.carried(now))
        self.callers: dict[str, C] = {name: caller for name, caller in recorded.items() if caller is not None}
        self._by_digest: dict[bytes, tuple[C, float]] = {}
        for key in stored.keys.values():
            caller = in_file.get(key.caller) or (None if key.of_file else self.callers.get(key.caller))
            if caller is not None:
                self._by_digest[bytes.fromhex(key.digest)] = (caller, key.end / 1000)
        self.callers |= in_file
        for caller in in_file.values():
            until = math.inf if caller.expires is None else caller.expires
            self._by_digest |= {bytes.fromhex(digest): (caller, until) for digest in caller.digests}

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.callers)} callers, {len(self._by_digest)} keys>"

    def find(self, digest: bytes, now: float) -> C | None:
        """Whose key has this SHA-256 digest, if it counts at `now` (Unix seconds). Looking a digest up takes no time
        that depends on a key."""
        found = self._by_digest.get(digest)
        return found[0] if found is not None and now < found[1] else None

    def count(self, now: float) -> int:
        """How many keys count at `now`."""
        return sum(now < until for _, until in self._by_digest.values())
