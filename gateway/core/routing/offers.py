"""What accounts serve: models by the lists of the pool, endpoints by their providers, and what of a request they lack.

It does not know whether an account can serve now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from gateway.core.routing import broadcast
from gateway.core.routing.capabilities import Capabilities, Learned, Verdict
from gateway.core.routing.document import Entry
from gateway.core.routing.standing import MANY

MESSAGES = "messages"  # the endpoint that makes an account worth having a model
Serves = Callable[[str, str], bool]  # an endpoint, by its name, for a model


class Offers:
    """`names(model)` are all names of a model: an account whose list has one of them serves it. `partial` are the
    accounts whose provider does not serve everything, `capabilities` what those serve of a request."""

    def __init__(self, names: Callable[[str], Iterable[str]]) -> None:
        self.partial: Mapping[str, Serves] = {}
        self.capabilities: Mapping[str, Capabilities] = {}
        self._names = names
        self._models: dict[tuple[str, str], bool] = {}
        self._without: dict[tuple[str, str], frozenset[str]] = {}

    def forget(self) -> None:
        """The pool has changed, or the catalogue, or what providers serve: ask anew."""
        self._models.clear()
        self._without.clear()

    def serves(self, entry: Entry, model: str) -> bool:
        """Whether the account is meant to serve `model` ("" for any)."""
        known = self._models.get((entry.id, model))
        if known is None:
            known = not model or any(fnmatchcase(name, each) for name in self._names(model) for each in entry.models)
            if known and model and entry.id in self.partial:
                known = self.partial[entry.id](MESSAGES, model)
            if len(self._models) >= MANY:
                self._models.clear()
            self._models[entry.id, model] = known
        return known

    def without(self, endpoint: str, model: str) -> frozenset[str]:
        """The accounts whose provider does not serve an endpoint, by its name in the path table, for this model."""
        known = self._without.get((endpoint, model))
        if known is None:
            known = frozenset(account for account, serves in self.partial.items() if not serves(endpoint, model))
            if len(self._without) >= MANY:
                self._without.clear()
            self._without[endpoint, model] = known
        return known

    def unfit(self, model: str, needs: frozenset[str], now: float) -> dict[str, frozenset[str]]:
        """The accounts that cannot serve a request of these needs, and which of them they lack."""
        fits = {name: each.fit(model, needs, now).lacks for name, each in self.capabilities.items()}
        return {name: lacks for name, lacks in fits.items() if lacks}

    def heard(self, fact: broadcast.NeedRefused, now: float) -> None:
        """Another process has learned what an account lacks."""
        known = self.capabilities.get(fact.account)
        if known is not None and fact.verdict in tuple(Verdict):
            known.learn(Learned(fact.model, fact.need, Verdict(fact.verdict)), fact.seconds, now)

    def learned(self, now: float) -> list[broadcast.Fact]:
        """What was learned, as it would be told to a process that has just begun."""
        return [
            broadcast.NeedRefused(name, each.model, each.need, each.verdict.value, seconds)
            for name, known in self.capabilities.items()
            for each, seconds in known.learned(now)
        ]
