"""Moving in: what LiteLLM's configuration, its keys and the environment become, and what is said about the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.file import load
from tests.commands.conftest import Run
from tests.commands.litellm_keys import FOLDER, ROWS, TEAMS, as_csv, key_of, row

_NAMES = (
    "GATEWAY_SECRET", "GATEWAY_ADMIN_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY_1", "ANTHROPIC_API_KEY_TEAM_A",
    "ANTHROPIC_ENTERPRISE_KEY", "ZAI_API_KEY", "REDIS_PASSWORD",
)  # fmt: skip
SET = {**dict.fromkeys(_NAMES, "x" * 40), "REDIS_HOST": "redis", "REDIS_PORT": "6379"}
LITERALS = (
    "sk-ant-api03-written-out-literally",
    "sk-proj-another-literal",
    "sk-master-1234",
    "db-password",
    "lf-secret-value",
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.csv"
    path.write_text(as_csv(ROWS))
    return path


@pytest.fixture
def moved(run: Run, keys: Path, tmp_path: Path) -> tuple[dict[str, Any], str, Path]:
    """The file that is written, what is said, and where it is."""
    output = tmp_path / "gateway.yaml"
    teams = FOLDER / "teams.csv"
    code, out, said = run(
        "import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--teams", teams, "--output", output
    )
    assert (code, out) == (0, ""), said
    return yaml.safe_load(output.read_text()), said, output


def small(folder: Path, models: str, **sections: Any) -> Path:
    """A configuration with these models."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"model_list": yaml.safe_load(models), **sections}))
    return path


def by_id(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in entries}


def test_what_is_written_can_be_used_once_the_variables_it_names_are_set(
    run: Run, moved: tuple[dict[str, Any], str, Path]
) -> None:
    _, said, path = moved
    code, out, err = run("config", "check", "--config", path, env=SET)
    assert (code, out) == (0, f"{path}: ok — 4 accounts in 4 organizations, 47 keys, store redis://:***@redis:6379/0\n")
    assert "no model of the catalogue" not in err
    assert all(name in said for name in set(SET) - {"ANTHROPIC_API_KEY"})


def test_each_credential_is_one_account_with_all_its_models(moved: tuple[dict[str, Any], str, Path]) -> None:
    assert moved[0]["accounts"] == [
        {
            "id": "anthropic-team-a",
            "api_key": "${ANTHROPIC_API_KEY_TEAM_A}",
            "weight": 2,
            "models": [
                "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001", "claude-haiku-4-5", "claude-sonnet-4-6",
                "claude-opus-4-8",
            ],
        },
        {
            "id": "anthropic-1",
            "api_key": "${ANTHROPIC_API_KEY_1}",
            "models": ["claude-sonnet-4-5-20250929"],
            "max_concurrency": 50,
        },
        {
            "id": "anthropic-enterprise-key",
            "api_key": "${ANTHROPIC_ENTERPRISE_KEY}",
            "models": ["claude-opus-5", "claude-opus-4-8"],
        },
        {
            "id": "anthropic-zai",
            "api_key": "${ZAI_API_KEY}",
            "base_url": "https://api.z.ai/api/anthropic",
            "models": ["glm-4.6"],
        },
    ]  # fmt: skip


def test_names_that_are_no_models_become_aliases_and_prices_that_nobody_knows_the_catalogue(
    moved: tuple[dict[str, Any], str, Path],
) -> None:
    assert moved[0]["models"] == {
        "aliases": {
            "fast": "claude-haiku-4-5",
            "claude-3-7-sonnet-latest": "claude-sonnet-4-6",
            "smart": "claude-opus-5",
            "gpt-4": "claude-haiku-4-5",
            "sonnet": "claude-sonnet-4-5-20250929",
            "anthropic/claude-sonnet-4-5-20250929": "claude-sonnet-4-5-20250929",
            "anthropic/claude-haiku-4-5-20251001": "claude-haiku-4-5-20251001",
            "anthropic/claude-sonnet-4-6": "claude-sonnet-4-6",
            "anthropic/claude-opus-5": "claude-opus-5",
            "anthropic/claude-opus-4-8": "claude-opus-4-8",
            "anthropic/glm-4.6": "glm-4.6",
        },
        "catalogue": {"glm-4.6": {"input": 0.6, "output": 2.2, "cache_read": 0.11}},
    }
    assert "one name, several models: here it is claude-opus-5 alone" in moved[1]


