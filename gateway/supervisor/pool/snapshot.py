"""The pool as it was agreed last, in a file of `data_dir`: what a gateway starts from while the store is away."""

from __future__ import annotations

import msgspec

from gateway.core.routing.document import STATES, Overrides, PoolDocument
from gateway.store.pool.private_file import PrivateFile

NAME = "pool.json"


class Kept(msgspec.Struct, frozen=True):
    """What the file holds. The overrides are in the document too, but not which they are."""

    document: PoolDocument
    overrides: dict[str, dict[str, object]] = {}


_kept = msgspec.json.Decoder(Kept).decode


class Snapshot:
    """The file in `data_dir`."""

    def __init__(self, data_dir: str) -> None:
        self._file = PrivateFile(data_dir, NAME, "pool")
        self.path = self._file.path

    def read(self) -> Kept | None:
        """What was kept last; None if there is nothing, or nothing to make sense of."""
        return self._file.read(_decode)

    def write(self, document: PoolDocument, overrides: Overrides) -> None:
        """Keep it, unless it is what was kept last."""
        self._file.write(msgspec.json.encode({"document": document, "overrides": overrides}, order="sorted"))


def _decode(data: bytes) -> Kept:
    kept = _kept(data)
    ids = [entry.id for entry in kept.document.accounts]
    good = all(entry.weight > 0 and entry.state in STATES for entry in kept.document.accounts)
    if not good or ids != sorted(set(ids)):
        raise ValueError("not a pool document")
    return kept
