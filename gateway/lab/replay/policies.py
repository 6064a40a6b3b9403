"""The policies that `gateway replay` knows, by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from gateway.lab.replay.policy import Account, Factory, Policy
from gateway.lab.replay.strawmen import Hash, Random, RoundRobin, StickyCooldown

PRODUCTION = "gateway"
STRAWMEN: dict[str, Factory] = {made.name: made for made in (Random, RoundRobin, Hash, StickyCooldown)}


def factories() -> dict[str, Factory]:
    """In the order in which they are shown."""
    found = {PRODUCTION: _production} if find_spec("gateway.lab.replay.production") is not None else {}
    return {**found, **STRAWMEN}


def _production(accounts: Sequence[Account], ttl: float, seed: int) -> Policy:
    from gateway.lab.replay.production import Production

    return Production(accounts, ttl, seed)
