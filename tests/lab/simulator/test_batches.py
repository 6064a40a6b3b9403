"""Message batches: shapes, time, kinds of results, and who may see them; with the real SDK over real sockets."""

import gzip
import json
from typing import Any

import anthropic
import httpx
import pytest

from gateway.lab.simulator import Account, World
from tests.lab.simulator.simulator_kit import Clock, background, headers, sdk_of

MODEL = "claude-sonnet-5"  # one that the SDK does not warn of


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sim(clock):
    with background(World.grid(3, 2), clock=clock) as running:
        running.configure(public_url=running.base_url)
        yield running


@pytest.fixture
def sdk(sim):
    with sdk_of(sim) as client:
        yield client


def item(name: str, text: str = "why", **fields: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": text}], **fields}
    return {"custom_id": name, "params": params}


def test_a_batch_runs_from_its_creation_to_its_results_and_its_deletion(sim, sdk):
    made = sdk.messages.batches.create(requests=[item("a"), item("b", "how"), item("c", model="claude-nine")])
    assert made.id.startswith("msgbatch_01") and made.type == "message_batch"
    assert made.processing_status == "in_progress" and made.results_url is None and made.ended_at is None
    assert made.request_counts.processing == 3
    ended = sdk.messages.batches.retrieve(made.id)
    assert ended.processing_status == "ended" and ended.ended_at is not None
    assert ended.results_url == f"{sim.base_url}/v1/messages/batches/{made.id}/results"
    assert (ended.request_counts.succeeded, ended.request_counts.errored, ended.request_counts.processing) == (2, 1, 0)

    results = list(sdk.messages.batches.results(made.id))
    assert [one.custom_id for one in results] == ["c", "b", "a"], "nobody may rely on their order"
    found: Any = {one.custom_id: one.result for one in results}
    assert found["a"].type == "succeeded" and found["a"].message.usage.service_tier == "batch"
    assert found["a"].message.model == MODEL and found["a"].message.usage.output_tokens == 20
    assert found["c"].type == "errored" and found["c"].error.error.type == "not_found_error"

    single = sdk.messages.create(**item("a")["params"])
    assert single.content == found["a"].message.content
    assert single.usage.input_tokens == found["a"].message.usage.input_tokens

    assert sdk.messages.batches.delete(made.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve(made.id)


def test_the_results_url_names_the_public_host_wherever_the_request_came_from(sim, sdk):
    sim.configure(public_url="https://api.anthropic.com")
    made = sdk.messages.batches.create(requests=[item("a")])
    listed = sdk.messages.batches.list().data[0]
    assert listed.results_url == f"https://api.anthropic.com/v1/messages/batches/{made.id}/results"


def test_batches_are_listed_newest_first_in_pages_by_id(sdk):
    ids = [sdk.messages.batches.create(requests=[item("a")]).id for _ in range(5)]
    assert [one.id for one in sdk.messages.batches.list(limit=2)] == ids[::-1]
    back = sdk.messages.batches.list(before_id=ids[1], limit=2)
    assert [one.id for one in back.data] == [ids[3], ids[2]] and back.has_more
    with pytest.raises(anthropic.BadRequestError):
        sdk.messages.batches.list(limit=1001)


def test_a_batch_takes_its_time_and_has_no_results_and_no_end_before(sim, sdk, clock):
    sim.configure(batch_seconds=100)
    made = sdk.messages.batches.create(requests=[item("a")])
    clock.now += 99
    assert sdk.messages.batches.retrieve(made.id).processing_status == "in_progress"
    early = httpx.get(f"{sim.base_url}/v1/messages/batches/{made.id}/results", headers=headers(sim.world.accounts[0]))
    assert early.status_code == 404
    with pytest.raises(anthropic.BadRequestError):
        sdk.messages.batches.delete(made.id)
    clock.now += 1
    assert sdk.messages.batches.retrieve(made.id).processing_status == "ended"


def test_what_a_cancel_finds_undone_is_canceled(sim, sdk, clock):
    sim.configure(batch_seconds=100)
    made = sdk.messages.batches.create(requests=[item(f"n{index}") for index in range(4)])
    clock.now += 50
    canceling = sdk.messages.batches.cancel(made.id)
    assert canceling.processing_status == "canceling" and canceling.cancel_initiated_at is not None
    ended = sdk.messages.batches.retrieve(made.id)
    assert ended.processing_status == "ended"
    assert (ended.request_counts.succeeded, ended.request_counts.canceled) == (2, 2)
    kinds = {one.custom_id: one.result.type for one in sdk.messages.batches.results(made.id)}
    assert kinds == {"n0": "succeeded", "n1": "succeeded", "n2": "canceled", "n3": "canceled"}
    assert sdk.messages.batches.cancel(made.id).processing_status == "ended", "a second cancel changes nothing"


def test_what_a_day_was_not_enough_for_is_expired(sim, sdk, clock):
    sim.configure(batch_seconds=2 * 86_400)
    made = sdk.messages.batches.create(requests=[item("a"), item("b")])
    clock.now += 86_400
    assert sdk.messages.batches.retrieve(made.id).request_counts.expired == 1
    assert {one.custom_id: one.result.type for one in sdk.messages.batches.results(made.id)}["b"] == "expired"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "requests"),
        ({"requests": []}, "between 1 and 100,000"),
        ({"requests": [item("a"), item("a")]}, "twice"),
        ({"requests": [item("a b")]}, "pattern"),
        ({"requests": [{"custom_id": "a"}]}, "params"),
    ],
)
def test_a_bad_batch_is_refused(sim, data, complaint):
    answer = httpx.post(f"{sim.base_url}/v1/messages/batches", json=data, headers=headers(sim.world.accounts[0]))
    assert answer.status_code == 400 and complaint in answer.json()["error"]["message"]


