"""The accounts as this process serves them: credentials, connections, slots, and the ring they stand in.

It answers who may serve a model and in which order; it does not judge answers and never waits but for a slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase

from gateway.config import Account as AccountConfig
from gateway.config import Config
from gateway.core.document import Entry, PoolDocument
from gateway.core.ring import Ring
from gateway.upstream.provider import Provider
from gateway.upstream.registry import PROVIDERS, open_transport
from gateway.upstream.transport import Origin, Timeouts, Transport

SLOT_WAIT = 2.0  # seconds a request waits for a slot of its account
_MATCH_CACHE = 4096


def entry_of(account: AccountConfig) -> Entry:
    """An account of the configuration as the pool document holds it."""
    return Entry(account.id, account.workspace, account.organization, account.weight, account.models)


class Account:
    """One upstream account in this process. `in_flight` counts its leases."""

    def __init__(self, config: AccountConfig, provider: Provider, transport: Transport, slots: int | None) -> None:
        self.id = config.id
        self.tag = config.id.encode()
        self.workspace = config.workspace
        self.provider = provider
        self.transport = transport
        self.slots = slots
        self.in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Account {self.id} in_flight={self.in_flight} waiting={len(self._queue)}>"

    def lease_now(self) -> Lease | None:
        """A slot without waiting, None if the account is full."""
        if self.full:
            return None
        self.in_flight += 1
        return Lease(self)

    async def lease(self, wait: float = SLOT_WAIT) -> Lease | None:
        """A slot, first come first served; None if none came free within `wait` seconds."""
        if self.full:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                async with asyncio.timeout(wait):
                    await turn  # whoever wakes us hands its slot over
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self.release()
                elif turn in self._queue:
                    self._queue.remove(turn)
                if isinstance(error, TimeoutError):
                    return None
                raise
            return Lease(self)
        self.in_flight += 1
        return Lease(self)

    @property
    def full(self) -> bool:
        """Whether a lease would have to wait."""
        return self.slots is not None and (self.in_flight >= self.slots or bool(self._queue))

    def release(self) -> None:
        """Give one slot back, or on to the next in the queue."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1


class Lease:
    """One slot of an account, given back exactly once."""

    __slots__ = ("_account",)

    def __init__(self, account: Account) -> None:
        self._account: Account | None = account

    def release(self) -> None:
        account, self._account = self._account, None
        if account is not None:
            account.release()


class Pool:
    """This process's view of the pool. `ring` is replaced whole when the pool document changes."""

    def __init__(self, config: Config) -> None:
        timeouts = Timeouts(config.timeouts.connect, config.timeouts.first_byte, config.timeouts.idle)
        self._transports: dict[Origin, Transport] = {}
        self.accounts: dict[str, Account] = {}
        for each in config.accounts:
            origin = Origin.parse(each.base_url, ca_file=each.ca_file, proxy=each.proxy, http2=each.http2)
            if origin not in self._transports:
                self._transports[origin] = open_transport(origin, timeouts)
            slots = None if each.max_concurrency is None else max(1, each.max_concurrency // config.workers)
            provider = PROVIDERS[each.provider](each.api_key)
            self.accounts[each.id] = Account(each, provider, self._transports[origin], slots)
        self._serves: dict[tuple[str, str], bool] = {}
        self._vanished: dict[tuple[str, str], bool] = {}
        self.apply(PoolDocument(0, tuple(sorted(entry_of(each) for each in config.accounts))))

    def apply(self, document: PoolDocument) -> None:
        """Route over this document from now on."""
        self.ring = Ring(document)
        self._serves.clear()
        self._vanished.clear()

    def eligible(self, entry: Entry, model: str) -> Account | None:
        """The account if it may serve `model` ("" for any) and this process holds its credential."""
        account = self.accounts.get(entry.id)
        if account is None or entry.state == "disabled":
            return None
        known = self._serves.get((entry.id, model))
        if known is None:
            known = not model or any(fnmatchcase(model, pattern) for pattern in entry.models)
            if len(self._serves) < _MATCH_CACHE:
                self._serves[entry.id, model] = known
        return account if known else None

    def placed(self, key: bytes, model: str) -> str | None:
        """The workspace that a conversation nobody remembers should get; None if none may serve it."""
        for workspace in self.ring.rank(key):
            if self.within(workspace, key, model) is not None:
                return workspace
        return None

    def within(self, workspace: str, key: bytes, model: str) -> Account | None:
        """The account of `workspace` that serves `key`; None if none of them may."""
        for entry in self.ring.members(workspace, key):
            account = self.eligible(entry, model)
            if account is not None:
                return account
        return None

    def candidates(self, workspace: str | None, key: bytes, model: str) -> Iterator[Account]:
        """Everyone who may serve, the bound workspace's accounts first, then by rank. Lazy: the first is cheap."""
        if workspace is not None:
            for entry in self.ring.members(workspace, key):
                account = self.eligible(entry, model)
                if account is not None:
                    yield account
        for entry in self.ring.order(key):
            if entry.workspace != workspace:
                account = self.eligible(entry, model)
                if account is not None:
                    yield account

    def offers(self, model: str) -> bool:
        """Whether any account of the pool is meant to serve `model` ("" for any)."""
        return any(self.eligible(entry, model) is not None for entry in self.ring.accounts.values())

    def vanished(self, workspace: str, model: str) -> bool:
        """Whether no account of `workspace` can serve `model` again as things stand: removed or disabled."""
        known = self._vanished.get((workspace, model))
        if known is None:
            known = not any(
                entry.state != "disabled" and any(fnmatchcase(model, pattern) for pattern in entry.models)
                for entry in self.ring.members(workspace, b"\0")
            )
            if len(self._vanished) < _MATCH_CACHE:
                self._vanished[workspace, model] = known
        return known

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()
