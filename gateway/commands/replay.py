"""`gateway replay`: what the routing rules are worth on recorded or synthetic requests, beside the alternatives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from gateway.commands.terminal import steps

if TYPE_CHECKING:
    from gateway.lab.replay.events import Event
    from gateway.lab.replay.policy import Factory
    from gateway.lab.replay.run import Report, Settings

_WIDTH = 120  # columns where no terminal says how many it has
NO_MATPLOTLIB = "--plot needs matplotlib: pip install 'conversation-gateway[plot]', or matplotlib"


class _WrongUse(Exception):
    """The arguments do not go together; the message says what to do."""


def replay(
    trace: Annotated[
        Path | None, typer.Argument(metavar="TRACE", help="Requests in Mooncake's form, .jsonl or .jsonl.gz.")
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Made-up agents instead of a trace.")] = False,
    accounts: Annotated[int | None, typer.Option(help="How many. Default: 10, synthetic 8.")] = None,
    clouds: Annotated[
        int, typer.Option(help="So many more at each cloud, most of which do not say what is left of limits.")
    ] = 0,
    ttl: Annotated[float, typer.Option(help="Seconds a cached prefix lives.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of placements and synthetic agents.")] = 1,
    seeds: Annotated[int, typer.Option(help="Replay so many seeds, and show the worst of each figure too.")] = 1,
    tight: Annotated[bool, typer.Option("--tight", help="Limits of 1.3 x what the oracle needs.")] = False,
    events: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON list of what happens meanwhile, or none.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one, or those with commas. Default: all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    decisions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each request's account, one JSON object a line.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the run minute by minute.")] = None,
) -> None:
    """Replay a stream of requests through the routing rules and a simulated pool, under a virtual clock."""
    # Here, as no other command should wait for what they import.
    from gateway.lab.replay.events import EventsError
    from gateway.lab.replay.policies import factories
    from gateway.lab.replay.pool import PolicyError
    from gateway.lab.replay.run import Settings
    from gateway.lab.replay.trace import TraceError

    try:
        chosen = _chosen(factories(), policy or [])
        decided = _decided(chosen) if decisions is not None else ""
        happens, events_from = _events(events)
        settings = Settings(
            trace=_source(trace, synthetic),
            accounts=_at_least(1, "--accounts", accounts if accounts is not None else 8 if synthetic else 10),
            clouds=_at_least(0, "--clouds", clouds),
            ttl=_above_zero("--ttl", ttl),
            seed=_at_least(0, "--seed", seed),
            seeds=_at_least(1, "--seeds", seeds),
            tight=tight,
            events=happens,
            events_from=events_from,
        )
        for path in (decisions, plot):
            _check_writable(path)
        if plot is not None and importlib.util.find_spec("matplotlib") is None:
            _stop(NO_MATPLOTLIB, 1)
        report = _run(settings, chosen)
        if decisions is not None:
            rows = report.decisions(decided)
            decisions.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    except (_WrongUse, EventsError, TraceError) as error:
        _stop(str(error), 2)
    except PolicyError as error:
        _stop(str(error), 1)
    except OSError as error:
        _stop(f"{error.filename or decisions or trace}: {error.strerror}", 1)
    except OverflowError:
        _stop("a number is too large: of a seed, or of tokens in the trace", 2)
    _show(report, as_json, plot)


def _run(settings: Settings, chosen: dict[str, Factory]) -> Report:
    from gateway.lab.replay.run import run

    oracles = 1 if settings.trace is not None else settings.seeds
    with steps(settings.seeds * len(chosen) + oracles) as step:
        return run(settings, chosen, step)


def _show(report: Report, as_json: bool, plot: Path | None) -> None:
    from rich.console import Console

    from gateway.lab.replay.report import show

    if plot is not None:
        from gateway.lab.replay.plot import plot as draw

        found = report.parameters()
        try:
            draw(report.outcomes[0], f"gateway replay: {found['source']}, seed {found['seed']}", plot)
        except OSError as error:
            _stop(f"{plot}: {error.strerror}", 1)
    if as_json:
        typer.echo(msgspec.json.encode(report.plain()).decode())
    else:
        console = Console()
        show(report, console if console.is_terminal else Console(width=_WIDTH))


def _source(trace: Path | None, synthetic: bool) -> Path | None:
    if (trace is None) != synthetic:
        raise _WrongUse("name a trace, or use --synthetic" if trace is None else "--synthetic goes without a trace")
    return trace


def _chosen(known: dict[str, Factory], policies: list[str]) -> dict[str, Factory]:
    names = [name for given in policies for name in given.split(",")]
    for name in names:
        if name not in known:
            raise _WrongUse(f"no policy {name!r}; there are {', '.join(known)}")
    return {name: factory for name, factory in known.items() if not names or name in names}


def _decided(chosen: dict[str, Factory]) -> str:
    """Whose decisions are written."""
    from gateway.lab.replay.policies import PRODUCTION

    if PRODUCTION in chosen:
        return PRODUCTION
    if len(chosen) > 1:
        raise _WrongUse("--decisions are of one policy; choose it with --policy")
    return next(iter(chosen))


def _events(source: str | None) -> tuple[tuple[Event, ...] | None, str]:
    from gateway.lab.replay.events import load

    if source is None:
        return None, "events"
    return (() if source == "none" else tuple(load(Path(source)))), source


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise _WrongUse(f"{name} must be at least {least}")
    return value


def _above_zero(name: str, value: float) -> float:
    if value <= 0:
        raise _WrongUse(f"{name} must be above 0")
    return value


def _check_writable(path: Path | None) -> None:
    """So that nobody waits for a result that cannot be written."""
    if path is None:
        return
    try:
        path.open("ab").close()
    except OSError as error:
        raise _WrongUse(f"{path}: {error.strerror}; name a file that can be written") from None


def _stop(message: str, code: int) -> None:
    typer.echo(f"replay: {message}", err=True)
    raise typer.Exit(code) from None