def test_a_batch_may_be_compressed_as_the_upstream_knows_how(sim):
    url, account = f"{sim.base_url}/v1/messages/batches", sim.world.accounts[0]
    data = gzip.compress(json.dumps({"requests": [item("a")]}).encode())
    assert httpx.post(url, content=data, headers=headers(account, content_encoding="gzip")).status_code == 200
    for encoding in ("zstd", "br"):
        refused = httpx.post(url, content=data, headers=headers(account, content_encoding=encoding))
        assert refused.json()["error"]["details"] == {"error_code": "request_body_encoding_unsupported"}


def test_items_are_judged_by_the_version_that_created_the_batch(sim, sdk):
    url, account = f"{sim.base_url}/v1/messages/batches", sim.world.accounts[0]
    data = {"requests": [item("warm", temperature=0.5)]}
    kinds = []
    for version in ("2023-06-01", "2026-10-21"):
        made = httpx.post(url, json=data, headers=headers(account) | {"anthropic-version": version}).json()
        kinds += [one.result.type for one in sdk.messages.batches.results(made["id"])]
    assert kinds == ["succeeded", "errored"]


def test_results_can_be_as_large_as_a_test_wants(sim, sdk):
    sim.configure(batch_results_bytes=3_000_000)
    made = sdk.messages.batches.create(requests=[item("real")])
    url = f"{sim.base_url}/v1/messages/batches/{made.id}/results"
    answer = httpx.get(url, headers=headers(sim.world.accounts[0]))
    assert answer.headers["content-type"] == "application/x-jsonl"
    assert 3_000_000 <= len(answer.content) < 3_100_000
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["custom_id"] for line in lines[:3]] == ["real", "pad-0", "pad-1"]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    assert all(line["result"]["message"]["usage"]["output_tokens"] for line in lines)


def test_a_workspace_sees_its_own_batches_only_whichever_of_its_keys_asks(sim, sdk):
    made = sdk.messages.batches.create(requests=[item("a")])
    with sdk_of(sim, 1) as foreign, sdk_of(sim, 2) as sibling:
        assert sibling.messages.batches.retrieve(made.id).id == made.id
        assert foreign.messages.batches.list().data == []
        for ask in (
            foreign.messages.batches.retrieve,
            foreign.messages.batches.cancel,
            foreign.messages.batches.delete,
        ):
            with pytest.raises(anthropic.NotFoundError) as wrong:
                ask(made.id)
        with pytest.raises(anthropic.NotFoundError) as unknown:
            foreign.messages.batches.delete(made.id[:-1] + "_")
    ending = str(wrong.value.body).partition("request_id")[0].replace(made.id, "")
    assert ending == str(unknown.value.body).partition("request_id")[0].replace(made.id[:-1] + "_", "")


def test_a_fault_strikes_a_batch_as_any_other_request(sim, sdk):
    sim.faults.add("status", 429, retry_after=3, path="/v1/messages/batches", times=1)
    with pytest.raises(anthropic.RateLimitError) as struck:
        sdk.messages.batches.create(requests=[item("a")])
    assert struck.value.response.headers["retry-after"] == "3"
    assert sdk.messages.batches.create(requests=[item("a")]).id


def test_an_account_without_the_model_gets_errored_items():
    few = Account("few", "sk-few", "w", "o", ("claude-haiku-4-5",))
    with background(World((few,))) as sim, sdk_of(sim) as sdk:
        sim.configure(public_url=sim.base_url)
        made = sdk.messages.batches.create(requests=[item("a"), item("b", model="claude-haiku-4-5")])
        assert {one.custom_id: one.result.type for one in sdk.messages.batches.results(made.id)} == {
            "a": "errored",
            "b": "succeeded",
        }
