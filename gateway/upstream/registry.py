"""Which provider and which transport an account gets. Adding a provider is adding a row."""

from __future__ import annotations

from collections.abc import Callable

from gateway.upstream.anthropic import Anthropic
from gateway.upstream.http1 import Pool
from gateway.upstream.httpx_transport import HttpxTransport
from gateway.upstream.provider import Provider
from gateway.upstream.transport import Origin, Timeouts, Transport

PROVIDERS: dict[str, Callable[[str], Provider]] = {"anthropic": Anthropic}


def open_transport(origin: Origin, timeouts: Timeouts) -> Transport:
    """Our own connection pool, or httpx where an outbound proxy or HTTP/2 is wanted."""
    if origin.proxy is not None or origin.http2:
        return HttpxTransport(origin, timeouts)
    return Pool(origin, timeouts)
