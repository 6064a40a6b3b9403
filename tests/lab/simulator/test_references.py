"""Messages that refer to objects of a workspace, and what they leave there: containers, files, threads."""

from typing import Any

import anthropic
import httpx
import pytest

from gateway.lab.simulator import World
from tests.lab.simulator.simulator_kit import Clock, background, headers, sdk_of

MODEL = "claude-sonnet-5"
CODE: Any = {"type": "code_execution_20260120", "name": "code_execution"}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sim(clock):
    with background(World.grid(3, 2), clock=clock) as running:
        yield running


@pytest.fixture
def sdk(sim):
    with sdk_of(sim) as client:
        yield client


def ask(*content: Any, **fields: Any) -> Any:
    blocks = [*content, {"type": "text", "text": fields.pop("text", "what is this?")}]
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": blocks}], **fields}


def send(sim: Any, account: int, data: Any, path: str = "/v1/messages") -> httpx.Response:
    return httpx.post(sim.base_url + path, json=data, headers=headers(sim.world.accounts[account]))


BLOCKS = {
    "document": lambda ident: {"type": "document", "source": {"type": "file", "file_id": ident}},
    "image": lambda ident: {"type": "image", "source": {"type": "file", "file_id": ident}},
    "container_upload": lambda ident: {"type": "container_upload", "file_id": ident},
    "tool_result": lambda ident: {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "image", "source": {"type": "file", "file_id": ident}}],
    },
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_file_must_be_in_the_workspace_of_the_account(sim, sdk, block, path, cached):
    file = sdk.files.upload(file=("a.pdf", b"%PDF"))
    data = ask(BLOCKS[block](file.id), **({"cache_control": {"type": "ephemeral"}} if cached else {}))
    assert send(sim, 0, data, path).status_code == 200
    assert send(sim, 2, data, path).status_code == 200, "the same workspace by another key"
    refused = send(sim, 1, data, path)
    assert refused.status_code == 404 and refused.json()["error"]["message"] == f"File not found: {file.id}"
    sdk.files.delete(file.id)
    assert send(sim, 0, data, path).status_code == 404


def test_the_name_of_a_file_in_text_or_in_history_is_no_reference(sim):
    history: Any = [
        {"role": "user", "content": 'take "file_id": "file_none"'},
        {"role": "assistant", "content": [{"type": "bash_code_execution_output", "file_id": "file_none"}]},
        {"role": "user", "content": [{"type": "text", "text": '{"type":"file","file_id":"file_none"}'}]},
    ]
    assert send(sim, 0, {"model": MODEL, "max_tokens": 10, "messages": history}).status_code == 200


def test_a_batch_item_with_a_foreign_file_is_errored(sim, sdk):
    file = sdk.files.upload(file=("a.pdf", b"%PDF"))
    data = {"requests": [{"custom_id": "a", "params": ask(BLOCKS["document"](file.id))}]}
    kinds = []
    for account in (0, 1):
        head = headers(sim.world.accounts[account])
        made = httpx.post(f"{sim.base_url}/v1/messages/batches", json=data, headers=head).json()
        lines = httpx.get(f"{sim.base_url}/v1/messages/batches/{made['id']}/results", headers=head).json()
        kinds.append(lines["result"]["type"])
    assert kinds == ["succeeded", "errored"]


def test_code_execution_gives_a_container_that_goes_on_in_its_workspace_only(sim, sdk):
    assert sdk.messages.create(**ask()).container is None
    first = sdk.messages.create(**ask(tools=[CODE]))
    assert first.container is not None and first.container.id.startswith("container_01")
    again = sdk.messages.create(**ask(tools=[CODE], container=first.container.id))
    assert again.container is not None and again.container.id == first.container.id
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError, match="Container not found"):
        foreign.messages.create(**ask(tools=[CODE], container=first.container.id))
    other = sdk.messages.create(**ask(tools=[CODE]))
    assert other.container is not None and other.container.id != first.container.id


def test_a_stream_tells_its_container_in_its_message_delta(sdk):
    with sdk.messages.stream(**ask(tools=[CODE])) as stream:
        deltas = [event.delta for event in stream if event.type == "message_delta"]
    assert deltas[0].container is not None and deltas[0].container.id.startswith("container_01")


def test_a_container_loads_skills_of_its_workspace(sim, sdk):
    page = b"---\nname: s\ndescription: d\n---\n"
    skill = sdk.skills.create(files=[("s/SKILL.md", page)])
    wanted: Any = {"skills": [{"type": "custom", "skill_id": skill.id}, {"type": "anthropic", "skill_id": "pptx"}]}
    made = sdk.messages.create(**ask(tools=[CODE], container=wanted))
    assert made.container is not None and made.container.skills is not None
    loaded = [(one.type, one.skill_id, one.version) for one in made.container.skills]
    assert loaded == [("custom", skill.id, skill.latest_version_id), ("anthropic", "pptx", "latest")]
    pinned: Any = {"id": made.container.id, "skills": [{"type": "custom", "skill_id": skill.id, "version": "none"}]}
    with pytest.raises(anthropic.NotFoundError, match="version"):
        sdk.messages.create(**ask(tools=[CODE], container=pinned))
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError, match="Skill not found"):
        foreign.messages.create(**ask(tools=[CODE], container=wanted))


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_can_leave_a_file_in_the_workspace(sim, sdk, streamed):
    data = ask(tools=[CODE], text="please make a file")
    if streamed:
        with sdk.messages.stream(**data) as stream:
            answer = stream.get_final_message()
    else:
        answer = sdk.messages.create(**data)
    use, result, text = answer.content
    assert (use.type, text.type) == ("server_tool_use", "text")
    assert result.type == "bash_code_execution_tool_result" and result.tool_use_id == use.id
    assert result.content.type == "bash_code_execution_result"
    ident = result.content.content[0].file_id
    assert sdk.files.download(ident).read() == f"made by {answer.id}\n".encode()
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.NotFoundError):
        foreign.files.retrieve_metadata(ident)
    plain = sdk.messages.create(**ask(text="please make a file"))
    assert [block.type for block in plain.content] == ["text"], "nobody makes files without the tool"


def test_the_same_question_leaves_another_file_each_time(sdk):
    data = ask(tools=[CODE], text="make a file")
    for _ in range(2):
        sdk.messages.create(**data)
    assert len(list(sdk.files.list())) == 2


def test_a_thread_goes_on_in_its_workspace_for_five_minutes_after_its_last_use(sim, clock):
    def go_on(previous: str, account: int = 0) -> httpx.Response:
        return send(sim, account, ask(thread={"type": "continue", "previous_message_id": previous}))

    first = send(sim, 0, ask(thread={"type": "create"})).json()["id"]
    plain = send(sim, 0, ask()).json()["id"]
    for previous, account in ((plain, 0), (first, 1)):
        refused = go_on(previous, account)
        assert refused.status_code == 404
        assert refused.json()["error"]["details"] == {"error_code": "thread_not_found"}
    clock.now += 299
    second = go_on(first)
    assert second.status_code == 200 and second.json()["id"] != first
    clock.now += 299
    assert go_on(first).status_code == 200 and go_on(second.json()["id"]).status_code == 200
    clock.now += 300
    assert go_on(first).status_code == 404
