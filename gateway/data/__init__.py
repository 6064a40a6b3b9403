"""Dated data that ships with the package: models, limits classes and prices, and what providers call models."""

from importlib.resources import files

import msgspec

from gateway.core.routing.provider_names import ProviderNames
from gateway.core.spending.pricing import Catalogue

__all__ = ["load_catalogue", "load_provider_names"]


def load_catalogue() -> Catalogue:
    """The catalogue of `models.json` in this package; raises `ValueError` if the file is not what it should be."""
    return Catalogue.from_json(files(__name__).joinpath("models.json").read_bytes())


def load_provider_names() -> ProviderNames:
    """The names of `provider_names.json` in this package; raises `ValueError` if the file is not what it should be."""
    return msgspec.json.decode(files(__name__).joinpath("provider_names.json").read_bytes(), type=ProviderNames)
