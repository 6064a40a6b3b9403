"""What providers of other clouds have in common: which header lines go there and come back, how bodies are edited, and
what their errors become.

Their messages name accounts, projects and resources: a client sees an error's kind, and of what it can mend itself the
words without those names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import NamedTuple

import msgspec

from gateway.core.routing.outcomes import Outcome, judge
from gateway.core.wire.event_stream import CONTENT_TYPE as FRAMES
from gateway.core.wire.members import edited
from gateway.errors import TYPES, ApiError
from gateway.upstream.credential import Credential
from gateway.upstream.credentials.refreshing import in_words
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal, secret_of
from gateway.upstream.settings import Settings

MESSAGES, COUNT = "messages", "count_tokens"
REGIONAL = 1.1  # times the price where it is computed in one region or geography
PROBE_LINES = b"accept: application/json\r\naccept-encoding: identity\r\n"
VERSION = b"anthropic-version: 2023-06-01\r\n"

# What of a client's headers goes to a cloud: nothing that a signature, a project or a guardrail could hang on.
_FORWARDED = (
    b"content-type:", b"accept:", b"accept-encoding:", b"user-agent:", b"x-stainless-", b"x-app:", b"x-claude-code-",
    b"traceparent:", b"tracestate:",
)  # fmt: skip
NATIVE = (*_FORWARDED, b"anthropic-version:", b"anthropic-beta:")
WITH_BETAS = (*_FORWARDED, b"anthropic-beta:")
TRANSLATED = _FORWARDED

_EVENTS = b"text/event-stream; charset=utf-8"

# What of an answer's headers comes back, and under which name.
_RETURNED = {
    b"content-type": b"content-type",
    b"content-encoding": b"content-encoding",
    b"retry-after": b"retry-after",
    b"retry-after-ms": b"retry-after-ms",
    b"request-id": b"request-id",
    b"x-amzn-requestid": b"request-id",
}


class Cloud:
    """What providers of clouds are alike in; each says how models are called, how a call is written, and what its
    errors mean."""

    complete = False
    tells_limits = False
    probe_proves = False
    served = frozenset({MESSAGES, COUNT})

    def __init__(self, settings: Settings, credential: Credential) -> None:
        self.secret = secret_of(settings.api_key)
        self.credential = credential
        self.settings = settings
        self.names = settings.names

    @staticmethod
    def head(headers: Headers) -> Headers:
        return returned(headers)

    def name(self, model: str) -> str | None:
        """What the account calls a model, None where it has no such model."""
        raise NotImplementedError

    def meaning(self, status: int, headers: Headers, said: Told) -> Meaning:
        """What an error means."""
        return meaning_of(status, said)

    def serves(self, endpoint: str, model: str) -> bool:
        return endpoint in self.served and (not model or self.name(model) is not None)

    def premium(self, model: str) -> float:
        return 1.0

    def lines(self, call: Call, which: tuple[bytes, ...], path: bytes, body: bytes) -> bytes:
        """The header lines of a call: those that go on, and what proves who calls."""
        settings = self.settings
        proof = self.credential.lines(call.method, settings.host, settings.prefix + path, body)
        version = VERSION if which is NATIVE and not call.version else b""
        return forwarded(call.lines, which) + version + proof

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        meaning = self.meaning(status, headers, said)
        found = refused(meaning, said, self.settings.hidden, request_id)
        if meaning.words and said.message:  # the client does not see it
            found.reason = f"{said.name}: {_without(said.message, self.settings.secrets)}".removeprefix(": ")
        return found

    def probe(self, most: int) -> Outgoing:
        return Outgoing(b"GET", b"/", PROBE_LINES, b"")


def forwarded(lines: list[bytes], which: tuple[bytes, ...]) -> bytes:
    """The lines that go on to a cloud, in one piece: those that begin as `which`."""
    return b"".join([line for line in lines if line.startswith(which)])


def returned(headers: Headers) -> Headers:
    """The headers of a cloud's answer as Anthropic's own: its content, its id, and when to come back. Events in AWS's
    frames become server-sent ones."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        own = _RETURNED.get(name)
        if own is not None and (own not in found or name == b"request-id"):
            found[own] = value
    if found.get(b"content-type", b"").startswith(FRAMES):
        found[b"content-type"] = _EVENTS
    return [*found.items()]


def written(call: Call, cut: Container[str], put: Mapping[str, bytes]) -> bytes:
    """The call's body, in plain, without the members that are `cut` and with those that are `put`."""
    peeked = call.peek
    if peeked is None:
        raise ValueError("a call without a body that was read")
    return edited(peeked.body, peeked.fields, cut, put)


def beta_values(lines: list[bytes]) -> list[str]:
    """The flags of a call's anthropic-beta lines, each once."""
    name = b"anthropic-beta:"
    if name not in b"".join(lines):
        return []
    found = [line[len(name) :].decode("latin-1").split(",") for line in lines if line.startswith(name)]
    return [*dict.fromkeys(flag.strip() for flags in found for flag in flags if flag.strip())]


# Errors.


