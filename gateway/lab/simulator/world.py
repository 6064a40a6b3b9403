"""Who exists upstream: accounts, their workspaces (cache domains) and organizations (limit domains).

Knows nothing of requests, time or sockets.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
import yaml

__all__ = ["PROVIDERS", "Account", "Cloud", "Limits", "World"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per minute, for each (organization, limit class); None is no limit."""

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


Provider = Literal["bedrock", "vertex", "foundry", "aws-platform"]
PROVIDERS: tuple[Provider, ...] = ("bedrock", "vertex", "foundry", "aws-platform")


class Cloud(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an account at a cloud has beside its key, which is a bearer token there too: keys of AWS that sign in
    `region`, and a role that they may assume; Google's `project`, at the location `region`, and its service account;
    an application of Entra ID. `names` are its own names of models: ARNs, deployments."""

    provider: Provider
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""
    role_arn: str = ""
    project: str = ""
    client_email: str = ""
    client_id: str = ""
    client_secret: str = ""
    names: dict[str, str] = {}


# What clouds put into the ids that they give.
_TAGS = {"bedrock": "bdrk_", "vertex": "vrtx_"}


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One credential. `models` are names of those it may use (None: all); `cloud` is None for Anthropic's own API."""

    id: str
    api_key: str
    workspace: str
    organization: str
    models: tuple[str, ...] | None = None
    cloud: Cloud | None = None

    @property
    def tag(self) -> str:
        """What the ids of its messages have behind `msg_`."""
        return "" if self.cloud is None else _TAGS.get(self.cloud.provider, "")

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

    def with_clouds(self, each: int = 1) -> "World":
        """This world with `each` more accounts of every cloud: `sim-bedrock-1` with its own workspace and organization,
        and so on, as deterministic."""
        made = [_at_cloud(provider, number + 1) for provider in PROVIDERS for number in range(each)]
        return World((*self.accounts, *made), self.limits)

    @classmethod
    def load(cls, path: Path) -> "World":
        """A world from a JSON or YAML file of this shape; `ValueError` if it is not one."""
        try:
            return msgspec.convert(yaml.safe_load(path.read_bytes()), type=cls)
        except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from error

    def __iter__(self) -> Iterator[Account]:
        return iter(self.accounts)

    def __getitem__(self, account: str) -> Account:
        """The account of that id; `KeyError` if there is none."""
        for candidate in self.accounts:
            if candidate.id == account:
                return candidate
        raise KeyError(account)


def _at_cloud(provider: Provider, number: int) -> Account:
    name = f"sim-{provider}-{number}"
    secret = sha256(name.encode()).hexdigest()[:40]
    aws = provider in ("bedrock", "aws-platform")
    cloud = Cloud(
        provider,
        region="global" if provider == "vertex" else "us-east-1",
        access_key_id=f"AKIASIM{secret[:13].upper()}" if aws else "",
        secret_access_key=secret if aws else "",
        role_arn=f"arn:aws:iam::123456789012:role/{name}" if aws else "",
        project=f"sim-project-{number}" if provider == "vertex" else "",
        client_email=f"{name}@sim.iam.gserviceaccount.com" if provider == "vertex" else "",
        client_id=f"{name}-app" if provider == "foundry" else "",
        client_secret=secret if provider == "foundry" else "",
    )
    return Account(name, f"sk-sim-{provider}-{number}-{secret}", f"wrkspc_{name}", f"org-{name}", cloud=cloud)
