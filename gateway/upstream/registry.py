"""Which transport an account gets."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import cast

from gateway.upstream.http1 import Pool
from gateway.upstream.transport import Origin, Timeouts, Transport

# Imported where an account needs it: a second HTTP client is a tenth of a worker's memory.
_HTTPX = "gateway.upstream.httpx_transport:HttpxTransport"


def open_transport(origin: Origin, timeouts: Timeouts) -> Transport:
    """Our own connection pool, or httpx where an outbound proxy or HTTP/2 is wanted."""
    if origin.proxy is not None or origin.http2:
        return cast(Callable[[Origin, Timeouts], Transport], resolve_name(_HTTPX))(origin, timeouts)
    return Pool(origin, timeouts)
