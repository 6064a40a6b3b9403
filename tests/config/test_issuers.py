"""Issuers in the configuration file: what they mean, and what lets nobody in by mistake."""

from __future__ import annotations

import re
from pathlib import Path

import certifi
import pytest

from gateway.config.file import loads
from gateway.config.schema import CallerLimits, ConfigError, Issuer, config_warnings, decode, describe, encode
from gateway.supervisor.reload import compare

ENVIRON = {"GATEWAY_ADMIN_TOKEN": "an-admin-token-of-some-length", "GATEWAY_SECRET": "0123456789abcdef" * 2}
START = "accounts: [{id: a, api_key: sk-ant-a}]\nissuers:\n"
GOOD = "id: k8s, issuer: https://issuer.example, audiences: [gateway], jwks_uri: https://issuer.example/jwks"


def read(*entries):
    return loads(START + "".join(f"  - {{{each}}}\n" for each in entries), ENVIRON)


def problem(entry):
    with pytest.raises(ConfigError) as caught:
        read(entry)
    return str(caught.value)


def test_an_issuer_is_read_as_it_says():
    entry = (
        f'{GOOD}, algorithms: [ES256, RS256], caller: "{{kubernetes.io/namespace}}/{{sub}}", team: platform, '
        'require: {sub: "system:serviceaccount:ml:*", kubernetes.io/namespace: [ml, web]}, models: ["claude-haiku-*"], '
        "limits: {requests_per_minute: 5}"
    )
    config = read(entry)
    assert config.issuers == (
        Issuer(
            id="k8s", issuer="https://issuer.example", audiences=("gateway",), jwks_uri="https://issuer.example/jwks",
            algorithms=("ES256", "RS256"), caller="{kubernetes.io/namespace}/{sub}", team="platform",
            require={"sub": ("system:serviceaccount:ml:*",), "kubernetes.io/namespace": ("ml", "web")},
            models=("claude-haiku-*",), limits=CallerLimits(requests_per_minute=5),
        ),
    )  # fmt: skip
    assert decode(encode(config)) == config
    assert describe(config)["issuers"][0]["require"] == {
        "sub": ["system:serviceaccount:ml:*"], "kubernetes.io/namespace": ["ml", "web"],
    }  # fmt: skip


def test_what_is_left_out_is_the_careful_choice():
    issuer = read(GOOD).issuers[0]
    assert (issuer.algorithms, issuer.caller, issuer.team, issuer.require) == (("RS256",), "{sub}", None, {})


def test_one_issuer_may_have_several_entries():
    assert len(read(GOOD, GOOD.replace("k8s", "other")).issuers) == 2


def test_a_proxy_s_password_is_not_shown():
    config = read(f"{GOOD}, proxy: 'http://user:hidden@proxy:3128'")
    assert "hidden" not in str(describe(config)) + repr(config)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (GOOD.replace("audiences: [gateway], ", ""), "audiences: missing"),
        (GOOD.replace("[gateway]", "[]"), "needs at least 1 item"),
        (GOOD.replace(", jwks_uri: https://issuer.example/jwks", ""), "needs jwks_uri or jwks_file"),
        (f"{GOOD}, jwks_file: pyproject.toml", "and not both"),
        (f"{GOOD}, jwks_file: nowhere.json", "no such file"),
        (GOOD.replace("https://issuer.example/jwks", "http://issuer.example/jwks"), "must begin with https://"),
        (GOOD.replace("https://issuer.example/jwks", "https://me@issuer.example/jwks"), "user name"),
        (f"{GOOD}, algorithms: [none]", "must be one of"),
        (f"{GOOD}, algorithms: [HS256]", "must be one of"),
        (f"{GOOD}, algorithms: []", "needs at least 1 item"),
        (GOOD.replace("https://issuer.example,", "kubernetes/serviceaccount,"), "legacy"),
        (f"{GOOD}, caller: '{{a}}{{b}}'", "between two claims"),
        (f"{GOOD}, caller: '{{a'", "brace"),
        (f"{GOOD}, require: {{a//b: x}}", "path of a claim"),
        (f"{GOOD}, require: {{sub: []}}", "needs at least 1 item"),
        (GOOD.replace("id: k8s", "id: k8s/x"), "A-Z a-z 0-9"),
        (
            GOOD.replace("jwks_uri: https://issuer.example/jwks", "jwks_file: pyproject.toml, proxy: 'http://p:1'"),
            "jwks_uri, which is not given",
        ),
        (
            GOOD.replace("https://issuer.example,", "https://token.actions.githubusercontent.com,"),
            "repository_owner_id",
        ),
        (
            GOOD.replace("https://issuer.example,", "https://gitlab.com,") + ", require: {project_path: '*'}",
            "anybody can have a token",
        ),
    ],
)
def test_mistakes_are_named(entry, words):
    assert words in problem(entry)


def test_two_entries_of_one_id_are_a_mistake():
    with pytest.raises(ConfigError, match="the same issuer id"):
        read(GOOD, GOOD)


def test_an_issuer_that_requires_nothing_is_warned_of():
    assert any("it has no require" in each for each in config_warnings(read(GOOD)))
    assert not any("it has no require" in each for each in config_warnings(read(GOOD + ", require: {sub: a}")))


TEAMS = "teams: [{id: platform}, {id: ops}]\n"
MISSPELT = 'team "platfrom" is not defined under teams, so that no token is let in until somebody makes it'


def with_team(team, rest=TEAMS):
    return f'{START}  - {{{GOOD}, require: {{sub: a}}, team: "{team}"}}\n{rest}'


def test_a_team_that_is_defined_nowhere_is_named_with_the_nearest_one():
    def said(text):
        return [each for each in config_warnings(loads(text, ENVIRON)) if "team" in each]

    assert said(with_team("platfrom")) == [f'issuer k8s: {MISSPELT}; did you mean "platform"?']
    assert said(with_team("platfrom", "")) == [f"issuer k8s: {MISSPELT}"]
    assert said(with_team("platform")) == said(with_team("{department}")) == said(with_team("x-{department}")) == []


def test_with_strict_teams_it_is_an_error_at_its_line():
    strict = TEAMS + "teams_strict: true\n"
    with pytest.raises(ConfigError) as caught:
        loads(with_team("platfrom", strict), ENVIRON)
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (3, "issuers[0].team")
    assert problem.message == f'{MISSPELT}; did you mean "platform"?'
    for good in ("platform", "{department}"):
        assert loads(with_team(good, strict), ENVIRON).teams_strict


def test_issuers_take_effect_without_a_restart():
    before, after = read(GOOD), read(GOOD + ", team: platform")
    change = compare(before, after)
    assert change.config.issuers == after.issuers
    assert (change.changed, change.restart) == (("issuers.k8s",), ())


PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
EXAMPLES = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", PAGE) if "issuers:" in block]


@pytest.mark.parametrize("example", EXAMPLES, ids=["short", "kubernetes", "github", "generic"])
def test_the_documented_examples_are_read_without_a_word(example, tmp_path):
    text = re.sub(r"/var/run/secrets/\S+/ca\.crt", certifi.where(), example)
    (tmp_path / "token").write_text("token")
    text = re.sub(r"/var/run/secrets/\S+/token", str(tmp_path / "token"), text)
    config = loads(f"accounts: [{{id: a, api_key: sk-ant-a}}]\n{text}", ENVIRON)
    assert config.issuers
    assert not [each for each in config_warnings(config) if "issuer" in each]
