"""The configuration file while the gateway runs: looked at, read again, and its good changes applied.

Twice a second it is asked what file is there, and nothing waits to be told, so that every file system, a replaced
folder and a link that points elsewhere are the same. A file that cannot be used changes nothing: what was loaded last
stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from gateway import log
from gateway.config.file import load
from gateway.config.schema import Config, ConfigError, config_warnings
from gateway.every import every

LOOK_EVERY = 0.5  # seconds
_QUIET = 0.25  # seconds without a change before the file is read: its writer is done
_IMPATIENT = 5.0  # seconds after which a file that never rests is read anyway
_FRESH = 60.0  # seconds; a file that changed later than that before the start is read once more
_SHOWN = 20  # changes and problems that a log line names
RELOADABLE = frozenset({
    "accounts", "keys", "issuers", "teams", "teams_strict", "admin.token", "admin.tokens", "admin.metrics_open",
    "affinity.remember", "cors.origins", "models.aliases", "models.catalogue", "models.default", "models.fees", "share",
    "public_url", "trusted_proxies", "expose_account", "retry_ambiguous",
})  # fmt: skip
_LISTS = ("accounts", "keys", "issuers", "teams", "admin.tokens")  # whose members are named one by one

Apply = Callable[[Config], Awaitable[None]]
Look = tuple[int, ...] | None


class Change(msgspec.Struct, frozen=True):
    """What a loaded file means for a running gateway: the configuration from now on, the settings that changed, and
    those that differ in the file and need a restart."""

    config: Config
    changed: tuple[str, ...]
    restart: tuple[str, ...]


def compare(running: Config, loaded: Config) -> Change:
    """What of `loaded` a gateway that runs with `running` can take over."""
    before, after = _settings(running), _settings(loaded)
    differing = [name for name in before if before[name] != after[name]]
    config = msgspec.structs.replace(
        running,
        accounts=loaded.accounts,
        keys=loaded.keys,
        issuers=loaded.issuers,
        teams=loaded.teams,
        teams_strict=loaded.teams_strict,
        admin=msgspec.structs.replace(loaded.admin, listen=running.admin.listen),
        affinity=msgspec.structs.replace(running.affinity, remember=loaded.affinity.remember),
        models=msgspec.structs.replace(
            running.models,
            aliases=loaded.models.aliases,
            catalogue=loaded.models.catalogue,
            default=loaded.models.default,
            fees=loaded.models.fees,
        ),
        cors=loaded.cors,
        share=loaded.share,
        public_url=loaded.public_url,
        trusted_proxies=loaded.trusted_proxies,
        expose_account=loaded.expose_account,
        retry_ambiguous=loaded.retry_ambiguous,
    )
    changed = [
        name
        for each in differing
        if each in RELOADABLE
        for name in (_members(each, before[each], after[each]) if each in _LISTS else [each])
    ]
    return Change(config, tuple(changed), tuple(name for name in differing if name not in RELOADABLE))


def _settings(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, msgspec.Struct):
            found |= {f"{name}.{inner}": getattr(value, inner) for inner in value.__struct_fields__}
        else:
            found[name] = value
    return found


def _members(section: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
    old, new = ({each.id: each for each in group} for group in (before, after))
    names = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
    return [f"{section}.{name}" for name in names] or [section]  # the order alone


class Reloader:
    """Keeps a gateway in line with the file at `path`, if it has one. `running()` is the configuration in force;
    `apply` puts another in force."""

    def __init__(
        self, path: Path | None, running: Callable[[], Config], apply: Apply, registry: CollectorRegistry
    ) -> None:
        self._path = None if path is None else path.absolute()
        self._running = running
        self._apply = apply
        self._asked = False
        self._due = asyncio.Event()
        self._seen = self._look()
        if self._seen is not None and time.time() - self._seen[-1] / 1e9 < _FRESH:
            self._seen = None  # it may have changed since it was loaded
        self._failed = False
        self._good = Gauge(
            "gateway_config_last_reload_successful", "1 if the configuration file was usable when last read.",
            registry=registry,
        )  # fmt: skip
        self._good_at = Gauge(
            "gateway_config_last_reload_success_timestamp_seconds", "When a usable configuration file was last read.",
            registry=registry,
        )  # fmt: skip
        self._good.set(1)
        self._good_at.set(time.time())

    @property
    def follows(self) -> bool:
        """Whether there is a file to follow."""
        return self._path is not None

    def ask(self) -> None:
        """Read the file now, changed or not."""
        self._asked = True
        self._due.set()

    async def run(self) -> None:
        """Follow the file until cancelled."""
        if self._path is None:
            return
        follow = partial(self._follow, self._path)
        await every(LOOK_EVERY, follow, "config reload failed", at_once=True, poked=self._due)

    async def _follow(self, path: Path) -> None:
        asked, self._asked = self._asked, False
        try:
            if asked or await self._rested():
                await self.reload(path, asked)
        except Exception:
            self._failed = True
            self._good.set(0)
            raise

    async def reload(self, path: Path, asked: bool = True) -> None:
        """Read the file and apply what changed, if it can be used. Nobody is told that nothing changed, unless
        `asked`."""
        self._seen = self._look()
        try:
            loaded = await asyncio.to_thread(load, path)
        except ConfigError as error:
            self._failed = True
            self._good.set(0)
            log.error("config reload failed", reason=_short(error), running="the last good one")
            return
        running = self._running()
        change = compare(running, loaded)
        for warning in config_warnings(change.config):
            if warning not in config_warnings(running):
                log.warning(warning)
        if change.restart:
            log.warning("config changes need a restart and are ignored until then", settings=list(change.restart))
        if change.changed:
            await self._apply(change.config)
        self._good.set(1)
        self._good_at.set(time.time())
        if asked or change.changed or self._failed:
            log.info("config reloaded", changes=len(change.changed), changed=list(change.changed[:_SHOWN]))
        self._failed = False

    # Noticing.

    def _look(self) -> Look:
        """What tells one state of the file from another; None if there is none."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    async def _rested(self) -> bool:
        """Whether the file differs from what was read last, once it has not changed for a moment."""
        deadline = time.monotonic() + _IMPATIENT
        last = self._look()
        while last != self._seen:
            await asyncio.sleep(_QUIET)
            now = self._look()
            if now == last or time.monotonic() > deadline:
                return now != self._seen
            last = now
        return False


def _short(error: ConfigError) -> str:
    lines = str(error).splitlines()
    more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
