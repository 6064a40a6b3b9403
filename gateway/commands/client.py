"""What commands share that talk to the running gateway over its admin listener.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed (it does not run, or the store is away), 2 wrong
use or configuration.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO
from urllib.parse import urlsplit

import msgspec
import typer

from gateway.config.file import load
from gateway.config.schema import Config, ConfigError, parse_listen

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
_ANY_ANSWER = "x-gateway-request-id"  # of a gateway has this header
_MOST_TOKEN = 64 * 1024  # characters of a file with a token


class Admin(msgspec.Struct, frozen=True):
    """The admin listener of a gateway: of the one that runs with a file that is here, or of one that is `elsewhere`."""

    base: str  # its URL
    token: str
    elsewhere: bool = False

    def ask(self, method: str, resource: str, body: dict[str, Any] | None = None, timeout: float = TIMEOUT) -> Any:
        """What the admin API answers about `resource`, which is the URL after /admin/v1/, percent-encoded; ends the
        command where it does not."""
        import httpx  # here, because `gateway serve` loads this module too and should be ready soon

        headers = {"authorization": f"Bearer {self.token}"}
        url = f"{self.base}/admin/v1/{resource}"
        times = httpx.Timeout(timeout, connect=TIMEOUT)
        try:
            with httpx.stream(method, url, json=body, headers=headers, timeout=times, trust_env=False) as answer:
                if answer.is_success and _ANY_ANSWER not in answer.headers:
                    raise ValueError  # of somebody else: it may be endless
                said = json.loads(answer.read())
            if answer.status_code in (200, 201):
                return said
            reason = said["error"]["message"]
            if not isinstance(reason, str):
                raise TypeError
        except httpx.TransportError as error:
            hint = "" if self.elsewhere else "; is it running, with this configuration?"
            fail(f"no gateway answers at {self.base}{hint} ({error})", 1)
        except (ValueError, LookupError, TypeError, RecursionError, httpx.HTTPError):
            fail(f"what answers at {self.base} is not the admin listener of a gateway", 1)
        if answer.status_code == 401:
            reason = self.wrong_token
        fail(reason, 2 if answer.status_code == 400 else 1)

    @property
    def wrong_token(self) -> str:
        """What to say where the token is not accepted."""
        if self.elsewhere:
            return f"that gateway has another admin.token; give it with --token-file or in {TOKEN_VARIABLE}"
        return "the running gateway has another admin.token"


def admin_of(path: Path, url: str | None = None, token_file: Path | None = None) -> Admin:
    """The one at `url`, else that of the file at `path`; ends the command where there is no such."""
    if url is not None:
        if not _usable(url):
            fail("--url must be that of an admin listener, such as http://127.0.0.1:8081", 2)
        return Admin(url.rstrip("/"), _token_of(token_file), elsewhere=True)
    config = read_config(path)
    if not parse_listen(config.admin.listen)[1]:
        fail("admin.listen has port 0, so the gateway cannot be found; give it a port", 1)
    return Admin(base_url(config.admin.listen), config.admin.token)


def read_config(path: Path) -> Config:
    """The configuration in a file; ends the command where it cannot be used."""
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), 2)


def _token_of(file: Path | None) -> str:
    """The admin token of a gateway whose configuration is not here. Never an argument: those are seen by everybody."""
    try:
        if file is None:
            token = os.environ.get(TOKEN_VARIABLE, "")
        else:
            with _opened(file) as text:
                token = text.read(_MOST_TOKEN)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {file}: {getattr(error, 'strerror', None) or 'it is no text'}", 2)
    token = token.strip()
    if not token:
        fail(f"--url needs that gateway's admin.token: give it with --token-file or in {TOKEN_VARIABLE}", 2)
    if not (token.isascii() and token.isprintable()):  # no header could carry it
        fail(f"what {file or TOKEN_VARIABLE} holds is no token", 2)
    return token


def _opened(file: Path) -> contextlib.AbstractContextManager[TextIO]:
    if str(file) != "-":
        return file.open()
    if sys.stdin is None:  # it was closed
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return contextlib.nullcontext(sys.stdin)


def _usable(url: str) -> bool:
    """Whether it may be that of an admin listener. A password in it would be seen by everybody."""
    try:
        parts = urlsplit(url)
        plain = url.isprintable() and "@" not in parts.netloc
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and plain
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
