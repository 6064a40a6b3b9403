"""Where clouds give credentials for a while: AWS's STS, Google's token endpoint, Microsoft's Entra ID."""

import base64
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gateway.lab.simulator.clouds import sigv4
from gateway.lab.simulator.credentials import Credentials, Seen
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Record
from gateway.lab.simulator.reply import Reply
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.world import Account

__all__ = ["Tokens"]

GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ENTRA_SCOPE = "https://ai.azure.com/.default"
ENTRA = re.compile(r"/([^/]+)/oauth2/v2\.0/token")
XML = b"content-type: text/xml\r\n"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Tokens:
    """Gives what the accounts' credentials ask for; each is good for `seconds`."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._given = 0

    def serves(self, request: Request) -> Callable[[Request, Seen, Record, float, float], Reply] | None:
        """What answers this request, None if it is not for here."""
        if request.method != "POST":
            return None
        if request.path == "/":
            return self._sts
        if request.path == "/token":
            return self._google
        return self._entra if ENTRA.fullmatch(request.path) else None

    def _sts(self, request: Request, seen: Seen, record: Record, wall: float, seconds: float) -> Reply:
        form = _form(request)
        action = form.get("Action", "")
        try:
            account = self._assumes(request, seen, form, action, wall)
        except ApiError as error:
            told = f"<Code>{error.error_code}</Code><Message>{error.message}</Message>"
            body = f"<ErrorResponse><Error><Type>Sender</Type>{told}</Error></ErrorResponse>"
            return Reply.of(error.status, body.encode(), XML)
        record.account = account.id
        number, value = self._value(account)
        key = f"ASIA{number:016d}"
        self._credentials.lend(key, sigv4.Keys(value[:40], value, wall + seconds), account)
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall + seconds))
        return Reply.of(
            200,
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{value[:40]}</SecretAccessKey>"
            f"<SessionToken>{value}</SessionToken><Expiration>{expiry}</Expiration></Credentials>"
            f"</{action}Result></{action}Response>".encode(),
            XML,
        )

    def _assumes(self, request: Request, seen: Seen, form: dict[str, str], action: str, wall: float) -> Account:
        if action == "AssumeRole" and seen.signature is not None:
            account, cloud = self._credentials.of_aws(request, seen, None, "sts", wall)
            if form.get("RoleArn") == cloud.role_arn:
                return account
        elif action == "AssumeRoleWithWebIdentity" and form.get("WebIdentityToken"):
            for account in self._credentials.accounts:
                if account.cloud is not None and account.cloud.role_arn == form.get("RoleArn", "-"):
                    return account
        raise ApiError(403, "not authorized to assume this role", error_code="AccessDenied")

    def _google(self, request: Request, seen: Seen, record: Record, wall: float, seconds: float) -> Reply:
        try:
            said = _decode(base64.urlsafe_b64decode(_form(request)["assertion"].split(".")[1] + "=="))
        except (KeyError, IndexError, ValueError):
            said = {}
        for account in self._credentials.accounts:
            cloud = account.cloud
            if cloud is not None and cloud.client_email and cloud.client_email == said.get("iss"):
                if GOOGLE_SCOPE not in str(said.get("scope", "")).split():
                    break
                return self._bearer(account, record, wall, seconds)
        return Reply.of(400, b'{"error":"invalid_grant","error_description":"Invalid grant: account not found"}')

    def _entra(self, request: Request, seen: Seen, record: Record, wall: float, seconds: float) -> Reply:
        form = _form(request)
        for account in self._credentials.accounts:
            cloud = account.cloud
            if cloud is not None and cloud.client_id and cloud.client_id == form.get("client_id"):
                shown = form.get("client_secret") == cloud.client_secret or form.get("client_assertion")
                if shown and form.get("scope") == ENTRA_SCOPE:
                    return self._bearer(account, record, wall, seconds)
        return Reply.of(401, b'{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret"}')

    def _bearer(self, account: Account, record: Record, wall: float, seconds: float) -> Reply:
        record.account = account.id
        _, value = self._value(account)
        self._credentials.lend_token(value, wall + seconds, account)
        return Reply.of(200, _encode({"access_token": value, "expires_in": int(seconds), "token_type": "Bearer"}))

    def _value(self, account: Account) -> tuple[int, str]:
        self._given += 1
        return self._given, f"sim{sha256(f'{account.api_key} {self._given}'.encode()).hexdigest()}"


def _form(request: Request) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(request.body.decode("latin-1")).items()}
