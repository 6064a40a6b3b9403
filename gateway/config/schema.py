"""The configuration: what `gateway.yaml` may say, read once, frozen, and passed on explicitly.

The structs below are the whole truth about keys, defaults, checks and help: the reader, `describe` and `schema` are all
made from their annotations. Relative paths in the file start at the working directory. `config.file` reads it.
"""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.config import checks as check
from gateway.config.account import ACCOUNTS, Account
from gateway.config.catalogue import MODELS, ModelEntry, Models, listed, merged, model_warnings, pattern_warnings
from gateway.config.domains import domain_warnings
from gateway.config.rules import BAD, Choice, Flag, Many, Moment, Number, Reader, Table, Text
from gateway.config.sections import Derived, Expression, Field, Frozen, Section, nearest, redacted
from gateway.config.source import ConfigError, Node
from gateway.config.units import KIBIBYTES, MEBIBYTES, SECONDS, SHARE
from gateway.core.identity.claims import check_template
from gateway.core.identity.strangers import wanting
from gateway.core.spending.pricing import Catalogue

__all__ = [
    "ADMIN", "ROLES", "ROOT", "Account", "Admin", "AdminToken", "Affinity", "Budget", "Caller", "CallerLimits",
    "Config", "ConfigError", "Issuer", "KeyPolicy", "Limits", "Log", "ModelEntry", "Models", "Team", "Timeouts",
    "Tracing",
    "caller_warnings", "catalogue_of", "config_warnings", "decode", "describe", "encode", "parse_listen", "schema",
    "undefined_team",
]  # fmt: skip

parse_listen = check.parse_listen

_ID = Text(check.identifier, check.ID_PATTERN)
_SECONDS = Number(above=0, most=86_400, unit=SECONDS)
_MIB = partial(Number, above=0, unit=MEBIBYTES)
_SHARE = Number(least=0, most=1, unit=SHARE)
_COUNT = Number(whole=True, least=1, most=2**53)
_DOLLARS = Number(least=0, most=1_000_000_000)
_SHARES = ("caller", "team")
ROLES = ("read", "operate")  # of admin tokens
ADMIN = "admin"  # whoever has admin.token
_PATTERNS = Many(Text(check.model), least=1, or_one=True)
_HOST, _ADMIN_HOST = "0.0.0.0", "127.0.0.1"  # noqa: S104 - of a port that stands alone
_METADATA = Table(Text(check.identifier), Text(check.note))


def _listen(host: str) -> Text:
    return Text(partial(check.listen, host=host), r"(.*:)?[0-9]{1,5}", digits=True)


class AdminToken(Frozen, frozen=True, kw_only=True):
    """A further token of the admin listener. `digests` are lower-case SHA-256 hex digests; tokens are not kept."""

    id: Annotated[
        str, Text(check.person, check.PERSON_PATTERN, once="admin token id"), "who has it; named in the audit log"
    ]
    digests: Annotated[tuple[str, ...], Derived(check.shortened)] = ()
    role: Annotated[Literal["read", "operate"], Choice(ROLES), "read may look at everything, operate may change it"] = (
        "read"
    )


