"""Claude in Microsoft Foundry: Anthropic's own wire, under the names of deployments."""

from __future__ import annotations

import msgspec

from gateway.upstream.clouds import (
    NATIVE,
    PROBE_LINES,
    VERSION,
    forwarded,
    meaning_of,
    refused,
    returned,
    told,
    written,
)
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.entra import EntraCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal
from gateway.upstream.settings import Settings

_SERVED = frozenset({"messages", "count_tokens"})


def credential(settings: Settings) -> Credential:
    """An API key, or a token of Entra's."""
    return Fixed("api-key", settings.api_key) if settings.entra is None else EntraCredential(settings.entra)


class Foundry:
    """The provider of one resource."""

    complete = False
    tells_limits = False
    probe_proves = False
    head = staticmethod(returned)

    def __init__(self, settings: Settings, credential: Credential) -> None:
        self.secret = settings.api_key
        self.credential = credential
        self._settings = settings
        self._names = settings.names

    def name(self, model: str) -> str | None:
        """The deployment of a model: by default it is called as the model is."""
        return self._names.own(model) or self._names.known(model).foundry

    def serves(self, endpoint: str, model: str) -> bool:
        return endpoint in _SERVED and (not model or self.name(model) is not None)

    def premium(self, model: str) -> float:
        return 1.0

    def prepare(self, call: Call) -> Outgoing:
        body = written(call, (), {"model": msgspec.json.encode(self.name(call.model) or call.model)})
        settings = self._settings
        proof = self.credential.lines(call.method, settings.host, settings.prefix + call.path, body)
        version = b"" if call.version else VERSION
        return Outgoing(call.method, call.path, forwarded(call.lines, NATIVE) + version + proof, body)

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        return refused(meaning_of(status, said), said, self._settings.hidden, request_id)

    def probe(self, most: int) -> Outgoing:
        return Outgoing(b"GET", b"/", PROBE_LINES, b"")
