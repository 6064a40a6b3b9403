"""The simulated upstream: workspaces with caches, organizations with limits and troubles, and how long answers take.

Pure: `now` (seconds) is an argument. It answers whom it is asked to; who that is, a policy decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec

from gateway.lab.replay.cache import BlockCache
from gateway.lab.replay.events import Event
from gateway.lab.replay.policy import SILENT, Account, Answer, Request
from gateway.lab.simulator.limits import Bucket


class PolicyError(Exception):
    """A policy did what none may do: a fault of the policy, not of the stream."""


class Pace(msgspec.Struct, frozen=True):
    """How long things take. `first_token` seconds, and `prefill` new tokens a second, until a response begins; `decode`
    tokens of output a second; a refusal arrives after `refusal` seconds."""

    first_token: float = 0.8
    prefill: float = 20_000.0
    decode: float = 80.0
    refusal: float = 0.05

    def start(self, new: int) -> float:
        """Seconds from sending to the beginning of the response; `new` tokens were not read from a cache."""
        return self.first_token + new / self.prefill

    def stream(self, output: int) -> float:
        """Seconds that the response then takes."""
        return output / self.decode


class Pool:
    """The accounts of one run. `limit` is each organization's input tokens a minute, None for no limits."""

    def __init__(self, accounts: Sequence[Account], ttl: float, limit: int | None = None) -> None:
        self.accounts = {account.id: account for account in accounts}
        self.ttl = ttl
        self.limit = limit
        self._disabled: set[str] = set()
        self._caches: dict[str, BlockCache] = {}
        self._buckets: dict[str, Bucket] = {}
        self._bursts: dict[str, tuple[float, float | None]] = {}  # organization: until, retry-after
        self._overloads: dict[str | None, tuple[float, float | None]] = {}  # account, None for all

    def send(self, name: str, request: Request, now: float) -> Answer:
        """The upstream's answer to a request sent now; if it is 200, `begin` must follow when the response begins.

        Raises PolicyError for an account that is not in the pool or disabled.
        """
        answer = self._answer(name, request, now)
        if self.accounts[name].provider in SILENT:
            return msgspec.structs.replace(answer, retry_after=None, limit=None, remaining=None)
        return answer

    def _answer(self, name: str, request: Request, now: float) -> Answer:
        account = self.accounts.get(name)
        if account is None or name in self._disabled:
            state = "disabled" if account is not None else "not in the pool"
            raise PolicyError(f"request {request.index} was sent to {name} at {now:.3f} s, which is {state}")
        for trouble in (self._overloads.get(None), self._overloads.get(name)):
            if trouble is not None and now < trouble[0]:
                return Answer(529, trouble[1])
        bucket = self._bucket(account.organization, now)
        burst = self._bursts.get(account.organization)
        if burst is not None and now < burst[0]:
            pause = float(max(1, ceil(burst[0] - now))) if burst[1] is None else burst[1]
            return Answer(429, pause, *_headers(bucket, now))
        cache = self._cache(account.workspace)
        if bucket is not None:
            # Nothing is read, and so nothing refreshed, unless the request is admitted.
            wait = bucket.wait(request.input - self._tokens(request, cache.peek(request.blocks, now)), now)
            if wait > 0:
                return Answer(429, float(max(1, ceil(wait))), *_headers(bucket, now))
        read = self._tokens(request, cache.read(request.blocks, now))
        fresh = max(0, request.input - len(request.blocks) * request.block)
        if bucket is not None:
            bucket.level -= min(request.input - read, bucket.limit)  # what is larger takes all that there is
        return Answer(200, None, *_headers(bucket, now), read, request.input - fresh - read, fresh)

    def begin(self, account: Account, request: Request, now: float) -> None:
        """The response to an admitted request begins: what it wrote is readable."""
        self._cache(account.workspace).write(request.blocks, now)

    def happened(self, event: Event, now: float) -> None:
        """Apply an event; those of the store and the process change nothing here."""
        name = event.account or ""
        match event.event:
            case "add":
                self.accounts[name] = Account.added(event)
            case "remove":
                del self.accounts[name]
                self._disabled.discard(name)
            case "weight":
                self.accounts[name] = self.accounts[name]._replace(weight=event.weight or 1.0)
            case "disable":
                self._disabled.add(name)
            case "enable":
                self._disabled.discard(name)
            case "burst":
                until = now + (event.seconds or 0.0)
                self._bursts[self.accounts[name].organization] = (until, event.retry_after)
            case "overload":
                self._overloads[event.account] = (now + (event.seconds or 0.0), event.retry_after)
            case _:
                pass

    def shares(self) -> dict[str, float]:
        """The part of the pool's weight that each workspace has; they sum to 1. Disabled accounts have none."""
        weights: dict[str, float] = {}
        for account in self.accounts.values():
            if account.id not in self._disabled:
                weights[account.workspace] = weights.get(account.workspace, 0.0) + account.weight
        total = sum(weights.values())
        return {workspace: weight / total for workspace, weight in weights.items()}

    @staticmethod
    def _tokens(request: Request, blocks: int) -> int:
        return min(blocks * request.block, request.input)

    def _cache(self, workspace: str) -> BlockCache:
        found = self._caches.get(workspace)
        if found is None:
            found = self._caches[workspace] = BlockCache(self.ttl)
        return found

    def _bucket(self, organization: str, now: float) -> Bucket | None:
        if self.limit is None:
            return None
        found = self._buckets.get(organization)
        if found is None:
            found = self._buckets[organization] = Bucket(self.limit, now)
        return found


def _headers(bucket: Bucket | None, now: float) -> tuple[int | None, int | None]:
    """`limit` and `remaining` as the API's headers tell them."""
    if bucket is None:
        return None, None
    return bucket.limit, round(max(0.0, bucket.refill(now)) / 1000) * 1000
