"""Who may call: by the configuration's `keys` and by what was made at run time, as a supervisor tells its workers.

It decides nothing: `core.spending.keyring` does.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.config.schema import Caller, CallerLimits
from gateway.core.spending.keyring import CallerRecord, Keyring, Stored

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Stored).decode


def keyring_of(configured: Iterable[Caller], stored: Stored) -> Keyring[Caller]:
    """Who may call by the configuration's `keys` and by what was made at run time."""
    return Keyring(configured, stored, caller_of)


def caller_of(name: str, record: CallerRecord) -> Caller | None:
    """The caller that a record describes; None where its limits are none that this version knows: nobody shall spend
    more than was meant."""
    try:
        limits = msgspec.convert(record.limits, CallerLimits)
    except msgspec.ValidationError:
        return None
    if not record.limits.keys() <= set(CallerLimits.__struct_fields__):
        return None
    return Caller(id=name, team=record.team, models=record.models, limits=limits, metadata=record.metadata)
