"""curl, through every endpoint: the script is `clients/curl/tour.sh`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.clients import rigs
from tests.e2e.rig import Gateway, Simulator, events

STATUSES = {
    **dict.fromkeys(
        [
            "message", "bearer", "no_version", "query", "stream", "http10", "http10_stream", "expect", "chunked",
            "gzip", "compressed", "count_tokens", "chat", "models", "model", "batch", "batch_now", "batch_list",
            "batch_results", "batch_cancel", "batch_delete", "file", "file_metadata", "file_content", "file_list",
            "file_message", "file_delete",
        ],
        200,
    ),
    **dict.fromkeys(
        ["model_unknown", "batch_gone", "batch_unknown", "file_gone", "file_unknown", "no_path", "dots"], 404
    ),
    **dict.fromkeys(["no_json", "no_gzip"], 400),
    **dict.fromkeys(["no_key", "wrong_key"], 401),
    "admin": 403,
    "no_method": 405,
}  # fmt: skip


class Tour(NamedTuple):
    """`statuses` by name, and the folder with the answers."""

    gateway: Gateway
    statuses: dict[str, int]
    folder: Path

    def body(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def json(self, name: str) -> Any:
        return json.loads(self.body(name))

    def head(self, name: str) -> str:
        return (self.folder / f"{name}.head").read_text().lower()


@pytest.fixture(scope="module")
def tour(shared_gateway: Gateway, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Tour:
    rigs.need("curl")
    rigs.need("gzip")
    shared_gateway.mend()
    simulator.clear()
    folder = tmp_path_factory.mktemp("tour")
    command: list[str | Path] = ["sh", rigs.HERE / "curl" / "tour.sh"]
    printed = rigs.run(command, shared_gateway.base_url, shared_gateway.api_key, {"OUT": str(folder)})
    return Tour(shared_gateway, json.loads(printed), folder)


def test_every_endpoint_answers_with_its_status(tour: Tour):
    assert tour.statuses == STATUSES


@pytest.mark.parametrize(
    "name", ["message", "bearer", "no_version", "query", "http10", "expect", "chunked", "gzip", "compressed"]
)
def test_the_same_body_gets_the_same_answer_however_it_is_sent(name: str, tour: Tour):
    assert tour.json(name)["content"] == tour.json("message")["content"] != []


@pytest.mark.parametrize("name", ["stream", "http10_stream"])
def test_a_stream_is_whole(name: str, tour: Tour):
    kinds = [kind for kind, _ in events(tour.body(name))]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"


def test_expectations_are_met_and_old_clients_get_no_chunks(tour: Tour):
    assert tour.head("expect").startswith("http/1.1 100 ")
    assert "transfer-encoding" in tour.head("stream")
    for name in ("http10", "http10_stream"):
        assert "transfer-encoding" not in tour.head(name)


def test_results_of_a_batch_are_lines_of_json_at_the_gateways_own_address(tour: Tour):
    batch = tour.json("batch_now")
    assert batch["processing_status"] == "ended"
    assert batch["results_url"] == f"{tour.gateway.base_url}/v1/messages/batches/{batch['id']}/results"
    [line] = tour.body("batch_results").splitlines()
    assert json.loads(line)["custom_id"] == "one"
    assert json.loads(line)["result"]["message"]["content"] == tour.json("message")["content"]
    assert batch["id"] in [one["id"] for one in tour.json("batch_list")["data"]]


def test_a_file_comes_back_as_it_went(tour: Tour):
    assert tour.body("file_content") == (tour.folder / "day.txt").read_bytes()
    assert tour.json("file_metadata") == tour.json("file")
    assert tour.json("file")["id"] in [one["id"] for one in tour.json("file_list")["data"]]
    assert "x-gateway-route: pinned" in tour.head("file_message")


def test_a_list_of_models_says_whether_there_are_more(tour: Tour):
    page = tour.json("models")
    assert len(page["data"]) == 2 and page["has_more"] is True
    assert page["last_id"] == page["data"][-1]["id"]


@pytest.mark.parametrize("name", sorted(name for name, status in STATUSES.items() if status >= 400))
def test_a_refusal_is_an_error_as_the_apis(name: str, tour: Tour):
    answer = tour.json(name)
    assert answer["type"] == "error" and answer["error"]["type"] and answer["error"]["message"]
    assert f"request-id: {answer['request_id'].lower()}" in tour.head(name)
