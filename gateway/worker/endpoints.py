"""The path table: what the data listener serves, as data. Forwarding one more endpoint is adding one row.

Paths are matched as they came, percent signs and all; the query is nobody's business here. What has no row and lies
under /v1 passes on the caller's home account, so that next month's endpoint works; odd paths lead nowhere.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec


class At(StrEnum):
    """Who answers."""

    CONVERSATION = "conversation"  # where the conversation lives; without one, the caller's place in the ring
    HOME = "home"  # where the caller's share group keeps its objects
    OWNER = "owner"  # where the object lives whose id the path names
    HERE = "here"  # the gateway itself
    EXCHANGE = "exchange"  # the gateway itself, whoever asks: a token of its own for an issuer's
    REFUSED = "refused"  # nobody: it is the company's, never a caller's


class Body(StrEnum):
    """What becomes of the request body: `held` ones may be sent again, the others pass through as they come."""

    HELD = "held"  # bounded by limits.max_body_mb
    JSON = "json"  # looked through for models and objects as it passes; bounded by limits.max_batch_mb
    FILE = "file"  # whatever it holds; bounded by limits.max_file_mb


class Answer(StrEnum):
    """What is done to a good answer on its way back."""

    PLAIN = "plain"
    CREATED = "created"  # the id in it is recorded as the caller's
    PAGE = "page"  # a list: only the caller's own
    DELETED = "deleted"  # the object of the path is forgotten
    RESULTS = "results"  # a batch's: usage is metered, once


class Endpoint(msgspec.Struct, frozen=True):
    """`name` is its label in metrics and logs, `method` the one that it allows ("" any), `kind` what sort of objects
    it is about. `peeks`: the body names a model and is read before an account is chosen; `metered`: answers use tokens;
    `events`: they may be streams of events, in OpenAI's form if it is `chat`; `batches`: they hold addresses of batch
    results."""

    name: str
    method: str
    at: At
    body: Body = Body.JSON
    answer: Answer = Answer.PLAIN
    kind: str = ""
    peeks: bool = False
    metered: bool = False
    events: bool = False
    chat: bool = False
    batches: bool = False


class Match(msgspec.Struct, frozen=True):
    """An endpoint, and the id that its path names ("" if none)."""

    endpoint: Endpoint
    object: str = ""


DAY = 86_400_000  # milliseconds
# How long an object is remembered as its caller's after it was created (0: until it is deleted).
LIFETIMES = {"batches": 62 * DAY, "container": 31 * DAY, "thread": 600_000, "": 31 * DAY}
# Collections of objects that belong to whoever created them, and what of a create is more than JSON.
OBJECTS = {
    "files": Body.FILE,
    "skills": Body.FILE,
    **dict.fromkeys(
        (
            "user_profiles", "agents", "sessions", "environments", "vaults", "memory_stores", "deployments",
            "deployment_runs", "dreams", "tunnels",
        ),
        Body.JSON,
    ),
}  # fmt: skip


def _collection(path: str, kind: str, body: Body, batches: bool = False) -> dict[str, tuple[Endpoint, ...]]:
    return {
        path: (
            Endpoint(kind, "POST", At.HOME, body, Answer.CREATED, kind, batches=batches),
            Endpoint(kind, "GET", At.HOME, answer=Answer.PAGE, kind=kind, batches=batches),
        ),
        f"{path}/{{id}}": (
            Endpoint(kind, "DELETE", At.OWNER, answer=Answer.DELETED, kind=kind),
            Endpoint(kind, "GET" if batches else "", At.OWNER, kind=kind, batches=batches),
        ),
    }


def _about(path: str, name: str, method: str, at: At, **more: Any) -> dict[str, tuple[Endpoint, ...]]:
    return {path: (Endpoint(name, method, at, **more),)}


def _of_objects(kind: str, body: Body) -> dict[str, tuple[Endpoint, ...]]:
    below = _about(f"/v1/{kind}/{{id}}/{{rest}}", kind, "", At.OWNER, body=body, kind=kind)
    return _collection(f"/v1/{kind}", kind, body) | below


_BATCHES = "/v1/messages/batches"
COUNT = "count_tokens"  # the one whose answers are a number of tokens
# Path -> its endpoints by method. {id} is one segment, {rest} all that follow.
TABLE: dict[str, tuple[Endpoint, ...]] = {
    **_about(
        "/v1/messages", "messages", "POST", At.CONVERSATION, body=Body.HELD, peeks=True, metered=True, events=True
    ),
    **_about("/v1/messages/count_tokens", COUNT, "POST", At.CONVERSATION, body=Body.HELD, peeks=True),
    **_about(
        "/v1/chat/completions",
        "chat",
        "POST",
        At.CONVERSATION,
        body=Body.HELD,
        peeks=True,
        metered=True,
        events=True,
        chat=True,
    ),
    **_about("/v1/complete", "complete", "POST", At.CONVERSATION, body=Body.HELD, peeks=True, metered=True),
    **_about("/v1/models", "models", "GET", At.HERE),
    **_about("/v1/models/{id}", "models", "GET", At.HERE),
    **_about("/v1/me", "me", "GET", At.HERE),
    **_about("/v1/me/usage", "me_usage", "GET", At.HERE),
    **_collection(_BATCHES, "batches", Body.JSON, batches=True),
    **_about(f"{_BATCHES}/{{id}}/cancel", "batches", "POST", At.OWNER, kind="batches", batches=True),
    **_about(f"{_BATCHES}/{{id}}/results", "batch_results", "GET", At.OWNER, answer=Answer.RESULTS, kind="batches"),
    **_about(f"{_BATCHES}/{{id}}/{{rest}}", "batches", "", At.OWNER, kind="batches"),
    **{path: rows for kind, body in OBJECTS.items() for path, rows in _of_objects(kind, body).items()},
    **_about(
        "/v1/deployments/{id}/run", "deployments", "POST", At.OWNER, answer=Answer.CREATED, kind="deployment_runs"
    ),
    **_about("/v1/organizations", "organizations", "", At.REFUSED),
    **_about("/v1/organizations/{rest}", "organizations", "", At.REFUSED),
    **_about("/v1/oauth/token", "token", "", At.EXCHANGE),
    **_about("/v1/oauth/{rest}", "oauth", "", At.REFUSED),
}
_SHOWN = 100  # characters of a path that an error repeats
OTHER = Endpoint("other", "", At.HOME)
OTHER_CREATE = Endpoint("other", "POST", At.HOME, answer=Answer.CREATED)

# No empty segment or one of dots, nothing encoded that could be a dot, a slash or a plain character, and a first
# segment in lower case: an upstream that is lenient must not see an endpoint that this table did not. /v1/v1 is what a
# base URL makes that ends in /v1.
_ENCODED = rb"%(?:2[0-46-9A-Ca-c]|3[AaCcEe]|40|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f])"
_SEGMENT = rb"(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9._~:@+,=!$-]|" + _ENCODED + rb")+"
_PROPER = re.compile(rb"/v1/(?!v1/)[a-z0-9_-]+(?:/" + _SEGMENT + rb")*\Z")

_EXACT = {path.encode(): rows for path, rows in TABLE.items() if "{" not in path}
HOT = {path: rows[0] for path, rows in _EXACT.items() if rows[0].peeks}
METERED = frozenset(row.name for rows in TABLE.values() for row in rows if row.metered)


def _pattern(path: str) -> re.Pattern[bytes]:
    text = re.escape(path).replace(r"\{id\}", "([^/]+)").replace(r"\{rest\}", "(?:.+)")
    return re.compile(text.encode() + rb"\Z")


# The more exact first: those without {rest}.
_PATTERNS = [(_pattern(path), TABLE[path]) for path in sorted(TABLE, key=lambda path: "{rest}" in path) if "{" in path]


def find(raw_path: bytes, method: str) -> Match | None:
    """What a path leads to, None for nowhere. Where no endpoint of the path has this method, one that has another."""
    if not _PROPER.match(raw_path):
        return None
    rows = _EXACT.get(raw_path)
    if rows is not None:
        return Match(_with_method(rows, method))
    for pattern, rows in _PATTERNS:
        found = pattern.match(raw_path)
        if found:
            return Match(_with_method(rows, method), found[1].decode("ascii") if found.re.groups else "")
    return Match(OTHER_CREATE if method == "POST" and raw_path.count(b"/") == 2 else OTHER)


def nowhere(path: str) -> str:
    """What a client is told whose path leads nowhere: mostly its base URL has a `/v1` too many, or none."""
    below = path
    while below.startswith("/v1/v1/") or below == "/v1/v1":
        below = below.removeprefix("/v1")
    if below != path:
        return f"Not found: {path[:_SHOWN]}. The base URL must not end in /v1: clients add it themselves."
    root = f"/v1{path}".encode()
    if not path.startswith("/v1/") and (root in _EXACT or any(each.match(root) for each, _ in _PATTERNS)):
        return f"Not found: {path[:_SHOWN]}. The path begins with /v1: {root.decode()[:_SHOWN]}."
    return "Not found"


def _with_method(rows: tuple[Endpoint, ...], method: str) -> Endpoint:
    return next((row for row in rows if row.method in (method, "")), rows[0])
