"""Models: which ones a caller sees, under which names, and what the operator's own names and prices change."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
import yaml

from tests.e2e.rig import (
    ALICE,
    BOB,
    CALLERS,
    MODEL,
    Gateway,
    Simulator,
    accounts_of,
    ask,
    assert_error,
    conversation,
    message,
)

Launch = Callable[..., Gateway]
DORA = "sk-" + "D0ra5" * 9 + "one"  # small models only
ERIN = "sk-" + "3rin7" * 9 + "one"  # by an alias only
LARGER = "claude-opus-5-5"
DATED = f"{MODEL}-20991231"  # the simulated upstream takes it for the model without a date


@pytest.fixture(scope="module")
def named(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with names and prices of its own."""
    config = {
        "accounts": accounts_of(simulator, 2),
        "keys": [
            *CALLERS,
            {"id": "dora", "key": DORA, "models": "claude-haiku-*"},
            {"id": "erin", "key": ERIN, "models": ["fast"]},
        ],
        "models": {
            "aliases": {"fast": MODEL, "strong": LARGER},
            "catalogue": {
                "claude-next-7": {"input": 5, "output": 25, "context": 1_000_000, "display_name": "Claude Next 7"},
                DATED: {"input": 7, "output": 11},
            },
        },
    }
    gateway = Gateway(tmp_path_factory.mktemp("named"), config).start()
    yield gateway
    gateway.stop()


def sdk(gateway: Gateway, key: str = ALICE) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.base_url, api_key=key, max_retries=0)


async def models(gateway: Gateway, key: str = ALICE, query: str = "limit=1000") -> list[str]:
    answer = await ask(gateway, path=f"/v1/models?{query}", key=key)
    assert answer.status == 200, answer.body
    return [each["id"] for each in answer.json()["data"]]


# -- Lists ------------------------------------------------------------------------------------------------------------


def test_the_sdk_lists_pages_and_retrieves(gateway_url: Gateway, sim: Simulator):
    since = sim.mark()
    with sdk(gateway_url) as client:
        whole = list(client.models.list(limit=1000))
        assert len(whole) > 8 and len({each.id for each in whole}) == len(whole)
        for limit in (1, 3, 1000):
            assert list(client.models.list(limit=limit)) == whole
        first = client.models.list(limit=2)
        assert (first.data, first.has_more) == (whole[:2], True)
        assert (first.first_id, first.last_id) == (whole[0].id, whole[1].id)
        assert client.models.list(limit=2, before_id=whole[4].id).data == whole[2:4]
        for each in whole:
            assert client.models.retrieve(each.id) == each
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-none-1")
        with pytest.raises(anthropic.BadRequestError):
            client.models.list(limit=0)
        with pytest.raises(anthropic.BadRequestError):
            client.models.list(after_id="claude-none-1")
    assert sim.records(since) == []  # nobody needs to be asked


async def test_a_model_that_is_listed_can_be_used(gateway: Gateway, sim: Simulator):
    for model in await models(gateway):
        answer = await ask(gateway, message(model=model), conversation())
        assert (answer.status, answer.json()["model"]) == (200, model)


async def test_a_caller_sees_what_it_may_use(named: Gateway):
    everything = await models(named)
    haiku = [each for each in everything if each.startswith("claude-haiku-")]
    seen = await models(named, DORA)
    assert set(seen) == {*haiku, "fast"} and LARGER in everything
    assert [each for each in everything if each in seen] == seen  # in the same order
    for name in (LARGER, "strong", "claude-none-1", "claude-next-7"):
        hidden = await ask(named, path=f"/v1/models/{name}", key=DORA)
        assert assert_error(hidden, 404, "not_found_error") == f"model: {name}"
        assert_error(await ask(named, message(model=name), key=DORA), 403, "permission_error")
    for name in (*haiku, "fast"):
        assert (await ask(named, path=f"/v1/models/{name}", key=DORA)).status == 200
    assert await models(named, ERIN) == ["fast"]
    assert (await ask(named, message(model="fast"), key=ERIN)).status == 200
    assert_error(await ask(named, message(model=MODEL), key=ERIN), 403, "permission_error")


