"""Claude on Google Cloud by rawPredict: the model stands in the path, all else is Anthropic's own wire."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from gateway.core.routing.outcomes import Outcome
from gateway.upstream.clouds import (
    COUNT,
    DECLINED,
    DENIED,
    FAILED,
    LATE,
    LIMITED,
    OVERLOADED,
    REGIONAL,
    UNAUTHORIZED,
    UNKNOWN_MODEL,
    WITH_BETAS,
    Cloud,
    Meaning,
    Told,
    meaning_of,
    written,
)
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.google import GoogleCredential
from gateway.upstream.provider import Call, Headers, Outgoing
from gateway.upstream.settings import Settings

VERSION = b'"vertex-2023-10-16"'
_CUT = frozenset({"model"})

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


class Vertex(Cloud):
    """The provider of one Google project and location."""

    def __init__(self, settings: Settings, credential: Credential) -> None:
        super().__init__(settings, credential)
        where = f"/v1/projects/{settings.project}/locations/{settings.region}/publishers/anthropic/models/"
        self._models = where.encode("ascii")

    def name(self, model: str) -> str | None:
        return self.names.own(model) or self.names.known(model).vertex

    def premium(self, model: str) -> float:
        return 1.0 if self.settings.region == "global" or self.names.known(model).flat else REGIONAL

    def meaning(self, status: int, headers: Headers, said: Told) -> Meaning:
        if not said.envelope:
            for name, pattern, meaning in _TABLE:
                if said.name == name and pattern.search(said.message):
                    return meaning
        return meaning_of(status, said)

    def prepare(self, call: Call) -> Outgoing:
        name = self.name(call.model) or call.model
        if call.endpoint == COUNT:
            body = written(call, (), {"anthropic_version": VERSION, "model": msgspec.json.encode(name)})
            path = self._models + b"count-tokens:rawPredict"
        else:
            body = written(call, _CUT, {"anthropic_version": VERSION})
            end = b":streamRawPredict" if call.stream else b":rawPredict"
            path = self._models + quote(name, safe="@").encode("ascii") + end
        return Outgoing(call.method, path, self.lines(call, WITH_BETAS, path, body), body)
