"""A picture of a replay: how each policy fares from minute to minute, with the events marked.

Needs matplotlib, which only the extra `plot` installs; nothing else here imports this module.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateway.lab.replay.engine import Run
from gateway.lab.replay.figures import Totals, Yardstick, window_peaks
from gateway.lab.replay.run import Outcome

BIN = 60.0  # seconds
_LINES = {"gateway": ("tab:blue", 2.4), "hash": ("tab:orange", 1.3), "sticky_cooldown": ("tab:red", 1.3)}
Series = list[tuple[float, float]]  # minutes, value


def plot(outcome: Outcome, title: str, path: Path) -> None:
    """Write a PNG. Raises OSError if the file cannot be written."""
    figure = Figure(figsize=(11, 12), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    labels = (
        "cache reads ÷ oracle's (R)",
        "input cost ÷ oracle's (C)",
        "peak to mean, each minute",
        "429s from upstream, each minute",
    )
    for panel, text in zip(panels, labels, strict=True):
        panel.set_ylabel(text, fontsize=9)
        panel.grid(alpha=0.3)
        for event in outcome.events:
            panel.axvline(event.at / 60, color="0.6", linewidth=0.8, linestyle=":")
    for name, run in outcome.runs.items():
        color, width = _LINES.get(name, (None, 0.9))
        reads, costs = ratios(run, outcome.yard)
        peaks = [(start / 60, peak) for start, peak in window_peaks(run, outcome.yard)]
        for panel, series in zip(panels, (reads, costs, peaks, refusals(run)), strict=True):
            panel.plot(*_columns(series), label=name, color=color, linewidth=width)
    panels[0].legend(loc="lower right", ncols=len(outcome.runs), fontsize=8)
    panels[3].set_yscale("symlog", linthresh=1)
    panels[3].set_ylim(bottom=0)
    panels[3].set_xlabel("minutes")
    panels[3].set_xlim(0, max(request.at for request in outcome.yard.requests) / 60 + 1)
    _mark(panels[0], outcome)
    figure.suptitle(title, x=0.01, ha="left")
    figure.savefig(path, format="png", dpi=110)


def ratios(run: Run, yard: Yardstick) -> tuple[Series, Series]:
    """R and C of the requests that were due in each minute."""
    places: dict[int, list[int]] = {}
    for place, request in enumerate(yard.requests):
        places.setdefault(int(request.at // BIN), []).append(place)
    reads, costs = [], []
    for number, members in sorted(places.items()):
        totals = Totals.of(run.served[place] for place in members)
        ratio, cost = totals.ratios(Totals.of(yard.run.served[place] for place in members))
        reads.append((number * BIN / 60, ratio))
        costs.append((number * BIN / 60, cost))
    return reads, costs


def refusals(run: Run) -> Series:
    """429s by the minute in which their requests arrived."""
    counts: dict[int, int] = {}
    for served in run.served:
        number = int(served.arrived // BIN)
        counts[number] = counts.get(number, 0) + served.limited
    return [(number * BIN / 60, float(counts.get(number, 0))) for number in range(max(counts) + 1)]


def _columns(series: Series) -> tuple[list[float], list[float]]:
    return [at for at, _ in series], [value for _, value in series]


def _mark(panel: Axes, outcome: Outcome) -> None:
    """Write the events above the first panel."""
    for event in outcome.events:
        panel.annotate(
            f"{event.event} {event.account or ''}".strip(),
            (event.at / 60, 1.02),
            xycoords=("data", "axes fraction"),
            rotation=60,
            fontsize=7,
            color="0.35",
        )
