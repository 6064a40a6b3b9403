"""The pool document and the processes that share it, in the `{pool}` slot. For the supervisor: not the data path.

It stores and agrees; what the document should be, `core.routing.document.reconcile` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway import log
from gateway.core.routing.document import Announcement, Overrides, PoolDocument, reconcile, resume
from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import ask, open_redis, run, subscribe
from gateway.store.client.topology import read_url
from gateway.store.scripts import ANNOUNCE, OVERRIDE, PUBLISH, Script

SCHEMA = 1  # of everything this version writes to the store
DEAD_AFTER = 10_000  # ms of silence after which a process no longer counts
CHANNEL = "{pool}:changed"
BROADCASTS = "{pool}:news"
_DOCUMENT = "{pool}:document"
_OVERRIDES = "{pool}:overrides"
_SCHEMA = "{pool}:schema"
_KEYS = ("{pool}:processes", "{pool}:heartbeats", _DOCUMENT, _OVERRIDES, _SCHEMA)
_announcement = msgspec.json.Decoder(Announcement).decode
_document = msgspec.json.Decoder(PoolDocument).decode
_values = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode


class NewerSchema(Exception):
    """A newer version of the gateway owns the store: this one must not write to it."""


class Agreement(msgspec.Struct, frozen=True):
    """What the live processes agree on, and from what: `live` are their announcements. `lost` tells that the store no
    longer knew this process or the document, as it is for a process's first time and after FLUSHALL."""

    document: PoolDocument
    live: tuple[Announcement, ...] = ()
    overrides: Overrides = {}
    lost: bool = False


class PoolStore:
    """The agreed pool in the store at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._changes, self._broadcasts = channel_at(url, CHANNEL), channel_at(url, BROADCASTS)
        self._redis = open_redis(url)

    async def agree(
        self, announcement: Announcement, last: PoolDocument, last_overrides: Overrides | None = None
    ) -> Agreement:
        """Heartbeat, and bring the document in line with what all live processes announce.

        `last` and `last_overrides` are what this process knew: a store that has lost its own is given them back. Raises
        StoreDown, and NewerSchema where a newer version has taken over.
        """
        said = _encode(announcement)
        lost = False
        for _ in range(5):  # each round that loses the race has another's newer document to agree with
            schema, text, announced, flat, now, known = await self._run(
                ANNOUNCE, len(_KEYS), *_KEYS, 0, announcement.process, said, DEAD_AFTER, SCHEMA
            )
            _refuse(schema)
            lost = lost or not (text and known)
            live = tuple(_announcement(each) for each in announced)
            overrides: Overrides = {flat[i].decode(): _override(flat[i + 1]) for i in range(0, len(flat), 2)}
            given_back: list[str | bytes] = []
            if text:
                present = _document(text)
                wanted = reconcile(present, live, overrides, now / 1000)
            else:
                for account, override in (last_overrides or {}).items():
                    given_back += (account, _encode(override))
                overrides = {**(last_overrides or {}), **overrides}
                wanted = resume(last, overrides, announcement, live)
            if (text and wanted is present) or await self._run(
                PUBLISH, 2, _DOCUMENT, _OVERRIDES, text or b"", _encode(wanted), self._changes, *given_back
            ):
                return Agreement(wanted, live, overrides, lost)
        raise StoreDown("the pool document changes faster than it can be agreed on")

    async def override(self, account: str, values: Mapping[str, object] | None) -> dict[str, object]:
        """Override some fields of an account, None as a value undoing one; `values` None undoes all.

        Returns the override as it now stands. Every process hears of it at once and agrees anew. Raises StoreDown and
        NewerSchema.
        """
        said = b"" if values is None else _encode(values)
        schema, text = await self._run(OVERRIDE, 2, _OVERRIDES, _SCHEMA, account, said, self._changes, SCHEMA)
        _refuse(schema)
        return _override(text or b"{}")

    async def publish(self, data: bytes) -> None:
        """Tell it to everyone who follows. Raises StoreDown."""
        await ask(self._redis, "PUBLISH", self._broadcasts, data)

    async def leave(self, process: str) -> None:
        """Say goodbye, so that nobody waits for this process's heartbeat."""
        with contextlib.suppress(StoreDown):
            await self._run(ANNOUNCE, len(_KEYS), *_KEYS, 0, process, b"", DEAD_AFTER, SCHEMA)

    async def _run(self, script: Script, *args: Any) -> Any:
        return await run(self._redis, script, args)

    async def follow(self, changed: Callable[[], None], heard: Callable[[bytes], None]) -> None:
        """Call `changed` whenever somebody replaced the document or an override, or may have while nobody could listen,
        and `heard` with all broadcasts, one's own too; runs until cancelled, through any outage."""
        subscriptions = 0

        def subscribed() -> None:
            nonlocal subscriptions
            subscriptions += 1
            if subscriptions > 1:
                changed()

        while True:
            try:
                async with contextlib.aclosing(
                    subscribe(self._url, (self._changes, self._broadcasts), subscribed=subscribed)
                ) as said:
                    async for channel, message in said:
                        if channel == self._broadcasts:
                            heard(message)
                        else:
                            changed()
            except Exception:  # whatever it was, following goes on
                log.exception("following the pool document failed")
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        await self._redis.aclose()


def channel_at(url: str, name: str) -> str:
    """What a channel is called in the database of this URL: a server's channels are those of all its databases."""
    db = read_url(url).access.db
    return f"{name}:{db}" if db else name


def _refuse(schema: int) -> None:
    if schema > SCHEMA:
        raise NewerSchema(f"the store belongs to schema {schema}; this version writes schema {SCHEMA}")


def _override(text: bytes) -> dict[str, object]:
    try:
        return _values(text)
    except msgspec.DecodeError:  # nothing that a gateway wrote
        return {}