async def test_only_what_an_account_serves_is_listed(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2, models=["claude-haiku-4-*", "claude-own-1"]))
    found = await models(gateway)
    assert found == ["claude-own-1", f"{MODEL}-20251001"]
    assert_error(await ask(gateway, path=f"/v1/models/{LARGER}"), 404, "not_found_error")


async def test_a_name_in_a_list_means_every_name_of_its_model(launch: Launch, sim: Simulator):
    one, two = accounts_of(sim, 2)
    gateway = launch(
        accounts=[{**one, "models": [MODEL]}, {**two, "models": ["claude-sonnet-4-5-20250929"]}],
        keys=[{"id": "alice", "key": ALICE, "models": [f"{MODEL}-20251001", "claude-sonnet-4-5"]}],
    )
    for name in (MODEL, f"{MODEL}-20251001"):
        answer = await ask(gateway, message(model=name), conversation())
        assert (answer.status, answer.account) == (200, one["id"])
    for name in ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"):
        answer = await ask(gateway, message(model=name), conversation())
        assert (answer.status, answer.account) == (200, two["id"])
        assert (await ask(gateway, path=f"/v1/models/{name}")).json()["id"] == "claude-sonnet-4-5-20250929"
    assert await models(gateway) == [f"{MODEL}-20251001", "claude-sonnet-4-5-20250929"]
    assert_error(await ask(gateway, message(model=LARGER), conversation()), 403, "permission_error")


# -- Aliases ----------------------------------------------------------------------------------------------------------


async def test_an_alias_is_listed_beside_its_model(named: Gateway):
    found = await models(named, BOB)
    assert "fast" in found and "strong" in found
    with sdk(named) as client:
        alias, model = client.models.retrieve("fast"), client.models.retrieve(MODEL)
    assert alias.id == "fast" and model.display_name in alias.display_name
    assert alias.model_dump(exclude={"id", "display_name"}) == model.model_dump(exclude={"id", "display_name"})


