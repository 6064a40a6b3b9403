"""The `accounts` section: upstream accounts, each with what its provider asks for.

Which keys a provider knows, needs and may have its credential from, its row says.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.config import checks as check
from gateway.config.rules import BAD, Choice, Flag, Many, Moment, Number, Perhaps, Reader, Table, Text
from gateway.config.sections import Frozen, Section, nearest
from gateway.config.source import Node, join
from gateway.core.routing.capabilities import Verdict
from gateway.core.routing.document import STATES
from gateway.core.routing.provider_names import PROFILES
from gateway.core.routing.stated_limits import Stated
from gateway.upstream.credentials import aws, google
from gateway.upstream.credentials.aws import AwsKeys
from gateway.upstream.credentials.entra import EntraApp
from gateway.upstream.providers import NAMES, PROVIDERS, Row, kind_of, row_of

__all__ = ["ACCOUNTS", "Account", "Aws", "Entra"]

_ID = Text(check.identifier, check.ID_PATTERN)
_COUNT = Number(whole=True, least=1, most=2**53)
_SECRET = Text(check.credential, hide=check.hidden)
_WORD = Text(check.credential)
_REGION = Text(check.region, check.REGION_PATTERN)
_PATTERNS = Many(Text(check.model), least=1, or_one=True)
APIS = ("invoke", "mantle")


class Aws(Frozen, frozen=True, kw_only=True):
    """Where keys of AWS come from; nothing given means botocore's default chain."""

    access_key_id: Annotated[str, _SECRET, "id of the key"] = ""
    secret_access_key: Annotated[str, _SECRET, "the key's secret"] = ""
    session_token: Annotated[str, _SECRET, "token of temporary keys"] = ""
    config_profile: Annotated[str, _WORD, "profile of AWS's own configuration files"] = ""
    role_arn: Annotated[str, Text(check.role_arn), "role to assume with these keys"] = ""
    external_id: Annotated[str, _WORD, "external id that the role asks for"] = ""

    @property
    def keys(self) -> AwsKeys:
        return AwsKeys(**{name: getattr(self, name) for name in self.__struct_fields__})


