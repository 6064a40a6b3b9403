"""Who may call: by the configuration's `keys` and by what was made at run time, as a supervisor tells its workers.

It decides nothing: `core.spending.keyring` does.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.config.schema import Budget, Caller, CallerLimits, KeyPolicy, Team
from gateway.core.spending.keyring import CallerRecord, Keyring, Stored, TeamRecord

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Stored).decode


def keyring_of(
    configured: Iterable[Caller], stored: Stored, teams: Iterable[Team] = (), now: float = 0.0
) -> Keyring[Caller]:
    """Who may call by the configuration's `keys` and `teams` and by what was made at run time; `now` in ms."""
    return Keyring(configured, stored, caller_of, {team.id for team in teams}, now)


def caller_of(name: str, record: CallerRecord) -> Caller | None:
    """The caller that a record describes; None where its limits are none that this version knows: nobody shall spend
    more than was meant."""
    limits = limits_of(record.limits)
    if limits is None:
        return None
    principal = f"{name}\0{record.again}" if record.again else None
    return Caller(
        id=name, principal=principal, team=record.team, models=record.models, limits=limits, metadata=record.metadata
    )


def limits_of(recorded: dict[str, object]) -> CallerLimits | None:
    """The limits of a record; None where they are none that this version knows."""
    try:
        limits = msgspec.convert(recorded, CallerLimits)
    except msgspec.ValidationError:
        return None
    budget = recorded.get("budget_usd", {})
    known = recorded.keys() <= set(CallerLimits.__struct_fields__)
    return limits if known and isinstance(budget, dict) and budget.keys() <= set(Budget.__struct_fields__) else None


def teams_of(configured: Iterable[Team], stored: Stored) -> dict[str, Team]:
    """The teams there are, by id: those of the configuration, and others made at run time. Those whose record makes no
    sense to this version have no money."""
    made = {name: team_of(name, record) for name, record in stored.present_teams.items()}
    return made | {team.id: team for team in configured}


def team_of(name: str, record: TeamRecord) -> Team:
    """The team that a record describes."""
    limits = limits_of(record.limits)
    if limits is None:
        limits = CallerLimits(budget_usd=Budget(day=0.0))
    try:
        policy = msgspec.convert(record.key_policy, KeyPolicy)
    except msgspec.ValidationError:
        policy = KeyPolicy(max_keys=1)
    return Team(
        id=name, name=record.name, models=record.models, limits=limits, key_policy=policy, metadata=record.metadata
    )


def boosts_of(stored: Stored, now: float) -> dict[tuple[str, str], float]:
    """US dollars that callers and teams, as (kind, id), may spend more at `now` (ms)."""
    found: dict[tuple[str, str], float] = {}
    for boost in stored.boosts.values():
        if boost.counts(now):
            place = boost.kind, boost.whose
            found[place] = found.get(place, 0.0) + boost.usd
    return found
