"""The policies that `gateway replay` knows, by name."""

from __future__ import annotations

from gateway.lab.replay.policy import Factory
from gateway.lab.replay.production import Production
from gateway.lab.replay.strawmen import Hash, Random, RoundRobin, StickyCooldown

PRODUCTION = "gateway"
STRAWMEN: dict[str, Factory] = {made.name: made for made in (Random, RoundRobin, Hash, StickyCooldown)}


def factories() -> dict[str, Factory]:
    """In the order in which they are shown."""
    return {PRODUCTION: Production, **STRAWMEN}