def test_clients_keep_their_keys_models_and_budgets(moved: tuple[dict[str, Any], str, Path]) -> None:
    callers = by_id(moved[0]["keys"])
    assert callers["alice"] == {
        "id": "alice",
        "key_sha256": ROWS[0]["token"],
        "team": "research",
        "models": ["claude-sonnet-4-5-20250929"],
        "limits": {"requests_per_minute": 60, "concurrency": 5, "budget_usd": {"month": 50}},
        "expires": "2030-06-01T12:00:00Z",
        "metadata": {"cost_center": "42"},
    }
    assert callers["bob"]["models"] == ["claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001", "claude-haiku-4-5"]
    assert callers["carol"]["limits"] == {"budget_usd": {"day": 7}}
    assert callers["Dora-Smith"]["limits"] == {"input_tokens_per_minute": 100_000, "output_tokens_per_minute": 100_000}
    assert "models" not in callers["Dora-Smith"]
    assert callers["frank"]["models"] == ["claude-opus-4-8"]
    assert callers["broke"]["limits"] == {"budget_usd": {"month": 0}}
    assert callers["dated@acme.example"]["models"] == ["claude-haiku-4-5-20251001"]
    assert callers["dev-03"]["models"] == ["claude-haiku-4-5"], "its team's, as it has none of its own"
    assert callers.keys() & {"erin", "blocked", "intern"} == set()


def test_teams_come_with_their_limits(moved: tuple[dict[str, Any], str, Path]) -> None:
    assert moved[0]["teams"] == [
        {
            "id": "research",
            "models": ["claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001", "claude-haiku-4-5"],
            "limits": {"requests_per_minute": 600, "concurrency": 20, "budget_usd": {"month": 500}},
        },
        {"id": "Data-Tools", "limits": {"budget_usd": {"day": 100}}},
        {"id": "support", "limits": {"input_tokens_per_minute": 200_000, "output_tokens_per_minute": 200_000}},
        {"id": "8f1c0d5e-0005", "models": ["claude-haiku-4-5"]},
    ]


def test_no_secret_is_written_or_said_and_each_that_was_written_out_is_named(
    moved: tuple[dict[str, Any], str, Path],
) -> None:
    _, said, path = moved
    for literal in LITERALS:
        assert literal not in said + path.read_text()
    assert "ANTHROPIC_API_KEY_1       written out today at model_list[1].litellm_params.api_key" in said
    assert "general_settings.master_key" in said


def test_whatever_has_no_counterpart_is_named_with_the_reason(moved: tuple[dict[str, Any], str, Path]) -> None:
    _, said, _ = moved
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    taken = {"redis_host", "redis_port", "redis_password"}
    for section in ("router_settings", "litellm_settings", "general_settings", "environment_variables"):
        for name in set(config[section]) - taken:
            assert f"{section}.{name}" in said
    for line in (
        "model_list (gpt-4o, text-embedding-3-small): the provider openai: an account there has no counterpart",
        "model_list (bedrock-claude): Claude on Amazon Bedrock",
        "router_settings.model_group_alias (other): what it stands for is not taken over",
        "litellm_params.rpm (claude-sonnet-4-5)",
        "litellm_params.extra_headers (fast)",
        "litellm_params.order (claude-sonnet-4-6)",
        "litellm_settings.a_setting_of_tomorrow: it has no counterpart",
        "  guardrails: ",
        "  mcp_servers: ",
        "keys (erin): it may use none of the models that are taken over",
        "keys (blocked, intern): it is blocked",
        "teams (interns): it is blocked",
        "models: gpt-4o (erin, frank)",
        "keys: aliases (Dora-Smith)",
        "keys: model_max_budget (frank)",
        "keys: metadata.tags (bob)",
        "teams: organization_id (team support)",
        "teams: metadata.cost_center (team Data-Tools)",
        "teams: members_with_roles (team research)",
        "spend: ",
        "tpm_limit (team support, Dora-Smith)",
    ):
        assert line in said


