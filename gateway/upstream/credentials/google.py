"""Access tokens of Google: of a key file's text of any kind, or of the machine's default credentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, NamedTuple

import msgspec

from gateway.upstream.credentials.refreshing import FetchError, Grant, Refreshing, in_thread, in_words, silence

MISSING = "tokens that Google gives need google-auth: pip install 'conversation-gateway[google]'"
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

# By the `type` of a key file.
_LOADERS = {
    "service_account": "google.oauth2.service_account:Credentials.from_service_account_info",
    "authorized_user": "google.oauth2.credentials:Credentials.from_authorized_user_info",
    "impersonated_service_account":
        "google.auth.impersonated_credentials:Credentials.from_impersonated_service_account_info",
    "external_account": "google.auth.identity_pool:Credentials.from_info",
    "external_account/aws": "google.auth.aws:Credentials.from_info",
    "external_account/executable": "google.auth.pluggable:Credentials.from_info",
}  # fmt: skip

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Token(NamedTuple):
    lines: bytes


def missing() -> str:
    """What must be installed for tokens that Google gives, "" if nothing."""
    try:
        found = find_spec("google.auth") is not None and find_spec("requests") is not None
    except ModuleNotFoundError:
        found = False
    return "" if found else MISSING


class GoogleCredential(Refreshing[_Token]):
    """The credential of an account at Google. `text` is that of a key file: a service account's, or a configuration of
    workload identity federation; empty for the default credentials of the environment or the machine."""

    def __init__(self, text: str = "", clock: Callable[[], float] = time.time) -> None:
        super().__init__(self._token, clock)
        self._text = text

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        return self.current().lines

    async def _token(self) -> Grant[_Token]:
        return await in_thread(self._blocking)

    def _blocking(self) -> Grant[_Token]:
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
        except ImportError:
            raise FetchError(MISSING) from None
        silence("google", "urllib3")
        try:
            # Made anew: what is configured is read as it is now, and no other thread has it, not even one that is late.
            source = _source(self._text)
            source.refresh(Request())
        except GoogleAuthError as error:
            raise FetchError(f"Google gives no token: {in_words(str(error.args[0]) if error.args else '')}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(f"these credentials of Google cannot be used: {type(error).__name__}") from None
        lines = f"authorization: Bearer {source.token}\r\n"
        if source.quota_project_id:
            lines += f"x-goog-user-project: {source.quota_project_id}\r\n"
        # Their expiry is UTC and says nothing of it.
        expires = None if source.expiry is None else source.expiry.replace(tzinfo=UTC).timestamp()
        return Grant(_Token(lines.encode("ascii")), expires)


def _source(text: str) -> Any:
    """google-auth's credentials of a key file's text, or the default ones."""
    if not text:
        import google.auth

        return google.auth.default(scopes=SCOPES)[0]
    try:
        told = _decode(text)
    except msgspec.MsgspecError:
        raise FetchError("these credentials of Google are no JSON") from None
    kind = str(told.get("type"))
    if kind == "external_account":
        source = told.get("credential_source")
        kind += _federation(source if isinstance(source, dict) else {})
    if kind not in _LOADERS:
        raise FetchError("these credentials of Google are of a type that is not known")
    return resolve_name(_LOADERS[kind])(told, scopes=SCOPES)


def _federation(source: dict[str, Any]) -> str:
    if str(source.get("environment_id", "")).startswith("aws"):
        return "/aws"
    return "/executable" if "executable" in source else ""
