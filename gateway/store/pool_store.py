"""The pool document and the processes that share it, in the `{pool}` slot. For the supervisor: not the data path.

It stores and agrees; what the document should be, `core.document.reconcile` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import redis.asyncio as redis
import structlog
from redis.exceptions import NoScriptError, RedisError

from gateway.core.document import Announcement, PoolDocument, reconcile
from gateway.store.client import StoreDown, redis_url
from gateway.store.scripts import ANNOUNCE, PUBLISH, Script

log = structlog.get_logger("gateway.store")

SCHEMA = 1  # of everything this version writes to the store
DEAD_AFTER = 10_000  # ms of silence after which a process no longer counts
CHANNEL = "{pool}:changed"
_DOCUMENT = "{pool}:document"
_KEYS = ("{pool}:processes", "{pool}:heartbeats", _DOCUMENT, "{pool}:overrides", "{pool}:schema")
_announcement = msgspec.json.Decoder(Announcement).decode
_document = msgspec.json.Decoder(PoolDocument).decode
_encode = msgspec.json.Encoder().encode


class NewerSchema(Exception):
    """A newer version of the gateway owns the store: this one must not write to it."""


class PoolStore:
    """The agreed pool in the store at `url`."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url(url), socket_timeout=1, socket_connect_timeout=1, protocol=2)

    async def agree(self, announcement: Announcement, last: PoolDocument) -> PoolDocument:
        """Heartbeat, and bring the document in line with what all live processes announce.

        `last` is the document this process knew: a store that has lost its own is given it back. Raises StoreDown, and
        NewerSchema where a newer version has taken over.
        """
        said = _encode(announcement)
        for _ in range(5):  # each round that loses the race has another's newer document to agree with
            text, announced, overrides = await self._exchange(announcement.process, said)
            present = _document(text) if text else last
            wanted = reconcile(present, announced, overrides)
            if (text and wanted is present) or await self._run(
                PUBLISH, 1, _DOCUMENT, text or b"", _encode(wanted), CHANNEL
            ):
                return wanted
        raise StoreDown("the pool document changes faster than it can be agreed on")

    async def leave(self, process: str) -> None:
        """Say goodbye, so that nobody waits for this process's heartbeat."""
        with contextlib.suppress(StoreDown, NewerSchema):
            await self._exchange(process, b"")

    async def _exchange(
        self, process: str, said: bytes
    ) -> tuple[bytes | None, list[Announcement], dict[str, dict[str, object]]]:
        reply = await self._run(ANNOUNCE, len(_KEYS), *_KEYS, 0, process, said, DEAD_AFTER, SCHEMA)
        if reply[0] > SCHEMA:
            raise NewerSchema(f"the store belongs to schema {reply[0]}; this version writes schema {SCHEMA}")
        flat = reply[3]
        overrides = {flat[i].decode(): msgspec.json.decode(flat[i + 1]) for i in range(0, len(flat), 2)}
        return reply[1], [_announcement(each) for each in reply[2]], overrides

    async def _run(self, script: Script, keys: int, *args: Any) -> Any:
        try:
            try:
                return await cast(Any, self._redis).execute_command("EVALSHA", script.sha, keys, *args)
            except NoScriptError:
                return await cast(Any, self._redis).execute_command("EVAL", script.text, keys, *args)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreDown(str(error) or type(error).__name__) from None

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` whenever somebody replaced the document; runs until cancelled, through any outage."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5.0)
                        if message is not None:
                            await changed()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.5)
            except Exception:  # whatever it was, following goes on
                log.exception("following the pool document failed")
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        await cast(Any, self._redis).aclose()
