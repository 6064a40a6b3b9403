"""Google's rawPredict and streamRawPredict, and its way of counting tokens."""

import re
from urllib.parse import unquote

import msgspec

from gateway.lab.simulator.clouds.door import VERSION, Entered, Hall, fields, find_model, native
from gateway.lab.simulator.credentials import Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import JSON, Reply
from gateway.lab.simulator.request import Request

__all__ = ["Vertex"]

VERSIONS = ("vertex-2023-10-16", "2026-10-21")
# The Anthropic SDK leaves the version out where it is given another base URL.
PATH = re.compile(
    r"(?:/v1)?/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/([^/:]+):(raw|streamRaw)Predict"
)
# Errors of the platform; all others are the model's, in Anthropic's own shape.
STATUSES = {
    401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL",
    503: "UNAVAILABLE",
}  # fmt: skip
FORBIDDEN = ("model", "speed", "inference_geo", "service_tier", "container", "mcp_servers", "anthropic_beta")

_encode = msgspec.json.Encoder().encode


class Vertex:
    """One request."""

    def __init__(self, hall: Hall, match: re.Match[str]) -> None:
        self._hall = hall
        self._match = match
        self._streamed = match[4] == "streamRaw"

    def enter(self, request: Request, seen: Seen, wall: float) -> Entered:
        project, location, asked, _ = map(unquote, self._match.groups())
        account, cloud = self._hall.credentials.of_bearer(seen, ("vertex",), wall)
        if request.method != "POST":
            raise ApiError(404, "not found")
        if project != cloud.project:
            message = f"Permission 'aiplatform.endpoints.predict' denied on resource '//…/projects/{project}'"
            raise ApiError(403, message)
        told = fields(request.body)
        counted = asked == "count-tokens"
        if counted:
            asked = str(msgspec.json.decode(told.pop("model", b'""')))
        missing = f"Publisher Model `projects/{project}/locations/{location}/publishers/anthropic/models/{asked}`"
        missing += " was not found or your project does not have access to it."
        try:
            model = find_model(self._hall.catalogue, account, cloud, asked.replace("@", "-"), asked)
        except ApiError:
            raise ApiError(404, missing) from None
        if location != cloud.region:
            raise ApiError(404, missing)
        if counted:
            body = _encode(told)
        else:
            body = request.body
            if msgspec.json.decode(told.get("anthropic_version", b"null")) not in VERSIONS:
                raise ApiError(400, "anthropic_version: Field required")
            for name in FORBIDDEN:
                if name in told:
                    raise ApiError(400, f"{name}: Extra inputs are not permitted")
            if (bytes(told.get("stream", b"")) == b"true") is not self._streamed:
                raise ApiError(400, "stream: must be as the method says")
        seen.version = VERSION
        return Entered(native(request, body, model, counted=counted), seen, account)

    def frame(self, reply: Reply) -> None:
        pass

    def error(self, error: ApiError, record: Record) -> Reply:
        status = error.error_code or STATUSES.get(error.status)
        if status is None:
            return Reply.of(error.status, error.body(record.request_id))
        message = error.message
        if error.status == 429 and "organization's" in message:
            message = (
                "Quota exceeded for aiplatform.googleapis.com/online_prediction_input_tokens_per_minute_per_base_model "
                f"with base model: anthropic-{record.model}. Please submit a quota increase request."
            )
        body = _encode({"error": {"code": error.status, "message": message, "status": status}})
        return Reply.of(error.status, b"[%b]" % body if self._streamed else body, JSON)

    def lines(self, record: Record, reply: Reply) -> bytes:
        return b"vary: Origin\r\nserver: ESF\r\n"
