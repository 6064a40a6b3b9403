import json
from typing import Any

import pytest

from gateway.core.wire.created_ids import hints, in_events, in_message

CONTAINER = {"id": "container_011", "expires_at": "2026-12-22T00:00:00Z"}
RESULT = {
    "type": "bash_code_execution_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {
        "type": "bash_code_execution_result",
        "content": [{"type": "bash_code_execution_output", "file_id": "file_made"}],
    },
}


def message(**fields: Any) -> bytes:
    return json.dumps({"id": "msg_1", "type": "message", "content": [], **fields}).encode()


def stream(*data: dict[str, Any]) -> bytes:
    return b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in data)


def test_a_message_brings_its_container_and_the_files_made_in_it():
    body = message(container=CONTAINER, content=[{"type": "text", "text": "Here"}, RESULT])
    assert hints(body)
    assert in_message(body, False) == [("container", "container_011"), ("files", "file_made")]


def test_within_a_thread_it_brings_itself():
    assert in_message(message(), True) == [("thread", "msg_1")]
    start = stream({"type": "message_start", "message": {"id": "msg_1", "container": None}})
    assert in_events(start, True) == [("thread", "msg_1")]
    assert in_events(start, False) == []


def test_a_stream_brings_them_with_the_events_that_name_them():
    start = {"type": "message_start", "message": {"id": "msg_1", "container": CONTAINER}}
    block = {"type": "content_block_start", "index": 1, "content_block": RESULT}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "container": CONTAINER}, "usage": {}}
    assert in_events(stream(start, block, delta), False) == [
        ("container", "container_011"),
        ("files", "file_made"),
        ("container", "container_011"),
    ]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"file_id": "file_of_another"}},
        {"type": "text", "text": '{"file_id": "file_of_another"}'},
        {"type": "server_tool_use", "id": "s", "name": "t", "input": {"file_id": "file_of_another"}},
    ],
)
def test_what_a_model_writes_is_no_object(block: dict[str, Any]):
    assert in_message(message(content=[block]), False) == []
    assert in_events(stream({"type": "content_block_start", "index": 0, "content_block": block}), False) == []


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'{"container": 1}', b'{"content": 3, "file_id": "file_x"}', b"{"]
)
def test_what_is_no_message_brings_nothing(body: bytes):
    assert in_message(body, True) == []
    assert in_events(b"data: " + body + b"\n\n", True) == []


@pytest.mark.parametrize("absent", [None, {}, {"id": None}])
def test_a_container_that_is_none_is_none(absent: object):
    assert in_message(message(container=absent), False) == []
