"""The configuration file, its errors, and `gateway config`."""

import hashlib
import json
import os
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.commands.config import app
from gateway.config import schema as config
from gateway.config.file import load, loads
from gateway.config.schema import (
    Account,
    Admin,
    AdminToken,
    Affinity,
    Budget,
    Caller,
    CallerLimits,
    Config,
    ConfigError,
    Limits,
    Log,
    ModelEntry,
    Models,
    Team,
    Timeouts,
    catalogue_of,
)

ENVIRON = {
    "GATEWAY_ADMIN_TOKEN": "an-admin-token-of-some-length",
    "GATEWAY_SECRET": "0123456789abcdef0123456789abcdef",
    "ANTHROPIC_API_KEY_A": "sk-ant-a",
    "ALICE_KEY": "sk-alice",
}

FULL = """\
listen: 0.0.0.0:8080
admin:
  listen: 127.0.0.1:8081            # metrics, admin API, dashboard; its own listener
  token: ${GATEWAY_ADMIN_TOKEN}
workers: 1
redis: ${REDIS_URL:-}               # empty: embedded
data_dir: ./data
secret: ${GATEWAY_SECRET}           # keys every HMAC
accounts:
  - id: team-a
    provider: anthropic
    base_url: https://api.anthropic.com
    api_key: ${ANTHROPIC_API_KEY_A}
    weight: 1
    organization: acme
    workspace: acme-default
    models: ["claude-*"]
    max_concurrency: 100
keys:
  - id: alice
    key: ${ALICE_KEY}
    team: research
    models: ["*"]
    limits: {requests_per_minute: 600, input_tokens_per_minute: 400000, output_tokens_per_minute: 80000,
             concurrency: 20, budget_usd: {day: 50, month: 1000}}
teams:
  - {id: research}
affinity: {header: X-Conversation-Id}
models: {aliases: {fast: claude-haiku-4-5}}
timeouts: {connect: 5, first_byte: 580, idle: 240, total: 590, drain: 600, drain_delay: 5}
limits: {max_body_mb: 32}
expose_account: true
"""

KEYS = "keys: [{id: alice, key: sk-alice}]\n"
SMALL = """\
accounts:
  - {id: a, api_key: sk-ant-a}
"""


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def problems(text, environ=ENVIRON):
    """What is wrong with a text: `line: path: message`, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        loads(text, environ)
    return [line.removeprefix("gateway.yaml:") for line in str(caught.value).splitlines()]


def with_account(line):
    return f"accounts:\n  - id: a\n    api_key: sk-ant-a\n    {line}\n"


def with_key(line):
    return f"{SMALL}keys:\n  - id: alice\n    key: sk-alice\n    {line}\n"


# What a good file means


def test_the_documented_file_is_read_as_it_says():
    assert loads(FULL, ENVIRON) == Config(
        admin=Admin(token="an-admin-token-of-some-length"),
        secret=("0123456789abcdef0123456789abcdef",),
        accounts=(
            Account(
                id="team-a", api_key="sk-ant-a", organization="acme", workspace="acme-default", models=("claude-*",),
                max_concurrency=100,
            ),
        ),
        keys=(
            Caller(
                id="alice", digests=(sha256("sk-alice"),), team="research",
                limits=CallerLimits(
                    requests_per_minute=600, input_tokens_per_minute=400_000, output_tokens_per_minute=80_000,
                    concurrency=20, budget_usd=Budget(day=50, month=1000),
                ),
            ),
        ),
        teams=(Team(id="research"),),
        models=Models(aliases={"fast": "claude-haiku-4-5"}),
    )  # fmt: skip


def test_the_values_of_the_documented_file_are_the_defaults_outside_accounts_keys_and_teams():
    full, small = loads(FULL, ENVIRON), loads(SMALL, ENVIRON)
    different = {name for name in Config.__struct_fields__ if getattr(full, name) != getattr(small, name)}
    assert different == {"accounts", "keys", "teams", "models"}


def test_further_defaults():
    small = loads(SMALL, ENVIRON)
    assert small.affinity == Affinity(header="X-Conversation-Id", remember=86_400)
    assert small.limits == Limits(
        max_body_mb=32, max_batch_mb=256, max_file_mb=500, max_held_mb=512, max_connections=10_000, max_head_kb=64
    )
    assert (small.share, small.trusted_proxies, small.models) == ("caller", (), Models())
    assert small.log == Log(level="info", format="auto")
    assert small.timeouts == Timeouts(client_head=10, client_body=30, client_idle=120, ping=15, write=60)
    account = small.accounts[0]
    assert (account.organization, account.workspace, account.models) == ("a", "a", ("*",))
    assert (account.base_url, account.weight, account.max_concurrency) == ("https://api.anthropic.com", 1.0, None)


def test_an_omitted_token_secret_and_redis_come_from_the_environment():
    loaded = loads(SMALL, {**ENVIRON, "REDIS_URL": "redis://cache:6379/2"})
    assert loaded.admin.token == ENVIRON["GATEWAY_ADMIN_TOKEN"]
    assert loaded.secret == (ENVIRON["GATEWAY_SECRET"],)
    assert loaded.redis == "redis://cache:6379/2"


def test_without_an_argument_the_environment_of_the_process_is_read(tmp_path, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "gateway.yaml").write_text(FULL)
    monkeypatch.chdir(tmp_path)
    assert load() == loads(FULL, ENVIRON)


def test_json_is_yaml_too():
    text = json.dumps(
        {"accounts": [{"id": "a", "api_key": "${ANTHROPIC_API_KEY_A}", "weight": 2.5}], "expose_account": False},
        indent="\t",
    )
    loaded = loads(text, ENVIRON)
    assert (loaded.accounts[0].api_key, loaded.accounts[0].weight, loaded.expose_account) == ("sk-ant-a", 2.5, False)


def test_null_and_an_empty_value_mean_not_given():
    loaded = loads(SMALL + "workers:\nkeys: null\nadmin: ~\ntimeouts: {idle: null}\n", ENVIRON)
    assert loaded == loads(SMALL, ENVIRON)


def test_a_configuration_travels_to_another_process_as_bytes():
    loaded = loads(FULL, ENVIRON)
    assert config.decode(config.encode(loaded)) == loaded


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        loads(SMALL, ENVIRON).workers = 2  # type: ignore[misc]


def test_the_tenant_of_a_team_and_of_a_caller_with_its_name_differ():
    tenants = {Caller(id="x").tenant, Caller(id="y", team="x").tenant, Caller(id="z", team="x").tenant}
    assert tenants == {"c:x", "t:x"}


def test_one_caller_may_have_several_keys_and_digests():
    text = f"{SMALL}keys:\n  - id: b\n    key: [one, two]\n    key_sha256: {sha256('three').upper()}\n"
    assert loads(text, ENVIRON).keys[0].digests == (sha256("one"), sha256("two"), sha256("three"))


def test_a_caller_whose_keys_are_made_at_run_time_says_so():
    assert loads(f"{SMALL}keys:\n  - {{id: b, key: []}}\n", ENVIRON).keys[0].digests == ()
    assert problems(f"{SMALL}keys:\n  - {{id: b, key: null, key_sha256: ~}}\n") == [
        "4: keys[0]: needs key or key_sha256; `key: []` if all are made at run time"
    ]


def test_the_keys_of_a_caller_may_end_and_have_notes():
    text = with_key("expires: 2030-01-31T18:00:00Z\n    metadata: {floor: '3', cost_center: '${ALICE_KEY}'}")
    loaded = loads(text, ENVIRON)
    assert loaded.keys[0].expires == 1_896_112_800.0
    assert loaded.keys[0].metadata == {"floor": "3", "cost_center": "sk-alice"}
    assert config.decode(config.encode(loaded)) == loaded
    shown = config.describe(loaded)["keys"][0]
    assert (shown["expires"], shown["metadata"]["floor"]) == ("2030-01-31T18:00:00Z", "3")
    plain = loads(with_key("share: team"), ENVIRON).keys[0]
    assert (plain.expires, plain.metadata) == (None, {})


def test_a_team_may_have_limits_of_its_own():
    text = (
        f"{SMALL}teams:\n  - {{id: research, limits: {{concurrency: 50, budget_usd: {{month: 9000}}}}}}\n  - id: ops\n"
    )
    assert loads(text, ENVIRON).teams == (
        Team(id="research", limits=CallerLimits(concurrency=50, budget_usd=Budget(month=9000))),
        Team(id="ops"),
    )
    assert loads(SMALL, ENVIRON).teams == ()
    assert problems(f"{SMALL}teams:\n  - {{id: a}}\n  - {{id: a, team: b}}\n  - limits: {{concurrency: 0}}\n") == [
        "5: teams[1].team: unknown key; known keys here: id, name, models, limits, key_policy, metadata",
        "5: teams[1].id: the same team id as teams[0].id on line 4; each must be different",
        "6: teams[2].id: missing; the `team` of its callers",
        "6: teams[2].limits.concurrency: must be at least 1",
    ]


TEAMS = """\
teams:
  - {id: research, limits: {budget_usd: {month: 9000}}}
  - {id: ops}
