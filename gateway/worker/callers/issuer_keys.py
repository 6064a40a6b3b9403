"""An issuer's keys as this process has them: fetched once, refreshed in the background, kept while nobody can say more.

It never goes where a token points: only where the configuration says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import time
from typing import Protocol

import msgspec

from gateway import log
from gateway.config.schema import Issuer
from gateway.every import every
from gateway.upstream.registry import open_transport
from gateway.upstream.transport import Origin, Timeouts, Transport, TransportError
from gateway.worker.callers.signatures import MOST_BYTES, KeySet, PublicKey, parse_keys

STALE = 86_400.0  # seconds that keys are used while no newer ones can be had
ASK_AGAIN = 30.0  # seconds between two fetches for keys that are not there
_LEAST, _MOST = 600.0, 3600.0  # seconds that fetched keys count as fresh, whatever the issuer says
_FILE = 60.0  # seconds that a file's do
_PATIENCE = 5.0  # seconds for a fetch
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0  # seconds between fetches that fail


class KeyServer(Protocol):
    """Who has a key set."""

    async def fetch(self) -> tuple[bytes, float]:
        """Its text, and for how many seconds it is fresh. Raises OSError, ValueError or TransportError."""
        ...

    async def aclose(self) -> None: ...


class NoKeys(Exception):
    """Nobody could say yet what keys the issuer has."""


class Source(msgspec.Struct, frozen=True):
    """Where a key set is: a URL (with the authorities to trust, the way out, and a file with a bearer token to show
    there), or a file."""

    uri: str | None = None
    file: str | None = None
    ca_file: str | None = None
    proxy: str | None = None
    token_file: str | None = None

    def __str__(self) -> str:
        """The URL, or the file's name."""
        return self.uri or self.file or ""

    def open(self) -> KeyServer:
        """Who has it."""
        return KeyUrl(self) if self.file is None else KeyFile(self.file)


def source_of(issuer: Issuer) -> Source:
    """Where the configuration says that an issuer's keys are."""
    return Source(issuer.jwks_uri, issuer.jwks_file, issuer.ca_file, issuer.proxy, issuer.jwks_token_file)


class KeyFile:
    """A key set in a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def fetch(self) -> tuple[bytes, float]:
        return await asyncio.to_thread(_read, self._path), _FILE

    async def aclose(self) -> None:
        return


class KeyUrl:
    """A key set on a web server."""

    def __init__(self, source: Source) -> None:
        self._source = source
        scheme, _, rest = (source.uri or "").partition("://")
        host, slash, target = rest.partition("/")
        self._base, self._target = f"{scheme}://{host}", f"{slash or '/'}{target}".encode()
        self._transport: Transport | None = None  # with the authorities as they were when it last worked

    async def fetch(self) -> tuple[bytes, float]:
        done = False
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await self._get()
            done = True
            return found
        finally:
            if not done:
                await self.aclose()

    async def _get(self) -> tuple[bytes, float]:
        source = self._source
        headers = b"accept: application/json\r\naccept-encoding: identity\r\n"
        if source.token_file is not None:
            token = (await asyncio.to_thread(_read, source.token_file)).strip()
            if not re.fullmatch(rb"[!-~]+", token):
                raise ValueError("what is in jwks_token_file cannot be a token")
            headers += b"authorization: Bearer %b\r\n" % token
        if self._transport is None:
            origin = Origin.parse(self._base, ca_file=source.ca_file, proxy=source.proxy)
            self._transport = open_transport(origin, Timeouts(_PATIENCE, _PATIENCE, _PATIENCE))
        response = await self._transport.send(b"GET", self._target, headers, b"")
        try:
            if response.status != 200:  # a redirect too: nobody but the configuration says where keys are
                raise ValueError(f"answered {response.status}")
            body = bytearray()
            while piece := await response.read():
                body += piece
                if len(body) > MOST_BYTES:
                    raise ValueError(f"longer than {MOST_BYTES} bytes")
            return bytes(body), _fresh(response.headers)
        finally:
            response.close()

    async def aclose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()


def _read(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _fresh(headers: list[tuple[bytes, bytes]]) -> float:
    said = b",".join(value for name, value in headers if name == b"cache-control").lower()
    found = re.search(rb"(?:^|[\s,])max-age=(\d{1,9})", said)
    return min(max(float(found[1]), _LEAST), _MOST) if found else _LEAST


class IssuerKeys:
    """The keys of one source. `changed` is called after others have come in their place; `now()` gives seconds."""

    def __init__(
        self, name: str, server: KeyServer, changed: Callable[[], None], now: Callable[[], float] = time
    ) -> None:
        self.name = name
        self.failing = False
        self._server = server
        self._changed = changed
        self._now = now
        self._keys: KeySet | None = None
        self._fresh = 0.0  # seconds that they were said to be
        self._got_at = 0.0
        self._asked_at = 0.0
        self._retry = _FIRST_RETRY
        self._flight: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def keys(self) -> KeySet | None:
        """What is known, unless it is too old."""
        return self._keys if self._now() < self._got_at + STALE else None

    async def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """The key that a token names, None where there is none. Raises NoKeys where nobody knows."""
        keys = self.keys
        if keys is None:
            await self._ask(_FIRST_RETRY)
            keys = self.keys
            if keys is None:
                raise NoKeys
        found = keys.find(key_id, algorithm)
        if found is None:  # it may be a new one
            await self._ask(ASK_AGAIN)
            keys = self.keys or keys
            found = keys.find(key_id, algorithm)
        return found

    async def _ask(self, apart: float) -> None:
        """Fetch, unless that was done within the last `apart` seconds; wait for whoever is at it already."""
        if self._flight is None:
            if self._now() < self._asked_at + apart:
                return
            self._asked_at = self._now()
            self._flight = asyncio.create_task(self._refresh())
        await asyncio.shield(self._flight)

    async def _refresh(self) -> None:
        try:
            data, fresh = await self._server.fetch()
            keys = parse_keys(data)
        except (OSError, ValueError, TransportError, TimeoutError) as error:
            if not self.failing:
                log.error("keys of an issuer cannot be had", issuer=self.name, error=_words(error))
            self.failing = True
        else:
            if self.failing:
                log.info("keys of an issuer are back", issuer=self.name)
            self.failing = False
            before, self._keys = self._keys, keys
            self._got_at, self._fresh = self._now(), fresh
            if before is not None and before != keys:
                self._changed()
        finally:
            self._flight = None

    def start(self) -> None:
        """Fetch them now, and from time to time."""
        work = every(self._pause, partial(self._ask, 0.0), "fetching keys failed", at_once=True)
        self._keeper = asyncio.create_task(work)

    def _pause(self) -> float:
        """Seconds until they are fetched again."""
        if self._keys is not None and not self.failing:
            self._retry = _FIRST_RETRY
            return self._fresh / 2
        retry, self._retry = self._retry, min(2 * self._retry, _LAST_RETRY)
        return retry

    async def close(self) -> None:
        tasks = [task for task in (self._keeper, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.aclose()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
