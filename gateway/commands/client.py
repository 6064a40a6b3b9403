"""What commands share that talk to the running gateway over its admin listener.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed (it does not run, or the store is away), 2 wrong
use or configuration.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from gateway.config import Config, ConfigError, load, parse_listen

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Its configuration file.", metavar="FILE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Admin listener of a gateway whose file is not here.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --url: where its admin token stands; - is standard input. Or set GATEWAY_ADMIN_TOKEN.",
    ),
]
TOKEN_VARIABLE = "GATEWAY_ADMIN_TOKEN"  # noqa: S105 - where to look for one

TIMEOUT = 10.0  # seconds


def ask(path: Path, method: str, resource: str, body: dict[str, Any] | None = None, timeout: float = TIMEOUT) -> Any:
    """What the admin API of the gateway that runs with the file at `path` answers about `resource`, which is the URL
    after /admin/v1/, percent-encoded; ends the command where it does not."""
    import httpx  # here, because `gateway serve` loads this module too and should be ready soon

    base, token = admin_of(path)
    headers = {"authorization": f"Bearer {token}"}
    url = f"{base}/admin/v1/{resource}"
    try:
        answer = httpx.request(method, url, json=body, headers=headers, timeout=timeout, trust_env=False)
        said = answer.json()
        if answer.status_code in (200, 201):
            return said
        reason = said["error"]["message"]
    except httpx.TransportError as error:
        fail(f"no gateway answers at {base}; is it running, with this configuration? ({error})", 1)
    except (ValueError, LookupError, TypeError):
        fail(f"what answers at {base} is not this gateway", 1)
    if answer.status_code == 401:
        reason = "the running gateway has another admin.token"
    fail(reason, 2 if answer.status_code == 400 else 1)


def admin_of(path: Path) -> tuple[str, str]:
    """The URL of the admin listener and its token, as the file at `path` says; ends the command where it does not."""
    config = read_config(path)
    if not parse_listen(config.admin.listen)[1]:
        fail("admin.listen has port 0, so the gateway cannot be found; give it a port", 1)
    return base_url(config.admin.listen), config.admin.token


def read_config(path: Path) -> Config:
    """The configuration in a file; ends the command where it cannot be used."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), 2)


def token_of(file: Path | None) -> str:
    """The admin token of a gateway whose configuration is not here. Never an argument: those are seen by everybody."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {file}: {getattr(error, 'strerror', None) or 'it is no text'}", 2)


def usable(url: str) -> bool:
    """Whether it may be that of an admin listener."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def base_url(listen: str) -> str:
    """The URL at which this machine finds a listener."""
    host, port = parse_listen(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def fail(message: str, code: int) -> NoReturn:
    """End the command with this message."""
    typer.echo(message if code == 2 and "\n" in message else f"gateway: {message}", err=True)
    raise typer.Exit(code)


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
