"""`gateway top`: the running gateway live in the terminal, over its admin listener. How it looks, `top_view` says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.client import Admin, ConfigOption, TokenFileOption, UrlOption, admin_of, fail, print_json
from gateway.commands.terminal import console
from gateway.commands.top_view import Picture
from gateway.config.file import load_default_path

if TYPE_CHECKING:
    import httpx

TIMEOUT = 5.0  # seconds
_RECENT = 100  # requests asked for: as many as a tall terminal shows
_QUIT = b"qQ\x03\x1b"


def top(
    once: Annotated[bool, typer.Option("--once", help="Print what is now, and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=60, metavar="SECONDS", help="How often to look.")] = 2.0,
    config: ConfigOption = load_default_path,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and end.")] = False,
) -> None:
    """Watch the running gateway: traffic, accounts, latest requests. q quits."""
    admin = admin_of(config, url, token_file)
    if once or as_json:
        picture = asyncio.run(_look_once(admin))
        if picture.trouble:
            fail(picture.trouble, 1)
        if as_json:
            print_json({"overview": picture.overview, "accounts": picture.accounts, "requests": picture.requests})
        else:
            from gateway.commands.top_view import view

            console().print(view(picture, admin.base, None))
        return
    if not sys.stdout.isatty():
        fail("this is no terminal; use --once or --json", 2)
    with _keys():
        asyncio.run(_watch(admin, interval))


# Asking.


async def _look_once(admin: Admin) -> Picture:
    async with _client(admin) as client:
        return await _look(client, admin)


def _client(admin: Admin) -> httpx.AsyncClient:
    import httpx  # here, because `gateway serve` loads this module too and should be ready soon

    headers = {"authorization": f"Bearer {admin.token}"}
    return httpx.AsyncClient(base_url=f"{admin.base}/admin/v1/", headers=headers, timeout=TIMEOUT, trust_env=False)


async def _look(client: httpx.AsyncClient, admin: Admin) -> Picture:
    """What is now; with `trouble` where that cannot be known."""
    import httpx

    try:
        overview, accounts, requests = await asyncio.gather(
            *(_get(client, admin, each) for each in ("overview", "accounts", f"requests?limit={_RECENT}"))
        )
        return Picture(overview, accounts["data"], requests["data"])
    except httpx.TransportError as error:
        return Picture(trouble=f"no gateway answers at {admin.base} ({str(error) or type(error).__name__})")
    except PermissionError as error:
        return Picture(trouble=str(error))
    except (ValueError, LookupError, TypeError):
        return Picture(trouble=f"what answers at {admin.base} is not this gateway, or one of another version")


async def _get(client: httpx.AsyncClient, admin: Admin, resource: str) -> Any:
    """Raises PermissionError, with words, where the gateway refuses."""
    answer = await client.get(resource)
    said = answer.json()
    if answer.status_code == 401:
        raise PermissionError(admin.wrong_token)
    if answer.status_code != 200:
        raise PermissionError(str(said["error"]["message"]))
    return said


# Watching.


async def _watch(admin: Admin, interval: float) -> None:
    """Show it until q, Ctrl-C or SIGTERM; a gateway that is away is waited for."""
    from rich.console import Console
    from rich.live import Live

    from gateway.commands.top_view import view

    loop, screen = asyncio.get_running_loop(), Console(highlight=False, markup=False)
    over, redraw = asyncio.Event(), asyncio.Event()

    def typed() -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or any(key in _QUIT for key in keys):
            over.set()
            redraw.set()

    def stop() -> None:
        over.set()
        redraw.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGWINCH, redraw.set)
    if sys.stdin.isatty():
        loop.add_reader(sys.stdin.fileno(), typed)
    last = Picture(trouble=f"asking {admin.base}")
    async with _client(admin) as client:
        with Live(console=screen, screen=True, auto_refresh=False) as live:

            def draw() -> None:
                live.update(view(last, admin.base, screen.size), refresh=True)

            async def ask() -> None:
                nonlocal last
                while True:
                    found = await _look(client, admin)
                    last = found if not found.trouble else last.troubled(found.trouble)
                    redraw.set()
                    await asyncio.sleep(interval)

            asking = loop.create_task(ask())
            try:
                while not over.is_set():
                    draw()
                    redraw.clear()
                    waiter = loop.create_task(redraw.wait())
                    await asyncio.wait((waiter, asking), return_when=asyncio.FIRST_COMPLETED)
                    waiter.cancel()
                    if asking.done():
                        asking.result()
            finally:
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asking


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come at once and are not shown, for as long as this lasts."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
