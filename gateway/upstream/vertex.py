"""Claude on Google Cloud by rawPredict: the model stands in the path, all else is Anthropic's own wire."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from gateway.core.routing.outcomes import Outcome
from gateway.upstream.clouds import (
    DECLINED,
    DENIED,
    FAILED,
    LATE,
    LIMITED,
    OVERLOADED,
    PROBE_LINES,
    REGIONAL,
    UNAUTHORIZED,
    UNKNOWN_MODEL,
    WITH_BETAS,
    Meaning,
    Told,
    forwarded,
    meaning_of,
    refused,
    returned,
    told,
    written,
)
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.google import GoogleCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal
from gateway.upstream.settings import Settings

VERSION = b'"vertex-2023-10-16"'
_CUT = frozenset({"model"})
_COUNT = "count_tokens"
_SERVED = frozenset({"messages", _COUNT})

# Status in Google's words, what the message says (a pattern) -> its meaning. The first that fits.
_ROWS: list[tuple[str, str, Meaning]] = [
    ("RESOURCE_EXHAUSTED", r"(?i)per day", Meaning(Outcome.LIMITED, 429, LIMITED.words, 3600.0)),
    ("RESOURCE_EXHAUSTED", "", LIMITED),
    ("UNAUTHENTICATED", "", UNAUTHORIZED),
    ("PERMISSION_DENIED", "", DENIED),
    ("FAILED_PRECONDITION", r"(?i)not allowed to use publisher model", DENIED),
    ("NOT_FOUND", "", UNKNOWN_MODEL),
    ("UNAVAILABLE", "", OVERLOADED),
    ("DEADLINE_EXCEEDED", "", LATE),
    ("INTERNAL", "", FAILED),
    ("FAILED_PRECONDITION", "", DECLINED),
]
_TABLE = [(name, re.compile(pattern), meaning) for name, pattern, meaning in _ROWS]


def base_url(region: str) -> str:
    """Its host: none begins with `global-`, and multi-regions have one of another form."""
    if region == "global":
        return "https://aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"https://aiplatform.{region}.rep.googleapis.com"
    return f"https://{region}-aiplatform.googleapis.com"


def credential(settings: Settings) -> Credential:
    """A bearer token that is given, or tokens of Google's by a key file or the default credentials."""
    if settings.api_key:
        return Fixed("authorization", f"Bearer {settings.api_key}")
    return GoogleCredential(settings.google)


class Vertex:
    """The provider of one Google project and location."""

    complete = False
    tells_limits = False
    probe_proves = False
    head = staticmethod(returned)

    def __init__(self, settings: Settings, credential: Credential) -> None:
        self.secret = settings.api_key
        self.credential = credential
        self._settings = settings
        self._names = settings.names
        where = f"/v1/projects/{settings.project}/locations/{settings.region}/publishers/anthropic/models/"
        self._models = where.encode("ascii")

    def name(self, model: str) -> str | None:
        """What Google calls a model."""
        return self._names.own(model) or self._names.known(model).vertex

    def serves(self, endpoint: str, model: str) -> bool:
        return endpoint in _SERVED and (not model or self.name(model) is not None)

    def premium(self, model: str) -> float:
        return 1.0 if self._settings.region == "global" or self._names.known(model).flat else REGIONAL

    def prepare(self, call: Call) -> Outgoing:
        name = self.name(call.model) or call.model
        if call.endpoint == _COUNT:
            body = written(call, (), {"anthropic_version": VERSION, "model": msgspec.json.encode(name)})
            path = self._models + b"count-tokens:rawPredict"
        else:
            body = written(call, _CUT, {"anthropic_version": VERSION})
            path = (
                self._models
                + quote(name, safe="@").encode()
                + (b":streamRawPredict" if call.stream else b":rawPredict")
            )
        settings = self._settings
        proof = self.credential.lines(b"POST", settings.host, settings.prefix + path, body)
        return Outgoing(b"POST", path, forwarded(call.lines, WITH_BETAS) + proof, body)

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        return refused(_meaning(status, said), said, self._settings.hidden, request_id)

    def probe(self, most: int) -> Outgoing:
        return Outgoing(b"GET", b"/", PROBE_LINES, b"")


def _meaning(status: int, said: Told) -> Meaning:
    if not said.envelope:
        for name, pattern, meaning in _TABLE:
            if said.name == name and pattern.search(said.message):
                return meaning
    return meaning_of(status, said)