def test_it_never_overwrites(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "gateway.yaml"
    output.write_text("mine")
    code, _, said = run("import", "litellm", FOLDER / "config.yaml", "--output", output)
    assert (code, output.read_text()) == (2, "mine")
    assert said == f"gateway: {output} exists, and is not overwritten; name another file with --output\n"


def test_it_writes_gateway_yaml_where_it_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = run("import", "litellm", FOLDER / "config.yaml")
    assert code == 0 and "--keys" in said
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert load().accounts[0].id == "anthropic-team-a"


def test_to_standard_output_goes_the_file_alone(run: Run) -> None:
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--output", "-")
    assert code == 0 and yaml.safe_load(out)["accounts"] and said.startswith("Taken over: 4 accounts, 11 aliases, ")


@pytest.mark.parametrize(
    ("amount", "duration", "becomes"),
    [
        ("5", "1d", {"day": 5}), ("5", "24h", {"day": 5}), ("9.5", "30d", {"month": 9.5}), ("9", "1mo", {"month": 9}),
        ("1", "1h", {"day": 24}), ("7", "7d", {"week": 7}),
        ("90", "90d", {"month": 30}), ("12", "", {"month": 12}), ("0", "1d", {"day": 0}),
    ],
)  # fmt: skip
def test_budgets_bind_whatever_their_period(
    run: Run, tmp_path: Path, amount: str, duration: str, becomes: dict[str, float]
) -> None:
    path = tmp_path / "keys.csv"
    path.write_text(as_csv([row("alice", max_budget=amount, budget_duration=duration)]))
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", path, "--output", "-")
    assert code == 0 and yaml.safe_load(out)["keys"][0]["limits"] == {"budget_usd": becomes}
    assert (" (alice): " in said) == (duration in ("", "1h", "90d"))


def test_teams_may_stand_beside_the_keys_as_in_the_view_that_joins_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    team = {"team_alias": "research", "team_max_budget": "40", "team_budget_duration": "1d", "team_models": "{fast}"}
    path.write_text(as_csv([row("alice", team_id=TEAMS[0], **team), row("bob", team_id=TEAMS[0], **team)]))
    code, out, _ = run("import", "litellm", FOLDER / "config.yaml", "--keys", path, "--output", "-")
    written = yaml.safe_load(out)
    assert code == 0 and written["teams"] == [
        {"id": "research", "models": ["claude-haiku-4-5"], "limits": {"budget_usd": {"day": 40}}}
    ]
    assert [key["models"] for key in written["keys"]] == [["claude-haiku-4-5"]] * 2


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"team_models": "{gpt-4o}"}, "it may use none of the models that are taken over"),
        ({"team_blocked": "t", "team_models": "{fast}"}, "it is blocked, or a limit of 0 lets nothing through"),
        ({"team_rpm_limit": "0"}, "it is blocked, or a limit of 0 lets nothing through"),
    ],
    ids=["models of others", "blocked", "closed"],
)
def test_a_team_that_may_use_nothing_is_left_out_with_its_keys(
    run: Run, tmp_path: Path, columns: dict[str, str], words: str
) -> None:
    path = tmp_path / "keys.csv"
    team = {"team_id": TEAMS[0], "team_alias": "closed", **columns}
    path.write_text(as_csv([row("alice"), row("bob", **team), row("carol", **team)]))
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", path, "--output", "-")
    written = yaml.safe_load(out)
    assert code == 0 and "teams" not in written and [key["id"] for key in written["keys"]] == ["alice"]
    assert f"teams (closed): {words}" in said and f"keys (bob, carol): {words}" in said


def test_an_id_that_looks_like_a_flag_is_an_id(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("t", team_id="f", team_alias="true"), row("f", team_id="f", blocked="t")]))
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--output", "-")
    written = yaml.safe_load(out)
    assert code == 0 and [(key["id"], key["team"]) for key in written["keys"]] == [("t", "true")]
    assert written["teams"] == [{"id": "true"}] and "keys (f): it is blocked" in said


