"""The audit log: who changed what by the admin API, when, and whether it was done.

Each gateway appends what it did to a file of its own and to one list in the store, which all of them show. What could
not be told to the store is told later; a change never waits for it. It never holds a key, a token or the id of a
conversation: whoever records something sees to that.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from gateway import log
from gateway.errors import ApiError
from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import ask, open_redis
from gateway.telemetry.repeats import Repeats

FILE = "audit.jsonl"
MAX_FILE = 8 * 1024 * 1024  # bytes after which a new file is begun
OLD_FILES = 4  # former ones that are kept: audit.jsonl.1 is the latest
KEPT = 10_000  # entries in the store, roughly
MOST = 1000  # in one answer
_LIST = "{pool}:audit"
_FIELD = b"entry"
_UNTOLD = 1000  # entries that wait for the store
_AGAIN = 2.0  # seconds before it is tried again
_WAIT = 2.0  # seconds for the store
_REFUSED_EVERY = 60.0  # seconds: of refusals that are alike there is one entry in that time
_SESSIONS = ("session.begin", "session.end")  # what those too may do who can change nothing
_MOST_SESSIONS = 10  # entries of one kind of one token within _SESSIONS_EVERY
_SESSIONS_EVERY = 3600.0  # seconds
_CURSOR = re.compile(r"[1-9]\d{0,18}-\d{1,19}", re.ASCII)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to change something. `id` is that of the request, `at` RFC 3339, `who` the id of a token, `by`
    "token" or "session" (both are "gateway" for what nobody asked for), `address` where it came from, `changes` each
    field before and after, `status` that of the answer: what is 400 or more changed nothing, but for a 503, of which
    nobody knows."""

    id: str
    at: str
    who: str
    role: str
    by: str
    address: str
    action: str
    method: str
    resource: str
    status: int
    changes: dict[str, tuple[Any, Any]] = {}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class AuditFile:
    """`audit.jsonl` in `data_dir`: one entry a line, for its owner's eyes, begun anew when it is large."""

    def __init__(self, data_dir: str, max_bytes: int = MAX_FILE) -> None:
        self.path = Path(data_dir) / FILE
        self._max_bytes = max_bytes
        self._failing = False

    def append(self, line: bytes) -> None:
        """Add a line. A disk that is full or gone is said once, and stops nobody."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "ab") as file:
                file.write(line + b"\n")
                size = file.tell()
            if size >= self._max_bytes:
                self._rotate()
        except OSError as error:
            if not self._failing:
                log.error("audit log not written", path=str(self.path), reason=error.strerror or str(error))
            self._failing = True
        else:
            self._failing = False

    def _rotate(self) -> None:
        for number in range(OLD_FILES, 0, -1):
            older = self.path if number == 1 else self.path.with_name(f"{FILE}.{number - 1}")
            if older.exists():
                older.replace(self.path.with_name(f"{FILE}.{number}"))


class Audit:
    """The file, and the list in the store at `url`. Who repeats what changes nothing does not push out what others did:
    of that only so much is kept, and the log has how often. `now()` gives seconds."""

    def __init__(self, url: str, file: AuditFile, now: Callable[[], float] = monotonic) -> None:
        self._redis = open_redis(url)
        self._file = file
        self._untold: deque[bytes] = deque(maxlen=_UNTOLD)
        self._due = asyncio.Event()
        self._telling = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._refused = Repeats[tuple[str, str, int]](_REFUSED_EVERY, _say_refused, now)
        self._sessions = Repeats[tuple[str, str]](_SESSIONS_EVERY, _say_sessions, now)

    async def record(self, entry: Entry) -> None:
        """Keep it: in the file when this returns, in the store soon after. What repeats is counted instead."""
        if self._repeated(entry):
            return
        line = _encode(entry)
        log.info(
            "audit", who=entry.who, role=entry.role, action=entry.action, resource=entry.resource, status=entry.status,
            changed=list(entry.changes), request_id=entry.id,
        )  # fmt: skip
        self._untold.append(line)
        self._due.set()
        async with self._writing:
            await asyncio.to_thread(self._file.append, line)

    def _repeated(self, entry: Entry) -> bool:
        self._refused.look()
        self._sessions.look()
        if entry.action in _SESSIONS:
            return self._sessions.add((entry.who, entry.action)) > _MOST_SESSIONS
        return 400 <= entry.status < 500 and self._refused.add((entry.who, entry.action, entry.status)) > 1

    async def run(self) -> None:
        """Tell the store, through any outage, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._tell()
            except StoreDown:
                await asyncio.sleep(_AGAIN)
                self._due.set()
            except Exception:  # whatever it was, the next entry must be told
                log.exception("telling the store of changes failed")

    async def _tell(self) -> None:
        """Raises StoreDown. An entry may come twice where an answer was lost; readers see it once."""
        async with self._telling:
            while self._untold:
                line = self._untold.popleft()
                try:
                    await self._ask("XADD", _LIST, "MAXLEN", "~", KEPT, "*", _FIELD, line)
                except BaseException:
                    if len(self._untold) < _UNTOLD:
                        self._untold.appendleft(line)
                    raise

    async def _ask(self, *command: Any) -> Any:
        try:
            async with asyncio.timeout(_WAIT):
                return await ask(self._redis, *command)
        except TimeoutError:
            raise StoreDown("no answer in time") from None

    async def list(self, limit: int, before: str) -> dict[str, Any]:
        """At most `limit` entries of all gateways, the latest first; `next` is what `before` must be for those that
        follow, None at the end. Raises ApiError: 400 for a `before` that never was one, 503 while the store is away."""
        if before and not _CURSOR.fullmatch(before):
            raise ApiError(400, "before must be the next of an earlier answer")
        try:
            await self._tell()
            rows = await self._ask("XREVRANGE", _LIST, f"({before}" if before else "+", "-", "COUNT", limit + 1)
        except StoreDown as error:
            raise ApiError(503, f"The store is away; {FILE} in data_dir has what this gateway did: {error}") from None
        found: dict[str, Entry] = {}
        for _, fields in rows[:limit]:
            entry = _read(fields)
            if entry is not None:
                found.setdefault(entry.id, entry)
        return {"data": list(found.values()), "next": rows[limit - 1][0].decode() if len(rows) > limit else None}

    async def close(self) -> None:
        """Tell what is still to be told, if the store is there."""
        try:
            async with asyncio.timeout(_WAIT):
                await self._tell()
        except (StoreDown, TimeoutError):
            log.warning("changes not told to the store", entries=len(self._untold))
        await self._redis.aclose()


def _say_refused(refusal: tuple[str, str, int], times: int) -> None:
    who, action, status = refusal
    log.info("audit: the same again", who=who, action=action, status=status, times=times)


def _say_sessions(kind: tuple[str, str], times: int) -> None:
    if times >= _MOST_SESSIONS:
        log.info("audit: the same again", who=kind[0], action=kind[1], times=times + 1 - _MOST_SESSIONS)


def _read(fields: Mapping[bytes, bytes]) -> Entry | None:
    """None for what a gateway of this version did not write."""
    try:
        return _decode(fields[_FIELD])
    except (msgspec.DecodeError, KeyError):
        return None
