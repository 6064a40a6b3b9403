"""`POST /v1/oauth/token`: a workload's token for one of the gateway's own, as SDKs ask that federate by themselves
(RFC 7523).

Only this endpoint answers errors as OAuth has them, and takes no credential but the one in its body.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from gateway.core.identity.gateway_token import LIFE
from gateway.errors import ApiError
from gateway.worker.callers.authenticate import Callers
from gateway.worker.request.journey import Journey

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_MOST_BYTES = 16_384  # of a body
_UNSUPPORTED = "unsupported_grant_type"
_CODES = {401: "invalid_grant", 403: "access_denied", 429: "temporarily_unavailable"}


class _Asked(msgspec.Struct):
    grant_type: str
    assertion: str
    federation_rule_id: str | None = None


async def exchange(x: Journey, callers: Callers) -> None:
    """Answer one request for a token."""
    headers = [
        (b"content-type", b"application/json"), (b"request-id", x.request.id.encode()), (b"cache-control", b"no-store"),
        (b"x-gateway-request-id", x.request.id.encode()),
    ]  # fmt: skip
    client = x.request.client
    try:
        if client.method != "POST":
            raise ApiError(405, f"Method {client.method} is not allowed here; use POST.")
        asked = _asked(await _body(x), dict(client.headers).get(b"content-type", b""))
        if asked.grant_type != GRANT_TYPE:
            raise ApiError(400, f"grant_type must be {GRANT_TYPE}", kind=_UNSUPPORTED)
        # The file that a token is in may end in a line end.
        assertion = asked.assertion.encode().strip()
        token, caller = await callers.exchange(assertion, asked.federation_rule_id, client.scope)
    except ApiError as error:
        x.outcome, x.cause = "error", error.cause
        if error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        said = {"error": _code(error), "error_description": error.message}
        await x.reply.answer(error.status, headers, msgspec.json.encode(said))
        return
    x.request.caller = caller
    granted = {"access_token": token.decode(), "token_type": "Bearer", "expires_in": LIFE}
    await x.reply.answer(200, headers, msgspec.json.encode(granted))


def _code(error: ApiError) -> str:
    """What OAuth calls it."""
    if error.kind == _UNSUPPORTED:
        return _UNSUPPORTED
    return _CODES.get(error.status, "invalid_request" if error.status < 500 else "temporarily_unavailable")


async def _body(x: Journey) -> bytes:
    body = bytearray()
    more = True
    while more:
        piece, more = await x.request.client.read()
        body += piece
        if len(body) > _MOST_BYTES:
            raise ApiError(413, f"A request for a token has at most {_MOST_BYTES} bytes.")
    return bytes(body)


def _asked(body: bytes, kind: bytes) -> _Asked:
    try:
        if kind.partition(b";")[0].strip().lower() == b"application/x-www-form-urlencoded":
            return msgspec.convert(dict(parse_qsl(body.decode("ascii"))), _Asked)
        return msgspec.json.decode(body, type=_Asked)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        raise ApiError(400, "The body must have grant_type and assertion, as JSON or as a form.") from None
