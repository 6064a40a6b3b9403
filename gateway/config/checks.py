"""What single values of the configuration must look like.

Each check returns the text to keep or raises ValueError with words that do not repeat the text: it may be a secret in
the wrong place.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from gateway.core.identity.claims import split_path

ID_PATTERN = "[A-Za-z0-9._-]{1,64}"
PERSON_PATTERN = "[A-Za-z0-9._@+'-]{1,128}"
DIGEST_PATTERN = "[0-9a-fA-F]{64}"
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
REGION_PATTERN = "[a-z0-9-]{2,40}"
PROJECT_PATTERN = "[a-z][a-z0-9.:-]{4,62}"
SECRET_LENGTH = 32
TOKEN_LENGTH = 20
NOTE_LENGTH = 256
_MAKE_ONE = "`openssl rand -hex 32` makes a good one"

# A conversation id must not take the place of a credential, nor of what belongs to one connection or one body.
_RESERVED_HEADERS = frozenset({
    "authorization", "x-api-key", "cookie", "set-cookie", "proxy-authorization", "proxy-authenticate",
    "proxy-connection", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host",
    "content-length", "content-type", "content-encoding", "expect", "accept", "accept-encoding", "forwarded", "via",
    "date", "user-agent", "traceparent", "anthropic-version", "anthropic-beta", "x-gateway-request-id",
})  # fmt: skip


def identifier(text: str) -> str:
    if not re.fullmatch(ID_PATTERN, text):
        raise ValueError("must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return _no_path(text)


def person(text: str) -> str:
    """An id that may be an e-mail address."""
    if not re.fullmatch(PERSON_PATTERN, text):
        raise ValueError("must be 1 to 128 of the characters A-Z a-z 0-9 . _ - @ + '")
    return _no_path(text)


def _no_path(text: str) -> str:
    if text in (".", ".."):
        raise ValueError("must not be . or .., which clients take out of a URL")
    return text


def credential(text: str) -> str:
    if any(not "!" <= character <= "~" for character in text):
        raise ValueError("must be printable ASCII without spaces")
    return text


def token(text: str) -> str:
    if len(text) < TOKEN_LENGTH:
        raise ValueError(f"must have at least {TOKEN_LENGTH} characters; {_MAKE_ONE}")
    return credential(text)


def token_digest(text: str) -> str:
    return hashlib.sha256(token(text).encode()).hexdigest()


def secret(text: str) -> str:
    if len(text) < SECRET_LENGTH:
        raise ValueError(f"must have at least {SECRET_LENGTH} characters; {_MAKE_ONE}")
    return text


def key_digest(text: str) -> str:
    return hashlib.sha256(credential(text).encode()).hexdigest()


def digest(text: str) -> str:
    if not re.fullmatch(DIGEST_PATTERN, text):
        raise ValueError("must be a SHA-256 digest: 64 hexadecimal digits")
    return text.lower()


def model(text: str) -> str:
    if len(text) > 256 or any(character.isspace() for character in text):
        raise ValueError("must be a model name or pattern without spaces")
    return text


_NEED = re.compile(r"(?:(?:beta|tool|field):[A-Za-z0-9_.*-]{1,128}|mcp|container|file|url|cache:scope|cache:1h)")


def need(text: str) -> str:
    if not _NEED.fullmatch(text):
        raise ValueError(
            "must be beta:, tool: or field: and a name, or one of mcp, container, file, url, cache:scope, cache:1h"
        )
    return text


def model_name(text: str) -> str:
    if "*" in text or "?" in text:
        raise ValueError("must be the name of one model, not a pattern")
    return model(text)


def provider_name(text: str) -> str:
    """What a cloud calls a model: an id, an ARN, a deployment."""
    if not re.fullmatch(r"[A-Za-z0-9._:/@-]{1,2048}", text):
        raise ValueError("must be 1 to 2048 of the characters A-Z a-z 0-9 . _ : / @ -")
    return text


def region(text: str) -> str:
    if not re.fullmatch(REGION_PATTERN, text):
        raise ValueError("must be the name of a region, such as us-east-1")
    return text


def project(text: str) -> str:
    if not re.fullmatch(PROJECT_PATTERN, text):
        raise ValueError("must be the id of a Google project")
    return text


def aws_account(text: str) -> str:
    if not re.fullmatch("[0-9]{12}", text):
        raise ValueError("must be the 12 digits of an AWS account's number")
    return text


def role_arn(text: str) -> str:
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,512}", text):
        raise ValueError("must be the ARN of a role, such as arn:aws:iam::123456789012:role/name")
    return text


def key_file(text: str) -> str:
    """The text of a Google key file."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON; write ${file:PATH} to name a key file") from None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise ValueError("is no key file of Google's: it has no type")
    return text


