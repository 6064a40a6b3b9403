"""What a process knows of models: the catalogue in force, and answers of it that every request asks for, remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from gateway.config.schema import Config, catalogue_of
from gateway.core.spending.pricing import Catalogue

_REMEMBERED = 4096  # models, whatever clients call them


class KnownModels:
    """`other` is what metrics call those that nobody knows."""

    def __init__(self, config: Config, other: str) -> None:
        self.catalogue: Catalogue = catalogue_of(config)
        self.followers: tuple[Callable[[Catalogue], None], ...] = ()  # told of another catalogue
        self._other = other
        self.bound_thinking = lru_cache(_REMEMBERED)(self._bound_thinking)
        self.limit_class = lru_cache(_REMEMBERED)(self._limit_class)

    def configure(self, config: Config) -> None:
        """Follow a new configuration."""
        self.catalogue = catalogue_of(config)
        self.bound_thinking.cache_clear()
        self.limit_class.cache_clear()
        for follow in self.followers:
            follow(self.catalogue)

    def label(self, model: str) -> str:
        """What metrics call it."""
        found = self.catalogue.find(model)
        return self._other if found is None else found.id

    def names(self, model: str) -> Sequence[str]:
        """All that it is called."""
        return self.catalogue.names(model)

    def _bound_thinking(self, model: str) -> bool:
        """Whether only the account that produced its thinking reads it."""
        found = self.catalogue.find(model)
        return found is not None and found.account_bound_thinking

    def _limit_class(self, model: str) -> str:
        """The class of models whose rate limits it shares."""
        return self.catalogue.limit_class(model)
