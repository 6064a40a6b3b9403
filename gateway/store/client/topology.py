"""Where the store is: one server, the master that sentinels name, or a cluster. Read from a URL; nothing is asked."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from gateway.config.checks import parse_redis

_NO = ("0", "F", "FALSE", "N", "NO")  # as redis-py reads them
Address = tuple[str, int] | str  # host and port, or the path of a unix socket


def redis_url(url: str) -> str:
    """The URL as redis-py reads it: valkey:// means redis://, valkeys:// means rediss://."""
    return "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url


class Access:
    """How to get in: credentials, database and TLS, as redis-py's keyword arguments name them."""

    budget = 0.05  # seconds a caller waits for a reply before the server counts as away
    slots = False  # of a cluster: what is sent together must be in one slot

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
    url_parts = urlsplit(plain)
    options = _options(url_parts)
    if url_parts.scheme == "unix":
        nodes: tuple[Address, ...] = (unquote(url_parts.path),)
    else:
        nodes = parts.nodes or ((unquote(url_parts.hostname or "localhost"), url_parts.port or 6379),)
    known = {name: value for name, value in options.items() if name.startswith("ssl")}
    for name in ("username", "password"):
        if value := getattr(parts, f"sentinel_{name}"):
            known[name] = value
    return Topology(parts.kind, nodes, parts.master, Access(options), Access(known), plain)


def _options(url: SplitResult) -> dict[str, Any]:
    options: dict[str, Any] = {name: values[0] for name, values in parse_qs(url.query).items()}
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].upper() not in _NO
    if url.username:
        options["username"] = unquote(url.username)
    if url.password:
        options["password"] = unquote(url.password)
    if url.scheme == "rediss":
        options["ssl"] = True
    db = options.get("db") or (url.scheme != "unix" and url.path.strip("/"))
    if db:
        options["db"] = int(db)
    return options


def _context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") in ("none", "optional") or options.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