"""


def test_a_team_that_is_defined_nowhere_is_named_with_the_nearest_one():
    def said(text):
        return [each for each in config.config_warnings(loads(text, ENVIRON)) if "team" in each]

    words = 'team "reserch" is not defined under teams, so that it has no limits'
    assert said(with_key("team: reserch") + TEAMS) == [f'{words}; did you mean "research"?']
    assert said(with_key("team: reserch")) == [words]
    assert said(with_key("team: blue") + TEAMS) == [
        'team "blue" is not defined under teams, so that it has no limits; those that are: research, ops'
    ]
    assert said(with_key("team: research") + TEAMS) == said(with_key("") + TEAMS) == []
    twice = with_key("team: reserch") + "  - {id: bob, key: sk-bob, team: reserch}\n"
    assert said(twice + TEAMS) == [f'{words}; did you mean "research"?']


def test_with_strict_teams_it_is_an_error_at_its_line():
    text = with_key("team: reserch") + TEAMS + "teams_strict: true\n"
    assert problems(text) == [
        '6: keys[0].team: team "reserch" is not defined under teams, so that it has no limits; did you mean "research"?'
    ]
    for good in (text.replace("reserch", "research"), with_key("") + TEAMS + "teams_strict: true\n"):
        assert loads(good, ENVIRON).teams_strict


def test_raw_keys_of_callers_are_not_kept():
    assert b"sk-alice" not in config.encode(loads(FULL, ENVIRON))


def test_a_second_secret_is_still_accepted():
    assert loads(f"{SMALL}secret: [{'n' * 32}, {'o' * 40}]\n", ENVIRON).secret == ("n" * 32, "o" * 40)
    assert problems(f"{SMALL}secret: [{'n' * 32}, {'o' * 40}, {'p' * 32}]\n") == ["3: secret: takes at most 2 items"]


def test_anchors_aliases_and_merge_keys_save_repetition():
    text = """\
accounts:
  - &base {id: a, api_key: sk-ant-a, weight: 3, organization: &org acme}
  - <<: *base
    id: b
    weight: 1
  - <<: [{workspace: shared}, *base]
    id: c
    organization: *org
"""
    a, b, c = loads(text, ENVIRON).accounts
    assert (a.weight, b.weight, c.weight) == (3, 1, 3)
    assert (a.organization, b.organization, c.organization) == ("acme", "acme", "acme")
    assert (b.workspace, c.workspace) == ("b", "shared")


def test_words_that_older_yaml_took_for_booleans_and_times_stay_strings():
    text = "accounts:\n  - {id: no, api_key: 0x1F, organization: 1e, workspace: 007, models: [12:30:45]}\n"
    account = loads(text, ENVIRON).accounts[0]
    assert (account.id, account.api_key, account.organization) == ("no", "0x1F", "1e")
    assert (account.workspace, account.models) == ("007", ("12:30:45",))


def test_a_trailing_slash_of_a_base_url_does_not_matter():
    assert (
        loads(with_account("base_url: http://127.0.0.1:9/proxy/"), ENVIRON).accounts[0].base_url
        == "http://127.0.0.1:9/proxy"
    )


# Expressions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${ONE}", "1"),
        ("a${ONE}b${ONE}", "a1b1"),
        ("${NONE:-}", ""),
        ("${NONE:-fall:-back}", "fall:-back"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("$${ONE}", "${ONE}"),
        ("$$${ONE}", "$${ONE}"),
        ("$ONE $ {ONE} $", "$ONE $ {ONE} $"),
        ("${NESTED}", "${ONE}"),
        ("${YAML}", "a: [b"),
    ],
)
def test_expressions_are_replaced_once(text, value):
    environ = {**ENVIRON, "ONE": "1", "EMPTY": "", "NESTED": "${ONE}", "YAML": "a: [b"}
    loaded = loads(f"{SMALL}data_dir: {json.dumps('x' + text)}\n", environ)
    assert loaded.data_dir == "x" + value


def test_an_expression_alone_may_become_a_number_or_a_boolean():
    environ = {**ENVIRON, "N": "8", "W": "2.5", "T": "true"}
    text = """\
accounts: [{id: a, api_key: k, weight: '${W}'}]
workers: ${N}
expose_account: ${F:-false}
admin: {metrics_open: '${T}'}
"""
    loaded = loads(text, environ)
    assert (loaded.workers, loaded.accounts[0].weight) == (8, 2.5)
    assert (loaded.expose_account, loaded.admin.metrics_open) == (False, True)


def test_an_expression_that_is_no_number_is_refused_by_name_and_not_by_value():
    assert problems(f"{SMALL}workers: ${{N}}\n", {**ENVIRON, "N": "sk-ant"}) == [
        "3: workers: expected a number, got a string (it comes from ${N})"
    ]
    assert problems(f"{SMALL}workers: ${{N:-sk-ant}}\n") == [
        "3: workers: expected a number, got a string (it comes from ${N})"
    ]


def test_expressions_in_keys_are_not_replaced():
    assert loads(f"{SMALL}models: {{aliases: {{'${{ONE}}': m}}}}\n", ENVIRON).models.aliases == {"${ONE}": "m"}


def test_a_quoted_number_is_not_a_number():
    assert problems(f'{SMALL}workers: "8"\n') == ["3: workers: expected a number, got a string; take the quotes off"]


def test_an_optional_text_that_expands_to_nothing_is_not_given():
    assert loads(with_account("proxy: ${HTTPS_PROXY:-}"), ENVIRON).accounts[0].proxy is None


def test_a_credential_or_limit_that_expands_to_nothing_is_a_mistake():
    environ = {**ENVIRON, "EMPTY": "", "ALICE_KEY": ""}
    assert problems(FULL, environ) == ["21: keys[0].key: must not be empty (it comes from ${ALICE_KEY})"]
    assert problems(with_account("max_concurrency: ${EMPTY}"), environ) == [
        "4: accounts[0].max_concurrency: expected a number, got nothing (it comes from ${EMPTY})"
    ]


def test_a_file_expression_reads_the_file_without_its_last_newline(tmp_path):
    token = "a-token-that-stands-in-a-file"
    (tmp_path / "token").write_text(f"{token}\n")
    assert loads(f"{SMALL}admin: {{token: '${{file:{tmp_path}/token}}'}}\n", ENVIRON).admin.token == token


def test_a_file_expression_reads_no_device_pipe_or_binary(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    for name, message in [
        ("/dev/zero", "does not exist or is not a regular file"),
        (f"{tmp_path}/pipe", "does not exist or is not a regular file"),
        (f"{tmp_path}/missing", "does not exist or is not a regular file"),
        (f"{tmp_path}/binary", "is not UTF-8 text"),
        (f"{tmp_path}/big", "is larger than 64 KiB"),
    ]:
        assert problems(f"{SMALL}secret: ${{file:{name}}}\n") == [f"3: secret: file '{name}' {message}"]


def test_an_unset_variable_without_default_is_named():
    assert problems(f"{SMALL}data_dir: ${{DATA}}\n") == [
        "3: data_dir: environment variable DATA is not set; set it or write ${DATA:-default}"
    ]


def test_no_default_is_advised_for_a_secret():
    text = """\