class Meaning(NamedTuple):
    """What one kind of error is: to the account, and to the client, who sees `words`, or the cloud's own without names
    where there are none. `retry_after` in seconds, where nobody says how long."""

    outcome: Outcome
    status: int
    words: str = ""
    retry_after: float | None = None


class Told(NamedTuple):
    """An error as a cloud tells it: `name` in its own words, "" where it has none; `envelope` whether it is Anthropic's
    own JSON, `name` then its type."""

    name: str = ""
    message: str = ""
    envelope: bool = False


LIMITED = Meaning(Outcome.LIMITED, 429, "The account is at its rate limit.")
OVERLOADED = Meaning(Outcome.OVERLOADED, 529, "Overloaded")
FAILED = Meaning(Outcome.FAILED, 500, "The model's provider failed.")
LATE = Meaning(Outcome.FAILED, 504, "The model's provider did not answer in time.")
UNAUTHORIZED = Meaning(Outcome.UNAUTHORIZED, 401, "The account's credential was not accepted.")
DENIED = Meaning(Outcome.DENIED, 403, "The account may not use this model.")
UNKNOWN_MODEL = Meaning(Outcome.DENIED, 404, "This model is not found.")
TOO_LONG = Meaning(Outcome.DECLINED, 400, "prompt is too long: the input is longer than the model's context window")
DECLINED = Meaning(Outcome.DECLINED, 400)

_BY_STATUS = {
    400: DECLINED, 401: UNAUTHORIZED, 403: DENIED, 404: UNKNOWN_MODEL, 408: LATE, 424: FAILED, 429: LIMITED,
    500: FAILED, 502: FAILED, 503: OVERLOADED, 504: LATE, 529: OVERLOADED,
}  # fmt: skip
_BY_TYPE = {
    "authentication_error": UNAUTHORIZED, "permission_error": DENIED, "not_found_error": UNKNOWN_MODEL,
    "rate_limit_error": LIMITED, "overloaded_error": OVERLOADED, "timeout_error": LATE, "api_error": FAILED,
}  # fmt: skip
_TOO_LONG = re.compile(r"(?i)input is too long|prompt is too long|exceeds? the (?:model's )?(?:context|maximum) ")
_ENVELOPE = "error"


class _Error(msgspec.Struct):
    type: str = ""
    code: str | int | None = None
    status: str | None = None
    message: str | None = None


class _Body(msgspec.Struct):
    type: str | None = None
    error: _Error | None = None
    message: str | None = None
    Message: str | None = None
    code: str | int | None = None
    fault: str | None = msgspec.field(name="__type", default=None)


_one = msgspec.json.Decoder(_Body).decode
_several = msgspec.json.Decoder(list[_Body]).decode


def told(body: bytes | None) -> Told:
    """What an error's body says, in whichever of the clouds' forms."""
    if not body:
        return Told()
    try:
        found = next(iter(_several(body)), _Body()) if body.lstrip()[:1] == b"[" else _one(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Told()
    error = found.error
    if error is None:
        name = found.fault or (found.code if isinstance(found.code, str) else "") or ""
        return Told(name.rpartition("#")[2], found.message or found.Message or "")
    if found.type == _ENVELOPE and error.type:
        return Told(error.type, error.message or "", True)
    name = error.status or (error.code if isinstance(error.code, str) else "") or error.type
    return Told(name, error.message or "")


def meaning_of(status: int, said: Told) -> Meaning:
    """The meaning of an error that no table of its own explains."""
    if said.message and status in (400, 413, 422) and _TOO_LONG.search(said.message):
        return TOO_LONG
    if said.envelope and said.name in _BY_TYPE:
        return _BY_TYPE[said.name]
    return _BY_STATUS.get(status) or Meaning(judge(status), status if status in TYPES else 502)


_ARN = re.compile(r"arn:aws[\w-]*:[^\s\"',)\]]*")
_PROJECT = re.compile(r"(?:projects|organizations|folders|workspaces)/[^\s\"',)\]]+")
_URL = re.compile(r"https?://[^\s\"',)\]]+")
_NUMBER = re.compile(r"\d{9,}")
_PREFIX = re.compile(r"^The model returned the following errors: ")
_SHOWN = 2000  # characters of a message


def nameless(message: str, hidden: tuple[str, ...]) -> str:
    """A message without resources, projects, addresses, account numbers, and the words that are `hidden`."""
    message = _PREFIX.sub("", message)
    for pattern in (_ARN, _PROJECT, _URL, _NUMBER):
        message = pattern.sub("…", message)
    for word in hidden:
        message = message.replace(word, "…")
    return message[:_SHOWN]


def _without(message: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        message = message.replace(secret, "***")
    return in_words(message)


def refused(meaning: Meaning, said: Told, hidden: tuple[str, ...], request_id: str) -> Refusal:
    """The refusal of this meaning."""
    words = meaning.words or nameless(said.message, hidden) or "The model's provider refused the request."
    body = ApiError(meaning.status, words).body(request_id)
    return Refusal(meaning.outcome, meaning.status, body, meaning.retry_after)