def test_keys_may_be_as_litellms_own_api_lists_them(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    listed = {
        "token": key_of("plain"),
        "key_alias": "plain",
        "models": ["fast"],
        "max_budget": 3.5,
        "budget_duration": "1d",
    }
    path.write_text(json.dumps({"keys": [listed], "total_count": 1}))
    code, out, _ = run("import", "litellm", FOLDER / "config.yaml", "--keys", path, "--output", "-")
    assert code == 0 and yaml.safe_load(out)["keys"] == [
        {
            "id": "plain",
            "key_sha256": row("plain")["token"],
            "models": ["claude-haiku-4-5"],
            "limits": {"budget_usd": {"day": 3.5}},
        }
    ]


def test_a_wildcard_serves_every_model_under_both_of_its_names(run: Run, tmp_path: Path) -> None:
    path = small(tmp_path, "[{model_name: 'anthropic/*', litellm_params: {model: 'anthropic/*'}}]")
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("a", models="{anthropic/claude-opus-5}"), row("b", models="{anthropic/*}")]))
    code, out, _ = run("import", "litellm", path, "--keys", keys, "--output", "-")
    written = yaml.safe_load(out)
    assert code == 0 and written["accounts"] == [{"id": "anthropic", "api_key": "${ANTHROPIC_API_KEY}"}]
    assert written["models"]["aliases"]["anthropic/claude-opus-5"] == "claude-opus-5"
    assert [key["models"] for key in written["keys"]] == [["claude-opus-5"], ["claude-*"]]


def test_a_name_that_is_another_model_hides_none(run: Run, tmp_path: Path) -> None:
    path = small(tmp_path, "[{model_name: claude-opus-5, litellm_params: {model: claude-haiku-4-5}}]")
    code, out, said = run("import", "litellm", path, "--output", "-")
    assert code == 0 and "models" not in yaml.safe_load(out)
    assert "model_list (claude-opus-5): it is the name of another model than claude-haiku-4-5" in said


def test_models_that_are_unknown_or_gone_are_told(run: Run, tmp_path: Path) -> None:
    listed = [
        {"model_name": name, "litellm_params": {"model": f"anthropic/{model}"}}
        for name, model in (("old", "claude-3-5-haiku-20241022"), ("odd", "claude-haiku-3-5"), ("now", "claude-opus-5"))
    ]
    code, out, said = run("import", "litellm", small(tmp_path, yaml.safe_dump(listed)), "--output", "-")
    aliases = [name for name in yaml.safe_load(out)["models"]["aliases"] if "/" not in name]
    assert code == 0 and aliases == ["old", "odd", "now"]
    assert "claude-3-5-haiku-20241022: Anthropic has retired it" in said
    assert "claude-haiku-3-5: no model of the catalogue" in said and "claude-opus-5:" not in said
    assert "it was open to everybody" in said


def test_a_name_with_spaces_is_told(run: Run, tmp_path: Path) -> None:
    listed = [{"model_name": "Claude Opus 5", "litellm_params": {"model": "claude-opus-5"}}]
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("a", models='{"Claude Opus 5"}')]))
    path = small(tmp_path, yaml.safe_dump(listed))
    code, out, said = run("import", "litellm", path, "--keys", keys, "--output", "-")
    assert code == 0 and "models" not in yaml.safe_load(out)
    assert yaml.safe_load(out)["keys"][0]["models"] == ["claude-opus-5"]
    assert "model_list (Claude Opus 5): a model's name has no spaces" in said


def test_where_requests_a_minute_were_the_shares_they_become_weights(run: Run, tmp_path: Path) -> None:
    one, two = (
        {"model": "anthropic/claude-opus-5", "api_key": "os.environ/A", "rpm": 100},
        {"model": "anthropic/claude-opus-5", "api_key": "os.environ/B", "rpm": 250},
    )
    listed = [{"model_name": "opus", "litellm_params": params} for params in (one, two)]
    code, out, said = run("import", "litellm", small(tmp_path, yaml.safe_dump(listed)), "--output", "-")
    assert code == 0 and [account.get("weight") for account in yaml.safe_load(out)["accounts"]] == [None, 2.5]
    assert "litellm_params.rpm: became the accounts' weights" in said