accounts:
  - {id: a, api_key: "${A}"}
  - {id: b, api_key: sk, proxy: "${B}"}
admin: {tokens: [{id: x, token: "${C}"}]}
redis: ${D}
keys:
  - {id: alice, key: ["${E}"]}
tracing: {headers: {authorization: "${F}"}}
"""
    found = problems(text, {})
    assert len(found) == 8
    for each in found:
        assert "is not set; set it or name a file that holds it: ${file:PATH}" in each


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A B}", "${A", "x${A-b}"])
def test_a_malformed_expression_says_how_to_write_one(text):
    (problem,) = problems(f"{SMALL}data_dir: '{text}'\n")
    assert re.match(r'3: data_dir: .*"\$\$\{" for a literal', problem)


# Wrong files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wieght: 1", '4: accounts[0].wieght: unknown key; did you mean "weight"?'),
        ("weight: 0", "4: accounts[0].weight: must be greater than 0"),
        ("weight: -1", "4: accounts[0].weight: must be greater than 0"),
        ("weight: .nan", "4: accounts[0].weight: must be a finite number"),
        ("weight: .inf", "4: accounts[0].weight: must be a finite number"),
        ("weight: 1e999", "4: accounts[0].weight: must be a finite number"),
        ("weight: true", "4: accounts[0].weight: expected a number, got a boolean"),
        ("weight: heavy", "4: accounts[0].weight: expected a number, got a string"),
        ("weight: [1]", "4: accounts[0].weight: expected a number, got a list"),
        ("max_concurrency: 0", "4: accounts[0].max_concurrency: must be at least 1"),
        ("max_concurrency: 1.5", "4: accounts[0].max_concurrency: must be a whole number"),
        ("http2: 1", "4: accounts[0].http2: expected true or false, got a number"),
        ("http2: yes", "4: accounts[0].http2: expected true or false, got a string"),
        (
            "provider: bedrok",
            "4: accounts[0].provider: must be one of: anthropic, bedrock, vertex, foundry, aws-platform",
        ),
        ("organization: a b", "4: accounts[0].organization: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        ("organization: ..", "4: accounts[0].organization: must not be . or .., which clients take out of a URL"),
        ("workspace: 5", "4: accounts[0].workspace: expected a string, got a number; put it in quotes"),
        ("models: []", "4: accounts[0].models: needs at least 1 item"),
        ("models: [a, '']", "4: accounts[0].models[1]: must not be empty"),
        ("models: {a: b}", "4: accounts[0].models: expected a list, got a mapping"),
        ("base_url: api.anthropic.com", "4: accounts[0].base_url: must begin with http:// or https://"),
        ("base_url: 'https://'", "4: accounts[0].base_url: is not a URL with a host"),
        ("base_url: https://h:99999", "4: accounts[0].base_url: is not a valid URL"),
        ("base_url: https://h:0", "4: accounts[0].base_url: is not a URL with a host"),
        ("base_url: https://h/?", "4: accounts[0].base_url: must not have a query or fragment"),
        ("base_url: https://h/#x", "4: accounts[0].base_url: must not have a query or fragment"),
        ("base_url: 'https://h/a b'", "4: accounts[0].base_url: must not contain spaces"),
        ("base_url: 'https://h/{x}'", "4: accounts[0].base_url: contains characters that a URL cannot have"),
        ("proxy: ftp://h", "4: accounts[0].proxy: must begin with http:// or https:// or socks5:// or socks5h://"),
        ("ca_file: /no/such/file", "4: accounts[0].ca_file: no such file"),
        (f"ca_file: {__file__}", "4: accounts[0].ca_file: holds no certificates in PEM form"),
        ("state: resting", "4: accounts[0].state: must be one of: active, draining, disabled"),
        ("weight: !!int '5'", '4: accounts[0].weight: tags are not used here; quote a value that begins with "!"'),
    ],
)
def test_a_wrong_account_is_named_with_line_and_path(line, message):
    assert message in problems(with_account(line))


def test_an_account_is_active_unless_the_file_says_otherwise():
    account = loads(with_account("weight: 1"), ENVIRON).accounts[0]
    assert (account.state, account.drain_until) == ("active", None)


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("2030-01-31T18:00:00Z", 1_896_112_800, "2030-01-31T18:00:00Z"),
        ("2030-01-31t18:00:00z", 1_896_112_800, "2030-01-31T18:00:00Z"),
        ("'2030-01-31 20:00:00.5+02:00'", 1_896_112_800.5, "2030-01-31T18:00:00.500000Z"),
        ("${END}", 1_896_112_800, "2030-01-31T18:00:00Z"),
        ("1969-12-31T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
    ],
)
def test_a_drain_ends_at_a_point_in_time(text, seconds, shown):
    loaded = loads(
        with_account(f"state: draining\n    drain_until: {text}"), {**ENVIRON, "END": "2030-01-31T18:00:00Z"}
    )
    assert (loaded.accounts[0].state, loaded.accounts[0].drain_until) == ("draining", seconds)
    assert config.describe(loaded)["accounts"][0]["drain_until"] == shown
    assert config.decode(config.encode(loaded)) == loaded
    assert not [each for each in config.config_warnings(loaded) if "drain" in each]


@pytest.mark.parametrize(
    "text",
    ["2030-01-31T18:00:00", "2030-01-31", "20300131T180000Z", "2030-02-31T18:00:00Z", "2030-01-31T25:00:00Z",
     "9999-12-31T23:59:59-23:59", "tomorrow", "1896112800", "[2030]", "2030-01-31T18:00:00+00:00:30"],
)  # fmt: skip
def test_a_time_that_is_none_or_ambiguous_is_refused(text):
    assert [each for each in problems(with_account(f"drain_until: {text}")) if each.startswith("4: ")]


def test_a_deadline_without_a_drain_is_warned_about():
    loaded = loads(with_account("drain_until: 2030-01-31T18:00:00Z"), ENVIRON)
    assert [each for each in config.config_warnings(loaded) if "drain_until means nothing" in each]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("limits: {concurrency: 0}", "6: keys[0].limits.concurrency: must be at least 1"),
        ("limits: {colour: 1}", "6: keys[0].limits.colour: unknown key; known keys here: requests_per_minute, "
         "input_tokens_per_minute, output_tokens_per_minute, concurrency, budget_usd"),
        ("limits: {concurency: 1}", '6: keys[0].limits.concurency: unknown key; did you mean "concurrency"?'),
        ("limits: {budget_usd: 5}", "6: keys[0].limits.budget_usd: expected a mapping, got a number"),
        ("limits: {budget_usd: {day: -1}}", "6: keys[0].limits.budget_usd.day: must be at least 0"),
        ("key_sha256: abc", "6: keys[0].key_sha256: must be a SHA-256 digest: 64 hexadecimal digits"),
        (f"key_sha256: {sha256('sk-alice')}",
         "6: keys[0].key_sha256: the same key as keys[0].key on line 5; each must be different"),
        ("digests: []",
         "6: keys[0].digests: unknown key; known keys here: id, team, models, limits, share, expires, metadata, key, "
         "key_sha256"),
        ("share: everybody", "6: keys[0].share: must be one of: caller, team"),
        ("expires: 2030-01-31", "6: keys[0].expires: must be a time with its offset, such as 2030-01-31T18:00:00Z"),
        ("metadata: [floor]", "6: keys[0].metadata: expected a mapping, got a list"),
        ("metadata: {floor: 3}", "6: keys[0].metadata.floor: expected a string, got a number; put it in quotes"),
        ("metadata: {a b: c}", "6: keys[0].metadata.?: must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        (f"metadata: {{floor: {'x' * 257}}}", "6: keys[0].metadata.floor: must have at most 256 characters"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_line_and_path(line, message):
    assert problems(with_key(line)) == [message]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "listen: 80800",
            "3: listen: must be host:port with a port from 0 to 65535, such as 0.0.0.0:8080 or [::1]:8080",
        ),
        ("listen: true", "3: listen: expected a string, got a boolean; put it in quotes"),
        ("timeouts: {ping: soon}", "3: timeouts.ping: expected a number, got a string"),
        (
            "timeouts: {ping: 15 minuts}",
            "3: timeouts.ping: expected a number, got a string; write seconds, or such as 90s, 5m, 1h",
        ),
        ("timeouts: {ping: 0s}", "3: timeouts.ping: must be greater than 0"),
        ("timeouts: {ping: 2d}", "3: timeouts.ping: must be at most 86,400"),
        (
            "limits: {max_head_kb: 1mib}\nworkers: 2x",
            "4: workers: expected a number, got a string; write it without a unit, spaces or commas",
        ),
        ("limits: {max_head_kb: 1.5k}", "3: limits.max_head_kb: must be a whole number"),
        ("limits: {max_body_mb: 2g}", "3: limits.max_body_mb: must be at most 1,024"),
        (
            "limits: {max_body_mb: '32'}",
            "3: limits.max_body_mb: expected a number, got a string; write MiB, or such as 32mb, 512kb, 1gb",
        ),
        (
            "log: {sample: 10 percent}",
            "3: log.sample: expected a number, got a string; write a share from 0 to 1, or such as 10%",
        ),
        (
            "listen: localhost",
            "3: listen: must be host:port with a port from 0 to 65535, such as 0.0.0.0:8080 or [::1]:8080",
        ),
        ("listen: 127.0.0.1:8081", "3: listen: the same address as admin.listen; the two listeners need one each"),
        ("workers: 0", "3: workers: must be at least 1"),
        (
            "redis: localhost:6379",
            "3: redis: must be a URL such as redis://host:6379/0, rediss://host:6380 or unix:///path",
        ),
        ("redis: 'redis://h/0 '", "3: redis: must not contain spaces"),
        ("data_dir: ''", "3: data_dir: must not be empty"),
        ("secret: short", "3: secret: must have at least 32 characters; `openssl rand -hex 32` makes a good one"),
        ("secret: []", "3: secret: needs at least 1 item"),
        ("admin: {token: ''}", "3: admin.token: must not be empty"),
        (
            "admin: {token: of-19-characters-19}",
            "3: admin.token: must have at least 20 characters; `openssl rand -hex 32` makes a good one",
        ),
        ("admin: {token: with a space within it}", "3: admin.token: must be printable ASCII without spaces"),
        ("admin: []", "3: admin: expected a mapping, got a list"),
        ("admin: {tokens: [{id: a}]}", "3: admin.tokens[0]: needs token or token_sha256"),
        (
            "admin: {tokens: [{id: a, token: [of-20-characters--20, seven77]}]}",
            "3: admin.tokens[0].token[1]: must have at least 20 characters; `openssl rand -hex 32` makes a good one",
        ),
        (
            "admin: {tokens: [{id: a, token: long-enough-to-be-one, role: root}]}",
            "3: admin.tokens[0].role: must be one of: read, operate",
        ),
        (
            "admin: {tokens: [{id: admin, token: long-enough-to-be-one}]}",
            "3: admin.tokens[0].id: admin is who has admin.token; choose another name",
        ),
        (
            "admin: {tokens: [{id: a, token: an-admin-token-of-some-length}]}",
            "3: admin.tokens[0]: the same token as admin.token; each must be different",
        ),
        ("affinity: {header: X Id}", "3: affinity.header: is not a valid header name"),
        ("timeouts: {connect: 0}", "3: timeouts.connect: must be greater than 0"),
        ("timeouts: {idle: -5}", "3: timeouts.idle: must be greater than 0"),
        ("timeouts: {total: 1e9}", "3: timeouts.total: must be at most 86,400"),
        ("log: {level: loud}", "3: log.level: must be one of: debug, info, warning, error"),
        ("models: {aliases: {fast: 1}}", "3: models.aliases.fast: expected a string, got a number; put it in quotes"),
        ("models: {aliases: {fast: claude-*}}", "3: models.aliases.fast: must be the name of one model, not a pattern"),
        ("models: {aliases: {'f?': m}}", "3: models.aliases.?: must be the name of one model, not a pattern"),
        ("share: all", "3: share: must be one of: caller, team"),
        (
            "trusted_proxies: [10.0.0.1/8]",
            "3: trusted_proxies[0]: must be an IP address, or a network without host bits such as 10.0.0.0/8",
        ),
        ("public_url: llm.acme.test", "3: public_url: must begin with http:// or https://"),
        ("public_url: https://a:b@c.test", "3: public_url: must not contain a user name or password"),
        ("limits: {max_held_mb: 0}", "3: limits.max_held_mb: must be greater than 0"),
        ("limits: {max_bach_mb: 1}", '3: limits.max_bach_mb: unknown key; did you mean "max_batch_mb"?'),
        ("workers: 1\nworkers: 2", "4: workers: given twice, first on line 3"),
        ("accounts: []", "3: accounts: given twice, first on line 1"),
        ("<<: 5", "3: <<: only mappings can be merged"),
    ],
)
def test_a_wrong_setting_is_named_with_line_and_path(line, message):
    assert problems(f"{SMALL}{line}\n") == [message]


@pytest.mark.parametrize(
    "name", ["Authorization", "x-api-key", "COOKIE", "Connection", "transfer-encoding", "Host", "TE"]
)
def test_the_affinity_header_cannot_be_one_with_another_meaning(name):
    (problem,) = problems(f"{SMALL}affinity: {{header: {name}}}\n")
    assert problem.startswith("3: affinity.header: this header has another meaning")


@pytest.mark.parametrize("key", ["", "sk ant", "sk\\tant", "sk-\\u00e9", "sk\\u0000", "sk\\n"])
def test_an_api_key_that_no_header_can_carry_is_refused(key):
    (problem,) = problems(f'accounts:\n  - {{id: a, api_key: "{key}"}}\n')
    assert problem.startswith("2: accounts[0].api_key: ")


def test_all_problems_are_reported_in_the_order_of_the_file():
    text = """\
