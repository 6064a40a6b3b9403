"""The figures beside their targets and beside nginx's: a table for people, one object for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from gateway.lab.bench.plan import Settings

Figures = dict[str, Any]


class Kind(msgspec.Struct, frozen=True):
    """A row to be: where its figure is found, its target (at most, in the row's unit) and that of its ratio."""

    title: str
    unit: str
    path: tuple[str, ...]  # measure, perhaps its part, then - after the subject's name - the figure
    target: float | None = None
    ratio: float | None = None
    nginx: bool = True


KINDS = (
    Kind("JSON request: CPU", "µs", ("json", "cpu_us_per_request"), 190, 8.5),
    Kind("JSON requests", "/s", ("json", "requests_per_second")),
    Kind("JSON request: store CPU", "µs", ("json", "store_cpu_us_per_request"), nginx=False),
    Kind("SSE event: CPU", "µs", ("sse", "cpu_us_per_event"), 48, 2.3),
    Kind("  of it: each event", "µs", ("sse", "fit_us_per_event")),
    Kind("  of it: each stream", "µs", ("sse", "fit_us_per_stream")),
    Kind("SSE event, TLS: CPU", "µs", ("sse_tls", "cpu_us_per_event"), 70, 2.3),
    Kind("  of it: each event", "µs", ("sse_tls", "fit_us_per_event")),
    Kind("  of it: each stream", "µs", ("sse_tls", "fit_us_per_stream")),
    Kind("added p50, open loop", "ms", ("latency", "open", "added_p50_ms"), 0.5),
    Kind("added p99, open loop", "ms", ("latency", "open", "added_p99_ms"), 2.0),
    Kind("added p50, 1 at a time", "ms", ("latency", "closed_1", "added_p50_ms")),
    Kind("added p99, 1 at a time", "ms", ("latency", "closed_1", "added_p99_ms")),
    Kind("added p50, 32 at a time", "ms", ("json", "added_p50_ms")),
    Kind("added p99, 32 at a time", "ms", ("json", "added_p99_ms")),
    Kind("10 MB body: stall", "ms", ("stall", "stall_ms"), 20),
    Kind("open stream: memory", "kB", ("memory", "kb_per_stream")),
    Kind("10,000 streams: memory", "MB", ("memory", "mb_of_10000_streams_in_2_workers"), 1000),
    Kind("start to ready", "s", ("start", "seconds"), 2.0, nginx=False),
)


class Row(msgspec.Struct, frozen=True):
    """A figure of the gateway; `met` is whether all its targets are, None where there are none."""

    title: str
    unit: str
    measured: float
    target: float | None
    nginx: float | None
    ratio: float | None
    ratio_target: float | None
    met: bool | None


class Report(msgspec.Struct):
    """All of a run. `measures` are figures by measure, (part,) subject and name."""

    version: str
    machine: dict[str, Any]
    settings: Settings
    seconds: float
    measures: dict[str, Any]
    notes: list[str]
    failures: list[str]

    def rows(self) -> list[Row]:
        return list(rows(self.measures))

    def json(self) -> bytes:
        """One object; a password in the URL of the store is left out."""
        plain = msgspec.to_builtins(self)
        plain["settings"]["redis"] = bool(self.settings.redis)
        return msgspec.json.encode(_rounded({**plain, "rows": msgspec.to_builtins(self.rows())}))


def rows(measures: Figures) -> Iterator[Row]:
    """The rows of what was measured."""
    for kind in KINDS:
        *way, name = kind.path
        found: Figures = measures
        for step in way:
            found = found.get(step) or {}
        measured = found.get("gateway", {}).get(name)
        if measured is None:
            continue
        nginx = found.get("nginx", {}).get(name) if kind.nginx else None
        ratio = measured / nginx if nginx is not None and nginx > 0 else None
        pairs = ((measured, kind.target), (ratio, kind.ratio))
        checks = [value <= target for value, target in pairs if value is not None and target is not None]
        yield Row(
            kind.title, kind.unit, measured, kind.target, nginx, ratio, kind.ratio, all(checks) if checks else None
        )


def show(report: Report, console: Console) -> None:
    """Print everything for people."""
    table = Table(title=f"gateway {report.version}", title_justify="left", caption_justify="left")
    for title in ("", "measured", "target", "nginx", "ratio", "target"):
        table.add_column(title, justify="left" if not title else "right")
    for row in report.rows():
        style = {True: "green", False: "yellow", None: ""}[row.met]
        table.add_row(
            row.title,
            f"[{style}]{_number(row.measured)} {row.unit}[/]" if style else f"{_number(row.measured)} {row.unit}",
            f"≤ {row.target:g} {row.unit}" if row.target is not None else "",
            f"{_number(row.nginx)} {row.unit}" if row.nginx is not None else "",
            f"{row.ratio:.1f}x" if row.ratio is not None else "",
            f"≤ {row.ratio_target:g}x" if row.ratio_target is not None and row.ratio is not None else "",
        )
    console.print(table)
    console.print(_machine_line(report), highlight=False)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for failure in report.failures:
        console.print(f"failed: {failure}", highlight=False, markup=False)


def _machine_line(report: Report) -> str:
    machine = report.machine
    nginx = [f"nginx {machine['nginx']}"] if "nginx" in machine else []
    store = [machine["store"]] if "store" in machine else []
    cores = f"{machine['usable_cores']} of {machine['cores']} cores"
    parts = [
        f"{machine['cpu']}, {cores}, load {machine['load_average']} before",
        ", ".join([machine["kernel"], machine["python"], *store, *nginx]),
        ", ".join(f"{name} {version}" for name, version in machine["packages"].items()),
        f"{report.settings.upstream} upstream, {report.settings.seconds:g} s a measure, {report.seconds:.0f} s in all",
    ]
    return "\n".join(parts)


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
