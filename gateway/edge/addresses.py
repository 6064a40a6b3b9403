"""The address at which a client reached the gateway, for the addresses that answers hold."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

from gateway.edge.cycle import Scope

_HOST = re.compile(rb"[A-Za-z0-9.\-_:\[\]]{1,255}\Z")
_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~-]+)*/?\Z")


class Addresses:
    """`trusted` are networks whose `X-Forwarded-*` headers are believed."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._trusted = [ip_network(each, strict=False) for each in trusted]

    def base_url(self, scope: Scope) -> bytes:
        """`scheme://host[:port][/prefix]`, as the client wrote it."""
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        scheme: bytes = scope["scheme"].encode("ascii")
        host = headers.get(b"host", b"")
        prefix = b""
        if self._trusted and self._is_trusted(scope):
            scheme = _first(headers, b"x-forwarded-proto") or scheme
            host = _first(headers, b"x-forwarded-host") or host
            prefix = _first(headers, b"x-forwarded-prefix").rstrip(b"/")
        if scheme not in (b"http", b"https"):
            scheme = b"http"
        if not _HOST.match(host):
            server = scope["server"] or ("localhost", None)
            host = f"{server[0]}:{server[1]}".encode() if server[1] else b"localhost"
        return scheme + b"://" + host + (prefix if _PREFIX.match(prefix) else b"")

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope["client"]
        if client is None:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._trusted)


def _first(headers: dict[bytes, bytes], name: bytes) -> bytes:
    return headers.get(name, b"").partition(b",")[0].strip()