listen: nowhere
accounts:
  - id: a
    wieght: 2
  - id: a
    api_key: "two words"
keys:
  - {id: x}
  - {id: x, key: same}
  - {id: y, key: same, colour: red}
wrokers: 3
"""
    assert problems(text, {"GATEWAY_SECRET": "x" * 32}) == [
        "1: listen: must be host:port with a port from 0 to 65535, such as 0.0.0.0:8080 or [::1]:8080",
        "1: admin.token: environment variable GATEWAY_ADMIN_TOKEN is not set; "
        "set it or name a file that holds it: ${file:PATH}",
        "3: accounts[0].api_key: missing; the provider's key",
        '4: accounts[0].wieght: unknown key; did you mean "weight"?',
        "5: accounts[1].id: the same account id as accounts[0].id on line 3; each must be different",
        "6: accounts[1].api_key: must be printable ASCII without spaces",
        "8: keys[0]: needs key or key_sha256; `key: []` if all are made at run time",
        "9: keys[1].id: the same caller id as keys[0].id on line 8; each must be different",
        "10: keys[2].colour: unknown key; known keys here: id, team, models, limits, share, expires, metadata, key, "
        "key_sha256",
        "10: keys[2].key: the same key as keys[1].key on line 9; each must be different",
        '11: wrokers: unknown key; did you mean "workers"?',
    ]


def test_one_key_cannot_belong_to_two_callers_as_key_and_as_digest():
    text = f"{SMALL}keys:\n  - {{id: x, key: same}}\n  - {{id: y, key_sha256: {sha256('same')}}}\n"
    assert problems(text) == ["5: keys[1].key_sha256: the same key as keys[0].key on line 4; each must be different"]


def test_a_file_with_very_many_problems_reports_the_first_hundred():
    text = SMALL + "".join(f"key{number}: 1\n" for number in range(150))
    lines = problems(text)
    assert (len(lines), lines[-1]) == (101, " and 50 more problems")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "gateway.yaml: the file is empty"),
        (b"# only a comment\n", "gateway.yaml: the file is empty"),
        (b"---\n", "gateway.yaml: the file is empty"),
        (b"- a\n- b\n", "gateway.yaml:1: expected a mapping, got a list"),
        (b"just words", "gateway.yaml:1: expected a mapping, got a string"),
        (b"workers: 1\n\xff\xfe", "gateway.yaml:2: not UTF-8 text"),
        (b"a: \x00\x01", "gateway.yaml: not a text file: it contains characters that YAML does not allow"),
        (b"a: b\n---\nc: d\n", 'gateway.yaml:2: a second document begins here; remove "---"'),
        (b"? [a]\n: b\n", "gateway.yaml:1: a key must be a plain word"),
        (b"a: *secret-alias", 'gateway.yaml:1: a: unknown or unfinished anchor; quote a value that begins with "*"'),
        (b"a: &x [*x]", 'gateway.yaml:1: a[0]: unknown or unfinished anchor; quote a value that begins with "*"'),
        (b"[" * 100_000, "gateway.yaml:1: nested more than 32 levels deep"),
        (b"a: [1\nb: 2\n", "gateway.yaml:2: not valid YAML: did not find expected ',' or ']'"),
    ],
)
def test_what_is_no_configuration_at_all_is_one_clear_line(tmp_path, monkeypatch, raw, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load("gateway.yaml", ENVIRON)
    assert str(caught.value) == message


def test_a_missing_file_a_directory_and_a_huge_file_are_one_clear_line_each(tmp_path):
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"# " + b"x" * 9 * 1024 * 1024)
    for path, message in [
        (tmp_path / "no.yaml", "no such file; name the configuration with --config"),
        (tmp_path, "not a regular file"),
        (huge, "larger than 8 MiB, which is no configuration file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path, ENVIRON)
        assert str(caught.value) == f"{path}: {message}"


def test_aliases_that_multiply_are_bounded():
    lines = ["a: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &l{n + 1} [{', '.join([f'*l{n}'] * 10)}]" for n in range(9)]
    assert problems("\n".join(lines))[-1].endswith("more than 500000 values, aliases counted at full size")


def test_a_flow_mapping_with_an_unquoted_expression_gets_a_hint():
    (problem,) = problems("admin: {token: ${GATEWAY_ADMIN_TOKEN}}\n")
    assert 'an expression needs quotes: "${NAME}"' in problem


def outcome(text):
    """(configuration, "") or (None, error)."""
    try:
        return loads(text, {**ENVIRON, "A": "x"}), ""
    except ConfigError as error:
        return None, str(error)


SECRETS = st.text(alphabet="SECRETsecret0123456789!*&%@{}[]:'\"# $-", min_size=6).map(lambda text: "hush" + text)


@given(secret=SECRETS, place=st.integers(0, 6), quoted=st.booleans())
def test_no_error_shows_a_secret(secret, place, quoted):
    value = json.dumps(secret) if quoted else secret
    text = [
        with_account(f"api_key: {value}"),
        with_account(f"weight: {value}"),
        with_account(f"base_url: {json.dumps('https://user:' + secret + '@h/?')}"),
        f"{SMALL}secret: {value}\n",
        f"{SMALL}admin: {{token: {value}}}\n",
        with_key(f"key_sha256: {value}"),
        f"{SMALL}redis: {value}\n",
    ][place]
    loaded, error = outcome(text)
    assert "hush" not in error
    if loaded is not None:
        assert "hush" not in repr(loaded) + json.dumps(config.describe(loaded)) + str(config.config_warnings(loaded))


FRAGMENTS = st.sampled_from(
    [*FULL.splitlines(True), "${", "}", "${file:", "\0", "&a ", "*a", "<<: ", "[", "]", "{", "!!python/object:os ",
     "? ", "- ", ": ", "\t", "'", '"', "|\n", "\ud800", "\\ud800", "e999", "\ufeff", "---\n", "%YAML 1.1\n"]
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FRAGMENTS | st.text(max_size=8), max_size=40).map("".join))
def test_any_text_is_a_configuration_or_a_configuration_error(text):
    loaded, error = outcome(text)
    assert all(line.startswith("gateway.yaml") for line in error.splitlines())
    if loaded is not None:
        assert config.decode(config.encode(loaded)) == loaded


@given(st.text(alphabet=st.sampled_from("${}:-file/AB_1 \0\ud800"), max_size=30))
def test_any_expression_is_a_value_or_a_configuration_error(text):
    loaded, error = outcome(f"{SMALL}data_dir: {json.dumps(text)}\n")
    assert loaded is not None or "data_dir" in error or "YAML" in error


def test_a_variable_that_is_not_unicode_is_refused():
    (problem,) = problems(f"{SMALL}data_dir: ${{BAD}}\n", {**ENVIRON, "BAD": "\udcff"})
    assert problem == "3: data_dir: is not valid Unicode text (it comes from ${BAD})"


def test_both_listeners_may_ask_for_a_free_port():
    loaded = loads(f"{SMALL}listen: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0}}\n", ENVIRON)
    assert loaded.listen == loaded.admin.listen


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        (":8080", ("0.0.0.0", 8080)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(text, address):
    assert config.parse_listen(text) == address


@pytest.mark.parametrize(
    ("listen", "admin", "addresses"),
    [
        ("9090", "9091", ("0.0.0.0:9090", "127.0.0.1:9091")),
        ("'9090'", "${PORT}", ("0.0.0.0:9090", "127.0.0.1:7001")),
        ("${PORT}", ":9091", ("0.0.0.0:7001", ":9091")),
        ("0", "0", ("0.0.0.0:0", "127.0.0.1:0")),
    ],
)
def test_a_port_alone_is_one_of_the_host_that_the_listener_has_by_default(listen, admin, addresses):
    loaded = loads(f"{SMALL}listen: {listen}\nadmin: {{listen: '{admin}'}}\n", {**ENVIRON, "PORT": "7001"})
    assert (loaded.listen, loaded.admin.listen) == addresses


# Units


@pytest.mark.parametrize(
    ("text", "value"),
    [("timeouts: {idle: 90s}", 90.0), ("timeouts: {idle: 1500ms}", 1.5), ("timeouts: {idle: 5 M}", 300.0),
     ("timeouts: {idle: 1h30m}", 5400.0), ("timeouts: {idle: 1d}", 86_400.0), ("timeouts: {idle: 0.5min}", 30.0),
     ("timeouts: {idle: '${IDLE:-2m}'}", 120.0), ("timeouts: {idle: 75}", 75.0)],
)  # fmt: skip
def test_seconds_may_be_written_with_a_unit(text, value):
    assert loads(f"{SMALL}{text}\n", ENVIRON).timeouts.idle == value


def test_sizes_and_shares_may_be_written_with_a_unit():
    text = """\
