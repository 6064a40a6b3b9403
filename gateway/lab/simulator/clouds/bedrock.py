"""Bedrock's InvokeModel, InvokeModelWithResponseStream and CountTokens."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from gateway.core.wire import event_stream, sse
from gateway.lab.simulator.answer import Step
from gateway.lab.simulator.clouds.door import Entered, Hall, fields, find_model, native, replace_body
from gateway.lab.simulator.credentials import Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import JSON, SSE, Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.world import Cloud

__all__ = ["Bedrock", "aws_error", "aws_lines", "in_frames", "model_name"]

VERSIONS = ("bedrock-2023-05-31", "2026-10-21")
PATH = re.compile(r"/model/([^/]{1,2048})/(invoke|invoke-with-response-stream|count-tokens)")
PROFILE = re.compile(r"(?:global|us|eu|jp|au|apac|us-gov)\.")
# Members of a body beside which nothing is taken; and the values of `anthropic_beta`.
FIELDS = frozenset({
    "anthropic_version", "max_tokens", "messages", "anthropic_beta", "system", "stop_sequences", "temperature",
    "top_p", "top_k", "tools", "tool_choice", "thinking", "metadata", "output_config", "safeguards",
    "context_management", "compaction", "cache_control",
})  # fmt: skip
BETAS = frozenset({
    "computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07",
    "context-management-2025-06-27", "dev-full-thinking-2025-05-14", "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14", "model-context-window-exceeded-2025-08-26", "output-128k-2025-02-19",
    "pdfs-2024-09-25", "search-results-2025-06-09", "token-counting-2024-11-01", "token-efficient-tools-2025-02-19",
    "tool-search-tool-2025-10-19", "claude-code-20250219", "effort-2025-11-24", "compact-2026-01-12",
    "compact-2026-09-04", "thinking-binding-controls-2026-08-01", "structured-outputs-2025-12-15",
})  # fmt: skip
NAMES = {
    400: "ValidationException", 401: "UnrecognizedClientException", 403: "AccessDeniedException",
    404: "ResourceNotFoundException", 408: "ModelTimeoutException", 413: "ValidationException",
    424: "ModelErrorException", 429: "ThrottlingException", 500: "InternalServerException",
    503: "ServiceUnavailableException", 529: "ServiceUnavailableException",
}  # fmt: skip
STATUSES = {401: 403, 405: 404, 413: 400, 529: 503}
THROTTLED = "Too many tokens, please wait before trying again."
TOO_LONG = "Input is too long for requested model."
METRICS = "X-Amzn-Bedrock-"
PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_BINARY = b"content-type: application/vnd.amazon.eventstream\r\nx-amzn-bedrock-content-type: application/json\r\n"
_FRAME = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
_EXCEPTIONS = {
    "rate_limit_error": "throttlingException", "overloaded_error": "serviceUnavailableException",
    "invalid_request_error": "validationException", "timeout_error": "modelTimeoutException",
    "api_error": "internalServerException",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Invoke(msgspec.Struct):
    body: bytes  # base64 in the JSON


class _Input(msgspec.Struct, rename="camel"):
    invoke_model: _Invoke


class _Count(msgspec.Struct):
    input: _Input


def model_name(asked: str) -> str:
    """A model's own name of Bedrock's id for it, with or without a profile's prefix."""
    bare = PROFILE.sub("", asked, count=1).removeprefix("anthropic.")
    return re.sub(r"-v\d+(:\d+)?$", "", bare)


