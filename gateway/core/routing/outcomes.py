"""What an upstream's answer means, and which answers a client may see.

An answer becomes an Outcome; what each outcome does to accounts is the router's business, and what it does to the
request the route's. Tables, no state.
"""

from __future__ import annotations

import re
from enum import StrEnum
from math import ceil, isfinite

import msgspec

MAX_RETRY_AFTER = 60  # seconds a client is told at most for the pool's sake: SDKs sleep as long as they are told


class Outcome(StrEnum):
    """One exchange with an account, as far as routing cares."""

    SERVED = "served"  # the client gets this answer
    LIMITED = "limited"  # 429: over a rate limit
    OVERSIZED = "oversized"  # 429 although all of the limit is left: the request is larger than the limit
    UNEXPLAINED = "unexplained"  # 429 that names no time, while no known limit is used up: perhaps this request alone
    SPENT = "spent"  # spend cap, no credit, on hold: the organization cannot be used
    UNAUTHORIZED = "unauthorized"  # 401: the account's key is not accepted
    DENIED = "denied"  # 403, 404: perhaps only this account may not use the model, or a feature
    DECLINED = "declined"  # 400, 404, 405: the client's own mistake, unless another account serves it
    OVERLOADED = "overloaded"  # 529: the model's, not the account's
    FAILED = "failed"  # 5xx, or an error as first event
    BROKEN = "broken"  # sent, and no whole answer: the upstream may have acted on it, and billed it
    UNSENT = "unsent"  # no connection: nothing was sent
    UNABLE = "unable"  # nothing was sent, for want of this machine's own means
    REFUSED = "refused"  # the client's own mistake
    IMPROPER = "improper"  # no answer of the API: a redirect, a page


# By status. What is not here: below 300 served, below 400 improper, below 500 refused, else failed.
BY_STATUS = {
    400: Outcome.DECLINED,
    401: Outcome.UNAUTHORIZED,
    402: Outcome.SPENT,
    403: Outcome.DENIED,
    404: Outcome.DENIED,
    405: Outcome.DECLINED,
    429: Outcome.LIMITED,
    529: Outcome.OVERLOADED,
}

# An `error` as the first event of a stream, by its type; others have failed.
BY_ERROR_TYPE = {
    "authentication_error": Outcome.UNAUTHORIZED,
    "billing_error": Outcome.SPENT,
    "permission_error": Outcome.DENIED,
    "rate_limit_error": Outcome.LIMITED,
    "overloaded_error": Outcome.OVERLOADED,
    "invalid_request_error": Outcome.DECLINED,
    "not_found_error": Outcome.DECLINED,
    "request_too_large": Outcome.REFUSED,
}

# The status a client sees instead of an answer that was about the account, once no account is left.
HIDDEN = {
    Outcome.UNAUTHORIZED: 529,
    Outcome.SPENT: 529,
    Outcome.UNSENT: 529,
    Outcome.UNABLE: 529,
    Outcome.LIMITED: 429,
}

# Refusals that may be about the request or about the account: one other account is asked, and the client sees what
# this one said if that refuses as well, or if nobody else is left.
DISPUTED = frozenset({Outcome.DENIED, Outcome.DECLINED, Outcome.OVERSIZED, Outcome.UNEXPLAINED})

# Those of them whose words say whether two are alike: the words of a 429 name the account's organization.
WORDED = frozenset({Outcome.DENIED, Outcome.DECLINED})

# What a 400 or a 429 is about the account for: by `details.error_code`, else by how the message begins.
ACCOUNT_CODES = ("organization_on_hold", "cmek_", "enforced_spend_limit", "contract_spend_limit", "credit_balance")
ACCOUNT_WORDS = (
    "You have reached your specified", "Your credit balance is too low", "This organization has been disabled",
)  # fmt: skip


class _Details(msgspec.Struct):
    error_code: str | None = None


class _Error(msgspec.Struct):
    message: str = ""
    details: _Details | None = None


class _Body(msgspec.Struct):
    error: _Error


_body = msgspec.json.Decoder(_Body).decode


def judge(status: int) -> Outcome:
    """The outcome that a response's status shows."""
    if status < 300:
        return Outcome.SERVED
    if status < 400 or status >= 600:
        return Outcome.IMPROPER
    return BY_STATUS.get(status) or (Outcome.REFUSED if status < 500 else Outcome.FAILED)


def judge_event(error: str) -> Outcome:
    """The outcome of a stream whose first event is an error of this type."""
    return BY_ERROR_TYPE.get(error, Outcome.FAILED)


def tells_error(body: bytes) -> bool:
    """Whether a body is an error as APIs tell it: JSON with an `error` that has words."""
    return _error(body) is not None


def judge_body(outcome: Outcome, body: bytes) -> Outcome:
    """The outcome once the body is known: a 400 or a 429 may be about the organization's money after all, and a 404
    without an error of the API is none that a model could be the reason of."""
    if outcome not in _TOLD_BY_BODY:
        return outcome
    error = _error(body)
    if error is None:
        return Outcome.DECLINED if outcome is Outcome.DENIED else outcome
    code = (error.details.error_code if error.details is not None else None) or ""
    if outcome is not Outcome.DENIED and (code.startswith(ACCOUNT_CODES) or error.message.startswith(ACCOUNT_WORDS)):
        return Outcome.SPENT
    return outcome


_NAMED = re.compile(rb"((?:organization|workspace)(?:'s)?) \([^)]{1,128}\)")


def nameless(body: bytes) -> bytes:
    """A refusal about limits, without the name of the organization or workspace that it speaks of."""
    return _NAMED.sub(rb"\1", body)


def without_secret(body: bytes, secret: str) -> bytes:
    """A refusal that does not repeat the account's key."""
    return body.replace(secret.encode(), b"[the account's key]") if secret and secret.encode() in body else body


_TOLD_BY_BODY = frozenset({Outcome.DECLINED, Outcome.DENIED, Outcome.REFUSED, Outcome.LIMITED})
_ALIKE = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")  # numbers and ids, by which refusals of one kind differ
_TELLING = 100  # characters of a message that say what kind of refusal it is


def refusal_kind(status: int, body: bytes) -> str:
    """A name for refusals of one kind: the same for answers that differ in numbers and ids alone."""
    error = _error(body)
    return f"{status} {_ALIKE.sub('#', error.message[:_TELLING]) if error is not None else ''}"


def _error(body: bytes) -> _Error | None:
    """The error of the API that a body is, None if it is none."""
    try:
        return _body(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def retry_after(seconds: float | None) -> int:
    """Whole seconds that a client is told to wait: 5 if nobody knows."""
    if seconds is None or not isfinite(seconds):
        return 5
    return min(MAX_RETRY_AFTER, max(1, ceil(seconds)))
