"""Where the usage commands get the ledger from: the admin listener of a gateway, this configuration's or another's."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import typer

from gateway.admin.desks.period import period
from gateway.commands.client import Admin, admin_of, fail, read_config
from gateway.config.rules import moment_text
from gateway.config.schema import catalogue_of
from gateway.core.spending.pricing import Catalogue
from gateway.data import load_catalogue
from gateway.store.ledger.usage import Span

_SECONDS = 120.0  # for the sums of a year

FromOption = Annotated[
    str,
    typer.Option(
        "--from", metavar="TIME", help="Start: 2030-01-31T18:00:00Z, 2030-01-31 (UTC), 7d or 24h ago; this month's."
    ),
]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="End, likewise; now.")]


class Source(msgspec.Struct, frozen=True):
    """The gateway behind `admin`, whose file is `config`, or None where that is not here."""

    admin: Admin
    config: Path | None

    def get(self, resource: str, query: dict[str, Any] | None = None) -> Any:
        """What the admin API answers; ends the command where it does not. Empty values of `query` are left out."""
        words = urlencode({name: value for name, value in (query or {}).items() if value}, doseq=True)
        return self.admin.ask("GET", f"{resource}?{words}" if words else resource, timeout=_SECONDS)

    def catalogue(self) -> Catalogue:
        """The models it knows, as far as they are known here."""
        return load_catalogue() if self.config is None else catalogue_of(read_config(self.config))


def source_of(config: Path, url: str | None, token_file: Path | None) -> Source:
    """The one that these options name; ends the command where there is no such."""
    return Source(admin_of(config, url, token_file), config if url is None else None)


def read_period(start: str, end: str) -> Span:
    """What --from and --to say; ends the command where they make no sense."""
    try:
        return period(start.strip(), end.strip(), time())
    except ValueError as error:
        fail(f"--{error}", 2)


def times(span: Span) -> dict[str, str]:
    """The span as parameters of the admin API."""
    return {"from": moment_text(span.start), "to": moment_text(span.end)}
