"""How many conversations are bound to each workspace, counted at leisure: some keys at a time, round and round.

Nothing keeps this number, for bindings expire by themselves. It changes nothing, and nobody waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, cast

import msgspec

from gateway.core.routing.binding import unpack
from gateway.core.routing.broadcast import Forget
from gateway.every import every
from gateway.store.client.connection import StoreDown
from gateway.store.client.plain_redis import redis
from gateway.store.client.redis_py import FAILURES, open_redis

EVERY = 5.0  # seconds between two looks
AT_ONCE = 1000  # keys of one call, about: of the whole store, whosever they are
ROUND = 300.0  # seconds that a round takes where that needs no more than MOST
MOST = 20  # calls at a look
_TRIP = 200  # conversations read together
_OF_BINDINGS = b"}:b:"  # in the keys of conversations: see core.routing.binding.record_key

_flushed = msgspec.msgpack.Decoder(Forget).decode


class BindingCounts:
    """Of the store at `url`. `counts` are the bindings by workspace (a conversation has one for each model that it
    talks to), as the last whole round has found them; during the first round, what the keys seen so far let expect.
    None while nobody knows."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)
        self.counts: Mapping[str, int] | None = None
        self._whole = False  # a round has come to its end
        self._begin()

    def _begin(self) -> None:
        self._nodes: list[Any] | None = None  # those that are left, the present one first
        self._cursor = 0
        self._found: Counter[str] = Counter()
        self._seen = self._size = 0  # keys so far, and when the round began

    async def run(self) -> None:
        """Look every EVERY seconds until cancelled."""
        await every(EVERY, self.look, "counting conversations failed", at_once=True, quiet=StoreDown)

    async def look(self) -> None:
        """Go on with the round. Raises StoreDown."""
        try:
            nodes = self._nodes
            if nodes is None:
                nodes = self._nodes = await self._primaries()
                self._size = sum([await node.execute_command("DBSIZE") for node in nodes])
            for _ in range(min(MOST, ceil(self._size / AT_ONCE * EVERY / ROUND)) or 1):
                await self._scan(nodes[0])
                if not self._cursor:
                    del nodes[0]
                if not nodes:
                    break
        except FAILURES as error:
            self.counts, self._whole = None, False
            self._begin()
            if isinstance(self._redis, redis.RedisCluster):
                with suppress(*FAILURES):
                    await self._redis.aclose()  # there may be other nodes by now
            raise StoreDown(str(error) or type(error).__name__) from None
        except Exception:
            self._begin()
            raise
        if not nodes:
            self.counts, self._whole = self._found, True
            self._begin()
        elif not self._whole and self._seen:
            part = min(1.0, self._seen / max(1, self._size))
            self.counts = {workspace: round(count / part) for workspace, count in self._found.items()}

    async def _scan(self, node: Any) -> None:
        self._cursor, keys = await node.execute_command("SCAN", self._cursor, "COUNT", AT_ONCE)
        self._seen += len(keys)
        conversations = [key for key in keys if _OF_BINDINGS in key]
        for first in range(0, len(conversations), _TRIP):
            await self._count(conversations[first : first + _TRIP])

    def heard(self, data: bytes) -> None:
        """A broadcast: where all bindings of a workspace were flushed, it has none."""
        try:
            workspace = _flushed(data).workspace
        except msgspec.MsgspecError:  # another fact
            return
        if workspace and self.counts is not None:
            self.counts = {**self.counts, workspace: 0}
        self._found.pop(workspace, None)

    async def _primaries(self) -> list[Any]:
        if isinstance(self._redis, redis.RedisCluster):
            await self._redis.initialize()
            return list(self._redis.get_primaries())
        return [self._redis]

    async def _count(self, keys: Sequence[bytes]) -> None:
        async with cast(Any, self._redis).pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hvals(key)
            for records in await pipeline.execute(raise_on_error=False):
                if isinstance(records, Exception):
                    continue  # not a hash, or gone elsewhere
                for record in records:
                    try:
                        self._found[unpack(record).workspace] += 1
                    except msgspec.MsgspecError:
                        continue

    async def close(self) -> None:
        await self._redis.aclose()
