"""Where the usage commands get the ledger from: the admin listener of a gateway, this configuration's or another's."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import typer

from gateway.commands.client import TIMEOUT, TOKEN_VARIABLE, ask, fail, token_of, usable
from gateway.config import ConfigError, catalogue_of, load
from gateway.config_rules import moment_text
from gateway.core.pricing import Catalogue
from gateway.data import load_catalogue
from gateway.ops.period import period
from gateway.store.usage import Span

_SECONDS = 120.0  # for the sums of a year

FromOption = Annotated[
    str,
    typer.Option(
        "--from", metavar="TIME", help="Start: 2030-01-31T18:00:00Z, 2030-01-31 (UTC), 7d or 24h ago; this month's."
    ),
]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="End, likewise; now.")]


class Source(msgspec.Struct, frozen=True):
    """The gateway of the configuration file `config`, or the one at `url`, which `token` opens."""

    config: Path
    url: str | None
    token: str

    def get(self, resource: str, query: dict[str, Any] | None = None) -> Any:
        """What the admin API answers; ends the command where it does not. Empty values of `query` are left out."""
        words = urlencode({name: value for name, value in (query or {}).items() if value}, doseq=True)
        path = f"{resource}?{words}" if words else resource
        if self.url is None:
            return ask(self.config, "GET", path, timeout=_SECONDS)
        return _get(self.url.rstrip("/"), path, self.token)

    def catalogue(self) -> Catalogue:
        """The models it knows, as far as they are known here."""
        if self.url is not None:
            return load_catalogue()
        try:
            return catalogue_of(load(self.config))
        except ConfigError as error:
            fail(str(error), 2)


def _get(base: str, path: str, token: str) -> Any:
    import httpx  # here, as in the module that all commands share

    if not usable(base):
        fail("--url must be that of an admin listener, such as http://127.0.0.1:8081", 2)
    headers = {"authorization": f"Bearer {token}"}
    try:
        timeout = httpx.Timeout(_SECONDS, connect=TIMEOUT)
        answer = httpx.get(f"{base}/admin/v1/{path}", headers=headers, timeout=timeout, trust_env=False)
        said = answer.json()
        if answer.status_code == 200:
            return said
        reason = str(said["error"]["message"])
    except httpx.TransportError as error:
        fail(f"no gateway answers at {base} ({error})", 1)
    except (ValueError, LookupError, TypeError):
        fail(f"what answers at {base} is not an admin listener", 1)
    if answer.status_code == 401:
        reason = f"it has another admin.token; give it with --token-file or in {TOKEN_VARIABLE}"
    fail(reason, 2 if answer.status_code == 400 else 1)


def source_of(config: Path, url: str | None, token_file: Path | None) -> Source:
    """The one that these options name; ends the command where the token cannot be read."""
    return Source(config, url, "" if url is None else token_of(token_file))


def read_period(start: str, end: str) -> Span:
    """What --from and --to say; ends the command where they make no sense."""
    try:
        return period(start.strip(), end.strip(), time())
    except ValueError as error:
        fail(f"--{error}", 2)


def times(span: Span) -> dict[str, str]:
    """The span as parameters of the admin API."""
    return {"from": moment_text(span.start), "to": moment_text(span.end)}
