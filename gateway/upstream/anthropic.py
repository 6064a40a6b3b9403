"""Anthropic's own API: the client's bytes go out unchanged, only the credential is the account's."""

from __future__ import annotations

from collections.abc import Callable

from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.provider import Call, Decoder, Headers, Outgoing, Provider, Refusal, native_refusal, secret_of
from gateway.upstream.settings import Settings

DEFAULT_VERSION = b"anthropic-version: 2023-06-01\r\n"
PROBE_LINES = [b"accept: application/json\r\n", b"accept-encoding: identity\r\n"]


def base_url(region: str) -> str:
    return "https://api.anthropic.com"


def credential(settings: Settings) -> Credential:
    return Fixed("x-api-key", settings.api_key)


def opened(settings: Settings, credential: Credential) -> Provider:
    return Anthropic(settings.api_key)


class Anthropic:
    """The provider of an Anthropic API key."""

    complete = True
    tells_limits = True
    head: Callable[[Headers], Headers] | None = None
    probe_proves = True

    def __init__(self, api_key: str) -> None:
        self.secret = secret_of(api_key)
        self.credential: Credential = Fixed("x-api-key", api_key)
        self._credential = self.credential.lines(b"", b"", b"", b"")
        self._bearer = b"authorization: Bearer " + api_key.encode("ascii") + b"\r\n"

    def serves(self, endpoint: str, model: str) -> bool:
        return True

    def premium(self, model: str) -> float:
        return 1.0

    def prepare(self, call: Call) -> Outgoing:
        headers = b"".join(call.lines) + (self._bearer if call.bearer else self._credential)
        if not call.version:
            headers += DEFAULT_VERSION
        return Outgoing(call.method, call.path, headers, call.body)

    def decoder(self, headers: Headers) -> Decoder | None:
        return None

    def refusal(self, status: int, headers: Headers, body: bytes | None, request_id: str) -> Refusal:
        return native_refusal(status, body, self.secret)

    def probe(self, most: int) -> Outgoing:
        return self.prepare(Call(b"GET", b"/v1/models?limit=%d" % most, PROBE_LINES, b"", version=False))
