"""Prices: exact integers, the right band, the right model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.pricing import Catalogue, Price
from gateway.data import load_catalogue

CATALOGUE = load_catalogue()
TOKENS = st.integers(0, 2_000_000)


def test_the_catalogue_is_dated_and_names_every_limit_class():
    assert CATALOGUE.as_of == "2026-11-20"
    assert len(CATALOGUE) == len({model.id for model in CATALOGUE}) == 19
    classes = {model.id: model.limit_class for model in CATALOGUE}
    assert classes["claude-opus-4-5"] == classes["claude-opus-4-8"] != classes["claude-opus-5"]
    assert classes["claude-sonnet-4-5"] == classes["claude-sonnet-4-6"] != classes["claude-sonnet-4-20250514"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("claude-opus-4-5", "claude-opus-4-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-5-20260601", "claude-sonnet-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514"),
        ("claude-3-5-haiku-20241022", "claude-3-5-haiku-20241022"),
        ("claude-opus-4-5-latest-20251101x", None),
        ("claude-opus", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_id_alias_or_dated_form(name, found):
    model = CATALOGUE.find(name)
    assert (model and model.id) == found


def test_cost_is_the_sum_of_the_token_classes_in_nano_dollars():
    model = CATALOGUE.find("claude-sonnet-4-5")
    assert model is not None
    assert model.cost(1_000_000, 0, 0, 0, 0) == 3_000_000_000
    assert model.cost(1, 10, 100, 1_000, 10_000) == 3_000 + 3_000 + 375_000 + 6_000_000 + 150_000_000


def test_a_long_prompt_costs_the_higher_price_for_the_whole_request():
    model = CATALOGUE.find("claude-haiku-5-5")
    assert model is not None
    assert model.cost(100_000, 0, 0, 0, 10) == 100_000 * 100 + 10 * 500
    assert model.cost(100_001, 0, 0, 0, 10) == 100_001 * 500 + 10 * 2_500
    assert model.cost(1, 100_000, 0, 0, 0) == 500 + 100_000 * 50
    assert model.savings(1_000) == 1_000 * 90
    assert model.savings(1_000, total_input=100_001) == 1_000 * 450


def test_savings_are_fresh_price_minus_read_price():
    opus = CATALOGUE.find("claude-opus-4-6")
    assert opus is not None
    assert opus.savings(1_000_000) == 4_500_000_000


def test_an_unknown_model_gets_the_default_price_if_there_is_one():
    price = Price(input=1, output=2, write_5m=3, write_1h=4, read=5)
    assert CATALOGUE.find("llama") is None
    assert CATALOGUE.priced("llama") is None
    model = CATALOGUE.priced("llama", price)
    assert model is not None and model.cost(1, 1, 1, 1, 1) == 15 and model.limit_class == "llama"
    assert Catalogue((), default=price).priced("llama") is not None
    known = CATALOGUE.priced("claude-opus-4-6", price)
    assert known is not None and known.price.input == 5_000


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"as_of":"x","models":[{"id":1}]}', b'{"as_of":"x","models":[],"more":1}']
)
def test_a_malformed_catalogue_is_a_value_error(data):
    with pytest.raises(ValueError):
        Catalogue.from_json(data)


def test_a_name_used_twice_is_a_value_error():
    model = CATALOGUE.find("claude-opus-5")
    assert model is not None
    with pytest.raises(ValueError, match="twice"):
        Catalogue((model, model))


@given(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS, st.sampled_from(list(CATALOGUE)))
def test_prices_keep_the_order_read_fresh_write_and_cost_never_falls_with_more_tokens(i, r, w5, w1, o, model):
    for price in filter(None, (model.price, model.above and model.above.price)):
        assert price.read < price.input < price.write_5m < price.write_1h < price.output
    cost = model.cost(i, r, w5, w1, o)
    assert isinstance(cost, int)
    assert cost <= model.cost(i + 1, r, w5, w1, o)
    # Reading instead of sending afresh saves exactly what `savings` says.
    assert model.cost(i + r, 0, w5, w1, o) - cost == model.savings(r, i + r + w5 + w1)
