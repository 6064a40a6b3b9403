"""`gateway serve --demo`: a gateway over simulated accounts, with a key made up now. Needs no file and no network."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import secrets
import signal
import socket
import sys
from typing import NamedTuple

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gateway.config.schema import Admin
from gateway.lab.demo.world import (
    POOL,
    DemoError,
    check_store,
    demo_config,
    new_key,
    private_directory,
    simulated_upstream,
)
from gateway.supervisor.run import run
from gateway.supervisor.supervisor import Supervisor

TITLE = "conversation-gateway demo"
MODEL = "claude-sonnet-5"
PORT = 8080
PACE = (
    "--ttft=0.3", "--ttft-sigma=0.25", "--tokens-per-second=80", "--tokens-per-event=2", "--answer-tokens=40-120",
    "--itpm=4000000",
)  # fmt: skip
_PORTS = 100  # how many are tried
_LOG_PAUSE = 0.15  # seconds for the log lines of the start to be written first


class Welcome(NamedTuple):
    """What somebody who starts the demo has to know."""

    base_url: str
    key: str
    admin_url: str
    token: str
    taken: tuple[int, ...] = ()  # ports that were asked for and not free


class Snippet(NamedTuple):
    """Something to paste as it is."""

    title: str
    code: str


def serve_demo() -> None:
    """Run the demo until SIGTERM or Ctrl-C; exits with 1 and one line if it cannot start."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the gateway minds it
    try:
        _serve()
    except DemoError as error:
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        pass


def _serve() -> None:
    check_store()
    key, token = new_key(), secrets.token_urlsafe(24)
    with simulated_upstream(*PACE) as upstream, private_directory() as directory:
        port = free_port(PORT)
        admin_port = free_port(max(PORT, port) + 1)
        admin = Admin(listen=f"127.0.0.1:{admin_port}", token=token)
        config = demo_config(upstream, key, directory, listen=f"127.0.0.1:{port}", admin=admin)
        taken = tuple(wanted for wanted in (PORT, PORT + 1) if wanted not in (port, admin_port))
        welcome = Welcome(f"http://127.0.0.1:{port}", key, f"http://127.0.0.1:{admin_port}", token, taken)

        def serving(supervisor: Supervisor) -> None:
            asyncio.get_running_loop().call_later(_LOG_PAUSE, show, Console(highlight=False), welcome)

        run(config, serving)


def free_port(first: int) -> int:
    """The first free port from `first` on; raises DemoError if there is none near."""
    for port in range(first, first + _PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoError(f"no free port from {first} to {first + _PORTS - 1}; stop what uses them")


def show(console: Console, welcome: Welcome) -> None:
    """Print it: with a frame and colours on a terminal, else as plain lines. Snippets stand at the margin, without a
    frame and never broken, so that they can be pasted."""
    rows = facts(welcome)
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(name, Text(value, style="bold" if name in ("Base URL", "Key") else ""))
        console.print(
            Panel(
                grid,
                title=Text(TITLE, style="bold"),
                title_align="left",
                border_style="cyan",
                expand=False,
                padding=(0, 1),
            )
        )
    else:
        width = max(len(name) for name, _ in rows)
        console.print("\n".join([TITLE, *(f"{name:{width}}  {value}" for name, value in rows)]))
    for snippet in snippets(welcome):
        console.print()
        console.print(Text(f"# {snippet.title}", style="cyan"), soft_wrap=True)
        console.print(Text(snippet.code), soft_wrap=True)
    console.print()
    console.print(
        Text("Each request becomes a line below. Ctrl-C stops; nothing is kept.", style="dim"), soft_wrap=True
    )


def facts(welcome: Welcome) -> list[tuple[str, str]]:
    """Names and values of the panel."""
    rows = [
        ("Base URL", welcome.base_url),
        ("Key", welcome.key),
        ("Dashboard", welcome.admin_url),
        ("Admin token", welcome.token),
        ("Accounts", POOL),
    ]
    if welcome.taken:
        ports = " and ".join(map(str, welcome.taken))
        plural = "s" if len(welcome.taken) > 1 else ""
        rows.append(("Note", f"port{plural} {ports} taken, hence the next free one{plural}"))
    return rows


def snippets(welcome: Welcome) -> list[Snippet]:
    """Commands and code that work as they are, in the order in which somebody tries them."""
    installed = importlib.util.find_spec("anthropic") is not None
    return [
        Snippet(
            "curl: send it twice, and the log line below says first new, then bound",
            f"curl {welcome.base_url}/v1/messages \\\n"
            f"  -H 'x-api-key: {welcome.key}' \\\n"
            "  -H 'X-Conversation-Id: my-conversation' \\\n"
            "  -H 'content-type: application/json' \\\n"
            f'  -d \'{{"model": "{MODEL}", "max_tokens": 200,\n'
            '       "messages": [{"role": "user", "content": "Hello"}]}\'',
        ),
        Snippet(
            "Python" if installed else "Python, after: pip install anthropic",
            "from anthropic import Anthropic\n"
            "client = Anthropic(\n"
            f'    base_url="{welcome.base_url}",\n'
            f'    api_key="{welcome.key}",\n'
            '    default_headers={"X-Conversation-Id": "my-conversation"},\n'
            ")\n"
            "answer = client.messages.create(\n"
            f'    model="{MODEL}", max_tokens=200, messages=[{{"role": "user", "content": "Hello"}}],\n'
            ")\n"
            "print(answer.content[0].text)",
        ),
        Snippet(
            "Claude Code: keeps its sessions together by itself",
            f"ANTHROPIC_BASE_URL={welcome.base_url} \\\nANTHROPIC_AUTH_TOKEN={welcome.key} claude",
        ),
        Snippet(
            "metrics",
            f"curl -H 'Authorization: Bearer {welcome.token}' {welcome.admin_url}/metrics",
        ),
    ]
