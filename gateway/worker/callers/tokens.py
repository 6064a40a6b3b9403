"""Workloads that bring tokens of their own: which issuer's, whether they are right, and which caller that is.

A token that was right once is known by its digest until it ends; whose it is, until something changes that may matter,
after which it is looked at anew, wherever it comes from. Imported only where an issuer is configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Collection, Iterable
from time import time

from gateway.config.schema import Caller, Config, Issuer
from gateway.core.identity import gateway_token
from gateway.core.identity.claims import NotAdmitted, WithoutTeam, caller_id, render, unmet
from gateway.core.identity.gateway_token import Grant
from gateway.core.identity.token import Token, WrongToken, check_claims, looks_like_token, parse
from gateway.errors import ApiError
from gateway.listen.addresses import network_of
from gateway.telemetry.repeats import Repeats
from gateway.worker.callers.issuer_keys import IssuerKeys, NoKeys, Source, source_of

MOST_CALLERS = 10_000  # of an issuer at a time
MOST_KNOWN = 20_000  # tokens
MOST_WRONG = 120  # tokens a minute from one address, after which no other one that is new is looked at

# Tokens that were right, by digest: whose (None where that is to be looked at anew), and until when they count.
_Known = dict[bytes, tuple[Caller | None, float]]


class Rule:
    """One issuer of the configuration, and the callers that its tokens have made known."""

    def __init__(self, issuer: Issuer, keys: IssuerKeys) -> None:
        self.issuer = issuer
        self.keys = keys
        self._callers: dict[str, tuple[Caller, float]] = {}  # and until when a token of theirs counts

    async def check(self, token: Token, now: float) -> float:
        """Until when it counts. Raises WrongToken and NoKeys."""
        issuer = self.issuer
        until = check_claims(token.claims, issuer.audiences, now)
        if token.algorithm not in issuer.algorithms:
            raise WrongToken("The token is signed by an algorithm that its issuer may not use here.")
        key = await self.keys.find(token.key, token.algorithm)
        if key is None:
            raise WrongToken("The token is signed by a key that its issuer does not show.")
        if not key.signed(token.algorithm, token.signed, token.signature):
            raise WrongToken("The token's signature is wrong.")
        return until

    def admit(self, token: Token, teams: Collection[str], until: float, now: float) -> Caller:
        """Whose it is. Raises NotAdmitted."""
        issuer = self.issuer
        path = unmet(token.claims, issuer.require)
        if path:
            raise NotAdmitted(f"Your token does not fit what is required of its claim {path}.")
        team = None if issuer.team is None else render(issuer.team, token.claims)
        return self.caller(caller_id(issuer.id, render(issuer.caller, token.claims)), team, teams, until, now)

    def caller(self, name: str, team: str | None, teams: Collection[str], until: float, now: float) -> Caller:
        """The caller of that name and team. Raises NotAdmitted."""
        if team is not None and team not in teams:
            raise WithoutTeam("The team that your token belongs to is not defined at this gateway.")
        known = self._callers.get(name)
        if known is not None and known[0].team == team:
            self._callers[name] = known[0], max(until, known[1])
            return known[0]
        if known is None and len(self._callers) >= MOST_CALLERS:
            self._callers = {name: each for name, each in self._callers.items() if now < each[1]}
            if len(self._callers) >= MOST_CALLERS:
                raise NotAdmitted("This issuer has too many callers at this gateway.")
        caller = Caller(id=name, team=team, models=self.issuer.models, limits=self.issuer.limits)
        self._callers[name] = caller, until
        return caller


class Tokens:
    """Those of all issuers of the configuration."""

    def __init__(self, config: Config, now: Callable[[], float] = time) -> None:
        self._now = now
        self._known: _Known = {}  # the oldest first
        self._wrong = Repeats[str](60.0, lambda address, times: None, now)
        self._sources: dict[Source, IssuerKeys] = {}
        self._rules: dict[str, Rule] = {}
        self._secrets: list[bytes] = []
        self._teams: frozenset[str] = frozenset()
        self._running = False
        self._leaving: set[asyncio.Task[None]] = set()
        self.configure(config)

    # Whom it follows.

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        before, secrets = self._rules, self._secrets
        self._secrets = [gateway_token.key_of(secret) for secret in config.secret]
        wanted = {source_of(issuer): issuer.id for issuer in config.issuers}
        for source in self._sources.keys() - wanted.keys():
            task = asyncio.create_task(self._sources.pop(source).close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        for source, name in wanted.items():
            if source not in self._sources:
                keys = self._sources[source] = IssuerKeys(name, source.open(), self.forget, self._now)
                if self._running:
                    keys.start()
        self._rules = {
            issuer.id: before[issuer.id]
            if issuer.id in before and before[issuer.id].issuer == issuer
            else Rule(issuer, self._sources[source_of(issuer)])
            for issuer in config.issuers
        }
        if self._secrets != secrets or list(self._rules.values()) != list(before.values()):
            self.forget()

    def know(self, teams: Iterable[str]) -> None:
        """These teams there are."""
        teams = frozenset(teams)
        if teams != self._teams:
            self._teams = teams
            self.forget()

    def forget(self) -> None:
        """Look at every token anew."""
        self._known = {digest: (None, until) for digest, (_, until) in self._known.items()}

    @property
    def any(self) -> bool:
        """Whether there is any issuer."""
        return bool(self._rules)

    @property
    def failing(self) -> bool:
        """Whether the keys of some issuer cannot be had."""
        return any(keys.failing for keys in self._sources.values())

    def start(self) -> None:
        """Fetch the issuers' keys, and keep them fresh."""
        self._running = True
        for keys in self._sources.values():
            keys.start()

    async def close(self) -> None:
        await asyncio.gather(*self._leaving, *(keys.close() for keys in self._sources.values()))

    # Who calls.

    def find(self, digest: bytes, now: float) -> Caller | None:
        """Whose token has this SHA-256 digest, if it is known and counts at `now` (Unix seconds)."""
        found = self._known.get(digest)
        return found[0] if found is not None and now < found[1] else None

    @staticmethod
    def takes(credential: bytes) -> bool:
        """Whether it is for this module to look at."""
        return credential.startswith(gateway_token.PREFIX) or looks_like_token(credential)

    async def identify(self, token: bytes, address: str) -> Caller:
        """The caller whose token it is. Raises ApiError: 401 for a wrong token, 403 for one whose bearer is not let in,
        529 where nobody can tell, 429 for an address that has sent too many wrong ones."""
        known = self._known  # as it is now: what changes meanwhile is to be looked at anew
        caller, until = await self._look(token, None, address)
        _remember(known, token, caller, until)
        return caller

    async def exchange(self, token: bytes, rule: str | None, address: str) -> tuple[bytes, Caller]:
        """A token of the gateway's own for an issuer's, by the rule of that id or by the first that fits. Raises
        ApiError as `identify` does."""
        if token.startswith(gateway_token.PREFIX):
            raise ApiError(401, "A token of the gateway's own cannot be exchanged.")
        caller, right_until = await self._look(token, rule, address)
        until = int(self._now()) + gateway_token.LIFE
        grant = Grant(caller.id.partition("/")[0], caller.id, caller.team or "", until)
        own = gateway_token.sign(grant, self._secrets[0])
        for each, counts in ((token, right_until), (own, until)):
            _remember(self._known, each, None, counts)
        return own, caller

    async def _look(self, token: bytes, rule: str | None, address: str) -> tuple[Caller, float]:
        """Whose it is, and until when it counts. Raises ApiError."""
        network, digest = network_of(address), hashlib.sha256(token).digest()
        _, right_until = self._known.get(digest, (None, 0.0))
        new = self._now() >= right_until
        if new and self._wrong.times(network) >= MOST_WRONG:
            wait = max(1, math.ceil(self._wrong.left(network)))
            raise ApiError(429, "Too many wrong tokens came from your address.", retry_after=wait, cause="wrong_tokens")
        try:
            if token.startswith(gateway_token.PREFIX):
                return self._read_own(token)
            return await self._verify(token, rule)
        except WrongToken as error:
            if new:
                self._wrong.add(network)
            self._known.pop(digest, None)
            raise ApiError(401, str(error), cause="token") from None
        except NotAdmitted as error:
            raise ApiError(403, str(error), cause="token") from None
        except NoKeys:
            words = (
                "The gateway cannot look at this token now, as its issuer's keys cannot be had. Please try again later."
            )
            raise ApiError(529, words, retry_after=1, cause="issuer_away") from None

    def _read_own(self, token: bytes) -> tuple[Caller, float]:
        now = self._now()
        grant = gateway_token.read(token, self._secrets, now)
        rule = None if grant is None else self._rules.get(grant.rule)
        if grant is None or rule is None:
            raise WrongToken("The gateway's token has ended, or is none of this gateway's.")
        return rule.caller(grant.caller, grant.team or None, self._teams, grant.until, now), grant.until

    async def _verify(self, text: bytes, only: str | None) -> tuple[Caller, float]:
        token = parse(text)
        refused: Exception | None = None
        for rule in list(self._rules.values()):
            if rule.issuer.issuer != token.issuer or only not in (None, rule.issuer.id):
                continue
            now = self._now()
            try:
                until = await rule.check(token, now)
                return rule.admit(token, self._teams, until, now), until
            except (WrongToken, NoKeys, NotAdmitted) as error:
                if refused is None or _MEANING.index(type(error)) > _MEANING.index(type(refused)):
                    refused = error
        raise refused or WrongToken("The token's issuer is none that this gateway accepts tokens of.")


def _remember(known: _Known, token: bytes, caller: Caller | None, until: float) -> None:
    """Note that a token is right, and the caller's if one is given."""
    digest = hashlib.sha256(token).digest()
    found, _ = known.get(digest, (None, 0.0))
    if digest not in known and len(known) >= MOST_KNOWN:
        del known[next(iter(known))]
    known[digest] = caller or found, until


# Of several rules for one issuer the last of these is what the bearer is told.
_MEANING = [WrongToken, NoKeys, NotAdmitted, WithoutTeam]