def test_what_follows_from_an_odd_price_is_rounded(run: Run, tmp_path: Path) -> None:
    params = {"model": "anthropic/zeta", "input_cost_per_token": 1.23e-7, "output_cost_per_token": 4e-7}
    listed = [{"model_name": "zeta", "litellm_params": params}]
    code, out, said = run("import", "litellm", small(tmp_path, yaml.safe_dump(listed)), "--output", "-")
    assert code == 0, said
    assert yaml.safe_load(out)["models"]["catalogue"] == {
        "zeta": {"input": 0.123, "output": 0.4, "cache_write_5m": 0.154, "cache_read": 0.012}
    }


def test_a_note_of_several_lines_and_a_name_of_dots_keep_nothing_back(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("..", metadata=json.dumps({"long": "a\nb", "short": "a"}))]))
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--output", "-")
    [key] = yaml.safe_load(out)["keys"]
    assert code == 0 and (key["id"], key["metadata"]) == ("unnamed", {"short": "a"})
    assert "keys: metadata.long (unnamed): a note is one short text" in said


def test_what_no_configuration_can_have_is_told_with_its_owner(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("bob"), row("alice", max_budget="-1", budget_duration="1d")]))
    code, out, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--output", "-")
    assert (code, out) == (2, "") and said.startswith(
        "what would be written: keys[1] (alice).limits.budget_usd.day: must be at least 0\n"
    )


def test_one_included_file_needs_no_list(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        "model_list: [{model_name: a, litellm_params: {model: anthropic/claude-opus-5}}]\n"
    )
    code, out, _ = run("import", "litellm", small(tmp_path, "[]", include="b.yaml"), "--output", "-")
    assert code == 0 and yaml.safe_load(out)["models"]["aliases"]["a"] == "claude-opus-5"


def test_files_that_include_one_another_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("include: [b.yaml]\nmodel_list: []\n")
    (tmp_path / "b.yaml").write_text("include: [a.yaml]\nmodel_list: []\n")
    code, _, said = run("import", "litellm", path, "--output", "-")
    assert code == 2 and f"{path}: is included by files that include one another" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"model_list: [{{model_name: a, litellm_params: {{model: anthropic/a, rpm: {'9' * 400}}}}}]",
            "model_list[0].litellm_params.rpm is no finite number",
        ),
        ("a: [", "is not valid YAML"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "is nested too deeply"),
        ("- 1", "is no mapping: is it a LiteLLM configuration?"),
        ("accounts: []", "has no model_list: is it a LiteLLM configuration?"),
        (
            "model_list: [{model_name: a, litellm_params: {model: anthropic/a, weight: heavy}}]",
            "model_list[0].litellm_params.weight is no number",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: anthropic/a, weight: .nan}}]",
            "model_list[0].litellm_params.weight is no finite number",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: anthropic/a, max_parallel_requests: .inf}}]",
            "model_list[0].litellm_params.max_parallel_requests is no finite number",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: anthropic/a, input_cost_per_token: .nan}}]",
            "model_list[0]: input_cost_per_token is no finite number",
        ),
        ("model_list: [{model_name: gpt, litellm_params: {model: openai/gpt}}]", "none of its models is at Anthropic"),
    ],
)
def test_a_file_that_is_none_is_refused(run: Run, tmp_path: Path, text: str, reason: str) -> None:
    path, output = tmp_path / "config.yaml", tmp_path / "gateway.yaml"
    path.write_text(text)
    code, _, said = run("import", "litellm", path, "--output", output)
    assert code == 2 and f"{path}: {reason}" in said and not output.exists()


def test_a_name_in_a_list_is_every_name_of_its_model(run: Run, tmp_path: Path) -> None:
    listed = """
    - {model_name: small, litellm_params: {model: anthropic/claude-haiku-4-5-20251001}}
    - {model_name: claude-opus-5, litellm_params: {model: anthropic/claude-opus-5}}
    - {model_name: claude-haiku-4-5, litellm_params: {model: "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0"}}
    - {model_name: gpt, litellm_params: {model: openai/gpt}}
    """
    team = {"team_id": "t", "team_models": "{small}"}
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([
        row("group", models="{small}"), row("dated", models="{claude-haiku-4-5-20251001}"),
        row("undated", models="{claude-haiku-4-5}"), row("own", models="{anthropic/claude-haiku-4-5-20251001}"),
        row("in-team", models="{claude-haiku-4-5}", **team), row("all-in-team", models="{*}", **team),
        row("pattern-in-team", models="{anthropic/*}", **team), row("out-of-team", models="{claude-opus-5}", **team),
        row("other", models="{gpt}"),
    ]))  # fmt: skip
    code, out, said = run("import", "litellm", small(tmp_path, listed), "--keys", keys, "--output", "-")
    written = yaml.safe_load(out)
    found = {key["id"]: key["models"] for key in written["keys"]}
    names = ("group", "dated", "undated", "own", "in-team", "all-in-team", "pattern-in-team")
    assert code == 0 and found == {name: ["claude-haiku-4-5-20251001"] for name in names}
    assert "keys (out-of-team, other): it may use none" in said
    # Clients wrote a deployment's own name as well.
    assert written["models"]["aliases"]["anthropic/claude-haiku-4-5-20251001"] == "claude-haiku-4-5-20251001"


