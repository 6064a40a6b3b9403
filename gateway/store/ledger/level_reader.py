"""What callers and teams have used of their limits, as operators look at it. The data path has accounting for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from gateway.store.client.connection import StoreDown
from gateway.store.client.redis_py import open_redis, run, run_all
from gateway.store.ledger.levels import Carried, SubjectBuckets, Used, looked_of, spent_of, to_carry, to_look

_AT_ONCE = 50  # scripts
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
            replies = await run_all(self._redis, [to_look(*part) for part in batch])
            for (_, subjects), reply in zip(batch, replies, strict=True):
                if isinstance(reply, StoreDown):
                    raise reply
                found |= looked_of(subjects, reply)
        return found

    async def spent(self, tenant: str, subject: str) -> Carried:
        """What a subject has spent under this tenant, and reserves there now, without what was carried to it. Raises
        StoreDown."""
        return spent_of(await run(self._redis, *to_look(tenant, [SubjectBuckets(subject, ())])))

    async def carry(self, tenant: str, subject: str, carried: Carried) -> None:
        """Have it counted under this tenant too, in the place of what was carried to it before. Raises StoreDown."""
        await run(self._redis, *to_carry(tenant, subject, carried))

    async def close(self) -> None:
        await self._redis.aclose()
