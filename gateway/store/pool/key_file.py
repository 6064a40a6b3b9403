"""What was made at run time (callers, keys, teams, boosts) as it was last read, in a file of `data_dir`: what a gateway
starts from while the store is away. It holds digests, never keys.
"""

from __future__ import annotations

import msgspec

from gateway.core.spending.keyring import Stored
from gateway.store.pool.private_file import PrivateFile

NAME = "keys.json"

_decode = msgspec.json.Decoder(Stored).decode


class KeyFile:
    """The file in `data_dir`."""

    def __init__(self, data_dir: str) -> None:
        self._file = PrivateFile(data_dir, NAME, "key")
        self.path = self._file.path

    def read(self) -> Stored | None:
        """What was kept last; None if there is nothing, or nothing to make sense of."""
        return self._file.read(_decode)

    def write(self, stored: Stored) -> None:
        """Keep it, unless it is what was kept last."""
        if stored or not self._file.empty:
            self._file.write(msgspec.json.encode(stored, order="sorted"))
