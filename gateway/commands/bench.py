"""`gateway bench`: what a request and an event cost, side by side with nginx."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from gateway.commands.terminal import console, steps
from gateway.config.checks import without_password
from gateway.lab.bench.plan import MEASURES, Settings
from gateway.lab.bench.processes import BenchError

_ALL = "all"
_USUAL = [name for name in MEASURES if name != "streams"]


def _redis(context: typer.Context, url: str) -> str:
    """Refuses a password among the arguments, which everybody on this machine can see."""
    source = context.get_parameter_source("redis")
    if without_password(url) != url and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("has a password; give the URL in the environment variable GATEWAY_BENCH_REDIS")
    return url


def _measures(text: str) -> str:
    if text == _ALL:
        return ",".join(MEASURES)
    unknown = [name for name in text.split(",") if name not in MEASURES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(MEASURES)}")
    return text


def _peer(url: str) -> str:
    if url and not url.startswith("http://"):
        raise typer.BadParameter("must begin with http://")
    return url


def bench(
    rows: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            callback=_measures,
            help=f"What to measure: {_ALL}, or some of {', '.join(MEASURES)}. Default: all but streams, which takes "
            "2 GB and a minute.",
            show_default=False,
        ),
    ] = ",".join(_USUAL),
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds through all sides in turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds for one side in one round.")] = 4.0,
    streams: Annotated[int, typer.Option(min=1, max=100_000, help="Streams to hold open for `streams`.")] = 10_000,
    peer: Annotated[
        str,
        typer.Option(metavar="URL", callback=_peer, help="Put this server of this machine beside them."),
    ] = "",
    peer_key: Annotated[
        str, typer.Option(metavar="KEY", envvar="GATEWAY_BENCH_PEER_KEY", help="The x-api-key that the peer takes.")
    ] = "sk-bench",
    upstream_port: Annotated[
        int, typer.Option(min=0, max=65_000, help="Where the upstream of a peer listens; the TLS one is next to it.")
    ] = 0,
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
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown.")] = False,
) -> None:
    """Measure the gateway on this machine beside nginx; takes about three minutes.

    A missed target is a result; a bad answer is a failure."""
    if sys.platform != "linux":
        typer.echo("bench: it reads CPU time from Linux; run it there, or in a container", err=True)
        raise typer.Exit(2)
    # Here, because `gateway serve` loads this module too and should be ready soon.
    from gateway.lab.bench.run import run

    settings = Settings(
        measures=tuple(rows.split(",")),
        rounds=rounds,
        seconds=seconds,
        streams=streams,
        redis=redis,
        peer=peer,
        peer_key=peer_key,
        upstream_port=upstream_port,
    )
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything started is ended
    try:
        with steps(len(settings.measures) + 2, lines=True) as step:
            report = run(settings, step)
    except (BenchError, OSError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if json:
        typer.echo(report.json().decode())
    elif markdown:
        typer.echo(report.markdown())
    else:
        report.show(console())
    trouble = list(report.trouble())
    for line in trouble:
        typer.echo(f"bench: {line}", err=True)
    if trouble:
        raise typer.Exit(1)