def test_each_key_that_is_left_out_is_named(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row(f"k{number}", models="{gpt-4o}") for number in range(30)]))
    code, _, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--output", "-")
    assert code == 0 and f"keys ({', '.join(f'k{number}' for number in range(30))}): it may use none" in said


def test_a_weight_of_nothing_gets_nothing(run: Run, tmp_path: Path) -> None:
    one, two = (
        {"model": "anthropic/claude-opus-5", "api_key": "os.environ/A", "weight": 0},
        {"model": "anthropic/claude-opus-5", "api_key": "os.environ/B", "weight": 3},
    )
    listed = [{"model_name": "opus", "litellm_params": params} for params in (one, two)]
    code, out, said = run("import", "litellm", small(tmp_path, yaml.safe_dump(listed)), "--output", "-")
    accounts = by_id(yaml.safe_load(out)["accounts"])
    assert code == 0 and accounts["anthropic-a"]["state"] == "disabled" and accounts["anthropic-b"]["weight"] == 3
    assert "litellm_params.weight (anthropic-a): 0 became state: disabled" in said


def test_an_included_file_that_is_missing_is_told_with_the_file_that_names_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("include: [b.yaml]\nmodel_list: []\n")
    code, _, said = run("import", "litellm", path, "--output", "-")
    assert (code, said) == (2, f"gateway: {tmp_path / 'b.yaml'}: no such file, which {path} includes\n")
    code, _, said = run("import", "litellm", tmp_path / "no.yaml", "--output", "-")
    assert (code, said) == (2, f"gateway: {tmp_path / 'no.yaml'}: no such file\n")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"max_budget": "NaN"}, "alice: max_budget is no finite number"),
        ({"rpm_limit": "Infinity"}, "alice: rpm_limit is no finite number"),
        ({"tpm_limit": "many"}, "alice: tpm_limit is no number"),
        ({"spend": "much"}, "alice: spend is no number"),
        ({"expires": "some day"}, "alice: expires is no time"),
        ({"team_id": "t", "team_max_budget": "inf"}, "team t: max_budget is no finite number"),
    ],
)
def test_a_value_that_is_none_is_told_with_its_place(
    run: Run, tmp_path: Path, columns: dict[str, str], reason: str
) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text(as_csv([row("bob"), row("alice", **columns)]))
    code, _, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--output", "-")
    assert (code, said) == (2, f"gateway: {keys}: {reason}\n")


