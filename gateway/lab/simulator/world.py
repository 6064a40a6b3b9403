"""Who exists upstream: accounts, their workspaces (cache domains) and organizations (limit domains).

Knows nothing of requests, time or sockets.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import yaml

__all__ = ["Account", "Limits", "World"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per minute, for each (organization, limit class); None is no limit."""

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One credential. `models` are names of those it may use (None: all)."""

    id: str
    api_key: str
    workspace: str
    organization: str
    models: tuple[str, ...] | None = None

    def serves(self, names: Iterable[str]) -> bool:
        """Whether it may use the model that has these names."""
        return self.models is None or not set(self.models).isdisjoint(names)


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accounts, and limits by organization id where they differ from the simulator's settings."""

    accounts: tuple[Account, ...]
    limits: dict[str, Limits] = {}

    @classmethod
    def grid(cls, accounts: int = 6, workspaces: int | None = None, organizations: int | None = None) -> "World":
        """`accounts` accounts dealt in turn over `workspaces`, and those over `organizations` (default: one each).

        Everything is deterministic: `sim-account-1`, `wrkspc_sim_1`, `org-sim-1`, keys `sk-ant-sim-...`.
        `ValueError` unless accounts >= workspaces >= organizations >= 1.
        """
        workspaces = accounts if workspaces is None else workspaces
        organizations = workspaces if organizations is None else organizations
        if not accounts >= workspaces >= organizations >= 1:
            raise ValueError("a world needs accounts >= workspaces >= organizations >= 1")
        made = []
        for index in range(accounts):
            workspace = index % workspaces
            name = f"sim-account-{index + 1}"
            made.append(
                Account(
                    id=name,
                    api_key=f"sk-ant-sim-{index + 1}-{sha256(name.encode()).hexdigest()[:40]}",
                    workspace=f"wrkspc_sim_{workspace + 1}",
                    organization=f"org-sim-{workspace % organizations + 1}",
                )
            )
        return cls(tuple(made))

    @classmethod
    def load(cls, path: Path) -> "World":
        """A world from a JSON or YAML file of this shape; `ValueError` if it is not one."""
        try:
            return msgspec.convert(yaml.safe_load(path.read_bytes()), type=cls)
        except (yaml.YAMLError, msgspec.ValidationError) as error:
            raise ValueError(f"{path}: {error}") from error

    def __iter__(self) -> Iterator[Account]:
        return iter(self.accounts)

    def __getitem__(self, account: str) -> Account:
        """The account of that id; `KeyError` if there is none."""
        for candidate in self.accounts:
            if candidate.id == account:
                return candidate
        raise KeyError(account)