SPELLINGS = {
    "compact": b'{"model":"fast","max_tokens":9,"messages":[{"role":"user","content":"Hello"}]}',
    "spaced": b'{\n "max_tokens" : 9 ,\t"messages":[{"role":"user","content":"\\"model\\":\\"fast\\""}],'
    b' "model" : "fast" }\n',
    "with others of the name": b'{"tools":[{"name":"t","input_schema":{"type":"object","properties":{"model":{}}}}],'
    b'"metadata":{"user_id":"{\\"model\\":\\"fast\\"}"},"x":{"model":"fast"},"model":"fast","max_tokens":9,'
    b'"messages":[{"role":"user","content":[{"type":"text","text":"caf\\u00e9 \xf0\x9f\x99\x82"}]}]}',
    "escaped": b'{"m\\u006fdel":"f\\u0061st","max_tokens":9,"messages":[{"role":"user","content":"Hello"}]}',
}
REPLACED = {
    "compact": (b'"model":"fast"', b'"model":"claude-haiku-4-5"'),
    "spaced": (b'"model" : "fast"', b'"model" : "claude-haiku-4-5"'),
    "with others of the name": (b'"model":"fast","max_tokens"', b'"model":"claude-haiku-4-5","max_tokens"'),
    "escaped": (b'"f\\u0061st"', b'"claude-haiku-4-5"'),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_an_alias_is_replaced_and_not_one_other_byte(
    spelling: str, path: str, packed: bool, named: Gateway, sim: Simulator
):
    body = SPELLINGS[spelling]
    expected = body.replace(*REPLACED[spelling], 1)
    assert body != expected
    since = sim.mark()
    headers = {"content-encoding": "gzip"} if packed else {}
    answer = await ask(named, gzip.compress(body) if packed else body, {**headers, **conversation()}, path=path)
    assert answer.status == 200, answer.body
    [record] = sim.records(since, bodies=True)
    assert record["body"] == expected
    got = dict(record["headers"])
    assert "content-encoding" not in got and int(got["content-length"]) == len(expected)


async def test_an_alias_streams_and_is_accounted_as_its_model(named: Gateway, sim: Simulator):
    since = sim.mark()
    name = conversation()
    answer = await ask(named, message("Hello", model="fast", stream=True), name)
    assert answer.events[0][1]["message"]["model"] == MODEL
    line = named.record(answer.request_id)
    usage = sim.records(since)[0]["usage"]
    assert (line["model"], line["answered_model"]) == (MODEL, MODEL)
    assert line["cost_nano_usd"] == usage["input_tokens"] * 1000 + usage["output_tokens"] * 5000
    # The conversation is one, whichever name it uses.
    later = await ask(named, message("Hello", "Well", "And then?", model=MODEL), name)
    assert (later.route, later.account) == ("bound", answer.account)


async def test_a_body_without_an_alias_stays_compressed(named: Gateway, sim: Simulator):
    body = gzip.compress(json.dumps(message("Hello")).encode())
    since = sim.mark()
    answer = await ask(named, body, {"content-encoding": "gzip", **conversation()})
    assert answer.status == 200, answer.body
    [record] = sim.records(since, bodies=True)
    assert record["body"] == body and ["content-encoding", "gzip"] in record["headers"]


async def test_an_alias_works_in_a_chat(named: Gateway, sim: Simulator):
    body = {"model": "fast", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    since = sim.mark()
    answer = await ask(named, body, path="/v1/chat/completions")
    assert answer.status == 200, answer.body
    assert json.loads(sim.records(since, bodies=True)[0]["body"]) == {**body, "model": MODEL}


async def test_an_alias_in_a_batch_works_or_is_refused_at_once(named: Gateway, sim: Simulator):
    """A batch that is accepted, and of which every item then fails, would be the worst of answers."""
    for padding in (0, 2_000_000):
        items = {"requests": [{"custom_id": "one", "params": message("x" * padding + "Hello", model="fast")}]}
        made = await ask(named, items, path="/v1/messages/batches")
        if made.status != 200:
            assert "fast" in assert_error(made, 400, "invalid_request_error")
            continue
        results = await ask(named, path=f"/v1/messages/batches/{made.json()['id']}/results")
        result = json.loads(results.body)["result"]
        assert result["type"] == "succeeded", result
        assert result["message"]["model"] == MODEL


# -- Prices -----------------------------------------------------------------------------------------------------------


async def test_a_model_of_the_operators_is_listed_and_retrieved(named: Gateway):
    assert "claude-next-7" in await models(named)
    with sdk(named) as client:
        found = client.models.retrieve("claude-next-7")
    assert (found.display_name, found.max_input_tokens) == ("Claude Next 7", 1_000_000)


async def test_a_model_of_the_operators_is_priced(named: Gateway, sim: Simulator):
    for model, prices in ((DATED, (7000, 11_000)), (MODEL, (1000, 5000))):
        for stream in (False, True):
            since = sim.mark()
            answer = await ask(named, message("Hello", model=model, stream=stream), conversation())
            assert answer.status == 200, answer.body
            usage = sim.records(since)[0]["usage"]
            line = named.record(answer.request_id)
            assert line["answered_model"] == model
            assert line["cost_nano_usd"] == usage["input_tokens"] * prices[0] + usage["output_tokens"] * prices[1]


# -- While it runs ----------------------------------------------------------------------------------------------------


async def test_changed_names_and_prices_take_effect_without_a_restart(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), models={"aliases": {"fast": MODEL}})
    assert (await ask(gateway, message(model="fast"), conversation())).status == 200
    assert_error(await ask(gateway, message(model="quick"), conversation()), 404, "not_found_error")
    changed: dict[str, Any] = {
        "aliases": {"quick": MODEL, "fast": LARGER},
        "catalogue": {MODEL: {"input": 2, "output": 3}, "claude-next-7": {"like": LARGER}},
    }
    gateway.config["models"] = changed
    new = gateway.folder / "gateway.yaml~"
    new.write_text(yaml.safe_dump(gateway.config, sort_keys=False))
    new.replace(gateway.folder / "gateway.yaml")
    gateway.line("config reloaded")
    since = sim.mark()
    answer = await ask(gateway, message(model="quick"), conversation())
    assert (answer.status, answer.json()["model"]) == (200, MODEL)
    usage = sim.records(since)[0]["usage"]
    line = gateway.record(answer.request_id)
    assert line["cost_nano_usd"] == usage["input_tokens"] * 2000 + usage["output_tokens"] * 3000
    assert (await ask(gateway, message(model="fast"), conversation())).json()["model"] == LARGER
    found = await models(gateway)
    assert {"quick", "fast", "claude-next-7"} <= set(found)
