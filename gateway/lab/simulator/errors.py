"""Errors in the upstream's own shape: `{"type": "error", "error": {...}, "request_id": ...}`."""

import msgspec

__all__ = ["ERROR_TYPES", "NAMED", "ApiError"]

ERROR_TYPES: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "Invalid request."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your organization has a billing problem. Please check your payment details."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    405: ("invalid_request_error", "Method Not Allowed"),
    408: ("timeout_error", "Request timed out"),
    409: ("conflict_error", "Conflict"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}

# Faults of an account that share their status with faults of a request: name -> (status, message, error_code).
NAMED: dict[str, tuple[int, str, str | None]] = {
    "enforced_spend_limit_reached": (
        429,
        "Your organization has reached its enforced monthly spend limit. Access resumes when the month ends.",
        "enforced_spend_limit_reached",
    ),
    "ramp_limit_exceeded": (
        429,
        "This request would exceed your organization's acceleration limit: usage is growing too fast.",
        "ramp_limit_exceeded",
    ),
    "usage_limit": (
        400,
        "You have reached your specified API usage limits. You will regain access at the start of next month.",
        None,
    ),
    "low_credit": (
        400,
        "Your credit balance is too low to access the Anthropic API. "
        "Please go to Plans & Billing to upgrade or purchase credits.",
        None,
    ),
    "billing_error": (402, ERROR_TYPES[402][1], None),
}


class ApiError(Exception):
    """An answer that is an error. `retry_after` is seconds, None where the upstream sends no such header."""

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        retry_after: float | None = None,
        error_code: str | None = None,
    ) -> None:
        kind, usual = ERROR_TYPES.get(status, ("api_error" if status >= 500 else "invalid_request_error", "Error"))
        super().__init__(message or usual)
        self.status = status
        self.type = kind
        self.message = message or usual
        self.retry_after = retry_after
        self.error_code = error_code

    def body(self, request_id: str) -> bytes:
        """The JSON body; the same object is the data of an SSE `error` event."""
        error: dict[str, object] = {"type": self.type, "message": self.message}
        if self.error_code is not None:
            error["details"] = {"error_code": self.error_code}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})
