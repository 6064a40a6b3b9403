"""What commands print with and read: tables for people, a bar for long work, lengths of time. It knows no command.

Data goes to stdout, messages and bars to stderr. rich leaves colours out by itself where there is no terminal, or
where NO_COLOR is set.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from gateway.config.units import SECONDS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 500  # columns where there is no terminal: a row stays one line, which grep finds
PAGE = 120  # columns of what is laid out to be read as a whole, where there is no terminal

_GAP, _INDENT = "  ", "    "
Step = Callable[[str], None]
"""Is told what is done next."""


def duration(text: str) -> float:
    """Seconds of an option such as `90`, `30m`, `24h`, `30d` or `2w`."""
    found = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) else SECONDS.read(text)
    if found is None:
        raise typer.BadParameter("must be a length of time such as 90s, 30m, 24h, 30d or 2w")
    return found


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


def print_rows(
    columns: Mapping[str, int], rows: Sequence[Sequence[str]], notes: Sequence[str], width: int = WIDTH
) -> None:
    """A table whose rows are one line each, and below each row its note, as many lines as that takes; no wider than the
    terminal, or `width` where there is none. `columns` are heads and how much of each column is shown at least, 0 for
    all of it; what is left of a line goes to the first that want more, and the rest of a text is cut. Where there is
    not even so much, the last columns are left out."""
    width = shutil.get_terminal_size((width, 0)).columns if sys.stdout.isatty() else width
    wanted = [max(len(text) for text in each) for each in zip(columns, *rows, strict=True)]
    sizes = [min(want, least or want) for want, least in zip(wanted, columns.values(), strict=True)]
    while len(sizes) > 1 and sum(sizes) + len(_GAP) * (len(sizes) - 1) > width:
        sizes.pop()
    left = width - sum(sizes) - len(_GAP) * (len(sizes) - 1)
    for index, want in enumerate(wanted[: len(sizes)]):
        more = max(0, min(want - sizes[index], left))
        sizes[index] += more
        left -= more
    for row, note in zip((list(columns), *rows), ("", *notes), strict=True):
        cells = (f"{text[: size - 1]}…" if len(text) > size else text.ljust(size) for text, size in zip(row, sizes))  # noqa: B905
        typer.echo(_GAP.join(cells).rstrip())
        for part in textwrap.wrap(note, width - len(_INDENT)):
            typer.echo(f"{_INDENT}{part}")


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
