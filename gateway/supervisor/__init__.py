"""The process that keeps the workers: starts, feeds, replaces and stops them, and serves what operators ask.

No client's request comes here, and nothing here may block: a worker that is lost must be seen at once.
"""

import sys

# Where OpenTelemetry is installed redis-py would load its metrics, should anybody want to report some by it. Nobody
# does here, and they are a tenth of the time and some of the memory that a start takes.
_UNUSED = "opentelemetry.sdk.metrics"
if _UNUSED not in sys.modules and "redis" not in sys.modules:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # to import it fails as if it were not installed
    try:
        import redis.asyncio  # noqa: F401
    finally:
        del sys.modules[_UNUSED]
