"""What commands print with: tables for people, a bar for long work. It knows no command.

Data goes to stdout, messages and bars to stderr. rich leaves colours out by itself where there is no terminal, or
where NO_COLOR is set.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 500  # columns where there is no terminal: a row stays one line, which grep finds

Step = Callable[[str], None]
"""Is told what is done next."""


def console() -> Console:
    """For data, on stdout. Nothing in a text is taken for markup."""
    from rich.console import Console  # here, as everywhere in commands: `gateway serve` should be ready soon

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)


def plain_table(*columns: str, keep: tuple[str, ...] = ()) -> Table:
    """A table without lines; `keep` names the columns that are never folded."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold", no_wrap=column in keep)
    return table


@contextlib.contextmanager
def steps(total: int, lines: bool = False) -> Iterator[Step]:
    """A bar on stderr over about `total` steps, each begun by calling what this gives. Where stderr is no terminal,
    nothing is shown, or with `lines` one line a step."""
    if not sys.stderr.isatty():
        began = time.monotonic()
        yield lambda text: typer.echo(f"{time.monotonic() - began:5.0f} s  {text}", err=True) if lines else None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    shown = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*shown, console=Console(stderr=True, markup=False), transient=True) as progress:
        task = progress.add_task("starting", total=total)
        begun = 0

        def step(text: str) -> None:
            nonlocal begun
            begun += 1
            progress.update(task, description=text, completed=begun - 1, total=max(total, begun))

        yield step
