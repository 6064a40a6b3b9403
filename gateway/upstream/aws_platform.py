"""Claude Platform on AWS: Anthropic's own API, operated by Anthropic, behind AWS's credentials and a workspace."""

from __future__ import annotations

from functools import reduce

import msgspec

from gateway.core.routing.outcomes import without_secret
from gateway.upstream.anthropic import PROBE_LINES
from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import VERSION, refused, told, written
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal, native_refusal
from gateway.upstream.settings import Settings

_SERVICE = "aws-external-anthropic"
# What can be signed: uploads pass through, and their digest is not known before they have gone.
_SIGNED = frozenset({"messages", "count_tokens"})
_FOREIGN = (b"x-amz", b"anthropic-workspace-id:")


def base_url(region: str) -> str:
    return f"https://aws-external-anthropic.{region}.api.aws"


def credential(settings: Settings) -> Credential:
    """An API key, or keys of AWS that sign."""
    if settings.aws is None:
        return Fixed("x-api-key", settings.api_key)
    return AwsCredential(settings.aws, settings.region, _SERVICE)


def returned(headers: Headers) -> Headers:
    """The headers of an answer without AWS's own."""
    return [header for header in headers if not header[0].startswith(b"x-amz")]


class AwsPlatform:
    """The provider of one workspace."""

    tells_limits = True
    head = staticmethod(returned)

    def __init__(self, settings: Settings, credential: Credential) -> None:
        self.complete = settings.aws is None
        self.probe_proves = settings.aws is None  # others have no keys to probe with
        self.secret = settings.api_key
        self.credential = credential
        self._settings = settings
        self._workspace = f"anthropic-workspace-id: {settings.workspace_id}\r\n".encode("ascii")

    def serves(self, endpoint: str, model: str) -> bool:
        return self.complete or endpoint in _SIGNED

    def premium(self, model: str) -> float:
        return 1.0

    def prepare(self, call: Call) -> Outgoing:
        body, lines, settings = call.body, call.lines, self._settings
        own = settings.names.own(call.model) if call.peek is not None else None
        if own is not None:
            body = written(call, (), {"model": msgspec.json.encode(own)})
            lines = [line for line in lines if not line.startswith(b"content-encoding:")]
        signed = body if isinstance(body, bytes) else b""
        proof = self.credential.lines(call.method, settings.host, settings.prefix + call.path, signed)
        version = b"" if call.version else VERSION
        kept = b"".join([line for line in lines if not line.startswith(_FOREIGN)])
        return Outgoing(call.method, call.path, kept + version + self._workspace + proof, body)

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        if said.envelope or body is None:
            refusal = native_refusal(status, body, "")
            if body is not None:
                refusal.body = reduce(without_secret, self._settings.hidden, body)
            return refusal
        return refused(aws_meaning(status, headers, said), said, self._settings.hidden, request_id)

    def probe(self, most: int) -> Outgoing:
        if not self.probe_proves:
            return Outgoing(b"GET", b"/", b"".join(PROBE_LINES), b"")
        return self.prepare(Call(b"GET", b"/v1/models?limit=%d" % most, PROBE_LINES, b"", version=False))
