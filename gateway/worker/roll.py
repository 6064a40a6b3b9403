"""Who may call and what they may, by the file and by what was made at run time together; told to all who go by it."""

from __future__ import annotations

import math
from time import time

from gateway.config.schema import Config
from gateway.store.pool.keyring import boosts_of, decode, keyring_of, teams_of
from gateway.telemetry.metrics import WorkerMetrics
from gateway.worker.callers.authenticate import Callers
from gateway.worker.callers.limits import Accounting
from gateway.worker.callers.own_view import OwnView
from gateway.worker.objects.owners import Owners
from gateway.worker.request.proxy import Proxy


class Roll:
    """`keys` are the callers and keys made at run time (`SharedKeys.usable`'s)."""

    def __init__(
        self,
        config: Config,
        keys: bytes,
        callers: Callers,
        proxy: Proxy,
        accounting: Accounting,
        own_view: OwnView,
        owners: Owners,
        metrics: WorkerMetrics,
    ) -> None:
        self._callers = callers
        self._proxy = proxy
        self._accounting = accounting
        self._own_view = own_view
        self._owners = owners
        self._metrics = metrics
        self._made = decode(keys)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self._config = config
        self._tell()

    def know(self, keys: bytes) -> None:
        """Others were made meanwhile, and some deleted: what is being served to those ends."""
        before, teams = self._made.present.keys() & self.keyring.callers.keys(), self._teams
        self._made = decode(keys)
        self._tell()
        self._proxy.end(before - self.keyring.callers.keys(), teams - self._teams)

    def look(self) -> None:
        """See whether a boost has ended; to be called now and then."""
        if time() * 1000 >= self._until:
            self._tell()

    def count(self) -> int:
        """How many keys count now."""
        return self.keyring.count(time())

    def _tell(self) -> None:
        config, made, now = self._config, self._made, time() * 1000
        teams = teams_of(config.teams, made)
        self._teams = teams.keys()
        self.keyring = keyring_of(config.keys, made, config.teams, now)
        callers = self.keyring.callers
        boosts = boosts_of(made, now)
        self._until = min((each.until for each in made.boosts.values() if each.counts(now)), default=math.inf)
        in_file = {caller.id for caller in config.keys}
        self._callers.know(self.keyring, teams)
        self._proxy.know(teams)
        self._accounting.know(teams, boosts, self.keyring.moved)
        records = {name: record for name, record in made.present.items() if name not in in_file}
        self._own_view.know(teams, boosts, records)
        self._owners.know(callers)
        self._metrics.know_teams(caller.team for caller in callers.values() if caller.team)
        if config.issuers:
            self._metrics.know_teams(teams)
