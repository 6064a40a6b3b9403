"""Who calls: authentication from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from time import time

from gateway.config.schema import Caller
from gateway.core.spending.keyring import Keyring
from gateway.errors import ApiError
from gateway.worker.head import Head


class Callers:
    """The table of keys: SHA-256 digest to caller. Looking a digest up takes no time that depends on a secret. While it
    is not `complete()`, nobody is told that a key does not exist."""

    def __init__(self, keyring: Keyring[Caller], complete: Callable[[], bool] = lambda: True) -> None:
        self._keyring = keyring
        self._complete = complete

    def authenticate(self, head: Head) -> Caller:
        """The caller of a request. Either credential header will do; both may be given. Raises ApiError(401)."""
        for key in (head.api_key, head.bearer):
            if key:
                caller = self._keyring.find(hashlib.sha256(key).digest(), time())
                if caller is not None:
                    return caller
        if (head.api_key or head.bearer) and not self._complete():
            words = "The gateway cannot look for this key now, as its store is away. Please try again later."
            raise ApiError(529, words, retry_after=1, cause="store_away")
        if head.api_key or head.bearer:
            raise ApiError(401, "invalid x-api-key")
        raise ApiError(401, "x-api-key header is required")
