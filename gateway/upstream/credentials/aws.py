"""Keys of AWS that sign each request: given ones, or those that botocore finds or is given for a role."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.upstream.credential import Tell, silently
from gateway.upstream.credentials.refreshing import FetchError, Grant, Refreshing, in_thread, in_words, silence
from gateway.upstream.sigv4 import Digests, Signer

if TYPE_CHECKING:
    from botocore.session import Session

MISSING = "keys that AWS gives need botocore: pip install 'conversation-gateway[aws]'"
SESSION_NAME = "conversation-gateway"

# A request may be tried at several accounts: its digest is the same.
_digests = Digests()


class AwsKeys(msgspec.Struct, frozen=True):
    """Where keys come from: given ones, a profile of AWS's configuration files, else botocore's default chain
    (environment, files, web identity, SSO, container, instance); `role_arn` is then assumed with them."""

    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    config_profile: str = ""
    role_arn: str = ""
    external_id: str = ""

    @property
    def fixed(self) -> bool:
        """Whether nothing need be asked for."""
        return bool(self.access_key_id) and not self.role_arn


def missing(keys: AwsKeys) -> str:
    """What must be installed for such keys, "" if nothing."""
    return "" if keys.fixed or find_spec("botocore") is not None else MISSING


class _Keys(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    token: str


class AwsCredential:
    """The credential of an account at AWS: signs for one region and service."""

    def __init__(self, keys: AwsKeys, region: str, service: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._region, self._service = region, service
        self._clock = clock
        self._signer: Signer | None = None
        self._signs: _Keys | None = None
        self._fetched = Refreshing(self._fetch, clock)
        self._fixed: _Keys | None = None
        if keys.fixed:
            self._fixed = _Keys(keys.access_key_id, keys.secret_access_key, keys.session_token)

    @property
    def expires_at(self) -> float | None:
        return self._fetched.expires_at

    @property
    def trouble(self) -> str:
        return "" if self._fixed is not None else self._fetched.trouble

    def lines(self, method: bytes, host: bytes, path: bytes, body: bytes) -> bytes:
        keys = self._fixed or self._fetched.current()
        if self._signer is None or keys is not self._signs:
            self._signs = keys
            self._signer = Signer(keys.access_key_id, keys.secret_access_key, keys.token, self._region, self._service)
        return self._signer.lines(method, host, path, _digests.of(body), self._clock())

    async def refresh(self) -> bool:
        return False if self._fixed is not None else await self._fetched.refresh()

    async def start(self, tell: Tell = silently) -> None:
        if self._fixed is None:
            await self._fetched.start(tell)

    async def close(self) -> None:
        await self._fetched.close()

    async def _fetch(self) -> Grant[_Keys]:
        return await in_thread(self._ask)

    def _ask(self) -> Grant[_Keys]:
        try:
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
            from botocore.session import Session
        except ImportError:
            raise FetchError(MISSING) from None
        silence("botocore", "urllib3")
        try:
            # A new session asks anew, and reads files and environment as they are now.
            session = Session(profile=self._keys.config_profile or None)
            session.set_default_client_config(
                Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 2})
            )
            if self._keys.access_key_id:
                session.set_credentials(
                    self._keys.access_key_id, self._keys.secret_access_key, self._keys.session_token or None
                )
            if self._keys.role_arn:
                return self._assume(session)
            found = session.get_credentials()
            if found is None:
                raise FetchError("AWS's default chain finds no keys: neither environment, files, role nor instance")
            frozen = found.get_frozen_credentials()
            # botocore tells the time in this attribute alone.
            expiry: datetime | None = getattr(found, "_expiry_time", None)
        except ClientError as error:
            told: dict[str, Any] = error.response.get("Error", {})
            words = in_words(f"{told.get('Code', '')}: {told.get('Message', '')}")
            raise FetchError(f"AWS refuses {error.operation_name}: {words}") from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise FetchError(in_words(f"{type(error).__name__}: {error}")) from None
        keys = _Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        return Grant(keys, None if expiry is None else expiry.timestamp())

    def _assume(self, session: Session) -> Grant[_Keys]:
        asked = {"RoleArn": self._keys.role_arn, "RoleSessionName": SESSION_NAME}
        if self._keys.external_id:
            asked["ExternalId"] = self._keys.external_id
        given = session.create_client("sts", region_name=self._region).assume_role(**asked)["Credentials"]
        keys = _Keys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        expiry: datetime = given["Expiration"]
        return Grant(keys, expiry.timestamp())
