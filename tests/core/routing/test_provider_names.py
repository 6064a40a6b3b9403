"""Names by provider: the table that ships, and the rule for models it does not have yet."""

from __future__ import annotations

import pytest

from gateway.core.routing.provider_names import PROFILES, Names
from gateway.data import load_catalogue, load_provider_names

NAMES = load_provider_names()


def test_the_table_is_of_models_that_the_catalogue_knows():
    assert set(NAMES.models) == {model.id for model in load_catalogue()}
    assert NAMES.as_of and NAMES.sources
    for names in NAMES.models.values():
        assert set(names.profiles or ()) <= set(PROFILES)


@pytest.mark.parametrize("model", [name for name in NAMES.models if name not in ("claude-opus-4-6",)])
def test_the_rule_makes_the_table_s_own_names(model: str):
    known = NAMES.models[model]
    listed = next(each for each in load_catalogue() if each.id == model).listed_id
    made = load_provider_names().of(f"{listed}") if listed not in NAMES.models else None
    if made is None:
        made = type(NAMES)(NAMES.as_of, NAMES.sources, {}).of(listed)
    for provider in ("bedrock", "mantle", "vertex", "foundry"):
        assert getattr(known, provider) in (None, getattr(made, provider))


@pytest.mark.parametrize(
    ("model", "profile", "wanted"),
    [
        ("claude-haiku-4-5", "us", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("claude-haiku-4-5", "none", "anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("claude-opus-4-6", "global", "global.anthropic.claude-opus-4-6-v1"),
        ("claude-mythos-5", "eu", None),
        ("claude-mythos-5-2", "global", None),
        ("claude-next-9", "eu", "eu.anthropic.claude-next-9"),
        ("claude-next-9-20270101", "none", "anthropic.claude-next-9-20270101-v1:0"),
        ("somebody-else-1", "global", None),
    ],
)
def test_ids_under_a_profile(model: str, profile: str, wanted: str | None):
    assert NAMES.of(model).on_bedrock(profile) == wanted


def test_a_newer_dated_model_has_its_date_where_each_provider_writes_it():
    names = NAMES.of("claude-next-9-20270101")
    assert (names.mantle, names.vertex, names.foundry) == (
        "anthropic.claude-next-9", "claude-next-9@20270101", "claude-next-9"
    )  # fmt: skip
    assert NAMES.of("gpt-9") == Names()
