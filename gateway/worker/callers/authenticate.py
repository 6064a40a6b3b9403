"""Who calls: authentication from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from time import time

from gateway.config.schema import Caller
from gateway.core.spending.keyring import Keyring
from gateway.errors import ApiError
from gateway.worker.head import Head

MOST = 4  # credentials of one request that are looked at


class Callers:
    """The table of keys: SHA-256 digest to caller. Looking a digest up takes no time that depends on a secret. While it
    is not `complete()`, nobody is told that a key does not exist."""

    def __init__(self, keyring: Keyring[Caller], complete: Callable[[], bool] = lambda: True) -> None:
        self._keyring = keyring
        self._complete = complete

    def authenticate(self, head: Head) -> Caller:
        """The caller of a request. Either credential header will do; of several the one that is known counts. Raises
        ApiError(401)."""
        given = [key for key in head.credentials if key]
        for key in given[:MOST]:
            caller = self._keyring.find(hashlib.sha256(key).digest(), time())
            if caller is not None:
                return caller
        if given and not self._complete():
            words = "The gateway cannot look for this key now, as its store is away. Please try again later."
            raise ApiError(529, words, retry_after=1, cause="store_away")
        if given:
            raise ApiError(401, "invalid x-api-key")
        raise ApiError(401, "x-api-key header is required")
