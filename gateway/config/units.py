"""Units that a number of the configuration may be written in: `90s` for seconds, `32mb` for MiB.

It knows no key. A number alone is of the key's own unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal


class Unit:
    """What a number is of, `name`, and what its suffixes are worth, by suffix in lower case."""

    def __init__(self, name: str, examples: tuple[str, ...], worth: Mapping[str, float]) -> None:
        self.name = name
        self.examples = examples
        words = "|".join(sorted(worth, key=len, reverse=True))
        self.pattern = rf"(?:[0-9]{{1,15}}(?:\.[0-9]{{1,9}})? ?(?:{words}))+"
        self._part = re.compile(rf"([0-9.]+) ?({words})")
        self._worth = {suffix: Decimal(str(value)) for suffix, value in worth.items()}

    def read(self, text: str) -> float | None:
        """The number that a text such as `90s` or `1h30m` means; None for one that is none."""
        text = text.lower()
        if not re.fullmatch(self.pattern, text):
            return None
        return float(sum(Decimal(amount) * self._worth[suffix] for amount, suffix in self._part.findall(text)))


_BYTES = {f"{letter}{rest}": 1024**power for power, letter in enumerate("kmgt", 1) for rest in ("", "b", "ib")}
_TIMES = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
SECONDS = Unit("seconds", ("90s", "5m", "1h"), _TIMES)
MEBIBYTES = Unit("MiB", ("32mb", "512kb", "1gb"), {suffix: size / 1024**2 for suffix, size in _BYTES.items()})
KIBIBYTES = Unit("KiB", ("64kb", "1mb"), {suffix: size / 1024 for suffix, size in _BYTES.items()})
SHARE = Unit("a share from 0 to 1", ("10%",), {"%": 0.01})
