"""The list of models: what a caller can use and no more, in the shape and the pages of Anthropic's own."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.file import loads
from gateway.config.schema import catalogue_of
from gateway.data import load_catalogue
from gateway.errors import ApiError
from gateway.worker.callers.model_list import Models

CATALOGUE = load_catalogue()
CURRENT = [model.listed_id for model in CATALOGUE if not model.retired]
RETIRED = [model.listed_id for model in CATALOGUE if model.retired]
HAIKU, SONNET = "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"


def every(name: str) -> bool:
    return True


def only(*names: str) -> Any:
    return lambda name: name in names


def page(models: Models, query: str = "limit=1000", may_use: Any = every, served: Any = every) -> dict[str, Any]:
    found = json.loads(models.listing(may_use, served, query.encode()))
    assert isinstance(found, dict)
    return found


def ids(models: Models, query: str = "limit=1000", may_use: Any = every, served: Any = every) -> list[str]:
    return [each["id"] for each in page(models, query, may_use, served)["data"]]


def one(models: Models, name: str, may_use: Any = every, served: Any = every) -> dict[str, Any]:
    found = json.loads(models.one(name, may_use, served))
    assert isinstance(found, dict)
    return found


def refused(models: Models, query: str) -> str:
    with pytest.raises(ApiError) as raised:
        models.listing(every, every, query.encode())
    assert raised.value.status == 400
    return raised.value.message


def missing(models: Models, name: str, may_use: Any = every, served: Any = every) -> str:
    with pytest.raises(ApiError) as raised:
        models.one(name, may_use, served)
    assert raised.value.status == 404
    return raised.value.message


def test_models_are_those_of_the_catalogue_newest_first_without_the_retired():
    assert ids(Models(CATALOGUE, {})) == CURRENT
    assert {HAIKU, SONNET, "claude-opus-4-5-20251101", "claude-opus-4-6", "claude-opus-5-5"} <= set(CURRENT)
    dates = [model.created_at for model in CATALOGUE if not model.created_at.startswith("1970")]
    assert dates == sorted(dates, reverse=True)


def test_a_model_has_every_field_of_the_sdk_and_nothing_else():
    shown = one(Models(CATALOGUE, {"fast": "claude-haiku-4-5"}), "claude-sonnet-4-5")
    assert shown == {
        "type": "model",
        "id": SONNET,
        "display_name": "Claude Sonnet 4.5",
        "created_at": "2025-09-29T00:00:00Z",
        "lifecycle": "deprecated",
        "line": "sonnet",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "deprecated_at": None,
        "retires_at": "2026-11-30T00:00:00Z",
        "capabilities": None,
    }
    assert set(shown) == set(ModelInfo.model_fields)


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_the_sdk_pages_through_all_of_them(limit: int):
    models = Models(CATALOGUE, {"fast": "claude-haiku-4-5", "next": "elsewhere"}, ["claude-next-7"])

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            body = models.listing(every, every, request.url.query)
        else:
            body = models.one(request.url.raw_path.decode().removeprefix("/v1/models/"), every, every)
        return httpx2.Response(200, content=body, headers={"content-type": "application/json"})

    with Anthropic(api_key="k", http_client=httpx2.Client(transport=httpx2.MockTransport(handle))) as client:
        found = list(client.models.list(limit=limit))
        assert [each.id for each in found] == ids(models)
        assert all(ModelInfo.model_validate(each.to_dict(), strict=False) for each in found)
        assert [each.id for each in client.models.list(lifecycle=["retired"])] == RETIRED
        last = client.models.list(limit=limit, before_id=found[-1].id)
        assert [each.id for each in last.data] == [each.id for each in found[:-1][-limit:]]
        assert client.models.retrieve("claude-opus-4-5").id == "claude-opus-4-5-20251101"


@given(st.integers(1, 30), st.sets(st.sampled_from(CURRENT)))
def test_pages_in_both_directions_hold_each_model_once(limit: int, seen: Collection[str]):
    models = Models(CATALOGUE, {})
    served = only(*seen)
    expected = [name for name in CURRENT if name in seen]
    forward: list[str] = []
    query = f"limit={limit}"
    while True:
        part = page(models, query, served=served)
        forward += [each["id"] for each in part["data"]]
        assert len(part["data"]) <= limit
        assert part["first_id"] == (part["data"][0]["id"] if part["data"] else None)
        if not part["has_more"]:
            break
        query = f"limit={limit}&after_id={part['last_id']}"
    assert forward == expected
    if not expected:
        return
    backward: list[str] = [expected[-1]]
    more = True
    while more:
        part = page(models, f"limit={limit}&before_id={backward[0]}", served=served)
        backward = [each["id"] for each in part["data"]] + backward
        more = part["has_more"]
    assert backward == expected


def test_a_page_has_twenty_models_unless_asked_otherwise():
    models = Models(CATALOGUE, {f"alias-{number}": "claude-opus-5" for number in range(30)})
    assert len(page(models, "")["data"]) == 20
    assert page(models, "")["has_more"]
    assert len(page(models, "limit=")["data"]) == 20
    assert not page(models, "limit=1000")["has_more"]


def test_an_empty_list_is_a_page():
    assert page(Models(CATALOGUE, {}), served=only()) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=-5", "limit: Input should be greater than or equal to 1"),
        ("limit=1001", "limit: Input should be less than or equal to 1000"),
        ("limit=x", "limit: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=1.5", "limit: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=%D9%A3", "limit: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=" + "9" * 5000, "limit: Input should be a valid integer, unable to parse string as an integer"),
        ("limit=5&limit=0", "limit: Input should be greater than or equal to 1"),
        ("after_id=nothing", "after_id: No such model in this list"),
        ("before_id=nothing", "before_id: No such model in this list"),
        ("after_id=claude-3-5-haiku-20241022", "after_id: No such model in this list"),
        ("after_id=claude-opus-5&before_id=claude-opus-5", "before_id: Cannot be used together with after_id"),
        ("lifecycle[]=young", "lifecycle: Input should be 'active', 'deprecated' or 'retired'"),
        ("a=1&" * 200, "The query has more than 100 parameters"),
    ],
)
def test_a_wrong_query_is_refused(query: str, words: str):
    assert refused(Models(CATALOGUE, {}), query) == words


def test_parameters_that_mean_nothing_here_are_ignored():
    assert ids(Models(CATALOGUE, {}), "limit=2&beta=true&\xff%00=%ff") == CURRENT[:2]


def test_stages_of_life_can_be_chosen():
    models = Models(CATALOGUE, {})
    assert ids(models, "lifecycle[]=deprecated") == [SONNET]
    assert ids(models, "limit=99&lifecycle%5B%5D=retired&lifecycle%5B%5D=deprecated") == [SONNET, *RETIRED]
    assert SONNET not in ids(models, "limit=99&lifecycle=active")


def test_only_what_is_served_and_may_be_used_is_there():
    models = Models(CATALOGUE, {"fast": "claude-haiku-4-5"})
    names = "claude-haiku-4-5", HAIKU
    opus, haiku = only("claude-opus-5", *names), only(*names, "claude-sonnet-5")
    assert ids(models, may_use=opus, served=haiku) == [HAIKU, "fast"]
    for name in ("claude-opus-5", "claude-sonnet-5", "claude-fable-5", "no-such-model"):
        assert missing(models, name, opus, haiku) == f"model: {name}"


def test_a_dated_or_other_name_is_answered_with_the_id():
    models = Models(CATALOGUE, {})
    for name in ("claude-haiku-4-5-20251001", "claude-haiku-4-5", "claude%2Dhaiku-4-5", "claude-haiku-4-5-20260101"):
        assert one(models, name)["id"] == HAIKU


def test_a_model_is_listed_once_under_the_id_that_anthropic_lists():
    models = Models(CATALOGUE, {}, ["claude-haiku-4-5", HAIKU, "claude-opus-5-20260801"])
    assert ids(models) == CURRENT and HAIKU in CURRENT
    haiku = only("claude-haiku-4-5", HAIKU)
    assert ids(models, served=haiku) == ids(models, may_use=haiku) == [HAIKU]


def test_an_alias_is_a_model_of_its_own_beside_the_one_it_stands_for():
    models = Models(CATALOGUE, {"fast": "claude-haiku-4-5-20251001", "über/groß": "claude-haiku-4-5"})
    shown = one(models, "fast")
    assert (shown["id"], shown["display_name"]) == ("fast", "fast (Claude Haiku 4.5)")
    assert (shown["max_tokens"], shown["created_at"]) == (64_000, "2025-10-15T00:00:00Z")
    assert one(models, quote("über/groß", safe=""))["id"] == "über/groß"
    listed = ids(models)
    place = listed.index(HAIKU)
    assert listed[place + 1 : place + 3] == ["fast", "über/groß"]
    assert [name for name in listed if name in CURRENT] == CURRENT


def test_an_alias_is_seen_by_those_who_may_use_it_or_its_model_where_that_is_served():
    models = Models(CATALOGUE, {"fast": "claude-haiku-4-5"})
    haiku = only("claude-haiku-4-5", HAIKU)
    assert ids(models, may_use=only("fast")) == ["fast"]
    assert ids(models, may_use=haiku) == [HAIKU, "fast"]
    assert missing(models, "fast", only("claude-opus-5")) == "model: fast"
    assert missing(models, "fast", served=only("claude-opus-5", "fast")) == "model: fast"


def test_an_alias_of_a_model_that_nobody_knows_is_listed_first():
    models = Models(CATALOGUE, {"mine": "llama"}, ["claude-next-7"])
    assert ids(models) == ["mine", "claude-next-7", *CURRENT]
    assert one(models, "mine")["display_name"] == "mine (llama)"
    assert missing(models, "llama") == "model: llama"


def test_an_alias_may_take_the_place_of_a_retired_model():
    models = Models(CATALOGUE, {"claude-3-5-haiku-20241022": "claude-haiku-4-5"})
    shown = one(models, "claude-3-5-haiku-20241022")
    assert (shown["display_name"], shown["lifecycle"]) == ("claude-3-5-haiku-20241022 (Claude Haiku 4.5)", "active")
    assert ids(models).count("claude-3-5-haiku-20241022") == 1
    assert ids(models, "lifecycle=retired&limit=99").count("claude-3-5-haiku-20241022") == 0


def test_a_retired_model_is_told_of_when_asked_for_and_listed_where_an_account_still_names_it():
    name = "claude-sonnet-4-20250514"
    assert one(Models(CATALOGUE, {}), name)["lifecycle"] == "retired"
    named = Models(CATALOGUE, {}, [name])
    assert name in ids(named) and one(named, name)["lifecycle"] == "deprecated"


def test_models_that_accounts_name_and_the_catalogue_lacks_are_listed_and_patterns_are_not():
    models = Models(CATALOGUE, {"x": "claude-next-7"}, ["claude-*", "claude-next-7", "claude-next-7", "a?", "[b]", "x"])
    assert ids(models) == ["claude-next-7", "x", *CURRENT]
    assert one(models, "claude-next-7") == {
        **dict.fromkeys(("line", "max_input_tokens", "max_tokens", "deprecated_at", "retires_at", "capabilities")),
        "type": "model",
        "id": "claude-next-7",
        "display_name": "claude-next-7",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }
    assert missing(models, "claude-next-7", served=only("x")) == "model: claude-next-7"


def test_models_of_the_configuration_are_listed_as_it_says():
    config = loads(
        """\
