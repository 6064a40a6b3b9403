"""Clouds that are asked as Anthropic is: Foundry, Bedrock's own Messages endpoint, Claude Platform on AWS."""

import msgspec

from gateway.lab.simulator.clouds.bedrock import aws_error, aws_lines
from gateway.lab.simulator.clouds.door import Entered, Hall, fields, find_model, native
from gateway.lab.simulator.credentials import Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.trouble import error_reply
from gateway.lab.simulator.world import Account, Cloud

__all__ = ["Native"]

# Where the provider's accounts are asked, and for which service requests to AWS are signed.
SERVICES = {"bedrock": "bedrock-mantle", "aws-platform": "aws-external-anthropic"}


class Native:
    """One request; `providers` are those whose accounts are asked at this path."""

    def __init__(self, hall: Hall, providers: tuple[str, ...], path: str) -> None:
        self._hall = hall
        self._providers = providers
        self._path = path
        self._provider = ""

    def enter(self, request: Request, seen: Seen, wall: float) -> Entered:
        account, cloud = self._account(request, seen, wall)
        self._provider = cloud.provider
        platform = cloud.provider == "aws-platform"
        if platform and _header(request, b"anthropic-workspace-id") != account.workspace:
            raise ApiError(400, "anthropic-workspace-id: header is required")
        if request.method != "POST" or self._path not in ("/v1/messages", "/v1/messages/count_tokens"):
            if platform:  # which has the whole API
                return Entered(request, seen, account)
            raise ApiError(404, f"Not found: {request.path}")
        told = fields(request.body)
        asked = str(msgspec.json.decode(told.get("model", b'""')))
        name = asked
        if cloud.provider == "bedrock":
            if not asked.startswith("anthropic."):
                raise ApiError(400, "The provided model identifier is invalid.")
            name = asked.removeprefix("anthropic.")
        model = find_model(self._hall.catalogue, account, cloud, name, asked)
        del told["model"]
        counted = self._path.endswith("count_tokens")
        return Entered(native(request, msgspec.json.encode(told), model, counted=counted), seen, account)

    def _account(self, request: Request, seen: Seen, wall: float) -> tuple[Account, Cloud]:
        credentials = self._hall.credentials
        if seen.signature is None:
            return credentials.of_bearer(seen, self._providers, wall)
        for provider in self._providers:
            if provider in SERVICES:
                self._provider = provider
                return credentials.of_aws(request, seen, provider, SERVICES[provider], wall)
        raise ApiError(401)

    def frame(self, reply: Reply) -> None:
        pass

    def error(self, error: ApiError, record: Record) -> Reply:
        if self._provider in SERVICES and error.error_code is not None:
            return aws_error(error)
        if self._provider != "aws-platform":
            error.retry_after = None
        return error_reply(error, record.request_id)

    def lines(self, record: Record, reply: Reply) -> bytes:
        line = f"request-id: {record.request_id}\r\n".encode()
        if self._provider == "foundry":
            return line + f"apim-request-id: {record.request_id}\r\n".encode()
        return line + aws_lines(record)


def _header(request: Request, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in request.headers if key.lower() == name), "")