limits: {max_body_mb: 64MB, max_batch_mb: 512 MiB, max_file_mb: 2g, max_held_mb: 1048576k, max_head_kb: 1m}
log: {sample: 12.5%}
affinity: {remember: 12h}
"""
    loaded = loads(SMALL + text, ENVIRON)
    limits = Limits(max_body_mb=64, max_batch_mb=512, max_file_mb=2048, max_held_mb=1024, max_head_kb=1024)
    assert (loaded.limits, loaded.log.sample, loaded.affinity.remember) == (limits, 0.125, 43_200.0)


def test_the_schema_takes_the_units_that_are_read():
    idle = config.schema()["properties"]["timeouts"]["properties"]["idle"]
    [pattern] = [each["pattern"] for each in idle["anyOf"] if "pattern" in each]
    for text in ("90s", "1h30m", "500ms", "1.5 h"):
        assert re.search(pattern, text)
    for text in ("90", "s", "90x", "90s and more"):
        assert not re.search(pattern, text)


@pytest.mark.parametrize(
    "text", ["", "8080", "h:", "h:70000", "h:-1", "h:٣", "::1:80", "[::1]", "[x]:1", "a b:1", "h:1:"]
)
def test_wrong_addresses(text):
    with pytest.raises(ValueError):
        config.parse_listen(text)


# Sharing and proxies


def test_sharing_is_set_for_all_and_for_one_caller():
    loaded = loads(with_key("share: caller\n    team: t") + "share: team\n", ENVIRON)
    assert (loaded.share, loaded.keys[0].share) == ("team", "caller")
    assert loads(with_key("team: t"), ENVIRON).keys[0].share is None
    alone = loads(with_key("share: team"), ENVIRON)
    assert [each for each in config.config_warnings(alone) if "no team to share with" in each]
    assert config.decode(config.encode(loaded)) == loaded


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        ("[127.0.0.1, '::1', 10.0.0.0/255.0.0.0]", ("127.0.0.1", "::1", "10.0.0.0/8")),
        ("['2001:DB8::/32', '2001:0db8::0001']", ("2001:db8::/32", "2001:db8::1")),
        ("['${PROXY}']", ("192.0.2.1",)),
        ("[]", ()),
    ],
)
def test_trusted_proxies_are_addresses_and_networks(text, kept):
    loaded = loads(f"{SMALL}trusted_proxies: {text}\n", {**ENVIRON, "PROXY": "192.0.2.1"})
    assert loaded.trusted_proxies == kept


@pytest.mark.parametrize("text", ["proxy", "10.0.0", "10.0.0.0/33", "'fe80::1%eth0'", "10.0.0.1/", "'1'", "300.1.1.1"])
def test_what_is_no_address_is_refused(text):
    (problem,) = problems(f"{SMALL}trusted_proxies: [{text}]\n")
    assert problem.startswith("3: trusted_proxies[0]: must be an IP address, or a network")


# Models


def with_models(text):
    return f"{SMALL}models:\n{text}"


def model(text, name="claude-next-7"):
    found = catalogue_of(loads(with_models(f"  catalogue:\n    {name}: {text}\n"), ENVIRON)).find(name)
    assert found is not None
    return found


def prices(found):
    price = found.price
    return (price.input, price.output, price.write_5m, price.write_1h, price.read)


def test_a_model_of_the_file_is_added_before_the_built_in_ones():
    loaded = loads(with_models("  catalogue: {claude-next-7: {input: 7.5, output: 30}}\n"), ENVIRON)
    assert loaded.models.catalogue == {"claude-next-7": ModelEntry(input=7.5, output=30)}
    catalogue, built_in = catalogue_of(loaded), catalogue_of(loads(SMALL, ENVIRON))
    assert [each.id for each in catalogue] == ["claude-next-7", *(each.id for each in built_in)]
    assert catalogue.as_of == built_in.as_of
    found = model("{input: 7.5, output: 30}")
    assert prices(found) == (7_500, 30_000, 9_375, 15_000, 750)
    assert (found.display_name, found.limit_class, found.aliases) == ("claude-next-7", "claude-next-7", ())
    assert (found.context, found.max_output, found.cache_minimum) == (200_000, 64_000, 1024)
    assert config.decode(config.encode(loaded)) == loaded


def test_every_key_of_a_model_counts():
    found = model(
        "{display_name: Claude Next 7, input: 0.001, output: 0, cache_write_5m: 3, cache_write_1h: 0.004, "
        "cache_read: 0.1, context: 5, max_output: 6, cache_minimum: 0, limit_class: opus-4.5+}"
    )
    assert prices(found) == (1, 0, 3_000, 4, 100)
    assert (found.display_name, found.limit_class) == ("Claude Next 7", "opus-4.5+")
    assert (found.context, found.max_output, found.cache_minimum) == (5, 6, 0)


def test_a_model_that_is_like_another_has_all_but_its_names_and_dates():
    found = model("{like: claude-opus-4-5-20251101, max_output: 9}")
    assert prices(found) == (5_000, 25_000, 6_250, 10_000, 500)
    assert (found.limit_class, found.cache_minimum, found.line) == ("opus-4.5+", 4096, "opus")
    assert (found.id, found.display_name, found.aliases, found.max_output) == ("claude-next-7", "claude-next-7", (), 9)
    assert found.created_at.startswith("1970") and found.retires_at is None
    assert model("{like: claude-sonnet-5-5}").account_bound_thinking
    assert model("{like: claude-sonnet-4-5}").retires_at is None
    assert not model("{like: claude-sonnet-4-20250514}").retired


def test_an_entry_of_a_built_in_name_changes_what_it_says():
    built_in = catalogue_of(loads(SMALL, ENVIRON))
    loaded = loads(with_models("  catalogue: {claude-haiku-4-5: {output: 4, max_output: 7}}\n"), ENVIRON)
    catalogue = catalogue_of(loaded)
    assert [each.id for each in catalogue] == [each.id for each in built_in]
    found = catalogue.find("claude-haiku-4-5-20251001")
    assert found is not None and (found.id, found.max_output) == ("claude-haiku-4-5", 7)
    assert prices(found) == (1_000, 4_000, 1_250, 2_000, 100)
    assert (found.cache_minimum, found.created_at) == (4096, "2025-10-15T00:00:00Z")
    assert [each for each in catalogue if each.id != found.id] == [each for each in built_in if each.id != found.id]
    assert not model("{display_name: still here}", "claude-sonnet-4-20250514").retired


def test_a_new_input_price_brings_new_cache_prices():
    assert prices(model("{input: 2}", "claude-opus-5-5")) == (2_000, 20_000, 2_500, 4_000, 200)
    assert prices(model("{like: claude-opus-5-5, input: 2, cache_read: 0.05}")) == (2_000, 20_000, 2_500, 4_000, 50)
    assert prices(model("{cache_read: 0.05}", "claude-opus-5-5")) == (4_000, 20_000, 5_000, 8_000, 50)


def test_prices_of_the_file_hold_for_prompts_of_every_length_and_that_is_warned_about():
    text = "  catalogue: {claude-haiku-5-5: {input: 0.08}, claude-next-7: {like: claude-haiku-5-5, context: 5}}\n"
    loaded = loads(with_models(text), ENVIRON)
    changed, same = (catalogue_of(loaded).find(name) for name in ("claude-haiku-5-5", "claude-next-7"))
    assert changed is not None and changed.above is None
    assert same is not None and same.above is not None and same.above.price.input == 500
    warned = [each for each in config.config_warnings(loaded) if "prompts of every length" in each]
    assert len(warned) == 1 and warned[0].startswith("models.catalogue.claude-haiku-5-5: ")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{input: 1}", ".output: missing; US dollars per million tokens of output, unless it is like another model"),
        ("{output: 1}", ".input: missing; US dollars per million tokens of input, unless it is like another model"),
        ("{}", ".input: missing; US dollars per million tokens of input, unless it is like another model"),
        ("{input: 0.0001, output: 1}", ".input: must have at most 3 decimals"),
        ("{input: 1, output: 1e-4}", ".output: must have at most 3 decimals"),
        ("{input: -1, output: 1}", ".input: must be at least 0"),
        ("{input: .inf, output: 1}", ".input: must be a finite number"),
        ("{input: 1e7, output: 1}", ".input: must be at most 1,000,000"),
        ("{input: one, output: 1}", ".input: expected a number, got a string"),
        ("{input: 0.001, output: 1}", ".cache_write_5m: missing; 1.25 times input has more than 3 decimals"),
        ("{input: 0.004, output: 1}", ".cache_read: missing; 0.1 times input has more than 3 decimals"),
        ("{inptu: 1}", '.inptu: unknown key; did you mean "input"?'),
        ("{like: claude-opus5}", '.like: is no model of the built-in catalogue; did you mean "claude-opus-5"?'),
        ("{like: claude-next-7}", ".like: is no model of the built-in catalogue; did you mean"),
        ("{like: llama}", ".like: is no model of the built-in catalogue; its models: claude-fable-5-2, "),
        ("{like: 5}", ".like: expected a string, got a number; put it in quotes"),
        ("{input: 1, output: 1, context: 1.5}", ".context: must be a whole number"),
        ("5", ": expected a mapping, got a number"),
        ("", ": expected a mapping, got nothing"),
    ],
)
def test_a_wrong_model_is_named_with_line_and_path(entry, message):
    (problem, *_) = problems(with_models(f"  catalogue:\n    claude-next-7: {entry}\n"))
    assert problem.startswith(f"5: models.catalogue.claude-next-7{message}")


def test_the_line_of_a_wrong_model_is_that_of_its_key():
    text = "  catalogue:\n    claude-next-7:\n      context: 1\n      like: llama\n    b:\n      input: 1\n"
    first, second = problems(with_models(text))
    assert first.startswith("7: models.catalogue.claude-next-7.like: is no model")
    assert second.startswith("8: models.catalogue.b.output: missing")


def test_a_model_is_not_described_under_another_name_of_it():
    assert problems(with_models("  catalogue: {claude-haiku-4-5-20251001: {output: 4}}\n")) == [
        "4: models.catalogue.claude-haiku-4-5-20251001: is another name of claude-haiku-4-5; "
        "write its entry under that name"
    ]


@pytest.mark.parametrize("alias", ["claude-opus-5", "claude-opus-4-5-20251101", "claude-next-7"])
def test_an_alias_hides_no_model(alias):
    text = f"  catalogue: {{claude-next-7: {{like: claude-opus-5}}}}\n  aliases: {{{alias}: claude-haiku-4-5}}\n"
    assert problems(with_models(text)) == [
        f"5: models.aliases.{alias}: is the name of a model, which it would hide; choose another"
    ]


def test_an_alias_may_stand_in_for_a_retired_model():
    text = "  aliases: {claude-3-5-haiku-20241022: claude-haiku-4-5}\n"
    loaded = loads(with_models(text), ENVIRON)
    assert not [each for each in config.config_warnings(loaded) if "alias" in each]
    revived = "  catalogue: {claude-3-5-haiku-20241022: {display_name: Old}}\n"
    assert len(problems(with_models(text + revived))) == 1


def test_an_alias_of_an_alias_is_refused():
    text = "  aliases:\n    fast: quick\n    quick: claude-haiku-4-5\n    self: self\n    a: b\n    b: a\n"
    assert problems(with_models(text)) == [
        f"{line}: models.aliases.{alias}: stands for an alias; write the model that is meant"
        for line, alias in ((5, "fast"), (7, "self"), (8, "a"), (9, "b"))
    ]


def test_wrong_models_and_wrong_aliases_are_told_together():
    text = "  catalogue: {claude-next-7: {like: llama}}\n  aliases: {claude-opus-5: claude-haiku-4-5}\n"
    assert [each.partition(": ")[0] for each in problems(with_models(text))] == ["4", "5"]


def test_an_alias_that_leads_nowhere_is_warned_about():
    text = with_account("models: [claude-haiku-*, llama]") + "models: {aliases: {x: llama, y: claude-opus-5}}\n"
    warnings = [each for each in config.config_warnings(loads(text, ENVIRON)) if "aliases" in each]
    assert [each.partition("; ")[0] for each in warnings] == [
        "models.aliases.x: llama is no model of the catalogue, so nobody knows its price",
        "models.aliases.y: no account serves the model it stands for",
    ]


def test_names_and_patterns_that_no_model_fits_are_warned_about_once_each():
    text = """\
