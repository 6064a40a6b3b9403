"""Where the store is: one server, the master that sentinels name, or a cluster. Read from a URL; nothing is asked."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple, cast

from redis.asyncio.connection import parse_url

from gateway.config.checks import parse_redis

Address = tuple[str, int] | str  # host and port, or the path of a unix socket


def redis_url(url: str) -> str:
    """The URL as redis-py reads it: valkey:// means redis://, valkeys:// means rediss://."""
    return "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url


class Access:
    """How to get in: credentials, database and TLS, as redis-py's keyword arguments name them."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.username: str = options.get("username") or ""
        self.password: str = options.get("password") or ""
        self.db: int = options.get("db") or 0
        self._context: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context that redis-py would make of the same options, None without TLS. Raises OSError."""
        if self.options.get("ssl") and self._context is None:
            self._context = _context(self.options)
        return self._context

    def forget_tls(self) -> None:
        """Read the certificates anew next time: they may have been replaced."""
        self._context = None


class Topology(NamedTuple):
    """What a URL of the store says. `kind` is "", "sentinel" or "cluster"; `nodes` are the server, the sentinels or
    some nodes of the cluster; `master` is the name that sentinels know it by; `sentinels` is the access to them;
    `plain` is the URL, as redis-py reads it, of one server with the same credentials, database and options."""

    kind: str
    nodes: tuple[Address, ...]
    master: str
    access: Access
    sentinels: Access
    plain: str


def read_url(url: str) -> Topology:
    """The topology at `url`. Raises ValueError; its words do not repeat the URL."""
    parts = parse_redis(url)
    plain = redis_url(parts.plain)
    options = cast(dict[str, Any], parse_url(plain))
    tls = "SSL" in getattr(options.pop("connection_class", None), "__name__", "")
    path = options.pop("path", None)
    host = options.pop("host", "localhost")
    port = options.pop("port", 6379)
    nodes = parts.nodes or (path or (host, port),)
    if tls:
        options["ssl"] = True
    known = {name: value for name, value in options.items() if name.startswith("ssl")}
    for name in ("username", "password"):
        if value := getattr(parts, f"sentinel_{name}"):
            known[name] = value
    return Topology(parts.kind, nodes, parts.master, Access(options), Access(known), plain)


def _context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") in ("none", "optional") or options.get("ssl_check_hostname") in (False, "false"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
