"""What all gateways do once between them: whoever sets its mark first does it."""

from __future__ import annotations

from gateway.store.client.redis_py import ask, open_redis

_PREFIX = "{pool}:once:"


class Marks:
    """Marks in the store at `url`. It connects when first used."""

    def __init__(self, url: str) -> None:
        self._redis = open_redis(url)

    async def first(self, name: str, seconds: int) -> bool:
        """Whether nobody had set this mark, which lasts so long. Raises StoreDown."""
        return await ask(self._redis, "SET", _PREFIX + name, "1", "NX", "EX", seconds) is not None

    async def close(self) -> None:
        await self._redis.aclose()
