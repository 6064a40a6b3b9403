"""What a client is told when the gateway itself must answer: Anthropic's error JSON.

This module knows statuses, types and wording. It does not know why a request failed, nor anything of accounts.
"""

from __future__ import annotations

import msgspec

Headers = list[tuple[bytes, bytes]]

# Anthropic's own pairs of status and `error.type`.
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "request_too_large",
    500: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """An answer of the gateway's own.

    `status` is the HTTP status, `message` the words for the client, `retry_after` whole seconds or None, `kind` the
    `error.type` where it differs from the usual one of the status, `code` the `error.details.error_code` if it has one.
    `limit` says whose limit refused (`caller`, `account`, `gateway`) and which, for metrics and the log; `cause` what
    else is to blame, for the log alone.
    """

    def __init__(
        self, status: int, message: str, *, retry_after: int | None = None, kind: str | None = None,
        code: str | None = None, retry: bool = True, limit: tuple[str, str] = ("", ""), cause: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.kind = kind or TYPES.get(status, "api_error")
        self.code = code
        self.retry = retry
        self.limit = limit
        self.cause = cause

    def body(self, request_id: str) -> bytes:
        """The JSON bytes of the answer."""
        error: dict[str, str | dict[str, str]] = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        return _encode({"type": "error", "error": error, "request_id": request_id})

    def event(self, request_id: str) -> bytes:
        """The same error as one whole server-sent event, for a stream whose head is already out."""
        return b"event: error\ndata: " + self.body(request_id) + b"\n\n"

    def headers(self, request_id: str) -> Headers:
        """Headers of the answer but for its length."""
        tag = request_id.encode()
        headers = [(b"content-type", b"application/json"), (b"request-id", tag), (b"x-gateway-request-id", tag)]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if not self.retry:
            headers.append((b"x-should-retry", b"false"))
        return headers
