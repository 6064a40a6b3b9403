"""Which models a caller may use, and what the operator calls them. It does not know requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from gateway.config.schema import Caller, Config, Team, catalogue_of
from gateway.core.wire.peek import Peek
from gateway.core.wire.server_tools import DEFAULT, models_beside
from gateway.errors import ApiError
from gateway.worker.callers.model_list import Models

_ANY = ("*",)


class Rights:
    """`offers(model)` says whether the pool is meant to serve a model."""

    def __init__(self, config: Config, offers: Callable[[str], bool]) -> None:
        self._offers = offers
        self._teams: dict[str, tuple[str, ...]] = {}  # patterns of those that may not use everything
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self.aliases = config.models.aliases
        catalogue = catalogue_of(config)
        self._names = catalogue.names
        self._models = Models(catalogue, self.aliases, [name for account in config.accounts for name in account.models])

    def know(self, teams: Mapping[str, Team]) -> None:
        """These are the teams that there are."""
        self._teams = {name: team.models for name, team in teams.items() if team.models != _ANY}

    def check(self, caller: Caller, model: str) -> None:
        """Raise ApiError(403) where the caller may not use the model, or what its name stands for."""
        if not self.allowed(caller, model) and not self.allowed(caller, self.aliases.get(model, model)):
            raise ApiError(403, f"Your key may not use the model {model}.")

    def check_body(self, caller: Caller, peeked: Peek) -> None:
        """As `check`, of all models that a Messages body would have answer: its own, those it falls back to, those of
        its tools. Raises ApiError(400) where nobody can tell which those are, and for an alias other than its own."""
        limited = caller.models != _ANY or caller.team in self._teams
        if limited:
            self.check(caller, peeked.model)
        if (limited or self.aliases) and ("fallbacks" in peeked.fields or "tools" in peeked.fields):
            for model in models_beside(peeked):
                self.check_unchanged(caller, model)

    def check_unchanged(self, caller: Caller, model: str) -> None:
        """As `check`, of a model that is sent as it is named. Raises ApiError(400) for an alias."""
        if model == DEFAULT:
            if self.allowed(caller, model):
                return
            words = 'Your key may use some models alone: please name those to fall back to instead of "default".'
            raise ApiError(403, words)
        if model in self.aliases:
            raise ApiError(400, f"{model} is an alias, which is not replaced here; write {self.aliases[model]}.")
        self.check(caller, model)

    def check_named(self, caller: Caller, name: str) -> None:
        """As `check_unchanged`, of what stands as a model somewhere in a body that passes through, and may be
        anything."""
        if name in self.aliases or self._models.knows(name):
            self.check_unchanged(caller, name)

    def models(self, caller: Caller, name: str, query: bytes) -> bytes:
        """The answer to a request for the model of that name, or for a page of those that the caller may use."""
        if name:
            return self._models.one(name, lambda model: self.allowed(caller, model), self._offers)
        return self._models.listing(lambda model: self.allowed(caller, model), self._offers, query)

    def allowed(self, caller: Caller, model: str) -> bool:
        """Whether the caller's key and its team allow `model`, by any name that the model has."""
        return self._among(caller.models, model) and (
            caller.team not in self._teams or self._among(self._teams[caller.team or ""], model)
        )

    def _among(self, patterns: tuple[str, ...], model: str) -> bool:
        if patterns == _ANY:
            return True
        return any(fnmatchcase(name, pattern) for name in self._names(model) for pattern in patterns)