def _aws(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    if bool(values["access_key_id"]) != bool(values["secret_access_key"]):
        return reader.fail(node.line, path, "needs access_key_id and secret_access_key together")
    if values["session_token"] and not values["access_key_id"]:
        return reader.fail(node.line, path, "session_token belongs to an access_key_id")
    if values["config_profile"] and values["access_key_id"]:
        return reader.fail(node.line, path, "takes either keys or a config_profile")
    if values["external_id"] and not values["role_arn"]:
        return reader.fail(node.line, path, "external_id belongs to a role_arn")
    lacks = aws.missing(AwsKeys(**values))
    return reader.fail(node.line, path, lacks) if lacks else values


class Entra(Frozen, frozen=True, kw_only=True):
    """An application of Microsoft Entra ID."""

    tenant_id: Annotated[str, _WORD, "the tenant"]
    client_id: Annotated[str, _WORD, "the application"]
    client_secret: Annotated[str, _SECRET, "its secret; or"] = ""
    federated_token_file: Annotated[str, Text(), "file with the token that its platform gives it"] = ""
    authority: Annotated[str, Text(check.public_url), "where tokens are given, in national clouds"] = (
        "https://login.microsoftonline.com"
    )

    @property
    def app(self) -> EntraApp:
        return EntraApp(**{name: getattr(self, name) for name in self.__struct_fields__})


def _entra(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    if bool(values["client_secret"]) == bool(values["federated_token_file"]):
        return reader.fail(node.line, path, "needs client_secret or federated_token_file, one of them")
    return values


class StatedLimits(Frozen, frozen=True, kw_only=True):
    """What an account may use a minute or a day, of models whose answers do not tell; None is not stated."""

    models: Annotated[tuple[str, ...], _PATTERNS, "models, each class of them by itself: names, or patterns with *"] = (
        "*",
    )
    requests_per_minute: Annotated[int | None, _COUNT, "requests a minute"] = None
    input_tokens_per_minute: Annotated[int | None, _COUNT, "uncached input tokens a minute"] = None
    output_tokens_per_minute: Annotated[int | None, _COUNT, "output tokens a minute"] = None
    tokens_per_minute: Annotated[int | None, _COUNT, "uncached input and output tokens a minute, together"] = None
    tokens_per_day: Annotated[int | None, _COUNT, "uncached input and output tokens a day, together"] = None
    burndown: Annotated[
        float, Number(least=1, most=100), "times that a token of output counts in limits of both together"
    ] = 1.0
    shared: Annotated[bool, Flag(), "all these models share the limits, instead of each class having its own"] = False

    def share(self, processes: int, reserves: bool = False) -> Stated:
        """What one of so many processes may use of an account, which `reserves` output at sending or not."""

        def part(limit: int | None) -> float | None:
            return None if limit is None else limit / processes

        return Stated(
            part(self.requests_per_minute),
            part(self.input_tokens_per_minute),
            part(self.output_tokens_per_minute),
            part(self.tokens_per_minute),
            part(self.tokens_per_day),
            self.burndown,
            reserves,
            " ".join(self.models) if self.shared else "",
        )


class Account(Frozen, frozen=True, kw_only=True):
    """One upstream credential. `organization` and `workspace` are what its provider shares limits and caches within,
    where not given; `drain_until` is in Unix seconds."""

    id: Annotated[str, Text(check.identifier, check.ID_PATTERN, once="account id"), "name in logs and metrics"]
    provider: Annotated[str, Choice(NAMES), "who answers"] = "anthropic"
    base_url: Annotated[
        str, Text(check.base_url), "where requests go; may have a path prefix; default: the provider's own"
    ] = ""
    api_key: Annotated[str, _SECRET, "the provider's key, or a bearer token"] = ""
    weight: Annotated[float, Number(above=0, most=1e9), "share of conversations, relative to the others"] = 1.0
    organization: Annotated[
        str, _ID, "limit domain; default: the account id, on clouds account or project and region"
    ] = ""
    workspace: Annotated[str, _ID, "cache domain; default: as organization"] = ""
    models: Annotated[
        tuple[str, ...],
        _PATTERNS,
        "models it serves: names, each of which means all names of its model, or patterns with *",
    ] = ("*",)
    max_concurrency: Annotated[int | None, _COUNT, "requests in flight at most, over all processes"] = None
    state: Annotated[str, Choice(STATES), "draining takes no new conversations, disabled serves nothing"] = "active"
    drain_until: Annotated[float | None, Moment(), "when draining ends and it is as if disabled"] = None
    ca_file: Annotated[
        str | None, Text(check.authorities), "PEM file of the authorities to trust, not the system's"
    ] = None
    proxy: Annotated[str | None, Text(check.proxy_url, hide=check.without_password), "outbound proxy URL"] = None
    http2: Annotated[bool, Flag(), "speak HTTP/2 to the upstream"] = False
    price_factor: Annotated[
        float | None,
        Number(above=0, most=100, decimals=3),
        "times the list's price, such as 0.9 for a discount; default: 1, on clouds 1.1 where a region costs more",
    ] = None
    limits: Annotated[
        tuple[StatedLimits, ...],
        Many(Section(StatedLimits)),
        "of clouds: what the account may use a minute or a day, where its answers do not tell",
    ] = ()
    region: Annotated[str, _REGION, "region; of vertex also global, us or eu"] = ""
    api: Annotated[str, Choice(APIS), "of bedrock: InvokeModel, or the Messages endpoint"] = "invoke"
    profile: Annotated[
        str, Choice((*PROFILES, "none")), "of bedrock: where it may compute; default: the region's geography"
    ] = ""
    aws_account: Annotated[str, Text(check.aws_account, "[0-9]{12}"), "of bedrock: number of the AWS account"] = ""
    aws: Annotated[Aws | None, Perhaps(Section(Aws, finish=_aws)), "keys of AWS; {}: as botocore finds them"] = None
    project: Annotated[str, Text(check.project, check.PROJECT_PATTERN), "of vertex: the Google project"] = ""
    credentials: Annotated[
        str,
        Text(check.key_file, hide=check.hidden, lines=True),
        "of vertex: the text of a key file; default: the machine's own",
    ] = ""
    entra: Annotated[Entra | None, Perhaps(Section(Entra, finish=_entra)), "of foundry: an application of Entra ID"] = (
        None
    )
    workspace_id: Annotated[str, _ID, "of aws-platform: the workspace"] = ""
    model_names: Annotated[
        dict[str, str],
        Table(Text(check.model_name), Text(check.provider_name)),
        "of clouds: model: what the account calls it, such as an ARN or a deployment",
    ] = msgspec.field(default_factory=dict)
    betas: Annotated[
        Literal["drop", "strict"],
        Choice(("drop", "strict")),
        "flags of anthropic-beta that the account refuses: drop leaves them out where that does no harm, strict never",
    ] = "drop"
    capabilities: Annotated[
        dict[str, str],
        Table(Text(check.need), Choice(tuple(Verdict))),
        "what it serves, where the built-in table is wrong: a need such as beta:context-1m-* or tool:web_search_*: ok, "
        "drop or no",
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base_url and self.row.base_url is not None:
            msgspec.structs.force_setattr(self, "base_url", self.row.base_url(self.region))
        for name in ("organization", "workspace"):
            if not getattr(self, name):
                msgspec.structs.force_setattr(self, name, self.domain or self.id)

    @property
    def row(self) -> Row:
        """What its provider's row says."""
        return row_of(self.provider, self.api)

    @property
    def kind(self) -> str:
        """Its provider, with the API where that has several."""
        return kind_of(self.provider, self.api)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All that nobody may see of it."""
        own = [self.api_key, self.credentials]
        if self.aws is not None:
            own += [self.aws.access_key_id, self.aws.secret_access_key, self.aws.session_token]
        if self.entra is not None:
            own.append(self.entra.client_secret)
        return tuple(each for each in own if each)

    @property
    def domain(self) -> str:
        """What limits and caches are shared within, as far as its row tells; "" if that tells nothing."""
        domain = ""
        if self.provider == "bedrock" and self.aws_account:
            domain = ".".join((self.aws_account, self.region, *(() if self.api == "invoke" else (self.api,))))
        elif self.provider == "vertex" and self.project:
            domain = f"{self.project}.{self.region}"
        elif self.provider == "foundry":
            domain = urlsplit(self.base_url).hostname or ""
        elif self.provider == "aws-platform":
            domain = self.workspace_id
        return re.sub("[^A-Za-z0-9._-]", "-", domain)[:64]


_OWN = frozenset().union(*(row.keys for row in PROVIDERS.values()), *(row.proofs for row in PROVIDERS.values()))


def _account(reader: Reader, node: Node, path: str, values: dict[str, Any]) -> Any:
    """Whether what is given fits the provider."""
    provider = values["provider"]
    row = row_of(provider, values["api"])
    problems = len(reader.problems)
    known = sorted({*row.keys, *row.proofs})
    for key, entry in node.value.items():
        if key in _OWN and key not in known and entry.node.value is not None:
            words = f"means nothing to the provider {provider}"
            if provider == "bedrock" and values["api"] != "invoke":
                words += f" with the api {values['api']}"
            hint = f"; {nearest(key, known, 'keys of it')}" if known else ""
            reader.fail(entry.line, join(path, key), words + hint)
    for key in row.needs:
        if not values[key]:
            reader.fail(node.line, join(path, key), f"missing; {_NEEDED[key]}")
    given = [key for key in row.proofs if key in node.value and node.value[key].node.value is not None]
    if len(given) > 1:
        reader.fail(node.value[given[1]].line, join(path, given[1]), f"has a credential already: {given[0]}")
    elif not given and not row.without:
        reader.fail(node.line, join(path, row.proofs[0]), f"missing; {_PROOFS[row.proofs]}")
    if provider == "vertex" and not values["api_key"] and (lacks := google.missing()):
        reader.fail(node.line, join(path, "provider"), lacks)
    return values if len(reader.problems) == problems else BAD


_NEEDED = {
    "region": "the region, such as us-east-1; of vertex also global, us or eu",
    "project": "the id of the Google project",
    "base_url": "the resource, such as https://name.services.ai.azure.com/anthropic",
    "workspace_id": "the id of the workspace",
}
_PROOFS = {
    ("api_key",): "the provider's key",
    ("api_key", "aws"): "the provider's key, or aws with keys of AWS",
    ("api_key", "entra"): "the provider's key, or entra with an application of Entra ID",
}

ACCOUNTS = Many(Section(Account, finish=_account), least=1)
