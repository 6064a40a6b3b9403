"""What came of a run: a table for people, one in Markdown, one object for programs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.lab.bench.plan import Settings
from gateway.lab.bench.row import Row

_SIDES = ("gateway", "nginx", "peer")
_FULL = 90.0  # percent of a CPU: what has used so much of one may have been what was measured


class Report(msgspec.Struct):
    """All of a run. `problem` is what was the matter with the first of the `bad` answers."""

    version: str
    machine: dict[str, Any]
    settings: Settings
    seconds: float
    rows: list[Row]
    good: int
    bad: int
    problem: str
    notes: list[str]
    failures: list[str]

    def json(self) -> bytes:
        """One object; the store's URL and the peer's key are left out."""
        settings = msgspec.structs.replace(self.settings, redis="given" if self.settings.redis else "", peer_key="")
        plain = msgspec.structs.replace(self, settings=settings, rows=[])
        rows = [row.plain() for row in self.rows]
        return msgspec.json.encode(_rounded({**msgspec.to_builtins(plain), "rows": rows}))

    def markdown(self) -> str:
        """The table and what it was measured on."""
        head, *lines = _cells(self)
        rule = ["---", *["--:"] * (len(head) - 1)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
        return "\n".join((table, "", *(f"{line}  " for line in _about(self))))

    def show(self, console: Console) -> None:
        """Print everything for people."""
        head, *lines = _cells(self)
        table = Table(box=None, pad_edge=False)
        for title in head:
            table.add_column(title, justify="right" if title else "left", no_wrap=not title)
        for row, cells in zip(self.rows, lines, strict=True):
            table.add_row(*cells, style={True: "green", False: "yellow", None: ""}[row.met])
        console.print(table)
        for line in _about(self):
            console.print(line, highlight=False, markup=False)

    def trouble(self) -> Iterator[str]:
        """What makes a failure of the run."""
        for failure in self.failures:
            yield f"failed: {failure}"
        if self.bad:
            answers = self.bad + self.good
            yield f"BAD ANSWERS: {self.bad:,} of {answers:,}; trust none of the figures. The first: {self.problem}"


def _cells(report: Report) -> Iterator[list[str]]:
    """The head, then the rows."""
    sides = [name for name in _SIDES if any(name in row.figures for row in report.rows)]
    yield ["", *sides, *(f"to {name}" for name in sides[1:]), "wanted", "load generator"]
    for row in report.rows:
        figures = [_spread(row.figures.get(name, []), f" {row.unit}") for name in sides]
        ratios = [_spread(row.ratios(name), "x") for name in sides[1:]]
        wanted = f"≤ {row.ratio:g}x" if row.ratio is not None else f"≤ {row.most:g} {row.unit}" if row.most else ""
        busy = " / ".join(f"{row.generator[name]:.0f}" for name in sides if name in row.generator)
        yield [row.title, *figures, *ratios, wanted, busy and f"{busy} %"]


def _spread(values: list[float], unit: str) -> str:
    """The median, and the least and the greatest of several."""
    if not values:
        return ""
    ends = f" ({_number(min(values))}–{_number(max(values))})" if len(values) > 1 else ""
    return f"{_number(median(values))}{unit}{ends}"


def _about(report: Report) -> Iterator[str]:
    machine = report.machine
    servers = [machine["store"], *([f"nginx {machine['nginx']}"] if "nginx" in machine else [])]
    cores = f"{machine['usable_cores']} of {machine['cores']} cores"
    yield f"{machine['cpu']}, {cores}, load {machine['load_average']} before"
    yield ", ".join([machine["kernel"], machine["python"], *servers])
    yield ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield (
        f"{report.settings.rounds} rounds of {report.settings.seconds:g} s for each side, medians (least to greatest); "
        f"{report.seconds:.0f} s in all; {report.good:,} good answers, {report.bad:,} bad"
    )
    for row in report.rows:
        for name, busy in row.generator.items():
            if busy >= _FULL:
                yield f"note: {row.title}: the load generator, at {busy:.0f} % of a CPU, held {name} back"
    for note in report.notes:
        yield f"note: {note}"
    yield from report.trouble()


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
