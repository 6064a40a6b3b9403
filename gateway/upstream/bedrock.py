"""Claude on Amazon Bedrock by InvokeModel: the model stands in the path, streams come in AWS's binary frames."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

import msgspec

from gateway.core.wire.event_stream import CONTENT_TYPE, ServerSentEvents, StreamException
from gateway.errors import ApiError
from gateway.upstream.aws_errors import aws_meaning
from gateway.upstream.clouds import PROBE_LINES, REGIONAL, TRANSLATED, beta_values, forwarded, refused, told, written
from gateway.upstream.clouds import Told as Said
from gateway.upstream.clouds import returned as returned_headers
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.credentials.aws import AwsCredential
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Refusal
from gateway.upstream.settings import Settings
from gateway.upstream.transport import Interrupted

VERSION = b'"bedrock-2023-05-31"'
_SERVICE = "bedrock"
_MANY = 1024  # models whose paths are kept
_CUT = frozenset({"model", "stream"})
_COUNTED_WITH = b"1"  # max_tokens that a body needs to be counted
_EVENTS = b"text/event-stream; charset=utf-8"
_COUNT, _MESSAGES = "count_tokens", "messages"

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
    meaning = aws_meaning(500, [], Said(name, exception.message))
    error = ApiError(meaning.status, meaning.words or "The model's provider ended the stream with an error.")
    return msgspec.json.encode({"type": "error", "error": {"type": error.kind, "message": error.message}})


class Bedrock:
    """The provider of one AWS account and region."""

    complete = False
    tells_limits = False
    probe_proves = False

    def __init__(self, settings: Settings, credential: Credential) -> None:
        self.secret = settings.api_key
        self.credential = credential
        self._settings = settings
        self._names = settings.names
        self._profile = settings.profile or geography(settings.region)
        self._paths: dict[str, bytes] = {}

    def name(self, model: str) -> str | None:
        """What the account calls a model: an id under its profile, or what the operator says, which may be an ARN."""
        return self._names.own(model) or self._names.known(model).on_bedrock(self._profile)

    def _base(self, model: str) -> str | None:
        """The base id by which tokens are counted, None where they cannot be."""
        known = self._names.known(model)
        return known.bedrock if known.countable else None

    def serves(self, endpoint: str, model: str) -> bool:
        if endpoint == _COUNT:
            return not model or (self._base(model) is not None and self.name(model) is not None)
        return endpoint == _MESSAGES and (not model or self.name(model) is not None)

    def _path(self, name: str) -> bytes:
        path = self._paths.get(name)
        if path is None:
            if len(self._paths) >= _MANY:
                self._paths.clear()
            path = self._paths[name] = b"/model/" + quote(name, safe=":;~").encode("ascii")
        return path

    def premium(self, model: str) -> float:
        if self._names.known(model).flat:
            return 1.0
        return _PREMIUMS.get(self._profile, REGIONAL)

    def prepare(self, call: Call) -> Outgoing:
        put = {"anthropic_version": VERSION}
        betas = beta_values(call.lines)
        if betas:
            put["anthropic_beta"] = msgspec.json.encode(betas)
        whole = None
        if call.endpoint == _COUNT:
            if call.peek is not None and "max_tokens" not in call.peek.fields:
                put["max_tokens"] = _COUNTED_WITH
            inner = b64encode(written(call, _CUT, put))
            body = b'{"input":{"invokeModel":{"body":"%b"}}}' % inner
            path = self._path(self._base(call.model) or call.model) + b"/count-tokens"
            whole = counted
        else:
            body = written(call, _CUT, put)
            end = b"/invoke-with-response-stream" if call.stream else b"/invoke"
            path = self._path(self.name(call.model) or call.model) + end
        settings = self._settings
        proof = self.credential.lines(b"POST", settings.host, settings.prefix + path, body)
        return Outgoing(b"POST", path, forwarded(call.lines, TRANSLATED) + proof, body, whole)

    @staticmethod
    def head(headers: Headers) -> Headers:
        return [
            (name, _EVENTS if name == b"content-type" and value.startswith(CONTENT_TYPE) else value)
            for name, value in returned_headers(headers)
        ]

    def decoder(self, headers: Headers) -> Decoder | None:
        return Frames()

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        said = told(body)
        return refused(aws_meaning(status, headers, said), said, self._settings.hidden, request_id)

    def probe(self, most: int) -> Outgoing:
        return Outgoing(b"GET", b"/", PROBE_LINES, b"")


class _Counted(msgspec.Struct):
    tokens: int = msgspec.field(name="inputTokens")


def counted(body: bytes) -> bytes:
    """Anthropic's answer of Bedrock's to a count of tokens; as it came where it is none."""
    try:
        found = msgspec.json.decode(body, type=_Counted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body
    return b'{"input_tokens":%d}' % found.tokens
