"""What AWS's errors mean: rows by exception and wording, unconfirmed ones among them, to be put right here alone."""

from __future__ import annotations

import re

from gateway.core.routing.outcomes import Outcome
from gateway.upstream.clouds import (
    DECLINED,
    DENIED,
    FAILED,
    LATE,
    LIMITED,
    OVERLOADED,
    TOO_LONG,
    UNAUTHORIZED,
    UNKNOWN_MODEL,
    Meaning,
    Told,
    meaning_of,
)
from gateway.upstream.provider import Headers

_FOR_THE_DAY = Meaning(Outcome.LIMITED, 429, LIMITED.words, 3600.0)

# Exception, what its message says (a pattern) -> its meaning. The first that fits.
_ROWS: list[tuple[str, str, Meaning]] = [
    ("ThrottlingException", r"(?i)per day", _FOR_THE_DAY),
    ("ThrottlingException", "", LIMITED),
    ("TooManyRequestsException", "", LIMITED),
    ("ServiceQuotaExceededException", "", LIMITED),
    ("ModelNotReadyException", "", OVERLOADED),
    ("ServiceUnavailableException", "", OVERLOADED),
    ("ModelTimeoutException", "", LATE),
    ("ModelErrorException", "", FAILED),
    ("ModelStreamErrorException", "", FAILED),
    ("InternalServerException", "", FAILED),
    ("InternalFailure", "", FAILED),
    ("ExpiredTokenException", "", UNAUTHORIZED),
    ("UnrecognizedClientException", "", UNAUTHORIZED),
    ("InvalidClientTokenId", "", UNAUTHORIZED),
    ("InvalidSignatureException", r"(?i)signature expired|not yet current", FAILED),  # of the clock, not of the keys
    ("InvalidSignatureException", "", UNAUTHORIZED),
    ("RequestTimeTooSkewed", "", FAILED),
    ("IncompleteSignature", "", UNAUTHORIZED),
    ("MissingAuthenticationToken", "", UNAUTHORIZED),
    ("AccessDeniedException", r"(?i)security token .*(expired|invalid)|invalid api key|bearer token", UNAUTHORIZED),
    ("AccessDeniedException", "", DENIED),
    ("FTUFormNotFilled", "", UNKNOWN_MODEL),
    ("ResourceNotFoundException", "", UNKNOWN_MODEL),
    ("UnknownOperationException", "", UNKNOWN_MODEL),
    ("ValidationException", r"(?i)model identifier is invalid|on-demand throughput isn", UNKNOWN_MODEL),
    ("ValidationException", r"(?i)input is too long|prompt is too long", TOO_LONG),
    ("ValidationException", "", DECLINED),
]  # fmt: skip
_TABLE = [(name, re.compile(pattern), meaning) for name, pattern, meaning in _ROWS]


def aws_meaning(status: int, headers: Headers, said: Told) -> Meaning:
    """The meaning of an error: by the exception that its head names, else its body."""
    header = next((value for name, value in headers if name == b"x-amzn-errortype"), b"")
    name = header.decode("latin-1").partition(":")[0].rpartition("#")[2] or ("" if said.envelope else said.name)
    for row, pattern, meaning in _TABLE:
        if name in (row, row.removesuffix("Exception")) and pattern.search(said.message):
            return meaning
    return meaning_of(status, said)
