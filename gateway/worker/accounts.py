"""The accounts as this process serves them: credentials, connections and slots.

It does not choose among them: the router does. It does not judge answers, and never waits but for a slot. Whose turn
it is for a slot, `core/spending/fair.py` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from fnmatch import fnmatchcase
from functools import cached_property, partial
from hashlib import blake2b
from math import inf

from gateway import log
from gateway.config.rules import moment_text
from gateway.config.schema import Account as AccountConfig
from gateway.config.schema import Config, catalogue_of
from gateway.core.routing.capabilities import Capabilities, Verdict
from gateway.core.routing.document import Entry
from gateway.core.routing.provider_names import ProviderNames
from gateway.core.routing.stated_limits import Stated
from gateway.core.spending.fair import FairQueue
from gateway.core.spending.pricing import Catalogue
from gateway.data import load_capabilities, load_provider_names
from gateway.listen.client import HeaderList
from gateway.upstream.credential import Credential, Fixed
from gateway.upstream.provider import Provider
from gateway.upstream.registry import open_transport
from gateway.upstream.settings import AccountNames, Settings
from gateway.upstream.transport import Origin, Timeouts, Transport

SLOT_WAIT = 2.0  # seconds a request waits for a slot of its account
QUANTUM = 16_000.0  # tokens that a tenant's turn in an account's queue is worth
_MAX_NOTES = 64
_TELL_AGAIN = 60.0  # seconds between two lines in the log about refusals of one status
_IDENTITY = (b"anthropic-organization-id", b"anthropic-workspace-id")

_NO_NAMES = AccountNames(ProviderNames("", (), {}), lambda model: model, {})

_Waiter = tuple[str, asyncio.Future[None]]  # a tenant, and what tells that a slot is handed over


def entry_of(account: AccountConfig) -> Entry:
    """An account of the configuration as the pool document holds it."""
    return Entry(
        account.id, account.workspace, account.organization, account.weight, account.models, account.state,
        account.drain_until or 0.0,
    )  # fmt: skip


class Account:
    """One upstream account in this process. `in_flight` counts its leases, `slots` bounds them (None: not at all);
    `notes` are its answers' latest headers about limits, for operators. No slot is free while somebody waits."""

    def __init__(self, config: AccountConfig, provider: Provider, transport: Transport) -> None:
        self.id = config.id
        self.tag = config.id.encode()
        self.credential = ""  # what its key is called among processes
        self.access: tuple[object, ...] = ()  # what that is made of
        self.refused_at: dict[int, float] = {}  # by status: when a refusal is logged again
        self.standing: tuple[str, float | None] = "", None  # of its credential: trouble and expiry, as last seen
        self.slots: int | None = None
        self.in_flight = 0
        self.notes: dict[bytes, bytes] = {}
        self.note_at = 0.0  # when to look at them again (monotonic)
        self.tell_at = 0.0  # when to tell others of them again
        self._held: dict[str, int] = {}  # leases of each tenant that has some or waits
        self._queue: FairQueue[_Waiter] = FairQueue(QUANTUM)
        self.config = config
        self.capabilities = _capabilities(config)  # None: it serves whatever is asked
        self.take(config, provider, transport)

    def take(self, config: AccountConfig, provider: Provider, transport: Transport) -> None:
        """Serve as this configuration says from now on."""
        if _limited(config) != _limited(self.config):
            self.capabilities = _capabilities(config)
        self.config = config
        self.workspace = config.workspace
        self.renames = config.provider != "anthropic"  # models may have other names there
        self.list_prices = not self.renames and config.price_factor is None  # it costs what Anthropic's do
        self.provider = provider
        self.transport = transport

    def __repr__(self) -> str:
        return f"<Account {self.id} in_flight={self.in_flight} waiting={self._queue.size}>"

    def factor(self, model: str) -> float:
        """How many times the list's price a model costs here."""
        own = self.config.price_factor
        return self.provider.premium(model) if own is None else own

    def tell_refusal(self, model: str, status: int, reason: str, now: float) -> None:
        """Log why a cloud refuses what was asked, which no client sees; of each reason by status once in a while."""
        if now >= self.refused_at.get(status, 0.0):
            self.refused_at[status] = now + _TELL_AGAIN
            log.warning("a cloud refuses", account=self.id, model=model, status=status, reason=reason)

    def resize(self, slots: int | None) -> None:
        """Another number of slots; what is leased beyond it comes back in its own time."""
        self.slots = slots
        while (slots is None or self.in_flight < slots) and self._hand_on():
            self.in_flight += 1

    def lease_now(self, tenant: str = "") -> Lease | None:
        """A slot without waiting, None if the account is full."""
        if self.slots is not None and self.in_flight >= self.slots:
            return None
        self.in_flight += 1
        held = self._held
        held[tenant] = held[tenant] + 1 if tenant in held else 1
        return Lease(self, tenant)

    async def lease(
        self, wait: float = SLOT_WAIT, tenant: str = "", cost: float = 0.0, batch: bool = False
    ) -> Lease | None:
        """A slot. Where none is free, tenants take turns by `cost` in estimated tokens (0: unknown), interactive
        requests before `batch`. None if none came free within `wait` seconds; at once if too many wait already."""
        lease = self.lease_now(tenant)
        if lease is not None:
            return lease
        turn = asyncio.get_running_loop().create_future()
        waiter = tenant, turn
        if not self._queue.push(tenant, cost, waiter, batch):
            return None
        self._held.setdefault(tenant, 0)
        try:
            async with asyncio.timeout(wait):
                await turn  # whoever wakes us hands its slot over
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(tenant)
            else:
                self._queue.remove(waiter)
                self._forget(tenant)
            if isinstance(error, TimeoutError):
                return None
            raise
        return Lease(self, tenant)

    @property
    def full(self) -> bool:
        """Whether a lease would have to wait."""
        return self.slots is not None and self.in_flight >= self.slots

    def release(self, tenant: str = "") -> None:
        """Give one slot back, or on to whose turn it is."""
        held = self._held
        left = held[tenant] - 1
        if left:
            held[tenant] = left
        else:
            del held[tenant]
        if self._queue.size:
            if not left and self._queue.waits(tenant):
                held[tenant] = 0
            if (self.slots is None or self.in_flight <= self.slots) and self._hand_on():
                return
        self.in_flight -= 1

    def _hand_on(self) -> bool:
        """Hand a free slot over; False if nobody waits. A tenant that has its part of the slots already, of as many
        equal ones as there are tenants, lets the others have theirs first."""
        held = self._held
        most = inf if self.slots is None else max(1, self.slots // max(1, len(held)))
        while (waiter := self._queue.pop(held, most)) is not None:
            tenant, turn = waiter
            if not turn.done():  # else it was cancelled, but has not run since
                held[tenant] += 1
                turn.set_result(None)
                return True
        return False

    def _forget(self, tenant: str) -> None:
        """A tenant that neither has nor waits for a slot is not there."""
        if not self._held.get(tenant, 1) and not self._queue.waits(tenant):
            del self._held[tenant]

    def note(self, headers: HeaderList) -> None:
        """Keep what an answer said of the account's limits and identity."""
        notes = self.notes
        for name, value in headers:
            if name in notes or len(notes) < _MAX_NOTES:
                notes[name] = value


class Lease:
    """One slot of an account that a tenant has, given back exactly once."""

    __slots__ = ("_account", "_tenant")

    def __init__(self, account: Account, tenant: str) -> None:
        self._account: Account | None = account
        self._tenant = tenant

    def release(self) -> None:
        account, self._account = self._account, None
        if account is not None:
            account.release(self._tenant)


class Pool:
    """The accounts whose credentials this process holds, over one transport for each origin. `processes` is how many
    worker processes, of every replica, divide an account's slots."""

    def __init__(self, config: Config) -> None:
        self.accounts: dict[str, Account] = {}
        self._transports: dict[tuple[Origin, Timeouts], Transport] = {}
        self._processes = config.workers
        self._running = False
        self._credentials: dict[int, Credential] = {}  # that are being kept, by identity
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: dict[bytes, dict[str, str]] = {name: {} for name in _IDENTITY}
        self.configure(config, ())

    def configure(self, config: Config, kept: Iterable[str]) -> list[str]:
        """Follow a new configuration; returns the accounts whose credential or address is another than before. Accounts
        that it no longer has stay while they are among `kept`: the agreed pool still names them."""
        renewed = []
        timeouts = Timeouts(config.timeouts.connect, config.timeouts.first_byte, config.timeouts.idle)
        accounts: dict[str, Account] = {}
        names = _Names(config)
        secret = config.secret[0].encode()[:64]
        for each in config.accounts:
            origin = Origin.parse(each.base_url, ca_file=each.ca_file, proxy=each.proxy, http2=each.http2)
            transport = self._transports.get((origin, timeouts))
            if transport is None:
                transport = self._transports[origin, timeouts] = open_transport(origin, timeouts)
            account = self.accounts.get(each.id)
            settings = _settings(each, origin, names)
            access = each.provider, *settings.access
            same = account is not None and account.access == access
            credential = account.provider.credential if account and same else each.row.credential(settings)
            provider = each.row.open(settings, credential)
            if account is None:
                account = Account(each, provider, transport)
            else:
                if not same or account.transport is not transport:
                    renewed.append(each.id)
                account.take(each, provider, transport)
            account.access = access
            account.credential = blake2b(repr(access).encode(), digest_size=8, key=secret).hexdigest()
            accounts[each.id] = account
        for name in kept:
            if name in self.accounts and name not in accounts:
                accounts[name] = self.accounts[name]
        self.accounts = accounts
        self.divide(self._processes)
        self._keep_credentials()
        return renewed

    def look(self) -> list[Account]:
        """The accounts of whose credential there is news since it was last looked at."""
        found = []
        for account in self.accounts.values():
            credential = account.provider.credential
            trouble, expires = credential.trouble, credential.expires_at
            if (trouble, expires) == account.standing:
                continue
            account.standing = trouble, expires
            found.append(account)
        return found

    async def start(self) -> None:
        """Have the credentials that must be fetched, from now on and for what is configured later. Nobody waits for
        them here."""
        self._running = True
        self._keep_credentials()

    def _keep_credentials(self) -> None:
        """Begin to fetch the credentials of new accounts, and end that for those that are gone."""
        if not self._running:
            return
        wanted = {id(each.provider.credential): each.provider.credential for each in self.accounts.values()}
        names = {id(each.provider.credential): each.id for each in self.accounts.values()}
        for known in [*self._credentials]:
            if known not in wanted:
                self._later(self._credentials.pop(known).close())
        for known, credential in wanted.items():
            if known not in self._credentials and not isinstance(credential, Fixed):
                self._credentials[known] = credential
                self._later(credential.start(partial(_log_credential, names[known])))

    async def forget_credentials(self) -> None:
        """Fetch none any more."""
        self._running = False
        for task in [*self._tasks]:
            task.cancel()
        credentials, self._credentials = self._credentials, {}
        for credential in credentials.values():
            await credential.close()

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def retire(self, kept: Iterable[str], configured: Iterable[str]) -> None:
        """Let go of accounts that are neither configured nor named by the agreed pool any more."""
        wanted = {*kept, *configured}
        if not wanted.issuperset(self.accounts):
            self.accounts = {name: account for name, account in self.accounts.items() if name in wanted}

    def divide(self, processes: int) -> None:
        """Split every account's slots over this many worker processes."""
        self._processes = max(1, processes)
        for account in self.accounts.values():
            most = account.config.max_concurrency
            account.resize(None if most is None else max(1, most // self._processes))

    @property
    def processes(self) -> int:
        """Worker processes, of every gateway, that divide slots and limits."""
        return self._processes

    @property
    def credentials(self) -> dict[str, str]:
        """The accounts, with a name for the credential of each that tells nothing of it but whether it is the same."""
        return {name: account.credential for name, account in self.accounts.items()}

    @property
    def partial(self) -> dict[str, Callable[[str, str], bool]]:
        """The accounts whose provider does not serve everything, with what tells whether it serves an endpoint, by its
        name, for a model."""
        return {
            name: account.provider.serves for name, account in self.accounts.items() if not account.provider.complete
        }

    @property
    def capabilities(self) -> dict[str, Capabilities]:
        """What accounts serve of a request, of those that may lack something."""
        accounts = self.accounts.items()
        return {name: account.capabilities for name, account in accounts if account.capabilities is not None}

    def stated(self, catalogue: Catalogue) -> dict[tuple[str, str], Stated]:
        """The limits that the configuration states, by organization and class of models: this process's share. The
        first that names a class counts."""
        found: dict[tuple[str, str], Stated] = {}
        for account in self.accounts.values():
            for row in account.config.limits:
                share = row.share(self._processes, account.config.row.reserves)
                for model in catalogue:
                    if any(fnmatchcase(name, pattern) for name in model.names for pattern in row.models):
                        found.setdefault((account.config.organization, model.limit_class), share)
        return found

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
        await self.forget_credentials()
        for transport in self._transports.values():
            await transport.aclose()


class _Names:
    """What models are called, over all accounts of a configuration; read where an account needs it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogue_of(self._config)

    @cached_property
    def table(self) -> ProviderNames:
        return load_provider_names()

    def canonical(self, model: str) -> str:
        found = self.catalogue.find(model)
        return model if found is None else found.id


def _settings(account: AccountConfig, origin: Origin, names: _Names) -> Settings:
    """What the provider of an account needs to know of it."""
    if account.provider == "anthropic":
        return Settings(names=_NO_NAMES, api_key=account.api_key)
    return Settings(
        names=AccountNames(names.table, names.canonical, account.model_names),
        host=origin.authority,
        prefix=origin.prefix,
        api_key=account.api_key,
        region=account.region,
        api=account.api,
        profile=account.profile,
        aws_account=account.aws_account,
        aws=None if account.aws is None else account.aws.keys,
        project=account.project,
        google=account.credentials,
        entra=None if account.entra is None else account.entra.app,
        workspace_id=account.workspace_id,
    )


def _limited(account: AccountConfig) -> tuple[object, ...]:
    """What says what an account serves."""
    return account.kind, account.capabilities, account.betas


def _capabilities(account: AccountConfig) -> Capabilities | None:
    if account.provider == "anthropic" and not account.capabilities:
        return None
    own = {need: Verdict(word) for need, word in account.capabilities.items()}
    return Capabilities(load_capabilities(), account.kind, own, account.betas == "strict")


def _log_credential(account: str, trouble: str) -> None:
    if trouble:
        log.warning("a credential cannot be had anew", account=account, reason=trouble)
    else:
        log.info("a credential is at hand", account=account)


def readable_notes(account: Account) -> dict[str, str]:
    """An account's latest headers about its limits, as text, and what is known of a credential that is fetched."""
    trouble, expires = account.standing
    known = {} if expires is None else {"credential-expires": moment_text(round(expires))}
    if trouble:
        known["credential-trouble"] = trouble
    return known | {name.decode("latin-1"): value.decode("latin-1") for name, value in account.notes.items()}
