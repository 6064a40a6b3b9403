"""Claude Platform on AWS: Anthropic's own API, operated by Anthropic, behind AWS's credentials and a workspace."""

from __future__ import annotations

from functools import reduce

import msgspec

from gateway.core.routing.outcomes import without_secret
from gateway.upstream.anthropic import PROBE_LINES
from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import VERSION, Cloud, Meaning, Told, told, written
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Headers, Outgoing, Refusal, native_refusal
from gateway.upstream.settings import Settings

_SERVICE = "aws-external-anthropic"
_FOREIGN = (b"x-amz", b"anthropic-workspace-id:")


def base_url(region: str) -> str:
    return f"https://aws-external-anthropic.{region}.api.aws"


def credential(settings: Settings) -> Credential:
    """An API key, or keys of AWS that sign."""
    if settings.aws is None:
        return Fixed("x-api-key", settings.api_key)
    return AwsCredential(settings.aws, settings.region, _SERVICE)


class AwsPlatform(Cloud):
    """The provider of one workspace. With keys of AWS it serves what can be signed: uploads pass through, and their
    digest is not known before they have gone."""

    tells_limits = True

    def __init__(self, settings: Settings, credential: Credential) -> None:
        super().__init__(settings, credential)
        self.complete = settings.aws is None
        self.probe_proves = settings.aws is None  # others have no keys to probe with
        self._workspace = f"anthropic-workspace-id: {settings.workspace_id}\r\n".encode("ascii")

    @staticmethod
    def head(headers: Headers) -> Headers:
        """The headers of an answer without AWS's own."""
        return [header for header in headers if not header[0].startswith(b"x-amz")]

    def name(self, model: str) -> str | None:
        return self.names.own(model) or model

    def serves(self, endpoint: str, model: str) -> bool:
        return self.complete or endpoint in self.served

    def meaning(self, status: int, headers: Headers, said: Told) -> Meaning:
        return aws_meaning(status, headers, said)

    def prepare(self, call: Call) -> Outgoing:
        body, lines, settings = call.body, call.lines, self.settings
        name = self.name(call.model) if call.peek is not None else None
        if name not in (None, call.model):
            body = written(call, (), {"model": msgspec.json.encode(name)})
            lines = [line for line in lines if not line.startswith(b"content-encoding:")]
        signed = body if isinstance(body, bytes) else b""
        proof = self.credential.lines(call.method, settings.host, settings.prefix + call.path, signed)
        version = b"" if call.version else VERSION
        kept = b"".join([line for line in lines if not line.startswith(_FOREIGN)])
        return Outgoing(call.method, call.path, kept + version + self._workspace + proof, body)

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        if body is None or not told(body).envelope:
            return super().refusal(status, headers, body, request_id)
        refusal = native_refusal(status, body, "")
        refusal.body = reduce(without_secret, self.settings.hidden, body)
        return refusal

    def probe(self, most: int) -> Outgoing:
        if not self.probe_proves:
            return super().probe(most)
        return self.prepare(Call(b"GET", b"/v1/models?limit=%d" % most, PROBE_LINES, b"", version=False))
