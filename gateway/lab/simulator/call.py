"""One request to an endpoint that keeps objects, with what its handler asks for."""

import time
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from gateway.lab.simulator.encoding import decoded
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.world import Account

__all__ = ["Call", "json_reply", "timestamp"]

_encode = msgspec.json.Encoder().encode


class Call:
    """`parts` is the path after `/v1/`, `now` the simulator's clock, `epoch` what to add to it for the wall clock."""

    __slots__ = ("account", "encoding", "epoch", "now", "parts", "query", "record", "request", "settings", "version")

    def __init__(
        self,
        request: Request,
        record: Record,
        account: Account,
        settings: Settings,
        version: str | None,
        encoding: str | None,
        now: float,
        epoch: float,
    ) -> None:
        self.request = request
        self.record = record
        self.account = account
        self.settings = settings
        self.version = version or ""
        self.encoding = encoding
        self.now = now
        self.epoch = epoch
        self.parts = [unquote(part) for part in request.path.split("/")[2:]]
        self.query = parse_qs(request.query)

    @property
    def method(self) -> str:
        return self.request.method

    def has_beta(self, name: str) -> bool:
        """Whether `anthropic-beta`, which may be repeated, lists that value."""
        sent = (value.decode("latin-1") for key, value in self.request.headers if key.lower() == b"anthropic-beta")
        return any(name == one.strip() for value in sent for one in value.split(","))

    def body(self, limit: int | None = None) -> bytes:
        """The body without its encoding; `ApiError` 400 or 413 if that cannot be had."""
        data = self.request.body
        return data if self.encoding is None else decoded(data, self.encoding, limit or self.settings.max_body)

    def json(self) -> dict[str, Any]:
        """The body as an object, empty where there is none; `ApiError` 400 for any other."""
        data = self.body()
        try:
            return msgspec.json.decode(data, type=dict[str, Any]) if data.strip() else {}
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ApiError(400, f"The request body is not a valid JSON object: {error}") from error

    def stamp(self, at: float | None = None) -> str:
        """An instant of the simulator's clock (None: now) as RFC 3339."""
        return timestamp(self.epoch + (self.now if at is None else at))

    def refuse_method(self) -> ApiError:
        """The error for a method that this path does not have."""
        return ApiError(405, f"Method Not Allowed: {self.method} {self.request.path}")

    def unknown_path(self) -> ApiError:
        """The error for a path that nobody serves."""
        return ApiError(404, f"Not found: {self.request.path}")


def timestamp(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 with microseconds."""
    whole = int(wall)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((wall - whole) * 1_000_000):06d}Z"


def json_reply(data: Any) -> Reply:
    """A 200 with that JSON body."""
    return Reply.of(200, _encode(data))
