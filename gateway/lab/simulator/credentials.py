"""Whose credential a request carries: a key read in one walk over its headers, or a signature."""

import msgspec

from gateway.lab.simulator.clouds import sigv4
from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.records import Header
from gateway.lab.simulator.request import Request
from gateway.lab.simulator.world import Account, Cloud, World

__all__ = ["Credentials", "Seen"]

_OF_INTEREST = frozenset(
    {b"x-api-key", b"api-key", b"authorization", b"anthropic-version", b"x-sim-fault", b"content-encoding"}
)
SPELLINGS = 4096


class Seen(msgspec.Struct):
    """The header values that matter; `keys` are all credentials sent but those of clouds: `api_key` and, of AWS, the
    `signature`."""

    keys: list[str]
    api_key: str | None = None
    signature: str | None = None
    version: str | None = None
    fault: str | None = None
    encoding: str | None = None


class Credentials:
    """The accounts of a world by key."""

    def __init__(self, world: World) -> None:
        # Header names as clients spell them -> the name that matters, or None: one look-up a header.
        self._names: dict[bytes, bytes | None] = {}
        self.accounts = world.accounts
        self._by_key = {account.api_key: account for account in world}
        clouds = [(account, account.cloud) for account in world if account.cloud is not None]
        # By access key id, and by token: what stays, and what is given for a while.
        self._signing = {
            cloud.access_key_id: (account, sigv4.Keys(cloud.secret_access_key))
            for account, cloud in clouds
            if cloud.access_key_id
        }
        self._tokens: dict[str, tuple[Account, float]] = {}
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
                    scheme, _, rest = text.partition(" ")
                    if scheme == "AWS4-HMAC-SHA256":
                        seen.signature = text
                    text = rest.strip() if scheme.lower() == "bearer" else ""
                seen.keys.append(text)
            elif key == b"api-key":
                seen.api_key = text
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
        if account is None or account.cloud is not None:
            raise ApiError(401)
        return account

    def of_bearer(self, seen: Seen, providers: tuple[str, ...], wall: float) -> tuple[Account, Cloud]:
        """The account of a key or of a token that is good, in whichever headers the one was sent; `ApiError` 401."""
        keys = {*seen.keys} if seen.api_key is None else {*seen.keys, seen.api_key}
        if len(keys) != 1:
            raise ApiError(401, "no credential, or different ones")
        key = keys.pop()
        lent = self._tokens.get(key)
        account = self._by_key.get(key) if lent is None or wall >= lent[1] else lent[0]
        if account is None or account.cloud is None or account.cloud.provider not in providers:
            raise ApiError(401, "Request had invalid authentication credentials.")
        return account, account.cloud

    def of_aws(
        self, request: Request, seen: Seen, provider: str | None, service: str, wall: float
    ) -> tuple[Account, Cloud]:
        """The account whose keys signed the request for that service, or whose key it carries; `ApiError` 400 or 403.
        `provider` None is any."""
        if seen.signature is None:
            try:
                return self.of_bearer(seen, (provider or "",), wall)
            except ApiError:
                message = "Authentication failed: Please make sure your API Key is valid."
                raise ApiError(403, message, error_code="AccessDeniedException") from None
        if seen.keys != [""] or seen.api_key is not None:
            raise ApiError(400, "a key beside a signature", error_code="IncompleteSignatureException")
        signed = sigv4.read(seen.signature)
        account, keys = self._signing.get(signed.access_key_id, (None, None))
        cloud = None if account is None else account.cloud
        region = None if cloud is None or service == "sts" else cloud.region
        sigv4.check(request, signed, keys, service, region, wall)
        if account is None or cloud is None or provider not in (None, cloud.provider):
            raise ApiError(403, "You don't have access to the model with the specified model ID.")
        return account, cloud

    def lend(self, access_key_id: str, keys: sigv4.Keys, account: Account) -> None:
        """Keys that sign for an account until they expire."""
        self._signing[access_key_id] = (account, keys)

    def lend_token(self, token: str, until: float, account: Account) -> None:
        """A token that is an account's for a while."""
        self._tokens[token] = (account, until)

    def by_key(self, key: str) -> Account | None:
        """The account of a key, None if there is none."""
        return self._by_key.get(key)

    def lines(self, account: str, with_workspace: bool) -> bytes:
        """The encoded response headers that name the account's organization and, for messages, its workspace."""
        organization, workspace = self._lines[account]
        return organization + workspace if with_workspace else organization
