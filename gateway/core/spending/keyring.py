"""Who may call: the callers that a file defines and those made at run time, as one table of their keys' digests.

Pure data and functions. It knows neither the configuration's own types nor the store, and no key ever enters it. Times
of records are Unix milliseconds, 0 for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import msgspec

KEPT = 90 * 86_400_000  # ms that a key is shown after its end
ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"


class CallerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A caller made at run time, which all its keys share; of two records the one with the higher `revision` counts.
    `limits` are as the configuration file has them, without those that are none. One that was `deleted_at` some time is
    kept as that: whoever still knows it as it was would give it back."""

    team: str | None = None
    models: tuple[str, ...] = ("*",)
    limits: dict[str, object] = {}
    metadata: dict[str, str] = {}
    created_at: int = 0
    revision: int = 1
    deleted_at: int = 0


class KeyRecord(msgspec.Struct, frozen=True):
    """A key made at run time: `digest` is the SHA-256 hex of it, `hint` its last characters.

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
    """All callers and keys made at run time, by their ids, deleted callers too. `version` differs after every
    change."""

    version: str = ""
    callers: dict[str, CallerRecord] = {}
    keys: dict[str, KeyRecord] = {}

    def __bool__(self) -> bool:
        return bool(self.callers or self.keys)

    @property
    def present(self) -> dict[str, CallerRecord]:
        """The callers that were not deleted."""
        return {name: record for name, record in self.callers.items() if not record.deleted_at}

    def same(self, other: Stored) -> bool:
        """Whether both say the same, whatever the version."""
        return self.callers == other.callers and self.keys == other.keys


def usable(stored: Stored, now: float) -> Stored:
    """What is needed to recognise callers from `now` (ms) on: the keys that have not ended."""
    keys = {name: key for name, key in stored.keys.items() if now < key.end}
    return Stored(stored.version, stored.present, keys)


def stale(stored: Stored, now: float) -> list[str]:
    """The keys that ended so long ago that nobody asks any more."""
    return [name for name, key in stored.keys.items() if key.end + KEPT <= now]


def missing(stored: Stored, known: Stored, now: float) -> Stored:
    """What a gateway knows and the store has lost: callers, keys, and the end of keys.

    Offering it is always right: what ends a key is never undone, and of two records of a caller the later stays.
    """
    gone = set(stale(known, now))
    return Stored(
        "",
        {name: record for name, record in known.callers.items() if _later(record, stored.callers.get(name))},
        {name: key for name, key in known.keys.items() if name not in gone and _adds(key, stored.keys.get(name))},
    )


def _later(record: CallerRecord, present: CallerRecord | None) -> bool:
    return present is None or record.revision > present.revision


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
    `made` turns a record and its id into a caller, or None where the record makes no sense: its keys open nothing.
    """

    def __init__(self, configured: Iterable[C], stored: Stored, made: Callable[[str, CallerRecord], C | None]) -> None:
        in_file = {caller.id: caller for caller in configured}
        recorded = {name: made(name, record) for name, record in stored.present.items() if name not in in_file}
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