admin: {token: token-of-the-operator}
secret: 0123456789abcdef0123456789abcdef
accounts: [{id: a, api_key: sk-ant-a}]
models:
  catalogue:
    claude-next-7: {like: claude-opus-5, display_name: Claude Next 7, max_output: 256000}
    claude-haiku-4-5: {display_name: Small}
"""
    )
    models = Models(catalogue_of(config), config.models.aliases)
    assert ids(models) == ["claude-next-7", *CURRENT]
    assert one(models, "claude-haiku-4-5-20251001")["display_name"] == "Small"
    shown = one(models, "claude-next-7")
    assert (shown["display_name"], shown["max_tokens"], shown["line"]) == ("Claude Next 7", 256_000, "opus")


@given(st.text(max_size=30))
def test_any_name_is_a_model_or_the_404_that_repeats_it(name: str):
    models = Models(CATALOGUE, {})
    if CATALOGUE.find(name) is None:
        assert missing(models, quote(name, safe="")) == f"model: {name}"


@given(
    st.binary(max_size=60) | st.sampled_from([b"limit=", b"after_id="]).flatmap(lambda a: st.binary().map(a.__add__))
)
def test_any_query_is_a_page_or_a_400(query: bytes):
    models = Models(CATALOGUE, {})
    try:
        status = 200 if json.loads(models.listing(every, every, query))["data"] else 0
    except ApiError as error:
        status = error.status
    assert status in (200, 400)