def test_what_is_wrong_in_the_table_of_teams_is_told_of_that_file(run: Run, keys: Path, tmp_path: Path) -> None:
    teams = tmp_path / "teams.csv"
    teams.write_text("team_id,team_alias,max_budget\nt,research,nan\n")
    words = ["import", "litellm", FOLDER / "config.yaml", "--keys", keys, "--teams", teams, "--output", "-"]
    code, _, said = run(*words)
    assert (code, said) == (2, f"gateway: {teams}: team research: max_budget is no finite number\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user_id,spend\nalice,3\n", "has no column `token`"),
        ('{"keys": [1]}', "is no list of keys or teams"),
        ('{"keys": [{"token": "a"}], "total_count": 11}', "has 1 of 11: join all pages of /key/list"),
        ('{"keys": [', "is not valid JSON: Expecting value: line 1 column 11"),
        ("[" * 100_000, "is nested too deeply"),
        ("token,metadata\na," + "[" * 100_000, "is nested too deeply"),
        ("token\na\rb", "is not valid CSV: new-line character"),
    ],
    ids=[
        "of users",
        "of numbers",
        "one of two pages",
        "cut short",
        "too deep",
        "too deep in a cell",
        "of two sorts of lines",
    ],
)
def test_a_table_that_is_none_of_keys_is_refused(run: Run, tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    code, _, said = run("import", "litellm", FOLDER / "config.yaml", "--keys", path, "--output", "-")
    assert code == 2 and f"{path}: {reason}" in said


def test_the_environment_gives_an_account_for_each_key(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-one")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-x")
    (tmp_path / ".env").write_text(
        "# keys\nexport ANTHROPIC_API_KEY_TEAM_B='sk-ant-api03-two'\nDEPLOY=sk-ant-api03-three # of the pipeline\n"
        "COPY=sk-ant-api03-one\nANTHROPIC_ADMIN=sk-ant-admin01-four\nEMPTY=\nnonsense\n"
    )
    code, _, said = run("import", "env")
    written = yaml.safe_load((tmp_path / "gateway.yaml").read_text())
    assert code == 0 and written["accounts"] == [
        {"id": "anthropic", "api_key": "${ANTHROPIC_API_KEY}"},
        {"id": "anthropic-team-b", "api_key": "${ANTHROPIC_API_KEY_TEAM_B}"},
        {"id": "anthropic-deploy", "api_key": "${DEPLOY}"},
    ]
    for line in (
        "COPY: it holds the same key as ANTHROPIC_API_KEY",
        "ANTHROPIC_ADMIN: an admin key serves no models",
        "OPENAI_API_KEY: ",
        "DEPLOY                    in .env, which has to be loaded before it starts",
    ):
        assert line in said
    assert "sk-ant" not in said


def test_lines_of_any_shape_are_read_or_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    path = tmp_path / "prod.env"
    path.write_bytes(
        b'\xef\xbb\xbfANTHROPIC_API_KEY=sk-ant-api03-1\r\nexport  B = "sk-ant-api03-2" # b\r\nC: sk-ant-api03-3\n'
        b"$env:D='sk-ant-api03-4'\n# E: sk-ant-api03-5\nanthropic_api_key_low=sk-ant-api03-6\n"
        b"AWS_BEARER_TOKEN_BEDROCK=x\nF =sk-ant-api03-7\nexport CLAUDE_API_KEY= of-some-kind\n"
        b"ANTHROPIC_API_KEY_NONE= # none\nG='sk-ant-api03-8'  # a comment\nNOTHING = \nOTHER = x\n"
    )
    code, _, said = run("import", "env", "--env-file", path)
    assert code == 0 and yaml.safe_load((tmp_path / "gateway.yaml").read_text())["accounts"] == [
        {"id": "anthropic", "api_key": "${ANTHROPIC_API_KEY}"},
        {"id": "anthropic-low", "api_key": "${anthropic_api_key_low}"},
        {"id": "anthropic-g", "api_key": "${G}"},
    ]
    assert [line for line in said.splitlines() if ": it holds a key" in line] == [
        f"  {path}:{number}: it holds a key, and is not NAME=value" for number in (2, 3, 4, 8, 9)
    ]
    assert "AWS_BEARER_TOKEN_BEDROCK: write an account of the provider bedrock" in said


def test_a_file_that_was_named_has_to_be_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-one")
    code, _, said = run("import", "env", "--env-file", tmp_path / "no.env", "--output", "-")
    assert (code, said) == (2, f"gateway: {tmp_path / 'no.env'}: no such file\n")


def test_a_file_of_lines_that_no_shell_takes_is_told_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (tmp_path / ".env").write_text("# ours\nKEY_F = sk-ant-api03-f\n")
    code, _, said = run("import", "env")
    assert code == 2 and ".env:2: it holds a key, and is not NAME=value" in said and "sk-ant" not in said
    assert not (tmp_path / "gateway.yaml").exists()


def test_an_environment_without_keys_gives_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    code, _, said = run("import", "env")
    assert code == 2 and "neither the environment nor .env holds a key of Anthropic's" in said
    assert not (tmp_path / "gateway.yaml").exists()