def _admin_token(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    digests = (*values.pop("token"), *values.pop("token_sha256"))
    if not digests:
        return reader.fail(node.line, path, "needs token or token_sha256")
    return {**values, "digests": digests}


_TOKENS = Many(Text(check.token_digest, once="admin token", secret=True), or_one=True)
_TOKEN_DIGESTS = Many(Text(check.digest, check.DIGEST_PATTERN, once="admin token"), or_one=True)
_ADMIN_TOKEN = Section(
    AdminToken,
    extra=(
        Field(
            "token",
            _TOKENS,
            f"the token or tokens, each of at least {check.TOKEN_LENGTH} characters; only digests are kept",
            (),
        ),
        Field("token_sha256", _TOKEN_DIGESTS, "SHA-256 of the token", ()),
    ),
    finish=_admin_token,
)


class Admin(Frozen, frozen=True, kw_only=True):
    """The operator's listener: metrics, admin API, dashboard."""

    listen: Annotated[
        str, _listen(_ADMIN_HOST), f"address of the admin listener, host:port; a port alone means {_ADMIN_HOST}"
    ] = f"{_ADMIN_HOST}:8081"
    token: Annotated[
        str,
        Text(check.token, hide=check.hidden),
        Expression("${GATEWAY_ADMIN_TOKEN}"),
        f"token of the admin listener, at least {check.TOKEN_LENGTH} characters; its role is operate",
    ]
    tokens: Annotated[tuple[AdminToken, ...], Many(_ADMIN_TOKEN), "further tokens, each with a role"] = ()
    metrics_open: Annotated[bool, Flag(), "answer /metrics without the token"] = False


def _admin(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    own = check.token_digest(values["token"])
    for index, each in enumerate(values["tokens"]):
        place = f"{path}.tokens[{index}]"
        line = node.value["tokens"].node.value[index].line
        if each.id == ADMIN:
            return reader.fail(line, f"{place}.id", f"{ADMIN} is who has admin.token; choose another name")
        if own in each.digests:
            return reader.fail(line, place, "the same token as admin.token; each must be different")
    return values


_ADMIN = Section(Admin, finish=_admin)


def _ascending(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    return {**values, "soft": tuple(sorted(set(values["soft"])))}


class Budget(Frozen, frozen=True, kw_only=True):
    """US dollars of a UTC day, of a week that begins on Monday (UTC) and of a UTC calendar month; None is no limit.
    `soft` are shares of each, ascending."""

    day: Annotated[float | None, _DOLLARS, "US dollars a day"] = None
    week: Annotated[float | None, _DOLLARS, "US dollars a week, from Monday"] = None
    month: Annotated[float | None, _DOLLARS, "US dollars a calendar month"] = None
    soft: Annotated[
        tuple[float, ...],
        Many(Number(above=0, most=1), most=5, or_one=True),
        "shares of a budget at which a warning is given, such as 0.8",
    ] = ()
    message: Annotated[
        str, Text(check.note, empty=True), "what a refusal says after whose budget it is, such as whom to ask"
    ] = ""


class CallerLimits(Frozen, frozen=True, kw_only=True):
    """What one caller, or a team's callers together, may use; None is no limit."""

    requests_per_minute: Annotated[int | None, _COUNT, "requests a minute"] = None
    input_tokens_per_minute: Annotated[int | None, _COUNT, "uncached input tokens a minute"] = None
    output_tokens_per_minute: Annotated[int | None, _COUNT, "output tokens a minute"] = None
    concurrency: Annotated[int | None, _COUNT, "requests in flight at most"] = None
    budget_usd: Annotated[Budget, Section(Budget, finish=_ascending), "spending limits in US dollars"] = Budget()


class Caller(Frozen, frozen=True, kw_only=True):
    """Who calls: a stable principal. `digests` are lower-case SHA-256 hex digests of its keys, which count until
    `expires` (Unix seconds); keys are not kept. `principal` is whose its conversations are, where the id alone does not
    say it: another caller had it, and was deleted."""

    id: Annotated[
        str,
        Text(check.person, check.PERSON_PATTERN, once="caller id"),
        "name, perhaps an e-mail address; it stays while keys rotate",
    ]
    digests: Annotated[tuple[str, ...], Derived(check.shortened)] = ()
    principal: Annotated[str | None, Derived(str)] = None
    team: Annotated[str | None, _ID, "team that shares tenancy and budgets' reports"] = None
    models: Annotated[
        tuple[str, ...],
        _PATTERNS,
        "models it may use: names, each of which means all names of its model, or patterns with *",
    ] = ("*",)
    limits: Annotated[CallerLimits, "limits of this caller"] = CallerLimits()
    share: Annotated[
        Literal["caller", "team"] | None, Choice(_SHARES), "who shares its files and batches; default: the top level's"
    ] = None
    expires: Annotated[float | None, Moment(), "when the keys given here end"] = None
    metadata: Annotated[dict[str, str], _METADATA, "short notes about it, for people"] = msgspec.field(
        default_factory=dict
    )

    @property
    def tenant(self) -> str:
        """`t:<team>`, or `c:<id>` without a team: a team and a caller of one name stay apart."""
        return f"c:{self.id}" if self.team is None else f"t:{self.team}"


class PolicyBudget(Frozen, frozen=True, kw_only=True):
    """US dollars that one caller's own budgets may have at most; None is no bound."""

    day: Annotated[float | None, _DOLLARS, "US dollars a day"] = None
    week: Annotated[float | None, _DOLLARS, "US dollars a week"] = None
    month: Annotated[float | None, _DOLLARS, "US dollars a calendar month"] = None


class KeyPolicy(Frozen, frozen=True, kw_only=True):
    """What callers and keys that are made at run time in a team may be; None is no bound. Those who give less than they
    may have the bound itself."""

    max_keys: Annotated[int | None, _COUNT, "keys of one caller that count at a time"] = None
    max_lifetime_days: Annotated[float | None, Number(above=0, most=3660), "days that a key lives"] = None
    max_budget_usd: Annotated[PolicyBudget, "what a caller's own budgets may be at most"] = PolicyBudget()
    models: Annotated[tuple[str, ...], _PATTERNS, "models that a caller may be given"] = ("*",)


class Team(Frozen, frozen=True, kw_only=True):
    """What the callers of one team may use together; each caller's own limits hold besides."""

    id: Annotated[str, Text(check.identifier, check.ID_PATTERN, once="team id"), "the `team` of its callers"]
    name: Annotated[str, Text(check.note, empty=True), "what people call it"] = ""
    models: Annotated[tuple[str, ...], _PATTERNS, "models that its callers may use, of those that each may"] = ("*",)
    limits: Annotated[CallerLimits, "limits of all its callers together"] = CallerLimits()
    key_policy: Annotated[KeyPolicy, "bounds of callers and keys that are made at run time"] = KeyPolicy()
    metadata: Annotated[dict[str, str], _METADATA, "short notes about it, for people"] = msgspec.field(
        default_factory=dict
    )


class Issuer(Frozen, frozen=True, kw_only=True):
    """An issuer whose tokens (JWT) workloads may bring in place of a key. A caller by its tokens is `<id>/<caller>`.
    One issuer may have several entries: the first that lets a token in counts."""

    id: Annotated[
        str,
        Text(check.identifier, check.ID_PATTERN, once="issuer id"),
        "name of this entry; ids of its callers begin with it, and it is what SDKs call the federation rule",
    ]
    issuer: Annotated[str, Text(check.issuer), "`iss` of its tokens, letter by letter"]
    audiences: Annotated[
        tuple[str, ...], Many(Text(check.claim_value), least=1, or_one=True), "`aud` of its tokens, any one of these"
    ]
    jwks_uri: Annotated[str | None, Text(check.jwks_uri), "URL of its key set"] = None
    jwks_file: Annotated[str | None, Text(check.file), "file with its key set, in place of a URL"] = None
    jwks_token_file: Annotated[
        str | None, Text(check.file), "file with a bearer token to show at jwks_uri, read anew each time"
    ] = None
    ca_file: Annotated[
        str | None, Text(check.authorities), "PEM file of the authorities to trust at jwks_uri, not the system's"
    ] = None
    proxy: Annotated[
        str | None, Text(check.proxy_url, hide=check.without_password), "outbound proxy URL for jwks_uri"
    ] = None
    algorithms: Annotated[
        tuple[str, ...], Many(Choice(check.ALGORITHMS), least=1, or_one=True), "how its tokens may be signed"
    ] = ("RS256",)
    caller: Annotated[
        str,
        Text(check_template),
        "what tells its callers apart: a text with claims in braces, such as {kubernetes.io/namespace}",
    ] = "{sub}"
    team: Annotated[
        str | None, Text(check_template), "their team, which must be defined; a text that may have claims in braces"
    ] = None
    require: Annotated[
        dict[str, tuple[str, ...]],
        Table(Text(check.claim_path), Many(Text(check.claim_value), least=1, or_one=True)),
        "claims that a token must have: by path, a pattern with * or several of which one must fit",
    ] = msgspec.field(default_factory=dict)
    models: Annotated[
        tuple[str, ...],
        _PATTERNS,
        "models they may use: names, each of which means all names of its model, or patterns with *",
    ] = ("*",)
    limits: Annotated[CallerLimits, "limits of each of its callers"] = CallerLimits()


def _issuer(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    uri, file = values["jwks_uri"], values["jwks_file"]
    if (uri is None) == (file is None):
        return reader.fail(node.line, path, "needs jwks_uri or jwks_file, and not both")
    for name in ("jwks_token_file", "ca_file", "proxy"):
        if values[name] is not None and uri is None:
            return reader.fail(node.value[name].line, f"{path}.{name}", "is for jwks_uri, which is not given")
    claims = wanting(values["issuer"], values["require"])
    if claims:
        words = (
            "anybody can have a token of this issuer; say whose you want by a pattern without a wildcard in front, of"
        )
        line = node.value["require"].line if "require" in node.value else node.line
        return reader.fail(line, f"{path}.require", f"{words} one of: {', '.join(claims)}")
    return values


_ISSUER = Section(Issuer, finish=_issuer)


class Affinity(Frozen, frozen=True, kw_only=True):
    """How conversations are recognised; `remember` in seconds."""

    header: Annotated[str, Text(check.affinity_header), "header with the conversation id"] = "X-Conversation-Id"
    remember: Annotated[
        float, Number(above=0, most=31 * 86_400, unit=SECONDS), "seconds an idle conversation is kept"
    ] = 86_400.0


class Cors(Frozen, frozen=True, kw_only=True):
    """Pages in browsers that may call the API."""

    origins: Annotated[
        tuple[str, ...],
        Many(Text(check.origin), or_one=True),
        "origins of pages that may call the API from a browser, such as https://chat.example; * for any",
    ] = ()


class Timeouts(Frozen, frozen=True, kw_only=True):
    """All in seconds."""

    connect: Annotated[float, _SECONDS, "TCP and TLS connection to an upstream"] = 5.0
    first_byte: Annotated[float, _SECONDS, "request sent until the upstream's first byte"] = 580.0
    idle: Annotated[float, _SECONDS, "silence of an upstream within an answer"] = 240.0
    total: Annotated[float, _SECONDS, "until the first event, over all attempts and waits"] = 590.0
    drain: Annotated[float, _SECONDS, "open answers may take this long after a stop was asked for"] = 600.0
    drain_delay: Annotated[
        float, Number(least=0, most=86_400, unit=SECONDS), "not ready, yet accepting, before the drain"
    ] = 5.0
    client_head: Annotated[float, _SECONDS, "a client's request head"] = 10.0
    client_body: Annotated[float, _SECONDS, "silence of a client within its request body"] = 30.0
    client_idle: Annotated[float, _SECONDS, "an unused connection of a client"] = 120.0
    ping: Annotated[float, _SECONDS, "silence of a stream before the gateway sends a ping"] = 15.0
    write: Annotated[float, _SECONDS, "a client that does not read"] = 60.0
    store: Annotated[float, _SECONDS, "a reply of the store, before it counts as away"] = 0.05


class Limits(Frozen, frozen=True, kw_only=True):
    """Bounds on what clients may send; connections are per worker, sizes in MiB and KiB."""

    max_body_mb: Annotated[float, _MIB(most=1024), "request body in MiB"] = 32.0
    max_batch_mb: Annotated[float, _MIB(most=1024), "request body that creates a batch, in MiB"] = 256.0
    max_file_mb: Annotated[float, _MIB(most=65_536), "upload of a file or a skill, in MiB"] = 500.0
    max_held_mb: Annotated[
        float, _MIB(most=1_048_576), "request bodies a worker holds for retries, all together, in MiB"
    ] = 512.0
    max_connections: Annotated[int, Number(whole=True, least=1, most=1_000_000), "client connections a worker"] = 10_000
    max_head_kb: Annotated[int, Number(whole=True, least=1, most=1024, unit=KIBIBYTES), "request head in KiB"] = 64


class Log(Frozen, frozen=True, kw_only=True):
    """Log lines; `auto` is human on a terminal and JSON elsewhere."""

    level: Annotated[str, Choice(("debug", "info", "warning", "error")), "least severe line written"] = "info"
    format: Annotated[Literal["auto", "json", "human"], Choice(("auto", "json", "human")), "shape of a line"] = "auto"
    sample: Annotated[
        float,
        _SHARE,
        "share of requests that is logged of those without any trouble; others always",
    ] = 1.0
    no_color: Annotated[
        str, Text(empty=True), Expression("${NO_COLOR:-}"), "any text here: lines for people have no colour"
    ] = ""


def _collector(text: str) -> str:
    if "@" in text:
        raise ValueError("must not contain a user name or password; tracing.headers may hold a credential")
    return check.base_url(text)


def _header_value(text: str) -> str:
    if not re.fullmatch("[ -~]{1,4096}", text):
        raise ValueError("must be printable ASCII")
    return text


def _header_name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", text):
        raise ValueError("is not a valid header name")
    return text


class Tracing(Frozen, frozen=True, kw_only=True):
    """OpenTelemetry: one span a request, sent by OTLP over HTTP."""

    endpoint: Annotated[
        str,
        Text(_collector, empty=True),
        Expression("${OTEL_EXPORTER_OTLP_ENDPOINT:-}"),
        "collector's base URL for OTLP over HTTP, to which /v1/traces is added; empty: no spans",
    ] = ""
    headers: Annotated[
        dict[str, str], Table(Text(_header_name), Text(_header_value, hide=check.hidden)), "headers of each export"
    ] = msgspec.field(default_factory=dict)
    sample: Annotated[
        float,
        _SHARE,
        "share of requests that have a span, where the client's traceparent does not say",
    ] = 1.0


def _tracing(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    if not values["endpoint"] or _can_trace():
        return values
    given = node.value.get("endpoint")
    message = "needs the extra otel: pip install 'conversation-gateway[otel]'"
    if given is None:
        message += ' (it comes from OTEL_EXPORTER_OTLP_ENDPOINT; `endpoint: ""` would ignore that)'
    return reader.fail(node.line if given is None else given.line, f"{path}.endpoint", message)


def _can_trace() -> bool:
    try:
        return None not in map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # a parent of it
        return False


_TRACING = Section(Tracing, finish=_tracing)


def _caller(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    digests = (*values.pop("key"), *values.pop("key_sha256"))
    listed = [node.value[name].node.value for name in ("key", "key_sha256") if name in node.value]
    if not digests and [] not in listed:
        return reader.fail(node.line, path, "needs key or key_sha256; `key: []` if all are made at run time")
    return {**values, "digests": digests}


def _many(item: Text) -> Many:
    return Many(item, or_one=True)


_CALLER = Section(
    Caller,
    extra=(
        Field(
            "key",
            _many(Text(check.key_digest, once="key", secret=True)),
            "the caller's key or keys; only digests are kept",
            (),
        ),
        Field("key_sha256", _many(Text(check.digest, check.DIGEST_PATTERN, once="key")), "SHA-256 of the key", ()),
    ),
    finish=_caller,
)


class Config(Frozen, frozen=True, kw_only=True):
    """The whole configuration. `redis` is "" for the embedded store; `secret` is the current one, then perhaps the
    previous one, which is still accepted."""

    listen: Annotated[str, _listen(_HOST), f"address of the data listener, host:port; a port alone means {_HOST}"] = (
        f"{_HOST}:8080"
    )
    admin: Annotated[Admin, _ADMIN, "the operator's listener"]
    workers: Annotated[int, Number(whole=True, least=1, most=256), "worker processes"] = 1
    redis: Annotated[
        str,
        Text(check.redis_url, hide=check.without_password, empty=True),
        Expression("${REDIS_URL:-}"),
        "URL of the store; empty: an embedded one in data_dir",
    ] = ""
    data_dir: Annotated[str, Text(), "directory of the journal and the embedded store"] = "./data"
    secret: Annotated[
        tuple[str, ...],
        Many(Text(check.secret, hide=check.hidden), least=1, most=2, or_one=True),
        Expression("${GATEWAY_SECRET}"),
        "key of every HMAC, at least 32 characters; a second one is still accepted",
    ]
    accounts: Annotated[tuple[Account, ...], ACCOUNTS, "the pool of upstream accounts"]
    keys: Annotated[tuple[Caller, ...], Many(_CALLER), "the callers and their gateway keys"] = ()
    issuers: Annotated[
        tuple[Issuer, ...], Many(_ISSUER), "issuers whose tokens workloads may bring in place of a key"
    ] = ()
    teams: Annotated[tuple[Team, ...], Many(Section(Team)), "teams that have limits of their own"] = ()
    teams_strict: Annotated[
        bool, Flag(), "a team of a caller or an issuer that teams does not define is an error instead of a warning"
    ] = False
    affinity: Annotated[Affinity, "how conversations are recognised"] = Affinity()
    cors: Annotated[Cors, "pages in browsers that may call the API"] = Cors()
    models: Annotated[Models, MODELS, "model names, and entries for the catalogue"] = Models()
    timeouts: Annotated[Timeouts, "timeouts in seconds"] = Timeouts()
    limits: Annotated[Limits, "bounds on what clients may send"] = Limits()
    share: Annotated[
        Literal["caller", "team"], Choice(_SHARES), "who shares files, batches and other objects of accounts"
    ] = "caller"
    public_url: Annotated[
        str,
        Text(check.public_url),
        "where clients reach the gateway, for results_url and the dashboard; default: as each client writes it",
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        Many(Text(check.network), or_one=True),
        "addresses and networks whose X-Forwarded-* headers are believed",
    ] = ()
    expose_account: Annotated[bool, Flag(), "send x-gateway-account in answers"] = True
    retry_ambiguous: Annotated[bool, Flag(), "repeat requests left unanswered; they may be billed twice"] = False
    budget_mode: Annotated[
        Literal["capped", "strict"],
        Choice(("capped", "strict")),
        "output reserved against budgets: at most 8192 tokens (capped) or all of max_tokens (strict)",
    ] = "capped"
    on_store_loss: Annotated[
        Literal["allow", "deny"],
        Choice(("allow", "deny")),
        "callers with a budget while the store is away: counted later (allow), or answered 529 (deny)",
    ] = "allow"
    log: Annotated[Log, "log lines"] = Log()
    tracing: Annotated[Tracing, _TRACING, "OpenTelemetry spans, with the extra otel"] = Tracing()


def _config(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    address, admin = values["listen"], values["admin"].listen
    if address == admin and parse_listen(address)[1]:
        line = next((node.value[name].line for name in ("listen", "admin") if name in node.value), node.line)
        return reader.fail(line, "listen", "the same address as admin.listen; the two listeners need one each")
    return _teams_are_defined(reader, node, values) if values["teams_strict"] else values


def _teams_are_defined(reader: Reader, node: Node, values: dict[str, Any]) -> Any:
    defined = [team.id for team in values["teams"]]
    wrong = False
    problems = {
        "keys": [undefined_team(caller.team, defined) for caller in values["keys"]],
        "issuers": [undefined_team_of(issuer, defined) for issuer in values["issuers"]],
    }
    for section, each in problems.items():
        for number, problem in enumerate(each):
            if problem:
                line = node.value[section].node.value[number].value["team"].line
                wrong = reader.fail(line, f"{section}[{number}].team", problem) is BAD
    return BAD if wrong else values


ROOT = Section(Config, finish=_config)
_decoder = msgspec.msgpack.Decoder(Config)


def encode(config: Config) -> bytes:
    """The configuration as bytes for a process of ours; they hold every secret."""
    return msgspec.msgpack.encode(config)


def decode(data: bytes) -> Config:
    """What `encode` made."""
    return _decoder.decode(data)


def describe(config: Config) -> dict[str, Any]:
    """The configuration for people to read: secrets are `***`, passwords in URLs too, key digests are shortened."""
    return redacted(config)


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file, with help and defaults."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.yaml",
        **ROOT.schema(),
        "$defs": {"expression": {"type": "string", "pattern": r"\$\{.+\}", "description": "${NAME} or ${file:PATH}"}},
    }


def catalogue_of(config: Config) -> Catalogue:
    """Every model this configuration knows: the built-in ones and its own."""
    return merged(config.models)


def undefined_team(team: str | None, defined: Collection[str], so: str = "it has no limits") -> str:
    """What is wrong with a caller's team where these are `defined`, for people; "" if nothing."""
    if team is None or team in defined:
        return ""
    words = f'team "{team}" is not defined under teams, so that {so}'
    return f"{words}; {nearest(team, defined, 'those that are')}" if defined else words


def undefined_team_of(issuer: Issuer, defined: Collection[str]) -> str:
    """What is wrong with the team of an issuer's callers, as `undefined_team` has it. One that is made of claims cannot
    be looked at before there is a token."""
    team = None if issuer.team is None or "{" in issuer.team else issuer.team
    return undefined_team(team, defined, "no token is let in until somebody makes it")


def caller_warnings(
    config: Config, teams: Collection[str], caller: str, team: str | None, models: Sequence[str]
) -> list[str]:
    """What of a caller made at run time is allowed and yet hardly meant where these `teams` are defined, in words for
    people."""
    problem = undefined_team(team, teams)
    accounts = {account.id: account.models for account in config.accounts}
    return [*([problem] if problem else []), *pattern_warnings(config.models, accounts, {caller: models}, accounts)]


def config_warnings(config: Config, told: Collection[str] = ()) -> list[str]:
    """What is allowed and yet hardly meant, one line each, without secrets. Of the accounts that are `told` of by
    whoever has asked them, `models` and `base_url` are left out."""
    warnings = []
    if config.admin.metrics_open and not check.loopback(parse_listen(config.admin.listen)[0]):
        warnings.append("admin.metrics_open: anyone who reaches the admin listener can read team and model names")
    if not config.keys and not config.issuers:
        warnings.append("keys is empty: only keys made with `gateway keys create` are accepted")
    patterns = {pattern for account in config.accounts for pattern in account.models}
    every_name = catalogue_of(config).names
    warnings += model_warnings(
        config.models, lambda model: any(fnmatchcase(name, each) for name in every_name(model) for each in patterns)
    )
    warnings += pattern_warnings(
        config.models,
        {account.id: account.models for account in config.accounts},
        {caller.id: caller.models for caller in config.keys},
        told,
    )
    warnings += _path_warnings(config, told)
    warnings += domain_warnings(config.accounts)
    if any(ipaddress.ip_network(each).prefixlen == 0 for each in config.trusted_proxies):
        warnings.append("trusted_proxies: anybody is believed, so that callers can choose the address that is logged")
    if config.tracing.endpoint.endswith(":4317"):
        warnings.append(
            "tracing.endpoint: 4317 is a collector's usual port for gRPC; spans are sent over HTTP, to 4318"
        )
    if config.limits.max_held_mb < config.limits.max_body_mb:
        warnings.append("limits.max_held_mb is less than max_body_mb: a large request is more than a worker holds")
    for issuer in config.issuers:
        if not issuer.require:
            warnings.append(f"issuer {issuer.id}: it has no require, so that whoever has a token of it may call")
    for caller in config.keys:
        if caller.share == "team" and caller.team is None:
            warnings.append(f"key {caller.id}: it has no team to share with")
    defined = [team.id for team in config.teams]
    for team in sorted({caller.team for caller in config.keys if caller.team is not None}.difference(defined)):
        warnings.append(undefined_team(team, defined))
    for issuer in config.issuers:
        problem = undefined_team_of(issuer, defined)
        warnings += [f"issuer {issuer.id}: {problem}"] if problem else []
    holders: dict[str, str] = {}
    organizations: defaultdict[str, set[str]] = defaultdict(set)
    for account in config.accounts:
        parts = urlsplit(account.base_url)
        if parts.scheme == "http" and not check.loopback(parts.hostname):
            warnings.append(f"account {account.id}: its key is sent unencrypted, base_url is http")
        if account.provider == "foundry" and not parts.path.endswith("/anthropic"):
            warnings.append(f"account {account.id}: base_url of foundry ends in /anthropic as a rule")
        if account.drain_until is not None and account.state != "draining":
            warnings.append(f"account {account.id}: drain_until means nothing unless its state is draining")
        first = holders.setdefault(account.api_key, account.id)
        if first != account.id and account.api_key:
            warnings.append(f"account {account.id}: it has the same api_key as account {first}")
        organizations[account.workspace].add(account.organization)
    for workspace, names in organizations.items():
        if len(names) > 1:
            warnings.append(f"workspace {workspace}: a workspace has one organization, here {', '.join(sorted(names))}")
    return warnings


def _path_warnings(config: Config, told: Collection[str]) -> list[str]:
    """Base URLs that end in what is added to them."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for account in config.accounts:
        if account.id not in told:
            named[account.base_url].append(account.id)
    urls = [(url, f"account {listed(ids)}: base_url") for url, ids in named.items()]
    urls += [(config.public_url, "public_url"), (config.tracing.endpoint, "tracing.endpoint")]
    return [
        f"{place} ends in {end}, though whole paths such as /v1/messages are added to it; leave {end} out"
        for url, place in urls
        if (end := check.api_path(url))
    ]
