"""What clients have created upstream: every object of every kind, by the scope that may see it.

Knows the shape of none. An id from another scope is as unknown as one that never was.
"""

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gateway.lab.simulator.errors import ApiError
from gateway.lab.simulator.world import Account

__all__ = ["Object", "Objects"]

_ALPHABET = string.ascii_letters + string.digits
SWEEP_EVERY = 256


class Object(msgspec.Struct, kw_only=True):
    """`number` is its place in the order of creation; `scope` a workspace or organization id.

    `data` is what a client sees of it, `held` what only its own endpoints understand. `created` and `expires` (None:
    never) are seconds of the simulator's clock. `parent` is the id of the object whose sub-resource it is.
    """

    kind: str
    id: str
    scope: str
    account: str
    workspace: str
    number: int
    created: float
    data: dict[str, Any]
    parent: str | None = None
    expires: float | None = None
    held: Any = None

    def __repr__(self) -> str:
        return f"<Object {self.kind} {self.id} in {self.scope}>"


_Key = tuple[str, str, str | None]


class Objects:
    """All objects; `clock` is the simulator's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[_Key, dict[str, Object]] = {}
        # Ids look random and differ from one simulator to the next, as tests must not guess them.
        self._random = random.Random(random.SystemRandom().getrandbits(64))
        self._count = 0

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __iter__(self) -> Iterator[Object]:
        """Everything, oldest first."""
        return iter(sorted((one for group in self._kinds.values() for one in group.values()), key=lambda o: o.number))

    def new_id(self, prefix: str) -> str:
        """A fresh id, e.g. `file_01...`."""
        return f"{prefix}01{''.join(self._random.choices(_ALPHABET, k=22))}"

    def add(
        self,
        kind: str,
        ident: str,
        account: Account,
        data: dict[str, Any],
        *,
        scope: str | None = None,
        parent: str | None = None,
        lasts: float | None = None,
        held: Any = None,
    ) -> Object:
        """Stores an object of the account's workspace, or of `scope`; it expires after `lasts` seconds."""
        now = self._clock()
        self._count += 1
        if self._count % SWEEP_EVERY == 0:
            self._sweep(now)
        scope = account.workspace if scope is None else scope
        made = Object(
            kind=kind,
            id=ident,
            scope=scope,
            account=account.id,
            workspace=account.workspace,
            number=self._count,
            created=now,
            data=data,
            parent=parent,
            expires=None if lasts is None else now + lasts,
            held=held,
        )
        self._kinds.setdefault((kind, scope, parent), {})[ident] = made
        return made

    def find(self, kind: str, scope: str, ident: str, parent: str | None = None) -> Object | None:
        """The object, None where this scope has none of that id."""
        found = self._kinds.get((kind, scope, parent), {}).get(ident)
        if found is not None and found.expires is not None and found.expires <= self._clock():
            self.remove(found)
            return None
        return found

    def get(self, kind: str, scope: str, ident: str, what: str, parent: str | None = None) -> Object:
        """The object; `ApiError` 404, naming `what` was looked for, where `find` finds none."""
        found = self.find(kind, scope, ident, parent)
        if found is None:
            raise ApiError(404, f"{what} not found: {ident}")
        return found

    def all(self, kind: str, scope: str, parent: str | None = None) -> list[Object]:
        """The living objects of a kind, oldest first."""
        now = self._clock()
        group = self._kinds.get((kind, scope, parent), {})
        return [one for one in group.values() if one.expires is None or one.expires > now]

    def extend(self, found: Object, lasts: float) -> None:
        """From now it expires after `lasts` seconds."""
        found.expires = self._clock() + lasts

    def remove(self, found: Object) -> None:
        """Deletes an object and its sub-resources."""
        self._kinds.get((found.kind, found.scope, found.parent), {}).pop(found.id, None)
        for key in [key for key in self._kinds if key[1] == found.scope and key[2] == found.id]:
            del self._kinds[key]

    def clear(self) -> None:
        self._kinds.clear()

    def _sweep(self, now: float) -> None:
        for key in list(self._kinds):
            group = self._kinds[key]
            for ident in [ident for ident, one in group.items() if one.expires is not None and one.expires <= now]:
                del group[ident]
            if not group:
                del self._kinds[key]
