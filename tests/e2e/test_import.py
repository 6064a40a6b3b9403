"""A LiteLLM proxy's clients go on through a gateway that has taken it over: only their base URL changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.commands.litellm_keys import as_csv, key_of, row
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
    words = ["import", "litellm", folder / "config.yaml", "--keys", folder / "keys.csv", "--output", "-"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    text = done.stdout
    for number in range(2):
        text = text.replace(f"${{KEY_{number}}}", simulator.accounts[number]["api_key"])
    config = yaml.safe_load(text)
    for name in ("admin", "secret"):
        del config[name]
    gateway = Gateway(folder, {**config, "redis": f"{store.url}/13"}).start()
    yield gateway
    gateway.stop()


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
