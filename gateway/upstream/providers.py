"""Which provider an account gets, and what it asks of the configuration. Adding a provider is adding a row."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.upstream import anthropic, aws_platform, bedrock, foundry, mantle, vertex
from gateway.upstream.credential import Credential
from gateway.upstream.provider import Provider
from gateway.upstream.settings import Settings


class Row(msgspec.Struct, frozen=True):
    """How an account of a provider comes to be. `base_url` is where it is in a region, None where only the operator can
    tell; `keys` are those of the configuration that it knows beside every account's, `needs` those of them that must be
    given, `proofs` those of which at most one is, and one must be unless it can do `without`: they are what proves who
    calls. It `reserves` if its limits of tokens take max_tokens of output at sending."""

    open: Callable[[Settings, Credential], Provider]
    credential: Callable[[Settings], Credential]
    base_url: Callable[[str], str] | None
    keys: frozenset[str]
    needs: tuple[str, ...]
    proofs: tuple[str, ...]
    without: bool = False
    reserves: bool = False


_AWS = ("api_key", "aws")
_CLOUD = frozenset({"model_names", "limits"})
_BEDROCK = _CLOUD | {"region", "api", "aws_account"}

PROVIDERS: dict[str, Row] = {
    "anthropic": Row(anthropic.opened, anthropic.credential, anthropic.base_url, frozenset(), (), ("api_key",)),
    "bedrock": Row(
        bedrock.Bedrock, bedrock.credential, bedrock.base_url, _BEDROCK | {"profile"}, ("region",), _AWS,
        reserves=True,
    ),
    "bedrock/mantle": Row(mantle.Mantle, mantle.credential, mantle.base_url, _BEDROCK, ("region",), _AWS),
    "vertex": Row(
        vertex.Vertex, vertex.credential, vertex.base_url, _CLOUD | {"project", "region"},
        ("project", "region"), ("api_key", "credentials"), True,
    ),
    "foundry": Row(
        foundry.Foundry, foundry.credential, None, _CLOUD, ("base_url",), ("api_key", "entra")
    ),
    "aws-platform": Row(
        aws_platform.AwsPlatform, aws_platform.credential, aws_platform.base_url,
        frozenset({"region", "workspace_id", "model_names"}), ("region", "workspace_id"), _AWS,
    ),
}  # fmt: skip
NAMES = tuple(name for name in PROVIDERS if "/" not in name)


def kind_of(provider: str, api: str = "") -> str:
    """The name of the row of a provider's `api`, of which most have one that is not named."""
    kind = f"{provider}/{api}"
    return kind if kind in PROVIDERS else provider


def row_of(provider: str, api: str = "") -> Row:
    """The row of a provider's `api`."""
    return PROVIDERS[kind_of(provider, api)]