accounts:
  - {id: a, api_key: sk-1, models: [claude-haiku-*, claude-opsu-*, llama]}
  - {id: b, api_key: sk-2, models: [claude-opsu-*, "claude-3-*", "*"]}
keys:
  - {id: alice, key: sk-alice, models: [claude-sonet-5, llama, fast, claude-haiku-4-5-20251001, claude-opus-5-20270101]}
  - {id: bob, key: sk-bob, models: claude-sonet-5}
models: {aliases: {fast: claude-haiku-4-5}, catalogue: {claude-next-7: {like: claude-opus-5}}}
"""
    warnings = [each for each in config.config_warnings(loads(text, ENVIRON)) if "models" in each]
    assert [each.partition("its models: ")[0] for each in warnings] == [
        'account a, b: models: claude-opsu-* fits no model of the catalogue; did you mean "claude-opus-5"?',
        "account a: models: llama is no model of the catalogue, so nobody knows its price; ",
        "key alice, bob: models: claude-sonet-5 is no model of the catalogue, so nobody knows its price; "
        'did you mean "claude-sonnet-5"?',
    ]
    many = "".join(f"  - {{id: a{number}, api_key: sk-{number}, models: llama-*}}\n" for number in range(40))
    [told] = [each for each in config.config_warnings(loads(f"accounts:\n{many}", ENVIRON)) if "llama" in each]
    assert told.startswith("account a0, a1, a2, a3, a4 and 35 more: models: llama-* fits no model")


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("base_url: https://proxy.acme.test/anthropic", ""),
        ("base_url: https://proxy.acme.test/v1beta", ""),
        ("base_url: https://api.anthropic.com/v1", "account a: base_url ends in /v1"),
        ("base_url: https://api.anthropic.com/v1/", "account a: base_url ends in /v1"),
        ("base_url: https://proxy.acme.test/x/v1/messages", "account a: base_url ends in /v1/messages"),
        ("base_url: https://proxy.acme.test/messages", "account a: base_url ends in /messages"),
        ("weight: 1\npublic_url: https://llm.acme.test/v1", "public_url ends in /v1"),
        ("weight: 1\ntracing: {endpoint: 'http://127.0.0.1:4318/v1/traces'}", "tracing.endpoint ends in /v1/traces"),
    ],
)
def test_a_base_url_that_ends_in_what_is_added_to_it_is_warned_about(line, warning):
    found = [each for each in config.config_warnings(loads(with_account(line) + KEYS, ENVIRON)) if "ends in" in each]
    assert len(found) == bool(warning)
    assert not warning or found[0].startswith(f"{warning}, though whole paths")


@given(
    st.decimals(0, 1_000_000, places=3) | st.decimals(0, 2, places=5),
    st.decimals(0, 1_000_000, places=3),
)
def test_a_price_is_kept_exactly_or_refused(dollars, read):
    text = f"{{input: {dollars:f}, output: {dollars:f}, cache_write_5m: 1, cache_write_1h: 1, cache_read: {read:f}}}"
    if dollars * 1000 % 1:
        assert {each.partition(": ")[2] for each in problems(with_models(f"  catalogue: {{m: {text}}}\n"))} == {
            "models.catalogue.m.input: must have at most 3 decimals",
            "models.catalogue.m.output: must have at most 3 decimals",
        }
    else:
        found = model(text, "m")
        assert (found.price.input, found.price.read) == (dollars * 1000, read * 1000)


# For people and editors


def test_describe_shows_everything_but_secrets():
    text = with_account("proxy: http://user:password@proxy:3128") + "keys: [{id: alice, key: sk-alice}]\n"
    shown = config.describe(loads(text, {**ENVIRON, "REDIS_URL": "rediss://:pa@ss@h:6379/0?password=again&db=1"}))
    assert shown["redis"] == "rediss://:***@h:6379/0?password=***&db=1"
    assert shown["admin"]["token"] == "***"
    assert shown["secret"] == ["***"]
    assert shown["accounts"][0]["api_key"] == "***"
    assert shown["accounts"][0]["proxy"] == "http://user:***@proxy:3128"
    assert shown["keys"][0]["digests"] == [sha256("sk-alice")[:8] + "…"]
    assert shown["timeouts"]["connect"] == 5


def test_describe_shows_models_as_the_file_has_them():
    text = with_models("  aliases: {fast: claude-haiku-4-5}\n  catalogue: {m: {input: 5, output: 0.125}}\n")
    shown = config.describe(loads(text, ENVIRON))["models"]
    assert shown["aliases"] == {"fast": "claude-haiku-4-5"}
    assert {key: value for key, value in shown["catalogue"]["m"].items() if value is not None} == {
        "input": 5,
        "output": 0.125,
    }
    assert loads(SMALL + yaml.safe_dump({"models": shown}), ENVIRON).models == loads(text, ENVIRON).models


def test_further_admin_tokens_have_a_role_and_are_kept_as_digests():
    text = f"""\
