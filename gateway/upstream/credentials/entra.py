"""Access tokens of Microsoft Entra ID for an application, by its secret or by a token that its platform gives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.upstream.credentials.refreshing import FetchError, Grant, Refreshing, in_words

SCOPE = "https://ai.azure.com/.default"
AUTHORITY = "https://login.microsoftonline.com"
MAX_TOKEN_FILE = 64 * 1024
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class EntraApp(msgspec.Struct, frozen=True):
    """An application of a tenant. `federated_token_file` is read anew at each refresh; `authority` is where tokens are
    given, which national clouds have of their own."""

    tenant_id: str
    client_id: str
    client_secret: str = ""
    federated_token_file: str = ""
    authority: str = AUTHORITY


class _Given(msgspec.Struct):
    access_token: str = ""
    expires_in: float = 0.0
    error: str = ""
    error_description: str = ""


_given = msgspec.json.Decoder(_Given, strict=False).decode


class EntraCredential(Refreshing[bytes]):
    """The credential of an account at Azure."""

    def __init__(self, app: EntraApp, clock: Callable[[], float] = time.time) -> None:
        super().__init__(self._token, clock)
        self._app = app

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        return self.current()

    async def _token(self) -> Grant[bytes]:
        import httpx  # where an account needs it: it is a tenth of a worker's memory

        app = self._app
        form = {"grant_type": "client_credentials", "client_id": app.client_id, "scope": SCOPE}
        if app.federated_token_file:
            assertion = await asyncio.to_thread(_read, app.federated_token_file)
            form |= {"client_assertion_type": _ASSERTION, "client_assertion": assertion}
        else:
            form["client_secret"] = app.client_secret
        asked = self._clock()
        try:
            async with httpx.AsyncClient(timeout=15) as client:
                answer = await client.post(f"{app.authority}/{app.tenant_id}/oauth2/v2.0/token", data=form)
        except httpx.HTTPError as error:
            raise FetchError(
                f"{app.authority} cannot be asked: {in_words(str(error)) or type(error).__name__}"
            ) from None
        try:
            given = _given(answer.content)
        except (msgspec.MsgspecError, RecursionError):
            given = _Given()
        if answer.status_code != 200 or not given.access_token:
            said = in_words(f"{given.error} {given.error_description}") or "no token in its answer"
            raise FetchError(f"{app.authority} refuses with {answer.status_code}: {said}")
        if not given.access_token.isascii() or not given.access_token.isprintable():
            raise FetchError(f"{app.authority} gave a token that is none")
        return Grant(f"authorization: Bearer {given.access_token}\r\n".encode(), asked + given.expires_in)


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            raw = file.read(MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise FetchError(f"file {name!r} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_TOKEN_FILE:
        raise FetchError(f"file {name!r} is too large for a token")
    try:
        return raw.decode("ascii").strip()
    except UnicodeDecodeError:
        raise FetchError(f"file {name!r} is no token") from None
