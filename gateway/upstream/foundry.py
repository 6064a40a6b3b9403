"""Claude in Microsoft Foundry: Anthropic's own wire, under the names of deployments."""

from __future__ import annotations

import msgspec

from gateway.upstream.clouds import NATIVE, Cloud, written
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.entra import EntraCredential
from gateway.upstream.provider import Call, Outgoing
from gateway.upstream.settings import Settings


def credential(settings: Settings) -> Credential:
    """An API key, or a token of Entra's."""
    return Fixed("api-key", settings.api_key) if settings.entra is None else EntraCredential(settings.entra)


class Foundry(Cloud):
    """The provider of one resource."""

    def name(self, model: str) -> str | None:
        """The deployment of a model: by default it is called as the model is."""
        return self.names.own(model) or self.names.known(model).foundry

    def prepare(self, call: Call) -> Outgoing:
        body = written(call, (), {"model": msgspec.json.encode(self.name(call.model) or call.model)})
        return Outgoing(call.method, call.path, self.lines(call, NATIVE, call.path, body), body)