admin:
  tokens:
    - {{id: grafana, token: [token-that-is-number-1, token-that-is-number-2]}}
    - {{id: ops, token_sha256: {"A" * 64}, role: operate}}
"""
    loaded = loads(SMALL + text, ENVIRON)
    assert loaded.admin.tokens == (
        AdminToken(
            id="grafana", digests=(sha256("token-that-is-number-1"), sha256("token-that-is-number-2")), role="read"
        ),
        AdminToken(id="ops", digests=("a" * 64,), role="operate"),
    )
    assert "token-that" not in json.dumps(config.describe(loaded)) and config.decode(config.encode(loaded)) == loaded


def test_a_repr_shows_no_secret():
    shown = repr(loads(FULL, ENVIRON))
    assert "team-a" in shown
    assert not any(value in shown for value in ENVIRON.values())


def test_warnings_name_what_is_hardly_meant():
    text = """\
admin: {listen: "0.0.0.0:8081", token: a-token-of-the-operator, metrics_open: true}
accounts:
  - {id: a, api_key: same, workspace: w, base_url: "http://upstream.example"}
  - {id: b, api_key: same, workspace: w}
trusted_proxies: [10.0.0.0/8, "::/0"]
limits: {max_held_mb: 20}
"""
    warnings = "\n".join(config.config_warnings(loads(text, ENVIRON)))
    for words in (
        "metrics_open",
        "keys is empty",
        "unencrypted",
        "same api_key",
        "one organization",
        "trusted_proxies: anybody is believed",
        "max_held_mb is less than max_body_mb",
    ):
        assert words in warnings
    assert "a-token-of" not in warnings
    assert config.config_warnings(loads(FULL, ENVIRON)) == []


def test_the_schema_describes_every_key_and_its_default():
    schema = config.schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["accounts"]
    documented = yaml.safe_load(FULL)
    assert set(documented) <= set(schema["properties"])
    assert set(documented["keys"][0]) <= set(schema["properties"]["keys"]["items"]["properties"])
    assert schema["properties"]["workers"]["default"] == 1
    assert schema["properties"]["secret"]["default"] == "${GATEWAY_SECRET}"
    assert schema["properties"]["timeouts"]["properties"]["idle"]["default"] == 240
    undescribed = [path for path, node in properties(schema) if not node.get("description")]
    assert undescribed == []
    json.dumps(schema)


def properties(schema, path=""):
    for name, node in schema.get("properties", {}).items():
        yield f"{path}.{name}", node
        yield from properties(node, f"{path}.{name}")
        yield from properties(node.get("items", {}), f"{path}.{name}[]")
        yield from properties(node.get("additionalProperties") or {}, f"{path}.{name}.*")


def test_every_field_of_every_struct_is_a_key_with_help():
    structs = [
        Config,
        Admin,
        AdminToken,
        Account,
        Caller,
        CallerLimits,
        Team,
        Budget,
        Affinity,
        Models,
        ModelEntry,
        Timeouts,
        Limits,
        Log,
    ]
    names = {f"{s.__name__}.{name}" for s in structs for name in s.__struct_fields__}
    keys = {path.rpartition(".")[2] for path, _ in properties(config.schema())}
    derived = {"AdminToken.digests", "Caller.digests", "Caller.principal"}
    assert {name for name in names if name.partition(".")[2] not in keys} == derived


# The command


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.yaml"
    path.write_text(FULL)
    return path


def test_check_prints_one_line_about_a_good_file(file):
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0
    assert result.stdout == "gateway.yaml: ok — 1 account in 1 organization, 1 key, embedded store\n"
    assert result.stderr == ""


def test_check_prints_warnings_to_stderr(file):
    file.write_text(SMALL)
    result = CliRunner().invoke(app, ["check", "--config", "gateway.yaml"])
    assert result.exit_code == 0
    assert result.stdout == "gateway.yaml: ok — 1 account in 1 organization, 0 keys, embedded store\n"
    assert result.stderr.startswith("gateway.yaml: warning: keys is empty")


def test_check_of_a_wrong_file_exits_with_2_and_explains_on_stderr(file):
    file.write_text(SMALL + "wrokers: 2\n")
    result = CliRunner().invoke(app, ["check"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'gateway.yaml:3: wrokers: unknown key; did you mean "workers"?\n'


def test_check_as_json(file, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://:password@cache:6379/0")
    good = json.loads(CliRunner().invoke(app, ["check", "--json"]).stdout)
    assert good == {
        "ok": True, "file": "gateway.yaml", "accounts": 1, "organizations": 1, "keys": 1, "callers": 1,
        "store": "redis://:***@cache:6379/0", "warnings": [],
    }  # fmt: skip
    file.write_text("accounts: []\n")
    result = CliRunner().invoke(app, ["check", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "ok": False,
        "file": "gateway.yaml",
        "problems": [{"line": 1, "path": "accounts", "message": "needs at least 1 item"}],
    }


def test_show_prints_the_configuration_in_force_without_secrets(file):
    shown = CliRunner().invoke(app, ["show"])
    assert shown.exit_code == 0
    assert yaml.safe_load(shown.stdout) == config.describe(load(file))
    assert json.loads(CliRunner().invoke(app, ["show", "--json"]).stdout) == config.describe(load(file))
    assert not any(value in shown.stdout for value in ENVIRON.values())


def test_show_of_a_missing_file_exits_with_2(file):
    result = CliRunner().invoke(app, ["show", "--config", "other.yaml"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "other.yaml: no such file; name the configuration with --config\n"


def test_schema_prints_json(file):
    result = CliRunner().invoke(app, ["schema"])
    assert json.loads(result.stdout) == config.schema()