class Bedrock:
    """One request."""

    def __init__(self, hall: Hall, match: re.Match[str] | None) -> None:
        self._hall = hall
        self._match = match
        self._counted = False
        self._streamed = False

    def enter(self, request: Request, seen: Seen, wall: float) -> Entered:
        if self._match is None or request.method != "POST":
            raise ApiError(404, "", error_code="UnknownOperationException")
        account, cloud = self._hall.credentials.of_aws(request, seen, "bedrock", "bedrock", wall)
        asked, operation = unquote(self._match[1]), self._match[2]
        self._counted, self._streamed = operation == "count-tokens", operation == "invoke-with-response-stream"
        self._check_id(asked, cloud)
        model = find_model(self._hall.catalogue, account, cloud, model_name(asked), asked)
        body = _counted_body(request.body) if self._counted else request.body
        told = fields(body)
        _check(told, request)
        version = msgspec.json.decode(told["anthropic_version"])
        seen.version = version if version == VERSIONS[1] else "2023-06-01"
        if self._streamed:
            return Entered(native(request, body, model, stream=True), seen, account)
        return Entered(native(request, body, model, counted=self._counted), seen, account)

    def _check_id(self, asked: str, cloud: Cloud) -> None:
        if asked in cloud.names:
            return
        named = PROFILE.match(asked)
        if self._counted:
            if named or asked.startswith("arn:"):
                raise ApiError(400, "The provided model doesn't support counting tokens.")
        elif asked.startswith("anthropic.claude-") and not asked.startswith("anthropic.claude-3"):
            message = (
                f"Invocation of model ID {asked} with on-demand throughput isn't supported. Retry your request with "
                "the ID or ARN of an inference profile that contains this model."
            )
            raise ApiError(400, message)
        if not PROFILE.sub("", asked, count=1).startswith("anthropic."):
            raise ApiError(400, "The provided model identifier is invalid.")

    def frame(self, reply: Reply) -> None:
        if reply.headers.startswith(SSE):
            in_frames(reply)
            return
        if reply.status == 200 and self._counted:
            [(_, body, _)] = list(reply.steps)
            replace_body(reply, _encode({"inputTokens": _decode(body)["input_tokens"]}))
        elif reply.status == 200 and reply.plan is not None:
            plan, steps = reply.plan, list(reply.steps)
            counts = {"Input": plan.fresh, "Output": steps[-1][2], "Cache-Read-Input": plan.read,
                      "Cache-Write-Input": plan.write_5m + plan.write_1h}  # fmt: skip
            reply.headers += "".join(f"{METRICS}{name}-Token-Count: {n}\r\n" for name, n in counts.items()).encode()
            reply.steps = steps

    def error(self, error: ApiError, record: Record) -> Reply:
        return aws_error(error)

    def lines(self, record: Record, reply: Reply) -> bytes:
        return aws_lines(record)


def aws_lines(record: Record) -> bytes:
    return f"x-amzn-requestid: {record.request_id}\r\n".encode()


def aws_error(error: ApiError) -> Reply:
    """An error as AWS writes it; `error_code` names the exception where the status does not."""
    name = error.error_code or NAMES.get(error.status, "InternalServerException")
    message = error.message
    if message.startswith("prompt is too long"):
        message = TOO_LONG
    elif error.status == 429 and "organization's" in message:
        message = THROTTLED
    kind = f"x-amzn-errortype: {name}:http://internal.amazon.com/coral/com.amazon.bedrock/\r\n".encode()
    return Reply.of(STATUSES.get(error.status, error.status), _encode({"message": message}), JSON + kind)


def _counted_body(data: bytes) -> bytes:
    try:
        return msgspec.json.decode(data, type=_Count).input.invoke_model.body
    except (msgspec.MsgspecError, binascii.Error, RecursionError) as error:
        raise ApiError(400, "Malformed input request") from error


def _check(told: dict[str, msgspec.Raw], request: Request) -> None:
    """What Bedrock refuses of a body, before the model does."""
    if "anthropic_version" not in told:
        raise ApiError(400, "anthropic_version: Field required")
    if msgspec.json.decode(told["anthropic_version"]) not in VERSIONS:
        raise ApiError(400, "anthropic_version: Invalid API version")
    if "max_tokens" not in told:
        raise ApiError(400, "max_tokens: Field required")
    for name in told:
        if name not in FIELDS:
            raise ApiError(400, f"{name}: Extra inputs are not permitted")
    betas = msgspec.json.decode(told["anthropic_beta"]) if "anthropic_beta" in told else []
    if not isinstance(betas, list) or not set(map(str, betas)) <= BETAS:
        raise ApiError(400, "invalid beta flag")


def in_frames(reply: Reply) -> None:
    """Gives a stream of events Bedrock's framing."""
    reply.headers = _BINARY + reply.headers[len(SSE) :]
    reply.steps = _frames(reply.steps, reply)


def _frames(steps: Iterable[Step], reply: Reply) -> Iterator[Step]:
    for delay, data, produced in steps:
        yield delay, b"".join(_frame(name, event, produced, reply) for name, event, _ in sse.events(data)), produced


def _frame(name: bytes, event: bytes, produced: int, reply: Reply) -> bytes:
    if name == b"ping":
        return b""
    if name == b"error":
        told = _decode(event)["error"]
        kind = (told.get("details") or {}).get("error_code") or _EXCEPTIONS.get(told["type"], "internalServerException")
        return event_stream.exception(kind, told["message"])
    if name == b"message_stop" and reply.plan is not None:
        plan = reply.plan
        metrics = {"inputTokenCount": plan.fresh, "outputTokenCount": produced, "invocationLatency": 1000,
                   "firstByteLatency": 100, "cacheReadInputTokenCount": plan.read,
                   "cacheWriteInputTokenCount": plan.write_5m + plan.write_1h}  # fmt: skip
        event = _encode(_decode(event) | {event_stream.METRICS: metrics})
    padded = {"bytes": base64.b64encode(event).decode(), "p": PADDING[: 1 + len(event) % len(PADDING)]}
    return event_stream.encode(_FRAME, _encode(padded))
