"""Dated data that ships with the package: models, limits classes and prices."""

from importlib.resources import files

from gateway.core.spending.pricing import Catalogue

__all__ = ["load_catalogue"]


def load_catalogue() -> Catalogue:
    """The catalogue of `models.json` in this package; raises `ValueError` if the file is not what it should be."""
    return Catalogue.from_json(files(__name__).joinpath("models.json").read_bytes())