def note(text: str) -> str:
    if len(text) > NOTE_LENGTH:
        raise ValueError(f"must have at most {NOTE_LENGTH} characters")
    return text


def network(text: str) -> str:
    """An address or a network, written as `ipaddress` writes it; an address stays one without a prefix length."""
    try:
        if "%" in text:
            raise ValueError
        found = ipaddress.ip_network(text)
    except ValueError:  # its words repeat the text
        raise ValueError("must be an IP address, or a network without host bits such as 10.0.0.0/8") from None
    return str(found) if "/" in text else str(found.network_address)


def file(text: str) -> str:
    try:
        if Path(text).is_file():
            return text
    except OSError:
        pass
    raise ValueError("no such file")


def authorities(text: str) -> str:
    file(text)
    try:
        ssl.create_default_context(cafile=text)
    except OSError:  # an SSLError is one
        raise ValueError("holds no certificates in PEM form") from None
    return text


def origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?", text):
        raise ValueError("must be an origin as browsers write it, such as https://chat.example, or *")
    return text


def affinity_header(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", text):
        raise ValueError("is not a valid header name")
    if text.lower() in _RESERVED_HEADERS:
        raise ValueError("this header has another meaning; choose a name of your own, such as X-Conversation-Id")
    return text


def parse_listen(text: str) -> tuple[str, int]:
    """(host, port) of `0.0.0.0:8080`, `[::1]:8080` or `:8080` (all IPv4 addresses); port 0 is any free one.

    Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("must be host:port with a port from 0 to 65535, such as 0.0.0.0:8080 or [::1]:8080")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError("has no IPv6 address between its brackets") from None
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets, such as [::1]:8080")
    if host and not re.fullmatch("[A-Za-z0-9._-]{1,253}", host):
        raise ValueError("has no valid host before the port")
    return host or "0.0.0.0", int(port)  # noqa: S104 - an empty host asks for exactly that


def listen(text: str, host: str) -> str:
    """A port alone is one of `host`."""
    text = f"{host}:{text}" if re.fullmatch("[0-9]+", text) else text
    parse_listen(text)
    return text


def _split(text: str, schemes: tuple[str, ...]) -> SplitResult:
    if any(character.isspace() for character in text):
        raise ValueError("must not contain spaces")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its words repeat parts of the URL
        raise ValueError("is not a valid URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not parts.hostname or port == 0:
        raise ValueError("is not a URL with a host")
    return parts


def base_url(text: str) -> str:
    return _http_url(text, "; the credential is api_key")


def jwks_uri(text: str) -> str:
    parts = _split(text, ("http", "https"))
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("must not have a user name, a password or a fragment")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("contains characters that a URL cannot have")
    if parts.scheme == "http" and not loopback(parts.hostname):
        raise ValueError("must begin with https://: who can change what it answers can make tokens")
    return text


def issuer(text: str) -> str:
    if text == "kubernetes/serviceaccount":
        raise ValueError("is of legacy tokens, which have no audience and no end; project one with an audience")
    return claim_value(text)


def claim_value(text: str) -> str:
    if len(text) > 1024 or text != text.strip():
        raise ValueError("must have at most 1024 characters, without spaces around them")
    return text


def claim_path(text: str) -> str:
    split_path(text)
    return text


def public_url(text: str) -> str:
    return _http_url(text, "")


def _http_url(text: str, advice: str) -> str:
    parts = _split(text, ("http", "https"))
    if "@" in parts.netloc:
        raise ValueError(f"must not contain a user name or password{advice}")
    if "?" in text or "#" in text:
        raise ValueError("must not have a query or fragment")
    if not re.fullmatch(r"[\x21-\x7e]+", text) or re.search(r"[\\<>\"{}|^`]", text):
        raise ValueError("contains characters that a URL cannot have")
    return text.rstrip("/")


def api_path(url: str) -> str:
    """The end of a base URL that is already part of the API's own paths, to which the gateway would add it once more;
    "" where all is well."""
    found = re.search(r"/(?:v1(?:/(?:messages|traces|models))?|messages|chat/completions)$", urlsplit(url).path)
    return found[0] if found else ""


def proxy_url(text: str) -> str:
    _split(text, ("http", "https", "socks5", "socks5h"))
    return text


class RedisUrl(NamedTuple):
    """A URL of the store, taken apart. `kind` is "" for one server, "sentinel" or "cluster"; `nodes` are the sentinels
    or nodes of the latter two; `plain` is the URL of one server that has the same credentials, database and options."""

    kind: str
    plain: str
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""


_REDIS_URL = re.compile(
    r"(?:(?P<scheme>redis|rediss|valkey|valkeys)(?:\+(?P<kind>sentinel|cluster))?|(?P<unix>unix))://"
    r"(?P<user>[^/?#]*@)?(?P<hosts>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


def parse_redis(text: str) -> RedisUrl:
    """What `redis://`, `rediss://`, `valkey://`, `valkeys://` and `unix://` URLs say, and those with `+sentinel` or
    `+cluster` after the scheme. Raises ValueError."""
    found = _REDIS_URL.match(text)
    if found is None:
        raise ValueError("must be a URL such as redis://host:6379/0, rediss://host:6380 or unix:///path")
    if any(character.isspace() for character in text):
        raise ValueError("must not contain spaces")
    url = _redis_several(found) if found["kind"] else RedisUrl("", text)
    if not found["kind"]:
        _check_plain(found)
    try:
        urlsplit(url.plain)
    except ValueError:  # its words repeat parts of the URL
        raise ValueError("is not a valid URL") from None
    return url


def _check_plain(found: re.Match[str]) -> None:
    options = parse_qs(found["query"] or "")
    if not options.keys().isdisjoint(_SENTINEL_OPTIONS):
        raise ValueError("has an option that belongs to redis+sentinel:// URLs")
    if not re.fullmatch("[0-9]{1,9}", options.get("db", ["0"])[0]):
        raise ValueError("has a database that is no number")
    if found["unix"]:
        if len(found["path"]) < 2:
            raise ValueError("has no path of a socket, such as unix:///run/valkey.sock")
    elif len(_redis_nodes(found["hosts"], 6379)) > 1:
        raise ValueError("has several hosts; they need redis+sentinel:// or redis+cluster://")
    elif not re.fullmatch("/?[0-9]{0,9}", found["path"]):
        raise ValueError("has a database that is no number")


def _redis_several(found: re.Match[str]) -> RedisUrl:
    kind = found["kind"]
    nodes = _redis_nodes(found["hosts"], 26_379 if kind == "sentinel" else 6379)
    known = (*_SENTINEL_OPTIONS, *_TLS_OPTIONS) if kind == "sentinel" else _TLS_OPTIONS
    options = parse_qs(found["query"] or "")
    if not options.keys() <= set(known):
        raise ValueError(f"has an unknown option; known here: {', '.join(known)}")
    query = urlencode([(name, values[0]) for name, values in options.items() if name not in _SENTINEL_OPTIONS])
    head = f"{found['scheme']}://{found['user'] or ''}"
    if kind == "cluster":
        if found["path"] not in ("", "/", "/0"):
            raise ValueError("names a database; a cluster has only one, so leave out what follows the hosts")
        return RedisUrl(kind, f"{head}cluster/?{query}", nodes)
    master, _, db = found["path"].removeprefix("/").partition("/")
    if not master:
        raise ValueError("lacks the master's name after the hosts: redis+sentinel://host:26379/mymaster")
    if not re.fullmatch("[0-9]{0,9}", db):
        raise ValueError("has a database that is no number")
    own = (options.get(name, [""])[0] for name in _SENTINEL_OPTIONS)
    return RedisUrl(kind, f"{head}master/{db}?{query}", nodes, unquote(master), *own)


def _redis_nodes(text: str, default: int) -> tuple[tuple[str, int], ...]:
    """(host, port) of each of `host`, `host:port`, `[::1]` and `[::1]:port` between the commas."""
    nodes = []
    for each in text.split(","):
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*))(?::(.*))?", each)
        if found is None:
            raise ValueError("has a host that is none; an IPv6 address needs brackets")
        host, port = found[1] or found[2], found[3]
        if not host:
            raise ValueError("has no host, or an empty one between its commas")
        if port is not None and (not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= 65_535):
            raise ValueError("has a port that is no number from 1 to 65535")
        nodes.append((unquote(host), default if port is None else int(port)))
    return tuple(nodes)


def redis_url(text: str) -> str:
    parse_redis(text)
    return text


def hidden(_: str) -> str:
    return "***"


def shortened(digests: tuple[str, ...]) -> list[str]:
    return [f"{digest[:8]}…" for digest in digests]


def without_password(url: str) -> str:
    """A URL whose password, in its user part or its query, is `***`."""
    url = re.sub(r"(?i)([?&](?:\w*password|\w*token|\w*secret)=)[^&#]*", r"\1***", url)
    scheme, separator, rest = url.partition("://")
    at = rest.rfind("@")  # the last one: a badly quoted password may itself contain "@", "/" or "?"
    if not separator or at < 0:
        return url
    user = rest[:at].partition(":")[0] if ":" in rest[:at] else ""
    return f"{scheme}://{user}:***{rest[at:]}"


def loopback(host: str | None) -> bool:
    """Whether only this machine can reach the host, as far as its name tells."""
    if host in (None, "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False
