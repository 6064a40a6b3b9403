"""`gateway simulate`: the simulated upstream as a process of its own."""

import asyncio
import gc
import signal
import ssl as tls
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gateway.lab.simulator.server import Simulator
from gateway.lab.simulator.settings import Settings
from gateway.lab.simulator.world import World

__all__ = ["simulate"]


def simulate(
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes any free one.")] = "127.0.0.1:9100",
    accounts: Annotated[int, typer.Option(min=1, help="How many accounts.")] = 6,
    workspaces: Annotated[int | None, typer.Option(min=1, help="Cache domains (default: one an account).")] = None,
    organizations: Annotated[int | None, typer.Option(min=1, help="Limit domains (default: one a workspace).")] = None,
    clouds: Annotated[int, typer.Option(min=0, help="How many accounts more at each cloud.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A world as JSON or YAML, instead of the counts above.")] = None,
    ttft: Annotated[float, typer.Option(min=0, help="Seconds to the first token.")] = 0.0,
    ttft_sigma: Annotated[float, typer.Option(min=0, help="Its log-normal spread; 0 is none.")] = 0.0,
    tokens_per_second: Annotated[float, typer.Option(min=0, help="Pace of an answer; 0 is all at once.")] = 0.0,
    tokens_per_event: Annotated[int, typer.Option(min=1, help="Tokens in one streamed event.")] = 4,
    answer_tokens: Annotated[str, typer.Option(help="Length of an answer: N, or N-M chosen by its text.")] = "32",
    itpm: Annotated[int | None, typer.Option(min=1, help="Input tokens a minute for an organization.")] = None,
    otpm: Annotated[int | None, typer.Option(min=1, help="Output tokens a minute for an organization.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests a minute for an organization.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Requests served at a time; others get 529.")] = None,
    batch_seconds: Annotated[float, typer.Option(min=0, help="How long a message batch takes.")] = 0.0,
    batch_results_bytes: Annotated[int, typer.Option(min=0, help="Fill up a batch's results to this size.")] = 0,
    public_url: Annotated[str, typer.Option(help="What absolute URLs in answers begin with.")] = Settings().public_url,
    poll_seconds: Annotated[float, typer.Option(min=0, help="How long a poll for work waits.")] = 0.0,
    token_seconds: Annotated[float, typer.Option(min=1, help="How long what clouds give is good.")] = 3600.0,
    static: Annotated[bool, typer.Option(help="Canned answers at the lowest cost, for load tests.")] = False,
    static_events: Annotated[int, typer.Option(min=1, help="Deltas in a canned stream.")] = 20,
    tls_cert: Annotated[Path | None, typer.Option(help="Serve TLS with this certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The private key of --tls-cert (PEM).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
    parent_watch: Annotated[bool, typer.Option("--parent-watch", hidden=True)] = False,
) -> None:
    """Run a simulated Anthropic API: accounts, prompt caches, rate limits, streams, and faults on command."""
    try:
        world = World.load(config) if config is not None else World.grid(accounts, workspaces, organizations)
        if clouds:
            world = world.with_clouds(clouds)
        settings = Settings(
            ttft=ttft,
            ttft_sigma=ttft_sigma,
            tokens_per_second=tokens_per_second,
            tokens_per_event=tokens_per_event,
            answer_tokens=_length(answer_tokens),
            requests_per_minute=rpm,
            input_tokens_per_minute=itpm,
            output_tokens_per_minute=otpm,
            slots=slots,
            batch_seconds=batch_seconds,
            batch_results_bytes=batch_results_bytes,
            public_url=public_url,
            poll_seconds=poll_seconds,
            token_seconds=token_seconds,
            static=static,
            static_events=static_events,
        )
        host, port = _address(listen)
        context = _context(tls_cert, tls_key)
    except (ValueError, OSError) as error:
        typer.echo(f"simulate: {error}", err=True)
        raise typer.Exit(2) from error
    try:
        _run(_serve(Simulator(world, settings), host, port, context, json, parent_watch))
    except OSError as error:
        typer.echo(f"simulate: cannot listen on {listen}: {error}", err=True)
        raise typer.Exit(1) from error


def _length(text: str) -> int | tuple[int, int]:
    shortest, dash, longest = text.partition("-")
    if not dash:
        return int(text)
    low, high = int(shortest), int(longest)
    if not 0 <= low <= high:
        raise ValueError(f"--answer-tokens {text}: the range is empty")
    return low, high


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"--listen {text}: not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _context(cert: Path | None, key: Path | None) -> tls.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None:
        raise ValueError("--tls-key needs --tls-cert")
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def _run(main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def _serve(
    simulator: Simulator, host: str, port: int, context: tls.SSLContext | None, json: bool, parent_watch: bool
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent_watch:
        await loop.connect_read_pipe(lambda: _ParentWatch(stop), sys.stdin)
    await simulator.start(host, port, context)
    print(_announcement(simulator, json), flush=True)
    # Records live long and hold no cycles: collecting often would only walk them again and again.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    await stop.wait()
    await simulator.stop()


class _ParentWatch(asyncio.Protocol):
    """Standard input closes when the parent has gone, however it went."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def eof_received(self) -> None:
        self._stop.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()


def _announcement(simulator: Simulator, json: bool) -> str:
    accounts = list(simulator.world)
    if json:
        return msgspec.json.encode({"base_url": simulator.base_url, "accounts": accounts}).decode()
    lines = [simulator.base_url]
    width = max(len(account.id) for account in accounts)
    for account in accounts:
        lines.append(f"{account.id:{width}}  {account.api_key}  {account.workspace}  {account.organization}")
    return "\n".join(lines)
