"""What callers and teams have used of their limits, as operators look at it. The data path has accounting for that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from gateway.store.client.redis_py import open_redis, run
from gateway.store.ledger.levels import Carried, SubjectBuckets, Used, looked_of, spent_of, to_carry, to_look

_AT_ONCE = 8  # tenants
_SUBJECTS = 200  # of one tenant in one script


class LevelReader:
    """The limits' levels in the store at `url`. It connects when first used."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)

    async def read(self, asked: Mapping[str, Sequence[SubjectBuckets]]) -> dict[str, Used]:
        """By subject; `asked` are the subjects of each tenant. Raises StoreDown."""
        found: dict[str, Used] = {}
        parts = (
            (tenant, subjects[first : first + _SUBJECTS])
            for tenant, subjects in asked.items()
            for first in range(0, len(subjects), _SUBJECTS)
        )
        while batch := list(islice(parts, _AT_ONCE)):
            replies = await asyncio.gather(*(self._ask(*part) for part in batch), return_exceptions=True)
            for (_, subjects), reply in zip(batch, replies, strict=True):
                if isinstance(reply, BaseException):
                    raise reply
                found |= looked_of(subjects, reply)
        return found

    async def _ask(self, tenant: str, subjects: Sequence[SubjectBuckets]) -> Any:
        return await run(self._redis, *to_look(tenant, subjects))

    async def spent(self, tenant: str, subject: str) -> Carried:
        """What a subject has spent under this tenant, and reserves there now, without what was carried to it. Raises
        StoreDown."""
        return spent_of(await self._ask(tenant, [SubjectBuckets(subject, ())]))

    async def carry(self, tenant: str, subject: str, carried: Carried) -> None:
        """Have it counted under this tenant too, in the place of what was carried to it before. Raises StoreDown."""
        await run(self._redis, *to_carry(tenant, subject, carried))

    async def close(self) -> None:
        await self._redis.aclose()
