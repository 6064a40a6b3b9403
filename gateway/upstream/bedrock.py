"""Claude on Amazon Bedrock by InvokeModel: the model stands in the path, streams come in AWS's binary frames."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

import msgspec

from gateway.core.wire.event_stream import ServerSentEvents, StreamException
from gateway.errors import ApiError
from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import (
    COUNT,
    REGIONAL,
    TRANSLATED,
    Cloud,
    Meaning,
    Told,
    beta_values,
    written,
)
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing
from gateway.upstream.settings import Settings
from gateway.upstream.transport import Interrupted

VERSION = b'"bedrock-2023-05-31"'
_SERVICE = "bedrock"
_MANY = 1024  # models whose paths are kept
_CUT = frozenset({"model", "stream"})
_COUNTED_WITH = b"1"  # max_tokens that a body needs to be counted

_PREMIUMS = {"global": 1.0, "none": 1.0, "us-gov": 1.2}

# Where a region's inference profile computes, by how the region begins.
_GEOGRAPHIES = (
    ("us-gov-", "us-gov"), ("us-", "us"), ("eu-", "eu"), ("ap-northeast-1", "jp"), ("ap-northeast-3", "jp"),
    ("ap-southeast-2", "au"), ("ap-southeast-4", "au"), ("ap-", "apac"),
)  # fmt: skip


def geography(region: str) -> str:
    """The profile of a region; `global` for those that have none of their own."""
    return next((profile for begin, profile in _GEOGRAPHIES if region.startswith(begin)), "global")


def base_url(region: str) -> str:
    return f"https://bedrock-runtime.{region}.amazonaws.com"


def credential(settings: Settings) -> Credential:
    """A Bedrock API key, or keys of AWS that sign."""
    if settings.aws is None:
        return Fixed("authorization", f"Bearer {settings.api_key}")
    return AwsCredential(settings.aws, settings.region, _SERVICE)


class Frames:
    """Bedrock's frames as server-sent events."""

    def __init__(self) -> None:
        self._events = ServerSentEvents(_plain)

    def feed(self, data: bytes) -> bytes:
        ready = self._events.feed(data)
        if self._events.trouble and not ready:
            raise Interrupted(self._events.trouble)
        return ready

    def end(self) -> bytes:
        trouble = self._events.end()
        if trouble:
            raise Interrupted(trouble)
        return b""


def _plain(exception: StreamException) -> bytes:
    """Anthropic's error of an exception in a stream."""
    name = exception.name[:1].upper() + exception.name[1:]
    meaning = aws_meaning(500, [], Told(name, exception.message))
    error = ApiError(meaning.status, meaning.words or "The model's provider ended the stream with an error.")
    return msgspec.json.encode({"type": "error", "error": {"type": error.kind, "message": error.message}})


class Bedrock(Cloud):
    """The provider of one AWS account and region."""

    def __init__(self, settings: Settings, credential: Credential) -> None:
        super().__init__(settings, credential)
        self._profile = settings.profile or geography(settings.region)
        self._paths: dict[tuple[str, bool], bytes] = {}

    def name(self, model: str) -> str | None:
        """An id under the account's profile, or what the operator says, which may be an ARN."""
        return self.names.own(model) or self.names.known(model).on_bedrock(self._profile)

    def _base(self, model: str) -> str | None:
        """The base id by which tokens are counted, None where they cannot be."""
        known = self.names.known(model)
        return known.bedrock if known.countable else None

    def serves(self, endpoint: str, model: str) -> bool:
        countable = endpoint != COUNT or not model or self._base(model) is not None
        return countable and super().serves(endpoint, model)

    def premium(self, model: str) -> float:
        return 1.0 if self.names.known(model).flat else _PREMIUMS.get(self._profile, REGIONAL)

    def meaning(self, status: int, headers: Headers, said: Told) -> Meaning:
        return aws_meaning(status, headers, said)

    def _path(self, model: str, counting: bool) -> bytes:
        path = self._paths.get((model, counting))
        if path is None:
            if len(self._paths) >= _MANY:
                self._paths.clear()
            name = (self._base(model) if counting else self.name(model)) or model
            path = self._paths[model, counting] = b"/model/" + quote(name, safe=":;~").encode("ascii")
        return path

    def prepare(self, call: Call) -> Outgoing:
        put = {"anthropic_version": VERSION}
        betas = beta_values(call.lines)
        if betas:
            put["anthropic_beta"] = msgspec.json.encode(betas)
        whole = None
        if call.endpoint == COUNT:
            if call.peek is not None and "max_tokens" not in call.peek.fields:
                put["max_tokens"] = _COUNTED_WITH
            inner = b64encode(written(call, _CUT, put))
            body = b'{"input":{"invokeModel":{"body":"%b"}}}' % inner
            path = self._path(call.model, True) + b"/count-tokens"
            whole = counted
        else:
            body = written(call, _CUT, put)
            end = b"/invoke-with-response-stream" if call.stream else b"/invoke"
            path = self._path(call.model, False) + end
        return Outgoing(call.method, path, self.lines(call, TRANSLATED, path, body), body, whole)

    def decoder(self, headers: Headers) -> Decoder | None:
        return Frames()


class _Counted(msgspec.Struct):
    tokens: int = msgspec.field(name="inputTokens")


def counted(body: bytes) -> bytes:
    """Anthropic's answer of Bedrock's to a count of tokens; as it came where it is none."""
    try:
        found = msgspec.json.decode(body, type=_Counted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body
    return b'{"input_tokens":%d}' % found.tokens
