"""Anthropic's own API: the client's bytes go out unchanged, only the credential is the account's."""

from __future__ import annotations

from gateway.upstream.provider import Call, Outgoing, Translate

DEFAULT_VERSION = b"anthropic-version: 2023-06-01\r\n"


class Anthropic:
    """The provider of an Anthropic API key."""

    def __init__(self, api_key: str) -> None:
        key = api_key.encode("ascii")
        self._credential = b"x-api-key: " + key + b"\r\n"
        self._bearer = b"authorization: Bearer " + key + b"\r\n"

    def prepare(self, call: Call) -> Outgoing:
        lines = call.lines
        headers = b"".join(lines) + (self._bearer if call.bearer else self._credential)
        if not call.version:
            headers += DEFAULT_VERSION
        return Outgoing(call.method, call.path, headers, call.body)

    def framing(self, headers: list[tuple[bytes, bytes]]) -> Translate | None:
        return None
