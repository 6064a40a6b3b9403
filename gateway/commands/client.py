"""What commands share that talk to the running gateway over its admin listener.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed (it does not run, or the store is away), 2 wrong
use or configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from gateway.config import Config, ConfigError, load, parse_listen

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Its configuration file.", metavar="FILE")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TIMEOUT = 10.0  # seconds


def ask(path: Path, method: str, resource: str, body: dict[str, Any] | None = None, timeout: float = TIMEOUT) -> Any:
    """What the admin API of the gateway that runs with the file at `path` answers about `resource`, which is the URL
    after /admin/v1/, percent-encoded; ends the command where it does not."""
    import httpx  # here, because `gateway serve` loads this module too and should be ready soon

    try:
        config = load(path)
    except ConfigError as error:
        fail(str(error), 2)
    base = _base_url(config)
    headers = {"authorization": f"Bearer {config.admin.token}"}
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
        reason = "the running gateway has another admin.token; it keeps the one it was started with"
    fail(reason, 2 if answer.status_code == 400 else 1)


def _base_url(config: Config) -> str:
    host, port = parse_listen(config.admin.listen)
    if not port:
        fail("admin.listen has port 0, so the gateway cannot be found; give it a port", 1)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def fail(message: str, code: int) -> NoReturn:
    """End the command with this message."""
    typer.echo(message if code == 2 and "\n" in message else f"gateway: {message}", err=True)
    raise typer.Exit(code)


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
