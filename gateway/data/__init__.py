"""Dated data that ships with the package: models with limit classes and prices; what providers call and serve."""

import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from gateway.core.routing.capabilities import Table
from gateway.core.routing.provider_names import ProviderNames
from gateway.core.spending.pricing import Catalogue

__all__ = ["load_capabilities", "load_catalogue", "load_provider_names"]


def load_catalogue() -> Catalogue:
    """The catalogue of `models.json` in this package; raises `ValueError` if the file is not what it should be."""
    return Catalogue.from_json(files(__name__).joinpath("models.json").read_bytes())


def load_provider_names() -> ProviderNames:
    """The names of `provider_names.json` in this package; raises `ValueError` if the file is not what it should be."""
    return msgspec.json.decode(files(__name__).joinpath("provider_names.json").read_bytes(), type=ProviderNames)


@cache
def load_capabilities() -> Table:
    """The table of `capabilities.toml` in this package; raises `ValueError` if the file is not what it should be."""
    return Table.read(tomllib.loads(files(__name__).joinpath("capabilities.toml").read_text()))
