"""What `gateway demo` tells people: the setting before, the bars while it runs, the table after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gateway.lab.demo.plan import TURNS, Plan
from gateway.lab.demo.world import ACCOUNTS, POOL

KEPT, RANDOM = "kept together", "at random"


class Run(msgspec.Struct, frozen=True):
    """One of the two runs, in numbers. Money in US dollars, times in seconds, None where nothing was streamed."""

    requests: int
    input_tokens: int
    cache_read_share: float
    input_usd: float
    output_usd: float
    upstream_429: int
    client_429: int
    ttft_p50: float | None
    ttft_p95: float | None
    wall_seconds: float


class Comparison(msgspec.Struct, frozen=True):
    """Both runs and what they had in common. The limit is an organization's; saved is input cost."""

    seed: int
    conversations: int
    model: str
    accounts: int
    workspaces: int
    organizations: int
    input_tokens_per_minute: int
    affinity: Run
    random: Run
    saved_usd: float
    saved_share: float

    @classmethod
    def of(cls, plan: Plan, affinity: Run, random: Run) -> Comparison:
        saved = random.input_usd - affinity.input_usd
        return cls(
            plan.seed, len(plan.conversations), plan.model.id, ACCOUNTS, ACCOUNTS, ACCOUNTS, plan.limit,
            affinity, random, round(saved, 4), round(saved / random.input_usd, 4),
        )  # fmt: skip


def introduce(console: Console, plan: Plan) -> None:
    """Say what is about to happen, with the numbers that decide it."""
    price = plan.model.price
    fresh, written, read = (f"${nano / 1000:.2f}" for nano in (price.input, price.write_5m, price.read))
    rows = (
        ("Conversations", f"{len(plan.conversations):,} of {TURNS[0]} to {TURNS[1]} turns over HTTP, twice"),
        ("Accounts", POOL),
        ("Limit", f"{plan.limit:,} input tokens a minute for each, reads excepted"),
        ("Model", plan.model.id),
        ("Input prices", f"{fresh} a million tokens, {written} written to a cache, {read} read"),
        (KEPT.capitalize(), "one X-Conversation-Id for each conversation"),
        (RANDOM.capitalize(), "a fresh X-Conversation-Id per request: each is placed as new"),
    )
    width = max(len(name) for name, _ in rows)
    console.print(Text("What is it worth to keep a conversation on one account?", style="bold"))
    console.print()
    for name, value in rows:
        console.print(Text.assemble((name.ljust(width), "dim"), "  ", value), soft_wrap=True)
    console.print()


@contextlib.contextmanager
def bars(console: Console, plan: Plan) -> Iterator[Callable[[bool, int], None]]:
    """Two progress bars for as long as the context lasts, on a terminal; yields what `compare` reports to."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = [progress.add_task(name, total=plan.requests, start=False) for name in (KEPT, RANDOM)]

        def report(wander: bool, answered: int) -> None:
            if not answered:
                progress.start_task(tasks[wander])
            progress.update(tasks[wander], completed=answered)

        yield report


def conclude(console: Console, found: Comparison) -> None:
    """The table, and what it comes to."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column()
    table.add_column(KEPT.capitalize(), justify="right", style="green")
    table.add_column(RANDOM.capitalize(), justify="right")
    for name, show in _ROWS:
        table.add_row(name, show(found.affinity), show(found.random))
    console.print(table)
    console.print()
    kept, wandering = found.affinity, found.random
    refusals = wandering.client_429 - kept.client_429
    console.print(
        Text(
            f"Keeping each conversation on one account saved ${found.saved_usd:.2f} of ${wandering.input_usd:.2f} of "
            f"input cost ({found.saved_share:.0%})" + (f" and {refusals:,} refusals." if refusals > 0 else "."),
            style="bold",
        ),
        soft_wrap=True,
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


_ROWS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("Requests", lambda run: f"{run.requests:,}"),
    ("Input tokens", lambda run: f"{run.input_tokens:,}"),
    ("  read from a cache", lambda run: f"{run.cache_read_share:.1%}"),
    ("Input cost", lambda run: f"${run.input_usd:,.2f}"),
    ("Output cost", lambda run: f"${run.output_usd:,.2f}"),
    ("429s that accounts answered", lambda run: f"{run.upstream_429:,}"),
    ("429s that clients saw", lambda run: f"{run.client_429:,}"),
    ("Time to first token, p50", lambda run: _seconds(run.ttft_p50)),
    ("Time to first token, p95", lambda run: _seconds(run.ttft_p95)),
    ("Wall time", lambda run: f"{run.wall_seconds:.1f} s"),
)
