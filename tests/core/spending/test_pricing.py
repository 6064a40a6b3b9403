"""Prices: exact integers, the right band, the right model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.spending.pricing import Bill, Catalogue, Fees, Model, Price
from gateway.data import load_catalogue
from gateway.records import Iteration, Usage

CATALOGUE = load_catalogue()
TOKENS = st.integers(0, 2_000_000)


def test_the_catalogue_is_dated_and_names_every_limit_class():
    assert CATALOGUE.as_of == "2026-11-20"
    assert len(CATALOGUE) == len({model.id for model in CATALOGUE}) == 20
    classes = {model.id: model.limit_class for model in CATALOGUE}
    assert classes["claude-opus-4-5"] == classes["claude-opus-4-8"] != classes["claude-opus-5"]
    assert classes["claude-sonnet-4-5"] == classes["claude-sonnet-4-6"] != classes["claude-sonnet-4-20250514"]


# In US dollars per million tokens: input, output, writes for 5 minutes and an hour, reads; then thousands of tokens of
# context and output, and the shortest prefix that is cached.
STATED = {
    "claude-fable-5-2": (8, 40, 10, 16, 0.20, 1000, 128, 512),
    "claude-fable-5-1": (10, 50, 12.5, 20, 0.25, 1000, 128, 512),
    "claude-fable-5": (10, 50, 12.5, 20, 1, 1000, 128, 512),
    "claude-mythos-5-2": (8, 40, 10, 16, 0.20, 1000, 128, 512),
    "claude-mythos-5-1": (10, 50, 12.5, 20, 0.25, 1000, 128, 512),
    "claude-mythos-5": (10, 50, 12.5, 20, 1, 1000, 128, 512),
    "claude-opus-5-5": (4, 20, 5, 8, 0.20, 1000, 128, 512),
    "claude-opus-5": (5, 25, 6.25, 10, 0.5, 1000, 128, 512),
    "claude-opus-4-8": (5, 25, 6.25, 10, 0.5, 1000, 128, 1024),
    "claude-opus-4-7": (5, 25, 6.25, 10, 0.5, 1000, 128, 2048),
    "claude-opus-4-6": (5, 25, 6.25, 10, 0.5, 1000, 128, 4096),
    "claude-opus-4-5": (5, 25, 6.25, 10, 0.5, 200, 64, 4096),
    "claude-sonnet-5-5": (2, 10, 2.5, 4, 0.1, 1000, 128, 512),
    "claude-sonnet-5": (2, 10, 2.5, 4, 0.2, 1000, 128, 1024),
    "claude-sonnet-4-6": (3, 15, 3.75, 6, 0.3, 1000, 64, 1024),
    "claude-sonnet-4-5": (3, 15, 3.75, 6, 0.3, 200, 64, 1024),
    "claude-haiku-5-5": (0.1, 0.5, 0.125, 0.2, 0.01, 1000, 128, 1024),
    "claude-haiku-4-5": (1, 5, 1.25, 2, 0.1, 200, 64, 4096),
}


@pytest.mark.parametrize("name", STATED)
def test_a_model_has_the_prices_and_sizes_of_the_price_list(name):
    model = CATALOGUE.exact(name)
    assert model is not None and model.id == name and not model.retired
    *dollars, context, output, minimum = STATED[name]
    price = model.price
    assert [price.input, price.output, price.write_5m, price.write_1h, price.read] == [each * 1000 for each in dollars]
    assert (model.context, model.max_output, model.cache_minimum) == (context * 1000, output * 1000, minimum)


def test_no_current_model_lacks_a_stated_price():
    assert {model.id for model in CATALOGUE if not model.retired} == set(STATED)
    bound = {model.id for model in CATALOGUE if model.account_bound_thinking}
    assert bound == {"claude-sonnet-5-5", "claude-haiku-5-5"}
    assert {model.line for model in CATALOGUE} == {"fable", "mythos", "opus", "sonnet", "haiku"}
    assert {model.id: model.retires_at for model in CATALOGUE if model.retires_at and not model.retired} == {
        "claude-sonnet-4-5": "2026-11-30T00:00:00Z"
    }


def test_an_exact_name_is_an_id_or_alias_and_no_dated_form():
    found = CATALOGUE.exact("claude-opus-4-5-20251101")
    assert found is not None and found.id == "claude-opus-4-5"
    assert CATALOGUE.exact("claude-sonnet-5-20260601") is None


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


def bill(model: Model, *, batch: bool = False, **usage: Any) -> Bill:
    return CATALOGUE.bill(model.id, Usage(**usage), batch)


def test_a_model_has_all_its_names_and_is_listed_under_the_dated_one():
    catalogue = load_catalogue()
    names = ("claude-haiku-4-5", "claude-haiku-4-5-20251001")
    assert {*catalogue.names("claude-haiku-4-5")} == {*catalogue.names("claude-haiku-4-5-20251001")} == {*names}
    assert catalogue.names("claude-haiku-4-5-20270101") == ("claude-haiku-4-5-20270101", *names)
    assert catalogue.names("llama") == ("llama",)
    assert [model.listed_id for model in catalogue if model.listed_id != model.id] == [
        "claude-opus-4-5-20251101", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929",
    ]  # fmt: skip
    sonnet = catalogue.exact("claude-sonnet-4")
    assert sonnet is not None and sonnet.listed_id == "claude-sonnet-4-20250514"


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
    assert bill(model, cache_read=1_000).savings == 1_000 * 90
    assert bill(model, input=99_001, cache_read=1_000).savings == 1_000 * 450


def test_a_batch_costs_half_and_half_a_nano_dollar_is_a_whole_one():
    odd = Catalogue((), default=Price(input=1, output=3, write_5m=1, write_1h=1, read=1)).priced("odd")
    assert odd is not None
    assert [odd.cost(tokens, 0, 0, 0, 0, batch=True) for tokens in range(5)] == [0, 1, 1, 2, 2]
    haiku = CATALOGUE.find("claude-haiku-5-5")
    assert haiku is not None
    assert haiku.cost(100_001, 0, 0, 0, 10, batch=True) == (100_001 * 500 + 10 * 2_500) // 2


def test_savings_are_fresh_price_minus_read_price():
    opus = CATALOGUE.find("claude-opus-4-6")
    assert opus is not None
    assert bill(opus, cache_read=1_000_000).savings == 4_500_000_000
    assert bill(opus, batch=True, cache_read=1_000_000).savings == 2_250_000_000
    assert bill(opus, cache_read=1_000_000, us=True).savings == 4_950_000_000
    assert bill(opus, input=5).savings == 0


def test_a_bill_is_by_the_default_where_nobody_knows_the_price_and_nothing_without_one():
    usage = Usage(input=10, output=1)
    assert CATALOGUE.bill("claude-opus-4-6", usage) == (10 * 5_000 + 25_000, 0, False)
    assert Catalogue(()).bill("llama", usage) == (0, 0, True)
    price = Price(input=1, output=2, write_5m=3, write_1h=4, read=5)
    assert Catalogue((), default=price).bill("llama", usage) == (12, 0, True)


def test_an_unknown_model_gets_the_default_price_if_there_is_one():
    price = Price(input=1, output=2, write_5m=3, write_1h=4, read=5)
    assert CATALOGUE.find("llama") is None
    assert CATALOGUE.priced("llama") is None
    model = CATALOGUE.priced("llama", price)
    assert model is not None and model.cost(1, 1, 1, 1, 1) == 15 and model.limit_class == "llama"
    assert Catalogue((), default=price).priced("llama") is not None
    known = CATALOGUE.priced("claude-opus-4-6", price)
    assert known is not None and known.price.input == 5_000


def test_server_tools_cost_a_fee_which_a_batch_pays_in_full():
    searched = Usage(input=1000, output=10, searches=15)
    plain = CATALOGUE.bill("claude-opus-4-6", Usage(input=1000, output=10))
    assert CATALOGUE.bill("claude-opus-4-6", searched).cost == plain.cost + 15 * 10_000_000  # $10 per 1,000
    half = CATALOGUE.bill("claude-opus-4-6", searched, batch=True).cost
    assert half == plain.cost // 2 + 15 * 10_000_000
    assert CATALOGUE.bill("claude-opus-4-6", Usage(input=0, executions=12)).cost == 12 * 4_166_667  # $0.05 an hour
    assert CATALOGUE.bill("claude-opus-4-6", Usage(searches=1, us=True, fast=True)).cost == 10_000_000
    assert Catalogue((), fees=Fees(web_search=7)).bill("llama", Usage(searches=3)) == (21, 0, True)


def test_each_iteration_costs_what_its_own_model_does_for_its_own_length():
    haiku, opus = CATALOGUE.find("claude-haiku-5-5"), CATALOGUE.find("claude-opus-5")
    assert haiku is not None and opus is not None
    parts = (
        Iteration("claude-opus-5", Usage(input=1000, output=2)),
        Iteration("", Usage(input=60_000, cache_read=500)),
        Iteration("", Usage(input=60_000, output=300)),
    )
    usage = Usage(input=121_000, cache_read=500, output=302, searches=1, iterations=parts)
    cost = opus.cost(1000, 0, 0, 0, 2) + haiku.cost(60_000, 500, 0, 0, 0) + haiku.cost(60_000, 0, 0, 0, 300)
    assert CATALOGUE.bill("claude-haiku-5-5", usage) == (cost + 10_000_000, 500 * 90, False)
    batch = sum((each.cost(*tokens) + 1) // 2 for each, tokens in (
        (opus, (1000, 0, 0, 0, 2)), (haiku, (60_000, 500, 0, 0, 0)), (haiku, (60_000, 0, 0, 0, 300)),
    ))  # fmt: skip
    assert CATALOGUE.bill("claude-haiku-5-5", usage, batch=True).cost == batch + 10_000_000
    unknown = Usage(input=5, iterations=(Iteration("llama", Usage(input=5)),))
    assert CATALOGUE.bill("claude-haiku-5-5", unknown) == (0, 0, True)


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
    assert cost <= 2 * model.cost(i, r, w5, w1, o, batch=True) <= cost + 1
    # Reading instead of sending afresh saves exactly what the bill says.
    told = bill(model, input=i, cache_read=r, cache_write_5m=w5, cache_write_1h=w1, output=o)
    assert told == (cost, model.cost(i + r, 0, w5, w1, o) - cost, False)


def test_inference_in_the_united_states_costs_a_tenth_more_where_the_model_says_so():
    opus, old = CATALOGUE.find("claude-opus-5"), CATALOGUE.find("claude-sonnet-4-5")
    assert opus is not None and old is not None
    assert opus.cost(1000, 0, 0, 0, 100, us=True) == (1000 * 5000 + 100 * 25000) * 11 // 10
    assert old.cost(1000, 0, 0, 0, 100, us=True) == old.cost(1000, 0, 0, 0, 100)
    assert opus.cost(1, 0, 0, 0, 0, us=True, batch=True) == 2750


def test_fast_mode_has_a_price_of_its_own_where_it_is_known():
    fast, slow = CATALOGUE.find("claude-opus-5-5"), CATALOGUE.find("claude-opus-5")
    assert fast is not None and slow is not None
    assert fast.cost(1000, 0, 0, 0, 100, fast=True) == 1000 * 8000 + 100 * 40000
    assert slow.cost(1000, 0, 0, 0, 100, fast=True) == slow.cost(1000, 0, 0, 0, 100)


def test_a_bill_costs_so_many_times_the_list_s_price_in_whole_nano_dollars():
    assert Bill(200_000, 1_001, False).times(1.1) == Bill(220_000, 1_101, False)
    assert Bill(1, 0, True).times(0.5) == Bill(1, 0, True)
    assert Bill(7, 7, False).times(1.0) == Bill(7, 7, False)
    assert Bill(10**15, 0, False).times(0.999) == Bill(999 * 10**12, 0, False)
