"""The address at which a client reached the gateway, for the addresses that answers hold, and the client's own."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.listen.client import Scope

_HOST = re.compile(rb"[A-Za-z0-9.\-_:\[\]]{1,255}\Z")
_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~-]+)*/?\Z")


class Addresses:
    """`trusted` are networks whose `X-Forwarded-*` headers are believed; `public` is where clients reach the gateway,
    "" for wherever each says that it did."""

    def __init__(self, trusted: tuple[str, ...], public: str = "") -> None:
        self._public = public.encode()
        self._trusted = [ip_network(each, strict=False) for each in trusted]

    def base_url(self, scope: Scope) -> bytes:
        """`scheme://host[:port][/prefix]`, as the client wrote it or an operator did."""
        if self._public:
            return self._public
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

    def client(self, scope: Scope) -> str:
        """The client's own address, "" where it has none: behind trusted proxies the last one that they do not have."""
        address: str = scope["client"][0] if scope["client"] else ""
        if self._trusted and self._is_trusted(scope):
            said = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            for each in reversed(said.decode("latin-1").split(",")):
                try:
                    address = str(ip_address(each.strip()))
                except ValueError:
                    break
                if not self._trusts(address):
                    break
        return address

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope["client"]
        return client is not None and self._trusts(client[0])

    def _trusts(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._trusted)


def _first(headers: dict[bytes, bytes], name: bytes) -> bytes:
    return headers.get(name, b"").partition(b",")[0].strip()


def network_of(address: str) -> str:
    """What one client has: an IPv4 address, or a whole IPv6 network."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(ip_network((found, 64), strict=False))
    return str(getattr(found, "ipv4_mapped", None) or found)
