"""`gateway bench`: what a request and an event cost, side by side with nginx."""

from __future__ import annotations

import signal
import sys
import time
from enum import StrEnum
from typing import Annotated

import typer

from gateway.lab.bench.plan import Settings
from gateway.lab.bench.processes import BenchError


class Upstream(StrEnum):
    static = "static"
    simulator = "simulator"


class Only(StrEnum):
    json = "json"
    sse = "sse"
    latency = "latency"
    memory = "memory"


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, max=300, help="Seconds for one measure of one subject.")] = 5.0,
    upstream: Annotated[Upstream, typer.Option(help="Canned answers, or the simulated API.")] = Upstream.static,
    tls: Annotated[bool, typer.Option(help="Measure streams from a TLS upstream too.")] = True,
    nginx: Annotated[bool, typer.Option(help="Measure nginx too, where there is one.")] = True,
    streams: Annotated[int, typer.Option(min=1, max=5000, help="Streams at a time.")] = 300,
    redis: Annotated[str, typer.Option(metavar="URL", help="An empty database; left empty. Default: embedded.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    only: Annotated[Only | None, typer.Option(help="Measure just this.")] = None,
) -> None:
    """Measure the gateway on this machine; takes about two minutes. A missed target is a result, not a failure."""
    if sys.platform != "linux":
        typer.echo("bench: it reads CPU time from Linux; run it there, or in a container", err=True)
        raise typer.Exit(2)
    # Here, because `gateway serve` loads this module too and should be ready soon.
    from rich.console import Console

    from gateway.lab.bench.report import show
    from gateway.lab.bench.run import run

    settings = Settings(
        seconds=seconds,
        upstream=upstream.value,
        tls=tls,
        nginx=nginx,
        streams=streams,
        redis=redis,
        only=only.value if only is not None else "",
    )
    began = time.monotonic()

    def progress(text: str) -> None:
        typer.echo(f"{time.monotonic() - began:5.0f} s  {text}", err=True)

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything started is ended
    try:
        report = run(settings, progress)
    except (BenchError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if json:
        typer.echo(report.json().decode())
    else:
        show(report, Console())
    for failure in report.failures:
        typer.echo(f"bench: failed: {failure}", err=True)
    if report.failures:
        raise typer.Exit(1)
