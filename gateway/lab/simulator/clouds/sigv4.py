"""Checks AWS's signatures by making them again from what has arrived."""

import calendar
import hmac
import re
import time
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.request import Request

__all__ = ["SKEW", "Keys", "Signed", "check", "read"]

SKEW = 300.0  # seconds that a clock may be off
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/, ]+)/(\d{8})/([^/, ]+)/([^/, ]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)


class Keys(NamedTuple):
    """What signs; `expires_at` is unix seconds, None for keys that stay."""

    secret: str
    token: str = ""
    expires_at: float | None = None


class Signed(NamedTuple):
    """What an Authorization header of this kind says."""

    access_key_id: str
    day: str
    region: str
    service: str
    names: list[str]
    signature: str


def read(authorization: str) -> Signed:
    """`ApiError` 400 for a header that is none."""
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise ApiError(400, "Authorization header is not complete.", error_code="IncompleteSignatureException")
    key, day, region, service, names, signature = match.groups()
    return Signed(key, day, region, service, names.split(";"), signature)


def check(request: Request, signed: Signed, keys: Keys | None, service: str, region: str | None, wall: float) -> None:
    """Whether those keys signed this request for that service and region (None: any); `ApiError` 403 if not."""
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name.decode("latin-1").lower(), []).append(" ".join(value.decode("latin-1").split()))
    token = ",".join(headers.get("x-amz-security-token", []))
    if keys is None or token != keys.token:
        code = "UnrecognizedClientException"
        raise ApiError(403, "The security token included in the request is invalid.", error_code=code)
    if keys.expires_at is not None and wall >= keys.expires_at:
        code = "ExpiredTokenException"
        raise ApiError(403, "The security token included in the request is expired", error_code=code)
    if signed.service != service or (region is not None and signed.region != region):
        raise _wrong(f"Credential should be scoped to a valid region and to service '{service}'.")
    required = {"host", "x-amz-date"} | ({"x-amz-security-token"} if token else set())
    if not required <= set(signed.names) or signed.names != sorted(set(signed.names)):
        raise _wrong("Host, date and token must be signed headers, in order.")
    stamp = ",".join(headers.get("x-amz-date", []))
    try:
        at = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        at = 0
    if abs(at - wall) > SKEW or stamp[:8] != signed.day:
        raise _wrong(f"Signature expired: {stamp} is not within 5 min. of now.")
    if _signature(request, signed, headers, stamp, keys.secret) != signed.signature:
        raise _wrong("The request signature we calculated does not match the signature you provided.")


def _wrong(message: str) -> ApiError:
    return ApiError(403, message, error_code="InvalidSignatureException")


def _signature(request: Request, signed: Signed, headers: dict[str, list[str]], stamp: str, secret: str) -> str:
    digest = sha256(request.body).hexdigest()
    if "x-amz-content-sha256" in headers and headers["x-amz-content-sha256"] != [digest]:
        return ""
    path, _, query = request.target.partition("?")
    parts = [
        request.method,
        quote(path, safe="/~"),
        "&".join(f"{name}={value}" for name, _, value in sorted(pair.partition("=") for pair in query.split("&")))
        if query
        else "",
        *(f"{name}:{','.join(headers.get(name, []))}" for name in signed.names),
        "",
        ";".join(signed.names),
        digest,
    ]
    scope = f"{signed.day}/{signed.region}/{signed.service}/aws4_request"
    told = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, sha256("\n".join(parts).encode("latin-1")).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, told.encode(), "sha256").hex()
