"""Claude on Amazon Bedrock's Messages endpoint: Anthropic's own wire, under ids of its own."""

from __future__ import annotations

import msgspec

from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import (
    NATIVE,
    PROBE_LINES,
    REGIONAL,
    VERSION,
    forwarded,
    refused,
    returned,
    told,
    written,
)
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal
from gateway.upstream.settings import Settings

_SERVICE = "bedrock-mantle"
_ABOVE = b"/anthropic"
_SERVED = frozenset({"messages", "count_tokens"})
_NOT_COUNTED = frozenset({"max_tokens", "temperature"})  # what a count of tokens does not take


def base_url(region: str) -> str:
    return f"https://bedrock-mantle.{region}.api.aws"


def credential(settings: Settings) -> Credential:
    """A Bedrock API key, or keys of AWS that sign."""
    if settings.aws is None:
        return Fixed("authorization", f"Bearer {settings.api_key}")
    return AwsCredential(settings.aws, settings.region, _SERVICE)


class Mantle:
    """The provider of one AWS account and region."""

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
        """What the account calls a model."""
        return self._names.own(model) or self._names.known(model).mantle

    def serves(self, endpoint: str, model: str) -> bool:
        return endpoint in _SERVED and (not model or self.name(model) is not None)

    def premium(self, model: str) -> float:
        return 1.0 if self._names.known(model).flat else REGIONAL

    def prepare(self, call: Call) -> Outgoing:
        cut = _NOT_COUNTED if call.endpoint == "count_tokens" else ()
        body = written(call, cut, {"model": msgspec.json.encode(self.name(call.model) or call.model)})
        settings, path = self._settings, _ABOVE + call.path
        proof = self.credential.lines(call.method, settings.host, settings.prefix + path, body)
        version = b"" if call.version else VERSION
        return Outgoing(call.method, path, forwarded(call.lines, NATIVE) + version + proof, body)

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        return refused(aws_meaning(status, headers, said), said, self._settings.hidden, request_id)

    def probe(self, most: int) -> Outgoing:
        return Outgoing(b"GET", b"/", PROBE_LINES, b"")
