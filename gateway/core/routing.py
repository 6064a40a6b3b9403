"""What an answer means for the request that received it: relay it, or try another account.

Rules as data. It does not send, wait, or know which accounts exist. `judge` sees one outcome at a time; whether another
account is left, and whether anything has reached the client, its caller knows.
"""

from __future__ import annotations

from enum import Enum
from math import ceil, isfinite

import msgspec

MAX_RETRIES = 2  # attempts beyond the first for outcomes that reached an upstream


class Verdict(Enum):
    """What the caller does with an outcome."""

    RELAY = "relay"  # the client gets this answer
    STOP = "stop"  # nobody may repeat it: the client gets an error
    MOVE = "move"  # next account in rank, within MAX_RETRIES
    ALWAYS_MOVE = "always_move"  # next account in rank, however often: nothing was sent


class Rule(msgspec.Struct, frozen=True):
    """`verdict`; `hide` is the status a client sees instead once no account is left, 0 to pass the answer itself;
    `retries` how often the request may already have moved for rules of the same `budget`."""

    verdict: Verdict
    hide: int = 0
    retries: int = MAX_RETRIES
    budget: str = "upstream"


RELAY = Rule(Verdict.RELAY)
NEVER_SENT = Rule(Verdict.ALWAYS_MOVE, hide=529, budget="none")
AMBIGUOUS = Rule(Verdict.STOP)  # sent, and no answer: the upstream may have acted on it, and billed it
RETRY_AMBIGUOUS = Rule(Verdict.MOVE)  # the same where the operator prefers a second bill to an error
IMPROPER = Rule(Verdict.STOP)  # no answer of the API: a redirect, a page

PASS = Rule(Verdict.STOP)  # the client's own mistake
ACCOUNT_OUT = Rule(Verdict.MOVE, hide=529, retries=8, budget="account")  # credential, credit or standing of the account
LIMITED = Rule(Verdict.MOVE, hide=429)
TROUBLE = Rule(Verdict.MOVE)  # the upstream's own, for this once
NOT_HERE = Rule(
    Verdict.MOVE, retries=1, budget="model"
)  # perhaps only this account may not use the model: one other is asked

# By status. An account's own trouble (credential, credit, limits) never reaches the client.
BY_STATUS = {
    400: PASS,
    401: ACCOUNT_OUT,
    402: ACCOUNT_OUT,
    403: NOT_HERE,
    404: NOT_HERE,
    429: LIMITED,
}

# An `error` as the first event of a stream, by its type.
BY_ERROR_TYPE = {
    "authentication_error": ACCOUNT_OUT,
    "billing_error": ACCOUNT_OUT,
    "permission_error": NOT_HERE,
    "rate_limit_error": LIMITED,
    "invalid_request_error": PASS,
    "not_found_error": PASS,
    "request_too_large": PASS,
}


# A 400 that is about the account: by `details.error_code`, else by how the message begins.
ACCOUNT_CODES = ("organization_on_hold", "cmek_", "enforced_spend_limit", "contract_spend_limit", "credit_balance")
ACCOUNT_WORDS = ("You have reached your specified", "Your credit balance is too low")


class _Details(msgspec.Struct):
    error_code: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    details: _Details | None = None


class _Body(msgspec.Struct):
    error: _Error


_body = msgspec.json.Decoder(_Body).decode


def judge(status: int) -> Rule:
    """The rule for a response head."""
    if status < 300:
        return RELAY
    if status < 400 or status >= 600:
        return IMPROPER
    return BY_STATUS.get(status) or (PASS if status < 500 else TROUBLE)


def judge_event(error: str) -> Rule:
    """The rule for a stream whose first event is an error of this type."""
    return BY_ERROR_TYPE.get(error, TROUBLE)


def judge_body(rule: Rule, body: bytes) -> Rule:
    """The rule for a refusal whose body is known: a 400 may be about the account after all."""
    if rule is not PASS:
        return rule
    try:
        error = _body(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return rule
    code = error.details.error_code if error.details is not None else ""
    if code.startswith(ACCOUNT_CODES) or error.message.startswith(ACCOUNT_WORDS):
        return ACCOUNT_OUT
    return rule


def may_retry(rule: Rule, retries: int) -> bool:
    """Whether a request that has already moved `retries` times on this rule's budget may move once more."""
    if rule.verdict is Verdict.ALWAYS_MOVE:
        return True
    return rule.verdict is Verdict.MOVE and retries < rule.retries


def retry_after(values: list[float | None]) -> int:
    """Seconds a client is told to wait: the least of what accounts asked for, at least 1, at most 60, 5 if none did."""
    known = [value for value in values if value is not None and isfinite(value)]
    return min(60, max(1, ceil(min(known)))) if known else 5
