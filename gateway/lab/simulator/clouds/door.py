"""What all doors have in common."""

from typing import Any, NamedTuple, Protocol

import msgspec

from gateway.core.spending.pricing import Catalogue, Model
from gateway.lab.simulator.credentials import Credentials, Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import Framing, Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.world import Account, Cloud

__all__ = ["VERSION", "Door", "Entered", "Hall", "error_of", "fields", "find_model", "native", "replace_body"]

VERSION = "2023-06-01"

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_any = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Entered(NamedTuple):
    """A request as the native API has it, and whose it is."""

    request: Request
    seen: Seen
    account: Account


class Hall(msgspec.Struct, frozen=True):
    """What doors need of the simulator."""

    catalogue: Catalogue
    credentials: Credentials


class Door(Protocol):
    """One cloud's manner; made for each request."""

    def enter(self, request: Request, seen: Seen, wall: float) -> Entered:
        """The native request; `ApiError` for one that is refused before the model sees it. `wall` is unix seconds."""

    def frame(self, reply: Reply) -> None:
        """Gives an answer of the model the cloud's shape; its steps stay one event each."""

    def error(self, error: ApiError, record: Record) -> Reply:
        """The answer that is an error."""

    def lines(self, record: Record, reply: Reply) -> bytes:
        """Encoded response headers of every answer."""


def fields(data: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object; `ApiError` 400 for anything else."""
    try:
        return _object(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, "Malformed input request, please reformat your input and try again.") from error


def native(request: Request, body: bytes, model: Model, *, counted: bool = False, **more: bool) -> Request:
    """The request for the native API, with the model (and `more`) put first into the body, whose other bytes stay."""
    first = _encode({"model": model.listed_id, **more})[:-1]
    rest = body.strip()[1:]
    joined = first + (rest if rest.lstrip().startswith(b"}") else b"," + rest)
    path = "/v1/messages/count_tokens" if counted else "/v1/messages"
    return Request(request.method, path, request.headers, joined, request.keep_alive)


def find_model(catalogue: Catalogue, account: Account, cloud: Cloud, name: str, asked: str) -> Model:
    """The model that is called `asked` by this account, `name` without it; `ApiError` 404 if there is none."""
    model = catalogue.find(cloud.names.get(asked, name))
    if model is None or not account.serves(model.names):
        raise ApiError(404, f"model: {asked}")
    return model


def error_of(reply: Reply) -> ApiError | None:
    """The error that an answer is, None if it is none of the native API's."""
    steps = list(reply.steps) if reply.framing is Framing.LENGTH else []
    if reply.status < 400 or len(steps) != 1:
        return None
    try:
        told = _any(steps[0][1])["error"]
        details = told.get("details") or {}
        _, given, after = reply.headers.partition(b"retry-after: ")
        wait = float(after.partition(b"\r")[0]) if given else None
        return ApiError(reply.status, told["message"], retry_after=wait, error_code=details.get("error_code"))
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None


def replace_body(reply: Reply, body: bytes) -> None:
    """Another body of an answer that is there at once."""
    steps = list(reply.steps)
    reply.steps = [*((delay, b"", count) for delay, _, count in steps[:-1]), (steps[-1][0], body, steps[-1][2])]
    reply.length = len(body)
