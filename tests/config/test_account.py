"""Accounts on clouds: what each provider knows, needs, and has its credential from, and where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.commands.checkup.finding import secrets_of
from gateway.config.file import loads
from gateway.config.schema import Account, ConfigError, config_warnings, decode, describe, encode
from gateway.core.routing.stated_limits import Stated

REST = {
    "admin": {"token": "token-of-the-operator-of-tests"},
    "secret": "0123456789abcdef0123456789abcdef",
    "keys": [],
}
KEYS = {"access_key_id": "AKIDCANARY", "secret_access_key": "canary/secret+key"}
KEY_FILE = json.dumps({"type": "service_account", "private_key": "-----BEGIN-----\ncanary\n-----END-----"}, indent=1)
BEDROCK = {"provider": "bedrock", "region": "us-east-1"}
VERTEX = {"provider": "vertex", "project": "my-project", "region": "global"}
FOUNDRY = {"provider": "foundry", "base_url": "https://name.services.ai.azure.com/anthropic"}
PLATFORM = {"provider": "aws-platform", "region": "us-east-1", "workspace_id": "wrkspc_01"}
ENTRA = {"tenant_id": "t", "client_id": "c", "client_secret": "canary-of-entra"}


def read(**account: object) -> Account:
    return loads(json.dumps({**REST, "accounts": [{"id": "a", **account}]}), {}).accounts[0]


def problems(**account: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(**account)
    return [each.partition("accounts[0].")[2] or each for each in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("account", "base_url", "domain"),
    [
        ({"api_key": "k"}, "https://api.anthropic.com", "a"),
        ({**BEDROCK, "api_key": "k"}, "https://bedrock-runtime.us-east-1.amazonaws.com", "a"),
        (
            {**BEDROCK, "aws": KEYS, "aws_account": "123456789012"},
            "https://bedrock-runtime.us-east-1.amazonaws.com",
            "123456789012.us-east-1",
        ),
        (
            {**BEDROCK, "api": "mantle", "aws": KEYS, "aws_account": "123456789012"},
            "https://bedrock-mantle.us-east-1.api.aws",
            "123456789012.us-east-1.mantle",
        ),
        ({**VERTEX, "api_key": "k"}, "https://aiplatform.googleapis.com", "my-project.global"),
        ({**VERTEX, "region": "eu", "api_key": "k"}, "https://aiplatform.eu.rep.googleapis.com", "my-project.eu"),
        (
            {**VERTEX, "region": "europe-west1", "credentials": KEY_FILE},
            "https://europe-west1-aiplatform.googleapis.com",
            "my-project.europe-west1",
        ),
        ({**FOUNDRY, "api_key": "k"}, FOUNDRY["base_url"], "name.services.ai.azure.com"),
        ({**FOUNDRY, "entra": ENTRA}, FOUNDRY["base_url"], "name.services.ai.azure.com"),
        ({**PLATFORM, "aws": KEYS}, "https://aws-external-anthropic.us-east-1.api.aws", "wrkspc_01"),
    ],
)
def test_where_an_account_is_and_what_it_shares_limits_and_caches_within(account, base_url, domain):
    found = read(**account)
    assert (found.base_url, found.organization, found.workspace) == (base_url, domain, domain)
    assert read(**{**account, "base_url": "http://127.0.0.1:9", "workspace": "w"}).base_url == "http://127.0.0.1:9"


def test_an_account_s_own_words_are_before_the_provider_s():
    found = read(**BEDROCK, aws=KEYS, organization="o", workspace="w", model_names={"claude-opus-4-7": "arn:aws:x/y"})
    assert (found.organization, found.workspace) == ("o", "w")
    assert found.model_names == {"claude-opus-4-7": "arn:aws:x/y"}


@pytest.mark.parametrize(
    ("account", "problem"),
    [
        ({}, "api_key: missing; the provider's key"),
        (
            {"api_key": "k", "region": "us-east-1"},
            "region: means nothing to the provider anthropic; keys of it: api_key",
        ),
        ({"provider": "bedrock", "api_key": "k"}, "region: missing; the region, such as us-east-1"),
        (BEDROCK, "api_key: missing; the provider's key, or aws with keys of AWS"),
        ({**BEDROCK, "api_key": "k", "aws": {}}, "aws: has a credential already: api_key"),
        ({**BEDROCK, "api_key": "k", "project": "my-project"}, "project: means nothing to the provider bedrock"),
        ({**BEDROCK, "api": "mantle", "api_key": "k", "profile": "us"}, "with the api mantle"),
        ({**BEDROCK, "aws": {"access_key_id": "A"}}, "aws: needs access_key_id and secret_access_key together"),
        ({**BEDROCK, "aws": {**KEYS, "config_profile": "p"}}, "aws: takes either keys or a config_profile"),
        ({**BEDROCK, "aws": {**KEYS, "external_id": "e"}}, "aws: external_id belongs to a role_arn"),
        ({**BEDROCK, "aws": {**KEYS, "role_arn": "role"}}, "aws.role_arn: must be the ARN of a role"),
        ({**BEDROCK, "api_key": "k", "aws_account": "12"}, "aws_account: must be the 12 digits"),
        ({**BEDROCK, "api_key": "k", "profile": "mars"}, "profile: must be one of: global, us"),
        ({**BEDROCK, "api_key": "k", "region": "US"}, "region: must be the name of a region"),
        ({"provider": "vertex", "api_key": "k"}, "project: missing; the id of the Google project"),
        ({**VERTEX, "credentials": "path.json"}, "credentials: is no JSON; write ${file:PATH}"),
        ({**VERTEX, "credentials": "{}"}, "credentials: is no key file of Google's"),
        ({"provider": "foundry", "api_key": "k"}, "base_url: missing; the resource"),
        (
            {**FOUNDRY, "entra": {"tenant_id": "t", "client_id": "c"}},
            "entra: needs client_secret or federated_token_file",
        ),
        ({"provider": "aws-platform", "region": "us-east-1", "api_key": "k"}, "workspace_id: missing"),
        (
            {**BEDROCK, "api_key": "k", "model_names": {"claude-*": "x"}},
            "model_names.claude-*: must be the name of one",
        ),
        ({**BEDROCK, "api_key": "k", "model_names": {"claude-x": "a b"}}, "model_names.claude-x: must be 1 to 2048"),
    ],
)
def test_what_does_not_fit_the_provider_is_named(account: dict[str, object], problem: str):
    found = problems(**account)
    assert any(problem in each for each in found), found


def test_limits_are_stated_by_models_and_shared_by_processes():
    row = {"models": "claude-opus-*", "tokens_per_minute": 1000, "burndown": 5, "requests_per_minute": 30}
    (found,) = read(**BEDROCK, api_key="k", limits=[row]).limits
    assert found.models == ("claude-opus-*",)
    assert found.share(4) == Stated(requests=7.5, tokens=250.0, burndown=5.0)
    (more,) = read(**BEDROCK, api_key="k", limits=[{**row, "tokens_per_day": 8000, "shared": True}]).limits
    assert more.share(4, True) == Stated(7.5, None, None, 250.0, 2000.0, 5.0, True, "claude-opus-*")
    (problem,) = problems(api_key="k", limits=[row])
    assert "limits: means nothing to the provider anthropic" in problem


def test_no_keys_at_all_mean_the_default_chain():
    assert read(**BEDROCK, aws={}).aws is not None
    assert read(**BEDROCK, api_key="k").aws is None
    assert read(**VERTEX).credentials == ""


def test_a_key_file_of_several_lines_is_taken_from_a_file(tmp_path: Path):
    (tmp_path / "sa.json").write_text(KEY_FILE + "\n")
    assert read(**VERTEX, credentials=f"${{file:{tmp_path / 'sa.json'}}}").credentials == KEY_FILE


def test_no_secret_of_a_cloud_is_shown_and_all_are_known_to_be_secrets():
    accounts = [
        {"id": "a", **BEDROCK, "aws": {**KEYS, "session_token": "canary-of-the-session"}},
        {"id": "b", **VERTEX, "credentials": KEY_FILE},
        {"id": "c", **FOUNDRY, "entra": ENTRA},
    ]
    config = loads(json.dumps({**REST, "accounts": accounts}), {})
    shown = json.dumps(describe(config)) + repr(config)
    canaries = ["AKIDCANARY", "canary/secret+key", "canary-of-the-session", "BEGIN", "canary-of-entra"]
    for canary in canaries:
        assert canary not in shown
        assert any(canary in secret for secret in secrets_of(config))
    assert decode(encode(config)) == config


@pytest.mark.parametrize(("url", "warns"), [("https://n.test/anthropic", False), ("https://n.test", True)])
def test_a_foundry_address_without_its_path_is_warned_about(url: str, warns: bool):
    account = {"id": "a", "provider": "foundry", "base_url": url, "api_key": "k"}
    found = config_warnings(loads(json.dumps({**REST, "accounts": [account]}), {}))
    assert any("/anthropic as a rule" in each for each in found) == warns


# Caches that accounts share, as the file tells.

AWS_1 = {**BEDROCK, "aws_account": "123456789012"}


def domain_warnings(one: dict[str, object], other: dict[str, object]) -> list[str]:
    rows = [{"id": "a", "api_key": "k1", **one}, {"id": "b", "api_key": "k2", **other}]
    found = config_warnings(loads(json.dumps({**REST, "accounts": rows}), {}))
    return [each for each in found if each.startswith("account b: it has the work") or "shares the cache" in each]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({**AWS_1, "workspace": "x"}, AWS_1, "both are of 123456789012.us-east-1, and yet their workspaces differ"),
        ({**VERTEX, "workspace": "x"}, {**VERTEX, "workspace": "y"}, "both are of my-project.global"),
        (FOUNDRY, {**FOUNDRY, "workspace": "y"}, "both are of name.services.ai.azure.com"),
        ({**PLATFORM, "workspace": "x"}, PLATFORM, "both are of wrkspc_01"),
        ({"workspace": "w"}, {**BEDROCK, "workspace": "w"}, "they are of anthropic and bedrock, which share no cache"),
        (
            {**BEDROCK, "workspace": "w"},
            {**BEDROCK, "region": "us-west-2", "workspace": "w"},
            "they are of the regions us-east-1 and us-west-2",
        ),
        (
            {**AWS_1, "workspace": "w"},
            {**AWS_1, "aws_account": "210987654321", "workspace": "w"},
            "they are of 123456789012.us-east-1 and 210987654321.us-east-1",
        ),
        (
            {**FOUNDRY, "workspace": "w"},
            {"provider": "foundry", "base_url": "https://other.test/anthropic", "workspace": "w"},
            "they are of name.services.ai.azure.com and other.test",
        ),
    ],
)
def test_accounts_that_share_a_cache_and_are_configured_apart_are_warned_about_and_the_reverse(one, other, said):
    (found,) = domain_warnings(one, other)
    assert said in found
    assert found.startswith("account b: ") and "account a, " in found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"workspace": "w"}, {"workspace": "w"}),
        (BEDROCK, BEDROCK),
        ({**BEDROCK, "workspace": "w"}, {**AWS_1, "workspace": "w"}),
        (AWS_1, AWS_1),
        (AWS_1, {**AWS_1, "region": "us-west-2"}),
        (AWS_1, {**AWS_1, "api": "mantle"}),
        ({"workspace": "w"}, {**PLATFORM, "workspace": "w"}),
        (VERTEX, VERTEX),
    ],
)
def test_what_may_well_be_meant_is_not_warned_about(one, other):
    assert domain_warnings(one, other) == []
