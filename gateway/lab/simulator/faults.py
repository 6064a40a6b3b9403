"""Trouble on command: which faults are set and whom they strike.

What each kind does is the business of `trouble`; this module holds, matches and uses them up.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from gateway.lab.simulator.trouble import CHANGES, EARLY, REPLACES, TEXTUAL

__all__ = ["Fault", "Faults", "parse"]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`value` depends on `kind`: a status, seconds, a number of events or bytes. None as a filter matches all.

    `times` is how often it strikes (None: until reset). `retry_after` seconds belong to `status`, `message` and
    `error_code` (at a cloud: the name of an exception or a status) to that and to `error_mid_stream`; `after="ping"`
    puts a ping before a first-event error, `after="head"` lets silence follow the head; `reset` ends a cut with a TCP
    reset instead of a FIN.
    """

    kind: str
    value: float | str | None = None
    account: str | None = None
    model: str | None = None
    path: str | None = None
    times: int | None = None
    retry_after: float | None = None
    message: str | None = None
    error_code: str | None = None
    after: Literal["ping", "head"] | None = None
    reset: bool = False

    def __post_init__(self) -> None:
        if self.kind not in REPLACES and self.kind not in CHANGES and self.kind not in EARLY:
            raise ValueError(f"unknown fault {self.kind!r}")
        if self.kind not in TEXTUAL and isinstance(self.value, str):
            try:
                self.value = float(self.value)
            except ValueError:
                raise ValueError(f"fault {self.kind!r} takes a number, not {self.value!r}") from None

    @property
    def number(self) -> float:
        """The value as a number, 0 if there is none."""
        return self.value if isinstance(self.value, (int, float)) else 0.0

    def fits(self, account: str | None, model: str | None, path: str | None) -> bool:
        """Whether a request of this account, model id and path is struck."""
        return (
            (self.account is None or self.account == account)
            and (self.model is None or self.model == model)
            and (self.path is None or self.path == path)
        )


class Faults:
    """The faults that are set, oldest first."""

    def __init__(self) -> None:
        self._set: list[Fault] = []
        self.early = False

    def __len__(self) -> int:
        return len(self._set)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._set)

    def add(self, kind: str | Fault, value: float | str | None = None, **fields: object) -> Fault:
        """Sets a fault, e.g. `add("status", 429, account="sim-account-1", retry_after=2, times=1)`.

        `ValueError` or `TypeError` for one that does not exist or does not fit.
        """
        fault = kind if isinstance(kind, Fault) else msgspec.convert({"kind": kind, "value": value, **fields}, Fault)
        self._set.append(fault)
        self._look()
        return fault

    def clear(self, account: str | None = None) -> None:
        """Removes all faults, or those of one account."""
        self._set = [fault for fault in self._set if account is not None and fault.account != account]
        self._look()

    def remove(self, fault: Fault) -> None:
        """Takes back one fault; nothing happens if it is used up already."""
        self._set = [other for other in self._set if other is not fault]
        self._look()

    def take(self, account: str | None, model: str | None, path: str | None) -> Fault | None:
        """The oldest fault that fits, used up once."""
        return self._take(fault for fault in self._set if fault.kind not in EARLY and fault.fits(account, model, path))

    def take_early(self, account: str | None) -> Fault | None:
        """The oldest fault that strikes before the request is read; account None is a connection just accepted."""
        early = (fault for fault in self._set if fault.kind in EARLY)
        if account is None:
            return self._take(fault for fault in early if fault.account is None)
        return self._take(fault for fault in early if fault.account == account)

    def _take(self, fitting: Iterable[Fault]) -> Fault | None:
        for fault in fitting:
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.remove(fault)
            return fault
        return None

    def _look(self) -> None:
        self.early = any(fault.kind in EARLY for fault in self._set)


def parse(header: str) -> list[Fault]:
    """The faults of an in-band header: JSON (an object or a list), or `kind`, `kind=value`, joined by commas.

    `ValueError` if it is none of these.
    """
    text = header.strip()
    if text[:1] in ("{", "["):
        data = msgspec.json.decode(text)
        return msgspec.convert(data if isinstance(data, list) else [data], list[Fault])
    made = []
    for item in text.split(","):
        kind, _, value = item.strip().partition("=")
        made.append(Fault(kind=kind, value=value or None))
    return made
