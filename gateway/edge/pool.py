"""The accounts as this process serves them: credentials, connections and slots.

It does not choose among them: the router does. It does not judge answers, and never waits but for a slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from gateway.config import Account as AccountConfig
from gateway.config import Config
from gateway.core.document import Entry
from gateway.edge.head import HeaderList
from gateway.upstream.provider import Provider
from gateway.upstream.registry import PROVIDERS, open_transport
from gateway.upstream.transport import Origin, Timeouts, Transport

SLOT_WAIT = 2.0  # seconds a request waits for a slot of its account
_MAX_NOTES = 64
_IDENTITY = (b"anthropic-organization-id", b"anthropic-workspace-id")

log = structlog.get_logger("gateway.pool")


def entry_of(account: AccountConfig) -> Entry:
    """An account of the configuration as the pool document holds it."""
    return Entry(
        account.id, account.workspace, account.organization, account.weight, account.models, account.state,
        account.drain_until or 0.0,
    )  # fmt: skip


class Account:
    """One upstream account in this process. `in_flight` counts its leases, `slots` bounds them (None: not at all);
    `notes` are its answers' latest headers about limits, for operators."""

    def __init__(self, config: AccountConfig, provider: Provider, transport: Transport) -> None:
        self.id = config.id
        self.tag = config.id.encode()
        self.slots: int | None = None
        self.in_flight = 0
        self.notes: dict[bytes, bytes] = {}
        self.note_at = 0.0  # when to look at them again (monotonic)
        self.tell_at = 0.0  # when to tell others of them again
        self._queue: deque[asyncio.Future[None]] = deque()
        self.take(config, provider, transport)

    def take(self, config: AccountConfig, provider: Provider, transport: Transport) -> None:
        """Serve as this configuration says from now on."""
        self.config = config
        self.workspace = config.workspace
        self.provider = provider
        self.transport = transport

    def __repr__(self) -> str:
        return f"<Account {self.id} in_flight={self.in_flight} waiting={len(self._queue)}>"

    def resize(self, slots: int | None) -> None:
        """Another number of slots; what is leased beyond it comes back in its own time."""
        self.slots = slots
        while self._queue and (slots is None or self.in_flight < slots):
            turn = self._queue.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

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
        if self.slots is None or self.in_flight <= self.slots:
            while self._queue:
                turn = self._queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self.in_flight -= 1

    def note(self, headers: HeaderList) -> None:
        """Keep what an answer said of the account's limits and identity."""
        notes = self.notes
        for name, value in headers:
            if name in notes or len(notes) < _MAX_NOTES:
                notes[name] = value


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
    """The accounts whose credentials this process holds, over one transport for each origin. `share` is how many
    worker processes, of every replica, divide an account's slots."""

    def __init__(self, config: Config) -> None:
        self.accounts: dict[str, Account] = {}
        self._transports: dict[tuple[Origin, Timeouts], Transport] = {}
        self._share = config.workers
        self._seen: dict[bytes, dict[str, str]] = {name: {} for name in _IDENTITY}
        self.configure(config, ())

    def configure(self, config: Config, kept: Iterable[str]) -> list[str]:
        """Follow a new configuration; returns the accounts whose credential or address is another than before. Accounts
        that it no longer has stay while they are among `kept`: the agreed pool still names them."""
        renewed = []
        timeouts = Timeouts(config.timeouts.connect, config.timeouts.first_byte, config.timeouts.idle)
        accounts: dict[str, Account] = {}
        for each in config.accounts:
            origin = Origin.parse(each.base_url, ca_file=each.ca_file, proxy=each.proxy, http2=each.http2)
            transport = self._transports.get((origin, timeouts))
            if transport is None:
                transport = self._transports[origin, timeouts] = open_transport(origin, timeouts)
            provider = PROVIDERS[each.provider](each.api_key)
            account = self.accounts.get(each.id)
            if account is None:
                account = Account(each, provider, transport)
            else:
                if account.config.api_key != each.api_key or account.transport is not transport:
                    renewed.append(each.id)
                account.take(each, provider, transport)
            accounts[each.id] = account
        for name in kept:
            if name in self.accounts and name not in accounts:
                accounts[name] = self.accounts[name]
        self.accounts = accounts
        self.divide(self._share)
        return renewed

    def retire(self, kept: Iterable[str], configured: Iterable[str]) -> None:
        """Let go of accounts that are neither configured nor named by the agreed pool any more."""
        wanted = {*kept, *configured}
        if not wanted.issuperset(self.accounts):
            self.accounts = {name: account for name, account in self.accounts.items() if name in wanted}

    def divide(self, share: int) -> None:
        """Split every account's slots over this many worker processes."""
        self._share = max(1, share)
        for account in self.accounts.values():
            most = account.config.max_concurrency
            account.resize(None if most is None else max(1, most // self._share))

    def free(self, account: str) -> bool:
        """Whether an account has a slot now."""
        found = self.accounts.get(account)
        return found is None or not found.full

    def check_identity(self, account: Account, headers: HeaderList) -> None:
        """Compare the organization and workspace that an answer names with those of the configuration: accounts that
        are configured as one must be one, and others must not. One warning for each account that differs."""
        for name, value in headers:
            seen = self._seen.get(name)
            if seen is None or seen.get(account.id) == (told := value.decode("latin-1")):
                continue
            seen[account.id] = told
            what = "organization" if name == _IDENTITY[0] else "workspace"
            own = getattr(account.config, what)
            for other, its in seen.items():
                if other == account.id or other not in self.accounts:
                    continue
                theirs = getattr(self.accounts[other].config, what)
                if (its == told) != (theirs == own):
                    log.warning(
                        f"the configured {what}s do not match what the upstream says",
                        accounts=sorted((account.id, other)), configured_as="same" if theirs == own else "different",
                        hint=f"accounts of one {what} need the same {what} in gateway.yaml, others different ones",
                    )  # fmt: skip
                    break

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def readable_notes(account: Account) -> dict[str, str]:
    """An account's latest headers about its limits, as text."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in account.notes.items()}
