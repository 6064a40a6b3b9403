"""One finding of `gateway doctor`: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.config.schema import Config

_SHORTEST = 4  # characters of what is taken for a secret in a text


class Level(StrEnum):
    """How it is."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


class Finding(msgspec.Struct, frozen=True):
    """`about` is what was looked at ("store", "account team-a"), `check` what of it, `advice` what to do ("" if
    nothing). `cause` names what it has in common with others that word it otherwise; without it, the words do."""

    level: Level
    about: str
    check: str
    message: str
    advice: str = ""
    cause: str = ""

    @property
    def line(self) -> str:
        """The message and the advice in one line."""
        return " ".join((f"{self.message}: {self.advice}" if self.advice else self.message).split())


def ok(about: str, check: str, message: str) -> Finding:
    return Finding(Level.ok, about, check, message)


def warning(about: str, check: str, message: str, advice: str) -> Finding:
    return Finding(Level.warning, about, check, message, advice)


def failed(about: str, check: str, message: str, advice: str) -> Finding:
    return Finding(Level.failed, about, check, message, advice)


def caused(cause: str, finding: Finding) -> Finding:
    """The same, of this cause."""
    return msgspec.structs.replace(finding, cause=cause)


def secrets_of(config: Config) -> list[str]:
    """Every secret that the configuration holds, the longest first: no finding may show one, whoever worded it."""
    proxies = [*(each.proxy for each in config.accounts), *(each.proxy for each in config.issuers)]
    urls = [config.redis, *(proxy or "" for proxy in proxies)]
    found = [config.admin.token, *config.secret, *(each for account in config.accounts for each in account.secrets)]
    found += config.tracing.headers.values()
    for url in urls:
        password = _password(url)
        found += [password, unquote(password)]
    return sorted({each for each in found if len(each) >= _SHORTEST}, key=len, reverse=True)


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def without(secrets: Iterable[str], text: str) -> str:
    """The text with secrets replaced by ***."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
