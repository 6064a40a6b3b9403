"""Which callers and teams there are now, by the file and by what was made at run time, for all in the supervisor who
ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from gateway import log
from gateway.config.schema import Caller, Config, Team, undefined_team
from gateway.core.spending.keyring import Keyring, Stored
from gateway.store.pool.keyring import boosts_of, keyring_of, teams_of
from gateway.store.pool.shared_keys import SharedKeys


class Directory:
    """`config()` is the configuration in force."""

    def __init__(self, config: Callable[[], Config], keys: SharedKeys) -> None:
        self._config = config
        self._keys = keys
        self._known: tuple[tuple[Caller, ...], Stored, Keyring[Caller]] | None = None  # of what, and the keyring
        self._teams: tuple[tuple[Team, ...], Stored, dict[str, Team]] | None = None  # of what, and the teams
        self._warned: list[str] = []

    def keyring(self) -> Keyring[Caller]:
        """Who may call now. Made again when the file or the store says otherwise, for anybody may ask about it."""
        config, stored = self._config(), self._keys.stored
        if self._known is None or self._known[0] is not config.keys or self._known[1] is not stored:
            self._known = config.keys, stored, keyring_of(config.keys, stored, config.teams, time.time() * 1000)
        return self._known[2]

    def callers(self) -> dict[str, Caller]:
        """All by id."""
        return self.keyring().callers

    def teams(self) -> dict[str, Team]:
        """All by id."""
        configured, stored = self._config().teams, self._keys.stored
        if self._teams is None or self._teams[0] is not configured or self._teams[1] is not stored:
            self._teams = configured, stored, teams_of(configured, stored)
        return self._teams[2]

    def boosts(self) -> dict[tuple[str, str], float]:
        """What counts now on top of budgets."""
        return boosts_of(self._keys.stored, time.time() * 1000)

    def members(self) -> set[tuple[str, str]]:
        """(caller, its team or "") of all callers."""
        return {(caller.id, caller.team or "") for caller in self.callers().values()}

    def warn(self) -> None:
        """Of callers made at run time, whom no check of the file has seen, and of what the file hides; once of each for
        as long as it is so."""
        found = list(self._warnings())
        for warning in found:
            if warning not in self._warned:
                log.warning(warning)
        self._warned = found

    def _warnings(self) -> Iterator[str]:
        config, stored, defined = self._config(), self._keys.stored, self.teams()
        in_file = {"caller": {each.id for each in config.keys}, "team": {each.id for each in config.teams}}
        for kind, made in (("caller", stored.present), ("team", stored.present_teams)):
            for name in sorted(in_file[kind] & made.keys()):
                yield f"the {kind} {name} of the configuration file hides one that was made at run time"
        for team in sorted({caller.team for caller in stored.present.values() if caller.team is not None}):
            problem = undefined_team(team, defined)
            if problem and all(caller.team != team for caller in config.keys):
                yield problem
