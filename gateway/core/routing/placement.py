"""What a route knows of one request: where its conversation lives, what has come of it so far, what it has reserved."""

from __future__ import annotations

import msgspec

from gateway.core.routing.binding import Record
from gateway.core.routing.document import Entry
from gateway.core.routing.load import Loads
from gateway.core.routing.outcomes import Outcome
from gateway.core.routing.rate_limits import Domain
from gateway.core.routing.standing import Trial
from gateway.core.routing.stated_limits import Hold

LEAST_LOAD = 100.0  # tokens that a served request counts for at least, however much it reads from a cache
NONE: frozenset[str] = frozenset()


class Placement(msgspec.Struct, eq=False):
    """Where a conversation lives: `workspace` is its home, None until it has one; there it is `warm` while its cache
    lives, and `sticky` if it is warm or its first answer is on its way. `pinned` is the one workspace that may serve
    it, "" if any may. `how` is what the x-gateway-route header says, `reason` why. `now_ms` is the store's clock when
    the `record` was read."""

    workspace: str | None = None
    record: Record | None = None
    now_ms: int = 0
    how: str = "none"
    reason: str = ""
    away: str = ""  # why its home does not serve it, "" while it does
    pinned: str = ""
    created: bool = False
    warm: bool = False
    sticky: bool = False
    account_bound: bool = False
    rewritten: bool = False  # its history is not the one that is in the cache
    cached: float = 0.0  # tokens that are in the cache at home
    chosen: bool = False  # the home was chosen for its room just now
    moved: bool = False  # this request has rebound its conversation: once is enough

    @property
    def warm_for(self) -> int:
        """Milliseconds that the cache at home was still warm for when the binding was read; negative if cold."""
        return self.record.warm_until - self.now_ms if self.record is not None else 0

    def elsewhere(self, home: str, tokens: float) -> dict[str, float] | None:
        """Of the conversation's `tokens`, those that other workspaces than `home` still hold."""
        record = self.record
        if record is None or not (record.detour or record.previous):
            return None
        found: dict[str, float] = {}
        if record.previous and record.previous != home and record.previous_warm_until > self.now_ms:
            found[record.previous] = min(tokens, float(record.previous_tokens))
        if record.detour and record.detour != home and record.detour_warm_until > self.now_ms:
            found[record.detour] = max(found.get(record.detour, 0.0), min(tokens, float(record.tokens)))
        return found or None


class Suspicion(msgspec.Struct, frozen=True):
    """An answer of an account that may be its own fault, or the request's: what another account says will show.
    `features` are the optional ones of the request, `kind` names refusals alike."""

    entry: Entry
    outcome: Outcome
    features: frozenset[str] = NONE
    kind: str = ""


class Past(msgspec.Struct, eq=False):
    """What has come of a request so far."""

    attempts: int = 0
    waited: float = 0.0  # seconds, for limits
    pause: float = 0.0  # seconds until the next attempt
    again: Entry | None = None  # whom to ask once more
    trials: tuple[Trial, ...] = ()  # what it is the trial of
    insisted: bool = False  # an overloaded account was asked twice
    repeated: bool = False  # another account was asked after a failure: once is enough
    limited: frozenset[str] = NONE  # accounts that were at their limit
    suspicions: tuple[Suspicion, ...] = ()


class Reserved(msgspec.Struct, eq=False):
    """What a request has taken: of the load of the `workspace` it goes to, and of the limits of the account that was
    asked last, whose `domain` they are. `fresh` input tokens has that account to compute, `tokens` of them are reserved
    for its limit while the answer is `pending`, and it has a `hold` of limits that are stated until that has ended."""

    domain: Domain | None = None
    hold: Hold | None = None
    pending: bool = False
    fresh: float = 0.0
    tokens: float = 0.0
    workspace: str = ""
    load: float = 0.0
    load_at: float = 0.0
    sent_at: float = 0.0

    def take_load(self, loads: Loads, workspace: str, fresh: float, now: float) -> None:
        """Its load goes there from now on: whatever else chooses counts it."""
        if self.workspace:
            self.give_load(loads)
        self.workspace, self.load_at = workspace, now
        self.load = fresh if fresh > LEAST_LOAD else LEAST_LOAD
        loads.add(workspace, self.load, now)

    def give_load(self, loads: Loads) -> None:
        """Its load goes nowhere."""
        loads.correct(self.workspace, -self.load, self.load_at)
        self.workspace = ""

    def settle_hold(self, fresh: float, output: float, now: float) -> None:
        """Of stated limits it has used so many tokens of uncached input, and of output."""
        hold, self.hold = self.hold, None
        if hold is not None:
            hold.settle(fresh, output, now)
