"""Who calls: authentication from memory, and what a credential that nobody knows yet may be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from time import time
from typing import TYPE_CHECKING

from gateway.config.schema import Caller, Config
from gateway.core.spending.keyring import Keyring, Stored
from gateway.errors import ApiError
from gateway.listen.addresses import Addresses
from gateway.listen.client import Scope
from gateway.worker.head import Head

if TYPE_CHECKING:
    from gateway.worker.callers.tokens import Tokens

MOST = 4  # credentials of one request that are looked at


class Callers:
    """The table of keys: SHA-256 digest to caller, and the tokens of those issuers that are configured. Looking a
    digest up takes no time that depends on a secret. While the table is not `complete()`, nobody is told that a key
    does not exist."""

    def __init__(self, config: Config, complete: Callable[[], bool] = lambda: True) -> None:
        self._keyring: Keyring[Caller] = Keyring((), Stored(), lambda name, record: None)
        self._complete = complete
        self._tokens: Tokens | None = None
        self._started = False
        self._teams: Collection[str] = ()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._addresses = Addresses(config.trusted_proxies)
        if self._tokens is not None:
            self._tokens.configure(config)
        elif config.issuers:
            # Where it is wanted: it takes a tenth of a worker's memory.
            from gateway.worker.callers.tokens import Tokens

            self._tokens = Tokens(config)
            self._tokens.know(self._teams)
            if self._started:
                self._tokens.start()

    def know(self, keyring: Keyring[Caller], teams: Collection[str]) -> None:
        """Recognise callers by this table from the next request on; these are the teams that there are."""
        self._keyring = keyring
        self._teams = teams
        if self._tokens is not None:
            self._tokens.know(teams)

    def start(self) -> None:
        """Fetch the keys of issuers, if there are any; the event loop runs."""
        self._started = True
        if self._tokens is not None:
            self._tokens.start()

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()

    @property
    def may_exchange(self) -> bool:
        """Whether there are issuers whose tokens can be exchanged."""
        return self._tokens is not None and self._tokens.any

    @property
    def failing(self) -> bool:
        """Whether the keys of some issuer cannot be had."""
        return self._tokens is not None and self._tokens.failing

    def find(self, head: Head) -> Caller | None:
        """The caller of a request, by memory alone. Either credential header will do; of several the one that is known
        counts. Raises ApiError(403) for one that is suspended."""
        for key in head.credentials[:MOST]:
            if key:
                digest, now = hashlib.sha256(key).digest(), time()
                caller = self._keyring.find(digest, now)
                if caller is None and self._tokens is not None:
                    caller = self._tokens.find(digest, now)
                if caller is not None:
                    if caller.id in self._keyring.suspended:
                        words = f"{caller.id} is suspended at this gateway; its key is right. Ask whoever runs it."
                        raise ApiError(403, words, cause="suspended")
                    return caller
        return None

    async def identify(self, head: Head, scope: Scope) -> Caller:
        """The caller of a request whom `find` does not know. Raises ApiError, as a rule 401."""
        given = [key for key in dict.fromkeys(head.credentials) if key][:MOST]
        if not given:
            raise ApiError(401, "x-api-key header is required")
        refused: ApiError | None = None
        for token in given:
            if self._tokens is not None and self._tokens.takes(token):
                try:
                    return await self._tokens.identify(token, self._addresses.client(scope))
                except ApiError as error:
                    refused = refused or error
        if refused is not None:
            raise refused
        if not self._complete():
            words = "The gateway cannot look for this key now, as its store is away. Please try again later."
            raise ApiError(529, words, retry_after=1, cause="store_away")
        raise ApiError(401, "invalid x-api-key")

    async def exchange(self, token: bytes, rule: str | None, scope: Scope) -> tuple[bytes, Caller]:
        """As Tokens.exchange."""
        if self._tokens is None:
            raise ApiError(401, "This gateway accepts no tokens.")
        return await self._tokens.exchange(token, rule, self._addresses.client(scope))
