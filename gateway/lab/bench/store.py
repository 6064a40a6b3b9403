"""The store of the measured gateway: its CPU time, and that a given one is left as it was found."""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

import redis

from gateway.lab.bench.processes import BenchError, command_of, cpu_seconds, tree
from gateway.store.client.client import redis_url


class Store:
    """A Redis or Valkey server at `url`; `pid` is its process, 0 if elsewhere. BenchError if it does not answer."""

    def __init__(self, url: str) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(redis_url(url), socket_timeout=5)
        try:
            info: dict[str, Any] = self._redis.info("server")
        except redis.RedisError as error:
            parts = urlsplit(url)
            raise BenchError(f"the store at {parts.hostname or parts.path} cannot be asked: {error}") from None
        name = "Valkey" if "valkey_version" in info else "Redis"
        self.version = f"{name} {info.get('valkey_version', info.get('redis_version'))}"
        pid = int(info.get("process_id", 0))
        here = re.search(b"(redis|valkey)", command_of(pid)) is not None  # or else of another machine
        self.pid = pid if here else 0

    def cpu_seconds(self) -> float:
        """CPU time used so far, nan where it cannot be known."""
        if self.pid:
            return cpu_seconds(tree([self.pid]))
        try:
            info: dict[str, Any] = self._redis.info("cpu")
            return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        except (redis.RedisError, KeyError):
            return math.nan

    def require_empty(self) -> None:
        """A pool that serves must not get ours mixed in."""
        if self._redis.dbsize():
            raise BenchError("the given store holds keys; the benchmark needs an empty database of its own")

    def empty(self) -> None:
        """Remove every key; only for a store that was empty before."""
        for name in self._redis.scan_iter(count=1000):
            self._redis.unlink(name)

    def close(self) -> None:
        self._redis.close()
