"""The Lua scripts: each one atomic trip in one slot. In every script `now` is an argument, 0 the server's own clock."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A script's text and the SHA-1 by which the server knows it. Several calls of one that `joins` may be sent as one:
    the keys of each, `now`, and then what each has after its own `now`; its reply is an array of theirs."""

    name: str
    text: str
    sha: str
    joins: bool = False


def _load(*names: str, joins: bool = False) -> Script:
    """The script of the last name, with what the others define put before it."""
    name = names[-1]
    text = "".join(files(__package__).joinpath(f"{each}.lua").read_text() for each in names)
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest(), joins)


ADMIT = _load("numbers", "quota", "record", "admit", joins=True)
TAKE = _load("numbers", "quota", "take")
SETTLE = _load("numbers", "ledger", "record", "renewal", "settle")
RESTORE = _load("numbers", "ledger", "restore")
LEASE = _load("lease")
LEVELS = _load("numbers", "levels")
CARRY = _load("carry")
SPEND = _load("spend")
SWEEP = _load("sweep")
NOTE = _load("numbers", "note")
ENROLL = _load("enroll")
TENANT_LIST = _load("tenants")
REBIND = _load("record", "rebind")
RECALL = _load("recall")
CLAIM = _load("claim")
INSPECT = _load("inspect")
FLUSH = _load("record", "flush")
ANNOUNCE = _load("announce")
PUBLISH = _load("publish")
OVERRIDE = _load("override")
OWN = _load("own")
DISOWN = _load("disown")
HOME = _load("home")
METER = _load("meter")
KEYS = _load("keys")
