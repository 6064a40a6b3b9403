"""A LiteLLM proxy's clients go on through a gateway that has taken it over: only their base URL changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.commands.litellm_keys import FOLDER, ROWS, as_csv, key_of, row
from tests.e2e.rig import Gateway, Simulator, Store, ask, assert_error, conversation, message

DATED = "claude-haiku-4-5-20251001"
KEYS = [
    row("all"),
    row("small", models="{fast}"),
    row("dated", models=f"{{{DATED}}}"),
    row("undated", models="{claude-haiku-4-5}"),
    row("own", models="{anthropic/claude-opus-5}"),
    row("team", team_id="t1", team_alias="research", team_models="{claude-opus-5}"),
    row("poor", max_budget="0.000001", budget_duration="30d"),
]


@pytest.fixture(scope="module")
def moved(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway over the file that the import wrote, run where only the addresses differ."""
    folder = tmp_path_factory.mktemp("moved")
    models = {"fast": "claude-haiku-4-5", DATED: DATED, "claude-opus-5": "claude-opus-5"}
    deployments = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"anthropic/{model}", "api_base": simulator.base_url, "api_key": f"os.environ/KEY_{number}",
            },
        }
        for name, model in models.items()
        for number in range(2)
    ]  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_list": deployments}))
    (folder / "keys.csv").write_text(as_csv(KEYS))
    config = imported(folder / "config.yaml", "--keys", folder / "keys.csv")
    for number, account in enumerate(config["accounts"]):
        assert account["api_key"] == f"${{KEY_{number}}}"
        account["api_key"] = simulator.accounts[number]["api_key"]
    gateway = Gateway(folder, {**config, "redis": f"{store.url}/13"}).start()
    yield gateway
    gateway.stop()


def imported(*words: object) -> dict[str, Any]:
    """What the import writes, but for what is the operator's alone."""
    done = CliRunner().invoke(app, ["import", "litellm", *map(str, words), "--output", "-"])
    assert done.exit_code == 0, done.stderr
    config: dict[str, Any] = yaml.safe_load(done.stdout)
    for name in ("admin", "secret"):
        del config[name]
    return config


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("all", "claude-opus-5"), ("all", "fast"), ("small", "fast"), ("small", "claude-haiku-4-5"), ("small", DATED),
        ("dated", DATED), ("dated", "claude-haiku-4-5"), ("team", "claude-opus-5"),
        ("undated", DATED), ("own", "anthropic/claude-opus-5"), ("own", "claude-opus-5"),
    ],
)  # fmt: skip
async def test_models_that_a_key_may_use_answer_by_each_of_their_names(moved: Gateway, name: str, model: str) -> None:
    answer = await ask(moved, message(model=model), conversation(), key=key_of(name))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("name", "model"), [("small", "claude-opus-5"), ("dated", "claude-opus-5"), ("own", "fast"), ("team", "fast")]
)
async def test_others_are_refused(moved: Gateway, name: str, model: str) -> None:
    assert_error(await ask(moved, message(model=model), conversation(), key=key_of(name)), 403, "permission_error")


async def test_budgets_bind(moved: Gateway) -> None:
    answer = await ask(moved, message(model="claude-opus-5"), conversation(), key=key_of("poor"))
    assert answer.status == 429 and "budget" in answer.body.decode()


SONNET = ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "sonnet", "anthropic/claude-sonnet-4-5-20250929"]
HAIKU = [DATED, "claude-haiku-4-5", "fast", "gpt-4", f"anthropic/{DATED}"]
OPUS = ["claude-opus-4-8", "anthropic/claude-opus-4-8"]
OTHERS = ["claude-sonnet-4-6", "claude-3-7-sonnet-latest", "smart", "claude-opus-5"]
EVERY = [*SONNET, *HAIKU, *OPUS, *OTHERS]
OF_TEAMS = [[*SONNET, *HAIKU], EVERY, EVERY, HAIKU]
MAY = {
    "alice": SONNET, "bob": [*SONNET, *HAIKU], "carol": HAIKU, "Dora Smith": EVERY, "frank": OPUS, "dated": HAIKU,
    **{f"dev-{number:02}": OF_TEAMS[number % 4] for number in range(40)},
}  # fmt: skip
GONE = ["erin", "blocked", "intern"]  # no model that is taken over; blocked; of a blocked team


@pytest.fixture(scope="module")
def company(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in place of a company's proxy: its configuration, its fifty keys, its five teams."""
    folder = tmp_path_factory.mktemp("company")
    (folder / "keys.csv").write_text(as_csv(ROWS))
    config = imported(FOLDER / "config.yaml", "--keys", folder / "keys.csv", "--teams", FOLDER / "teams.csv")
    for account, simulated in zip(config["accounts"], simulator.accounts, strict=False):
        account.update(base_url=simulator.base_url, api_key=simulated["api_key"])
    gateway = Gateway(folder, {**config, "redis": f"{store.url}/11"}).start()
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("name", MAY)
async def test_each_of_fifty_keys_may_what_it_might(company: Gateway, name: str) -> None:
    for model in EVERY if name < "dev-04" or not name.startswith("dev") else (MAY[name][0], "claude-sonnet-4-6"):
        answer = await ask(company, message(model=model), conversation(), key=key_of(name))
        assert answer.status == (200 if model in MAY[name] else 403), (model, answer.body)


async def test_a_budget_that_is_used_up_binds_and_what_was_left_out_is_nobody(company: Gateway) -> None:
    assert {*MAY, *GONE, "broke"} == {str(each["key_alias"]) or "dated" for each in ROWS}
    answer = await ask(company, message(model="fast"), conversation(), key=key_of("broke"))
    assert answer.status == 429 and "budget" in answer.body.decode()
    for name in GONE:
        assert_error(
            await ask(company, message(model="fast"), conversation(), key=key_of(name)), 401, "authentication_error"
        )
