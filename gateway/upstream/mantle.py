"""Claude on Amazon Bedrock's Messages endpoint: Anthropic's own wire, under ids of its own."""

from __future__ import annotations

import msgspec

from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import COUNT, NATIVE, REGIONAL, Cloud, Meaning, Told, written
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Headers, Outgoing
from gateway.upstream.settings import Settings

_SERVICE = "bedrock-mantle"
_ABOVE = b"/anthropic"
_NOT_COUNTED = frozenset({"max_tokens", "temperature"})  # what a count of tokens does not take


def base_url(region: str) -> str:
    return f"https://bedrock-mantle.{region}.api.aws"


def credential(settings: Settings) -> Credential:
    """A Bedrock API key, or keys of AWS that sign."""
    if settings.aws is None:
        return Fixed("authorization", f"Bearer {settings.api_key}")
    return AwsCredential(settings.aws, settings.region, _SERVICE)


class Mantle(Cloud):
    """The provider of one AWS account and region."""

    def name(self, model: str) -> str | None:
        return self.names.own(model) or self.names.known(model).mantle

    def premium(self, model: str) -> float:
        return 1.0 if self.names.known(model).flat else REGIONAL

    def meaning(self, status: int, headers: Headers, said: Told) -> Meaning:
        return aws_meaning(status, headers, said)

    def prepare(self, call: Call) -> Outgoing:
        cut = _NOT_COUNTED if call.endpoint == COUNT else ()
        body = written(call, cut, {"model": msgspec.json.encode(self.name(call.model) or call.model)})
        path = _ABOVE + call.path
        return Outgoing(call.method, path, self.lines(call, NATIVE, path, body), body)
