"""redis-py without OpenTelemetry, whose SDK it would load wherever that is installed: a tenth of a start's time, for
measures that nobody asks of it here."""

from __future__ import annotations

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
_loaded = "opentelemetry" in _modules
if not _loaded:
    _modules["opentelemetry"] = None  # cannot be imported

import redis.asyncio as redis  # noqa: E402
from redis.asyncio.cluster import ClusterNode  # noqa: E402
from redis.asyncio.retry import Retry  # noqa: E402
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool  # noqa: E402
from redis.backoff import ConstantBackoff, NoBackoff  # noqa: E402
from redis.exceptions import (  # noqa: E402
    ClusterDownError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostConnection  # noqa: E402
from redis.exceptions import TimeoutError as NoReply  # noqa: E402

if not _loaded:
    del _modules["opentelemetry"]

__all__ = [
    "ClusterDownError", "ClusterNode", "ConstantBackoff", "LostConnection", "NoBackoff", "NoReply", "NoScriptError",
    "RedisClusterException", "RedisError", "ResponseError", "Retry", "Sentinel", "SentinelConnectionPool", "redis",
]  # fmt: skip
