"""One account of each provider, as the contract suite takes it: a row without a sample here is a failing test."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.core.routing.provider_names import ProviderNames
from gateway.data import load_catalogue, load_provider_names
from gateway.upstream.credential import Credential
from gateway.upstream.credentials.aws import AwsKeys
from gateway.upstream.credentials.entra import EntraApp
from gateway.upstream.provider import Provider
from gateway.upstream.providers import PROVIDERS
from gateway.upstream.settings import AccountNames, Settings

SECRET = "sk-canary-of-the-contract"
KEYS = AwsKeys(access_key_id="AKIDCANARY", secret_access_key="canary/of+the/contract", session_token="canary-token")
CATALOGUE, TABLE = load_catalogue(), load_provider_names()


def canonical(model: str) -> str:
    found = CATALOGUE.find(model)
    return model if found is None else found.id


def names(own: Mapping[str, str] | None = None, table: ProviderNames = TABLE) -> AccountNames:
    return AccountNames(table, canonical, own or {})


AWS = Settings(
    names=names(), host=b"aws.test", region="us-east-1", aws_account="123456789012", workspace_id="wrkspc_01", aws=KEYS
)
BEARER = msgspec.structs.replace(AWS, aws=None, api_key=SECRET)
GOOGLE = Settings(names=names(), host=b"google.test", region="global", project="project-1", api_key=SECRET)
AZURE = Settings(names=names(), host=b"azure.test", prefix=b"/anthropic", api_key=SECRET)

SAMPLES: dict[str, Settings] = {
    "anthropic": Settings(names=names(), api_key=SECRET),
    "bedrock": AWS,
    "bedrock with a key": BEARER,
    "bedrock/mantle": AWS,
    "bedrock/mantle with a key": BEARER,
    "vertex": GOOGLE,
    "foundry": AZURE,
    "aws-platform": AWS,
    "aws-platform with a key": BEARER,
}
# Those whose credential has to be fetched first.
FETCHED: dict[str, Settings] = {
    "bedrock": msgspec.structs.replace(AWS, aws=AwsKeys()),
    "bedrock/mantle": msgspec.structs.replace(AWS, aws=AwsKeys()),
    "vertex": msgspec.structs.replace(GOOGLE, api_key=""),
    "foundry": msgspec.structs.replace(AZURE, api_key="", entra=EntraApp("t", "c", "s")),
    "aws-platform": msgspec.structs.replace(AWS, aws=AwsKeys()),
}


def opened(name: str, settings: Settings | None = None, credential: Credential | None = None) -> Provider:
    """The provider of a sample, by its name or its row's."""
    row = PROVIDERS[name.partition(" ")[0]]
    settings = settings or SAMPLES[name]
    return row.open(settings, credential or row.credential(settings))
