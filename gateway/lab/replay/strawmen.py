"""What `gateway` is compared with: the four ways in which people usually spread requests over keys.

All of them leave an account alone while the retry-after of its 429 lasts, and refuse with the least time remaining when
no account is left; they differ in what they choose.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

from gateway.core.routing.document import PoolDocument
from gateway.core.routing.ring import Ring
from gateway.lab.replay.events import Event
from gateway.lab.replay.policy import Account, Answer, Refuse, Request, Send, Step

_NO_RETRY_AFTER = 5.0  # seconds, of a 429 that says nothing
_OVERLOADED = 1.0  # seconds, once every account has answered 529
_NOBODY = 5.0  # seconds, while no account is active


class Strawman:
    """What they share; a subclass picks."""

    name = ""

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        self.accounts = {account.id: account for account in accounts}
        self.moves: dict[str, int] = {}
        self.seed = seed
        self._inactive: set[str] = set()
        self._closed: dict[str, float] = {}  # account: until
        self._all_closed = 0.0  # until when every account is
        self._overloaded: dict[int, set[str]] = {}  # request: who answered it with 529
        self._served: dict[bytes, str] = {}  # conversation: its last account
        self._reasons: dict[int, str] = {}  # request under way: why that account

    def pick(self, request: Request, candidates: list[str], now: float) -> tuple[str, str]:
        """The account, of at least one candidate in the pool's order, and why it may differ from the last one."""
        raise NotImplementedError

    def begin(self, request: Request, now: float) -> Step:
        if now < self._all_closed:
            return Refuse(self._all_closed - now, everybody=True)
        tried = self._overloaded.get(request.index, ())
        closed = self._closed
        active = [name for name in self.accounts if name not in self._inactive]
        open_now = [name for name in active if closed.get(name, 0.0) <= now]
        candidates = [name for name in open_now if name not in tried] if tried else open_now
        if candidates:
            account, self._reasons[request.index] = self.pick(request, candidates, now)
            return Send(account)
        self._overloaded.pop(request.index, None)
        if open_now:
            return Refuse(_OVERLOADED)
        self._all_closed = min((closed[name] for name in active), default=now + _NOBODY)
        return Refuse(self._all_closed - now, everybody=True)

    def waited(self, request: Request, now: float) -> Step:
        raise AssertionError("no strawman waits")

    def answered(self, request: Request, account: str, answer: Answer, now: float) -> Step | None:
        if answer.status == 200:
            self._overloaded.pop(request.index, None)
            last = self._served.get(request.conversation, account)
            self._served[request.conversation] = account
            if last != account:
                reason = self._reasons[request.index]
                self.moves[reason] = self.moves.get(reason, 0) + 1
            return None
        self.trouble(request, account, answer, now)
        return self.begin(request, now)

    def trouble(self, request: Request, account: str, answer: Answer, now: float) -> None:
        """What a 429 or 529 closes."""
        if answer.status == 429:
            pause = _NO_RETRY_AFTER if answer.retry_after is None else answer.retry_after
            self._closed[account] = max(self._closed.get(account, 0.0), now + pause)
        else:
            self._overloaded.setdefault(request.index, set()).add(account)

    def finished(self, request: Request, account: str, now: float) -> None:
        self._reasons.pop(request.index, None)

    def happened(self, event: Event, now: float) -> None:
        self._all_closed = 0.0
        name = event.account or ""
        match event.event:
            case "add":
                self.accounts[name] = Account.added(event)
            case "remove":
                del self.accounts[name]
                self._inactive.discard(name)
            case "weight":
                self.accounts[name] = self.accounts[name]._replace(weight=event.weight or 1.0)
            case "drain" | "disable":
                self._inactive.add(name)
            case "enable":
                self._inactive.discard(name)
            case "restart":
                self._closed.clear()
            case _:
                pass

    def decision(self, request: Request) -> tuple[str, str]:
        return self.name, self._reasons[request.index]


class Random(Strawman):
    """Any account, each request."""

    name = "random"

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        super().__init__(accounts, ttl, seed)
        self._random = random.Random(seed)

    def pick(self, request: Request, candidates: list[str], now: float) -> tuple[str, str]:
        return self._random.choice(candidates), "chance"


class RoundRobin(Strawman):
    """One account after the other, each request."""

    name = "round_robin"

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        super().__init__(accounts, ttl, seed)
        self._turn = 0

    def pick(self, request: Request, candidates: list[str], now: float) -> tuple[str, str]:
        self._turn += 1
        return candidates[self._turn % len(candidates)], "turn"


class Hash(Strawman):
    """Plain weighted rendezvous on the conversation; the next in rank only while a 429's retry-after lasts."""

    name = "hash"

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        super().__init__(accounts, ttl, seed)
        self._key = seed.to_bytes(8, "big", signed=True)
        self._ring = self._made()
        self._orders: dict[bytes, list[str]] = {}

    def pick(self, request: Request, candidates: list[str], now: float) -> tuple[str, str]:
        order = self._orders.get(request.conversation)
        if order is None:
            key = blake2b(request.conversation, digest_size=16, key=self._key).digest()
            order = self._orders[request.conversation] = [entry.id for entry in self._ring.order(key)]
        able = set(candidates)
        chosen = next(name for name in order if name in able)
        return chosen, "home" if chosen == order[0] else "limited"

    def happened(self, event: Event, now: float) -> None:
        super().happened(event, now)
        if event.event in ("add", "remove", "weight"):
            self._ring = self._made()
            self._orders.clear()

    def _made(self) -> Ring:
        return Ring(PoolDocument(1, tuple(account.entry for account in self.accounts.values())))


class StickyCooldown(Strawman):
    """A pin in the store. Any 429 or 5xx cools the whole account for 60 s; then the least recently used one gets the
    pin."""

    name = "sticky_cooldown"
    cooldown = 60.0

    def __init__(self, accounts: Sequence[Account], ttl: float, seed: int) -> None:
        super().__init__(accounts, ttl, seed)
        self._pins: dict[bytes, str] = {}
        self._used: dict[str, int] = {}
        self._uses = 0
        self._store = True

    def pick(self, request: Request, candidates: list[str], now: float) -> tuple[str, str]:
        pinned = self._pins.get(request.conversation) if self._store else None
        if pinned in candidates:
            chosen, reason = pinned, "pinned"
        else:
            chosen = min(candidates, key=lambda name: self._used.get(name, 0))
            reason = "forgotten" if pinned is None else "cooling" if self._closed.get(pinned, 0.0) > now else "inactive"
            if self._store:
                self._pins[request.conversation] = chosen
        self._uses += 1
        self._used[chosen] = self._uses
        return chosen, reason

    def trouble(self, request: Request, account: str, answer: Answer, now: float) -> None:
        self._closed[account] = now + self.cooldown

    def happened(self, event: Event, now: float) -> None:
        super().happened(event, now)
        if event.event == "flush":
            self._pins.clear()
        elif event.event in ("store_down", "store_up"):
            self._store = event.event == "store_up"
