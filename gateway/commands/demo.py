"""`gateway demo`: what affinity is worth, measured on simulated accounts in less than a minute."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import msgspec
import typer

from gateway.lab.demo.world import DemoError, check_store


def demo(
    conversations: Annotated[int, typer.Option(min=1, help="How many conversations.")] = 200,
    seed: Annotated[int, typer.Option(help="What is said, and where it is placed.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Hold the same conversations twice, kept on one account each and placed at random, and compare the bills."""
    try:
        check_store()
        _demo(conversations, seed, as_json)
    except DemoError as error:
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from None


def _demo(conversations: int, seed: int, as_json: bool) -> None:
    # Here, as no other command should wait for what they import.
    from rich.console import Console

    from gateway.lab.demo.plan import make_plan
    from gateway.lab.demo.report import bars, conclude, introduce

    out, messages = Console(highlight=False), Console(stderr=True, highlight=False)
    plan = make_plan(seed, conversations)
    if not as_json:
        introduce(out, plan)
    with bars(messages, plan) as progress:
        from gateway.lab.demo.run import compare

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it starts is ended by it
        found = compare(plan, progress)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        conclude(out, found)
