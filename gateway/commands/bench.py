"""`gateway bench`: what a request and an event cost, side by side with nginx."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from typing import Annotated

import typer

from gateway.commands.terminal import steps
from gateway.config.checks import without_password
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


def _redis(context: typer.Context, url: str) -> str:
    """Refuses a password among the arguments, which everybody on this machine can see."""
    source = context.get_parameter_source("redis")
    if without_password(url) != url and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("has a password; give the URL in the environment variable GATEWAY_BENCH_REDIS")
    return url


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, max=300, help="Seconds for one measure of one subject.")] = 5.0,
    upstream: Annotated[Upstream, typer.Option(help="Canned answers, or the simulated API.")] = Upstream.static,
    tls: Annotated[bool, typer.Option(help="Measure streams from a TLS upstream too.")] = True,
    nginx: Annotated[bool, typer.Option(help="Measure nginx too, where there is one.")] = True,
    streams: Annotated[int, typer.Option(min=1, max=5000, help="Streams at a time.")] = 300,
    redis: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="GATEWAY_BENCH_REDIS",
            callback=_redis,
            help="An empty database; left empty. Default: embedded. One with a password by the environment alone.",
        ),
    ] = "",
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
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything started is ended
    try:
        with steps(_count(settings), lines=True) as step:
            report = run(settings, step)
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


def _count(settings: Settings) -> int:
    """Roughly how many steps there will be: starting things, and each measure."""
    wanted = {"memory": 1, "json": 1, "latency": 2 if settings.does("json") else 3, "sse": 2 if settings.tls else 1}
    return 2 + sum(number for measure, number in wanted.items() if settings.does(measure))
