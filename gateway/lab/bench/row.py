"""A figure of every side for each round, and what is wanted of the gateway's."""

from __future__ import annotations

from statistics import median
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True):
    """`figures` are by side and round, in `unit`. Wanted of the gateway are `most` of them, and `ratio` to nginx at
    most. `generator` is what the load generator used beside each side, percent of a CPU."""

    title: str
    unit: str
    figures: dict[str, list[float]]
    most: float | None = None
    ratio: float | None = None
    generator: dict[str, float] = {}

    def ratios(self, side: str) -> list[float]:
        """The gateway's figure by that of another side in the same round, none where there is no such side."""
        pairs = zip(self.figures["gateway"], self.figures.get(side, ()), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs > 0]

    @property
    def met(self) -> bool | None:
        """Whether the medians are what is wanted, None where nothing is or can be said."""
        pairs = (self.figures["gateway"], self.most), (self.ratios("nginx"), self.ratio)
        checks = [median(values) <= wanted for values, wanted in pairs if values and wanted is not None]
        return all(checks) if checks else None

    def plain(self) -> dict[str, Any]:
        """For programs."""
        others = [name for name in self.figures if name != "gateway"]
        return {
            "title": self.title,
            "unit": self.unit,
            "figures": {name: spread(values) for name, values in self.figures.items()},
            "ratios": {name: spread(them) for name in others if (them := self.ratios(name))},
            "wanted": {"most": self.most, "ratio": self.ratio},
            "met": self.met,
            "generator_percent": self.generator,
        }


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": values}
