"""Whose key a request carries, read in one walk over its headers."""

import msgspec

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Header
from gateway.lab.simulator.world import Account, World

__all__ = ["Credentials", "Seen"]

_OF_INTEREST = frozenset({b"x-api-key", b"authorization", b"anthropic-version", b"x-sim-fault", b"content-encoding"})
SPELLINGS = 4096


class Seen(msgspec.Struct):
    """The header values that matter; `keys` are all credentials sent, the same header twice included."""

    keys: list[str]
    version: str | None = None
    fault: str | None = None
    encoding: str | None = None


class Credentials:
    """The accounts of a world by key."""

    def __init__(self, world: World) -> None:
        # Header names as clients spell them -> the name that matters, or None: one look-up a header.
        self._names: dict[bytes, bytes | None] = {}
        self._by_key = {account.api_key: account for account in world}
        self._lines = {
            account.id: (
                f"anthropic-organization-id: {account.organization}\r\n".encode(),
                f"anthropic-workspace-id: {account.workspace}\r\n".encode(),
            )
            for account in world
        }

    def read(self, headers: list[Header]) -> Seen:
        """What the headers say; `ApiError` 401 where a credential header is sent twice."""
        seen = Seen([])
        names: list[bytes] = []
        spelled = self._names
        for name, value in headers:
            try:
                key = spelled[name]
            except KeyError:
                key = self._learn(name)
            if key is None:
                continue
            text = value.decode("latin-1")
            if key == b"x-api-key" or key == b"authorization":
                if key in names:
                    raise ApiError(401, f"{key.decode()}: header is sent twice")
                names.append(key)
                if key == b"authorization":
                    scheme, _, text = text.partition(" ")
                    text = text.strip() if scheme.lower() == "bearer" else ""
                seen.keys.append(text)
            elif key == b"anthropic-version":
                seen.version = text
            elif key == b"x-sim-fault":
                seen.fault = text if seen.fault is None else f"{seen.fault},{text}"
            elif text.lower() != "identity":
                seen.encoding = text.lower()
        return seen

    def _learn(self, name: bytes) -> bytes | None:
        lower = name.lower()
        key = lower if lower in _OF_INTEREST else None
        if len(self._names) < SPELLINGS:
            self._names[name] = key
        return key

    def account(self, seen: Seen) -> Account:
        """The account of the one key that was sent, in either header or the same in both; else `ApiError` 401."""
        if not seen.keys:
            raise ApiError(401, "x-api-key header is required")
        if len(seen.keys) > 1 and seen.keys[0] != seen.keys[1]:
            raise ApiError(401, "x-api-key and authorization carry different credentials")
        account = self._by_key.get(seen.keys[0])
        if account is None:
            raise ApiError(401)
        return account

    def by_key(self, key: str) -> Account | None:
        """The account of a key, None if there is none."""
        return self._by_key.get(key)

    def lines(self, account: str, with_workspace: bool) -> bytes:
        """The encoded response headers that name the account's organization and, for messages, its workspace."""
        organization, workspace = self._lines[account]
        return organization + workspace if with_workspace else organization
