"""Files, and whatever else a message finds or leaves in its account's workspace: containers, skills, threads.

A message goes where what it names lives, and for everybody but its owner an object is as unknown as one that never was.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.e2e.rig import (
    ALICE,
    ALICE_TOO,
    BOB,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Wire,
    accounts_of,
    ask,
    assert_error,
    conversation,
    eventually,
    message,
    request,
)
from tests.e2e.test_objects import (
    BY_IDS,
    CURSORS,
    alike,
    form,
    held,
    listed,
    nowhere,
    post,
    skill,
    upload,
    with_file,
)

Launch = Callable[..., Gateway]
CODE = [{"type": "code_execution_20260120", "name": "code_execution"}]
MIB = 1024 * 1024


async def file_of(gateway: Gateway, key: str = ALICE) -> tuple[str, str]:
    """A new file, and the account where it lives."""
    answer = await upload(gateway, key=key)
    return answer.json()["id"], answer.account


async def strayed(gateway: Gateway, home: str) -> tuple[dict[str, str], str]:
    """A conversation that does not live at `home`, and where it does."""
    for _ in range(60):
        name = conversation()
        answer = await ask(gateway, message(), name)
        assert answer.status == 200
        if answer.account != home:
            return name, answer.account
    raise AssertionError("all conversations live at one account")


# -- Where messages go ------------------------------------------------------------------------------------------------


async def test_a_message_with_a_file_goes_where_the_file_lives_and_its_conversation_stays_there(
    gateway: Gateway, sim: Simulator
):
    for stream in (False, True):
        file, home = await file_of(gateway)
        name = conversation()
        since = sim.mark()
        answer = await ask(gateway, with_file(file, stream=stream), name)
        assert (answer.status, answer.route, answer.account) == (200, "pinned", home)
        assert [record["account"] for record in sim.records(since)] == [held(sim)[file]["account"]]
        again = await ask(gateway, with_file(file), name)
        assert (again.route, again.account) == ("pinned", home)
        without = await ask(gateway, message("Hello", "Well", "And then?"), name)
        assert (without.route, without.account) == ("bound", home)


async def test_a_known_conversation_moves_to_its_file(gateway: Gateway, sim: Simulator):
    file, home = await file_of(gateway)
    name, _ = await strayed(gateway, home)
    moved = await ask(gateway, with_file(file), name)
    assert (moved.status, moved.route, moved.account) == (200, "pinned", home)
    line = gateway.record(moved.request_id)
    assert line["reason"] == "object"
    for body, route in ((with_file(file), "pinned"), (message("Hello", "Well", "And then?"), "bound")):
        later = await ask(gateway, body, name)
        assert (later.route, later.account) == (route, home)


async def test_counting_tokens_goes_to_the_file_and_moves_no_conversation(gateway: Gateway, sim: Simulator):
    file, home = await file_of(gateway)
    name, elsewhere = await strayed(gateway, home)
    counted = await ask(gateway, with_file(file), name, path="/v1/messages/count_tokens")
    assert (counted.status, counted.route, counted.account) == (200, "pinned", home)
    assert counted.json()["input_tokens"] > 0
    later = await ask(gateway, message("Hello", "Well", "And then?"), name)
    assert (later.route, later.account) == ("bound", elsewhere)


async def test_messages_about_files_are_billed_as_any(gateway: Gateway, sim: Simulator):
    file, home = await file_of(gateway)
    since = sim.mark()
    answer = await ask(gateway, with_file(file))
    usage = sim.records(since)[0]["usage"]
    line = gateway.record(answer.request_id)
    assert (line["route"], line["account"], line["caller"]) == ("pinned", home, "alice")
    assert line["usage"] == {"input": usage["input_tokens"], "output": usage["output_tokens"]}


# -- A file's life ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
async def test_what_comes_down_is_what_went_up(size: int, gateway: Gateway, sim: Simulator):
    content = os.urandom(size)
    since = sim.mark()
    body, headers = form(content, 'näme "1".bin'.replace('"', "%22"), "application/x-data")
    answer = await post(gateway, body, headers, path="/v1/files")
    assert answer.status == 200 and answer.route in ("none", "pinned")
    made = answer.json()
    [record] = sim.records(since)
    assert (record["body_size"], record["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert held(sim)[made["id"]]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["filename"], made["mime_type"], made["size_bytes"]) == (
        "näme %221%22.bin", "application/x-data", size,
    )  # fmt: skip
    for key in (ALICE, ALICE_TOO):
        found = await ask(gateway, path=f"/v1/files/{made['id']}", key=key)
        assert (found.json(), found.route) == (made, "pinned")
        down = await ask(gateway, path=f"/v1/files/{made['id']}/content", key=key)
        assert down.ended and down.body == content
        assert (down["content-type"], down["content-length"]) == ("application/x-data", str(size))
    head = await ask(gateway, path=f"/v1/files/{made['id']}/content", method="HEAD")
    assert (head.status, head["content-length"], head.body) == (200, str(size), b"")


async def test_a_chunked_upload_reaches_the_upstream_byte_for_byte(gateway: Gateway, sim: Simulator):
    content = os.urandom(2_500_000)
    body, headers = form(content)
    since = sim.mark()
    async with Wire.open(gateway) as wire:
        await wire.send(request(headers={**headers, "transfer-encoding": "chunked"}, method="POST", path="/v1/files"))
        for at in range(0, len(body), 300_000):
            piece = body[at : at + 300_000]
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await wire.send(b"0\r\n\r\n")
        answer = await wire.answer()
    assert answer.status == 200, answer.body
    [record] = sim.records(since)
    assert record["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert held(sim)[answer.json()["id"]]["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_sdk_uploads_reads_and_deletes(gateway_url: Gateway):
    content = os.urandom(100_000)
    with anthropic.Anthropic(base_url=gateway_url.base_url, api_key=gateway_url.api_key, max_retries=0) as client:
        made = client.files.upload(file=("data.bin", content, "application/x-data"))
        assert client.files.retrieve_metadata(made.id) == made
        assert client.files.download(made.id).read() == content
        assert made.id in [each.id for each in client.files.list(limit=1000)]
        assert client.files.delete(made.id).type == "file_deleted"
        with pytest.raises(anthropic.NotFoundError):
            client.files.retrieve_metadata(made.id)


async def test_a_deleted_file_is_gone_everywhere(gateway: Gateway, sim: Simulator):
    file, _ = await file_of(gateway)
    gone = await ask(gateway, path=f"/v1/files/{file}", method="DELETE")
    assert (gone.status, gone.json()) == (200, {"id": file, "type": "file_deleted"})
    assert file not in held(sim)
    for options in REACHES.values():
        assert (await ask(gateway, **options(file))).status == 404
    for style in (CURSORS, BY_IDS):
        assert file not in await listed(gateway, **style)


async def test_a_file_that_its_account_has_lost_is_a_404_of_its_own(gateway: Gateway, sim: Simulator):
    """It has expired, or somebody has deleted it in the console."""
    file, home = await file_of(gateway)
    key = next(each["api_key"] for each in sim.accounts if each["id"] == home)
    assert (await ask(sim, path=f"/v1/files/{file}", method="DELETE", headers=CURSORS, key=key)).status == 200
    for options in REACHES.values():
        assert (await ask(gateway, **options(file))).status == 404
    assert (await ask(gateway, message(), conversation())).status == 200  # nothing is held against its account


# -- Strangers --------------------------------------------------------------------------------------------------------

# What may be done with a file's id, as options of a request.
REACHES: dict[str, Callable[[str], dict[str, Any]]] = {
    "metadata": lambda file: {"path": f"/v1/files/{file}"},
    "content": lambda file: {"path": f"/v1/files/{file}/content"},
    "its head": lambda file: {"path": f"/v1/files/{file}/content", "method": "HEAD"},
    "delete": lambda file: {"path": f"/v1/files/{file}", "method": "DELETE"},
    "something new": lambda file: {"path": f"/v1/files/{file}/share", "method": "POST", "body": {}},
    "message": lambda file: {"body": with_file(file)},
    "stream": lambda file: {"body": with_file(file, stream=True), "headers": conversation()},
    "count": lambda file: {"body": with_file(file), "path": "/v1/messages/count_tokens"},
}


@pytest.mark.parametrize("reach", REACHES)
async def test_for_a_stranger_a_file_is_as_unknown_as_one_that_never_was(reach: str, gateway: Gateway, sim: Simulator):
    file, _ = await file_of(gateway)
    since = sim.mark()
    answers = [await ask(gateway, key=BOB, **REACHES[reach](each)) for each in (file, nowhere("file"))]
    if reach != "its head":
        assert_error(answers[0], 404, "not_found_error")
    assert answers[0].status == 404 and alike(answers[0]) == alike(answers[1])
    assert sim.records(since) == []
    assert (await ask(gateway, path=f"/v1/files/{file}/content")).body == b"Hello"


async def test_a_strangers_list_leaves_a_file_out(gateway: Gateway):
    file, _ = await file_of(gateway)
    for style in (CURSORS, BY_IDS):
        assert file not in await listed(gateway, key=BOB, **style)
        assert file in await listed(gateway, key=ALICE_TOO, **style)
    for query in (f"ids[]={file}", f"ids={file}"):
        mine, theirs = [
            (await ask(gateway, headers=CURSORS, path=f"/v1/files?{query}", key=key)).json()["data"]
            for key in (ALICE, BOB)
        ]
        assert ([each["id"] for each in mine], theirs) == ([file], [])


# -- References in bodies ---------------------------------------------------------------------------------------------


def blocks(*content: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    said = [{"role": role, "content": [*content]}]
    return (
        said if role == "user" else [{"role": "user", "content": "Hello"}, *said, {"role": "user", "content": "Go on"}]
    )


PLACES: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "an image": lambda file: blocks({"type": "image", "source": {"type": "file", "file_id": file}}),
    "a document": lambda file: blocks({"type": "document", "source": {"type": "file", "file_id": file}}),
    "an upload to a container": lambda file: blocks({"type": "container_upload", "file_id": file}),
    "the result of a tool": lambda file: blocks(
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [
                {"type": "text", "text": "here"},
                {"type": "document", "source": {"type": "file", "file_id": file}},
            ],
        }
    ),
    "an earlier turn": lambda file: [
        *blocks({"type": "document", "source": {"type": "file", "file_id": file}}),
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Well?"},
    ],
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_file_is_found_wherever_a_message_may_hold_one(place: str, gateway: Gateway, sim: Simulator):
    file, home = await file_of(gateway)
    body = messages_of(PLACES[place](file))
    for text, headers in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
        mine = await ask(gateway, text, {**headers, **conversation()})
        assert (mine.status, mine.route, mine.account) == (200, "pinned", home), mine.body
        since = sim.mark()
        assert_error(await ask(gateway, text, headers, key=BOB), 404, "not_found_error")
        assert sim.records(since) == []


def messages_of(said: list[dict[str, Any]], **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "max_tokens": 64, "messages": said, **fields}).encode()


ESCAPES: dict[str, tuple[bytes, bytes]] = {
    "the key's underscore": (b'"file_id"', b'"file\\u005fid"'),
    "the key's first letter": (b'"file_id"', b'"\\u0066ile_id"'),
    "all of the key": (b'"file_id"', b'"' + b"".join(b"\\u%04x" % letter for letter in b"file_id") + b'"'),
    "a letter of the id": (b'"file_01', b'"file\\u005f01'),
    "the source": (b'"source"', b'"s\\u006furce"'),
    "the kind": (b'"document"', b'"docum\\u0065nt"'),
    "the messages": (b'"messages"', b'"m\\u0065ssages"'),
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_reference_that_is_spelled_with_escapes_is_one(escape: str, gateway: Gateway, sim: Simulator):
    file, home = await file_of(gateway)
    plain = json.dumps(with_file(file)).encode()
    body = plain.replace(*ESCAPES[escape])
    assert body != plain and json.loads(body) == json.loads(plain)
    since = sim.mark()
    assert_error(await ask(gateway, body, key=BOB), 404, "not_found_error")
    assert sim.records(since) == []
    mine = await ask(gateway, body, conversation())
    assert (mine.status, mine.route, mine.account) == (200, "pinned", home)
    assert sim.records(since, bodies=True)[0]["body"] == body


TWICE = {
    "the id": b'{"type":"document","source":{"type":"file","file_id":"%(own)b","file_id":"%(theirs)b"}}',
    "the id, escaped": b'{"type":"document","source":{"type":"file","file_id":"%(own)b","file\\u005fid":"%(theirs)b"}}',
    "the source": b'{"type":"document","source":{"type":"text"},"source":{"type":"file","file_id":"%(theirs)b"}}',
    "the kind": b'{"type":"text","type":"document","source":{"type":"file","file_id":"%(theirs)b"}}',
    "something else beside it": b'{"type":"document","a":1,"a":2,"source":{"type":"file","file_id":"%(own)b"}}',
}


@pytest.mark.parametrize("kind", TWICE)
async def test_a_reference_that_two_parsers_could_read_in_two_ways_is_refused(
    kind: str, gateway: Gateway, sim: Simulator
):
    theirs, _ = await file_of(gateway, BOB)
    own, _ = await file_of(gateway)
    block = TWICE[kind] % {b"own": own.encode(), b"theirs": theirs.encode()}
    body = b'{"model":"%b","max_tokens":9,"messages":[{"role":"user","content":[%b]}]}' % (MODEL.encode(), block)
    since = sim.mark()
    assert "more than once" in assert_error(await ask(gateway, body), 400, "invalid_request_error")
    assert sim.records(since) == []


WORDS: dict[str, Callable[[str], list[dict[str, Any]]]] = {
    "the input of a tool": lambda file: [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"file_id": file}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing"}]},
    ],
    "the input of a tool that looks like a block": lambda file: [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [
                {
                    "type": "tool_use", "id": "toolu_1", "name": "look",
                    "input": {"content": [{"type": "document", "source": {"type": "file", "file_id": file}}]},
                }
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing"}]},
    ],
    "text": lambda file: blocks({"type": "text", "text": json.dumps({"type": "document", "file_id": file})}),
    "the words of a tool": lambda file: blocks(
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": f'{{"file_id": "{file}"}}'}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WORDS)
async def test_an_id_that_only_stands_there_is_no_reference(kind: str, gateway: Gateway, sim: Simulator):
    file, _ = await file_of(gateway)
    body = messages_of(WORDS[kind](file))
    answer = await ask(gateway, body, conversation(), key=BOB)
    assert (answer.status, answer.route) == (200, "new"), answer.body


# -- What answers bring -----------------------------------------------------------------------------------------------


def said_file(answer: Answer) -> str:
    """The file that an answer shows, JSON or stream."""
    if answer["content-type"].startswith("text/event-stream"):
        shown = [data["content_block"] for name, data in answer.events if name == "content_block_start"]
    else:
        shown = answer.json()["content"]
    [block] = [each for each in shown if each["type"].endswith("_tool_result")]
    [output] = block["content"]["content"]
    file: str = output["file_id"]
    return file


def said_container(answer: Answer) -> str:
    if answer["content-type"].startswith("text/event-stream"):
        return str(next(data["delta"]["container"]["id"] for name, data in answer.events if name == "message_delta"))
    return str(answer.json()["container"]["id"])


MAKE = message("Please make a file of it", tools=CODE)


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_file_made_by_a_tool_is_the_callers(stream: bool, gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, {**MAKE, "stream": stream}, conversation())
    file = said_file(answer)
    assert held(sim)[file]["account"] == answer.account
    content = await ask(gateway, path=f"/v1/files/{file}/content", key=ALICE_TOO)
    assert (content.status, content.account) == (200, answer.account)
    assert content.body.startswith(b"made by msg_")
    used = await ask(gateway, with_file(file), conversation())
    assert (used.status, used.route, used.account) == (200, "pinned", answer.account)
    for options in REACHES.values():
        assert (await ask(gateway, key=BOB, **options(file))).status == 404
    assert (await ask(gateway, path=f"/v1/files/{file}", method="DELETE")).status == 200


async def test_a_file_that_a_stream_shows_may_be_used_before_the_stream_ends(gateway: Gateway, sim: Simulator):
    for _ in range(5):
        async with Wire.open(gateway) as wire:
            await wire.send(request({**MAKE, "stream": True}, conversation(), fault="slow=0.02"))
            head = await wire.head()
            seen = b""
            while b'"file_id"' not in seen:
                seen += await wire.piece()
            file = json.loads(seen.partition(b'"file_id":')[2].partition(b"}")[0])
            assert (await ask(gateway, path=f"/v1/files/{file}")).status == 200
            assert (await wire.rest(head.but(body=seen))).events[-1][0] == "message_stop"


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_container_is_the_callers_and_goes_on_where_it_is(stream: bool, gateway: Gateway, sim: Simulator):
    first = await ask(gateway, message("Run it", tools=CODE, stream=stream), conversation())
    container = said_container(first)
    assert held(sim)[container]["account"] == first.account
    for form_of in (container, {"id": container}, {"id": container, "skills": []}):
        body = message("Run it again", tools=CODE, stream=stream, container=form_of)
        again = await ask(gateway, body, conversation(), key=ALICE_TOO)
        assert (again.status, again.route, again.account) == (200, "pinned", first.account), again.body
        assert said_container(again) == container
        since = sim.mark()
        refused = await ask(gateway, body, key=BOB)
        unknown = await ask(gateway, {**body, "container": json.loads(
            json.dumps(form_of).replace(container, nowhere("container"))
        )}, key=BOB)  # fmt: skip
        assert_error(refused, 404, "not_found_error")
        assert alike(refused) == alike(unknown)
        assert sim.records(since) == []


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
async def test_a_thread_is_continued_where_it_is_by_its_caller_alone(stream: bool, gateway: Gateway, sim: Simulator):
    beta = {"anthropic-beta": "threads-2026-09-01"}
    answer = await ask(gateway, message("One", thread={"type": "create"}, stream=stream), {**beta, **conversation()})
    assert answer.status == 200
    for number in range(3):
        last = answer.events[0][1]["message"]["id"] if stream else answer.json()["id"]
        body = message(f"{number}", thread={"type": "continue", "previous_message_id": last}, stream=stream)
        home = answer.account
        since = sim.mark()
        assert_error(await ask(gateway, body, beta, key=BOB), 404, "not_found_error")
        assert sim.records(since) == []
        answer = await ask(gateway, body, {**beta, **conversation()})
        assert (answer.status, answer.route, answer.account) == (200, "pinned", home), answer.body
    lost = message("x", thread={"type": "continue", "previous_message_id": nowhere("msg")})
    assert_error(await ask(gateway, lost, beta), 404, "not_found_error")


async def test_a_message_that_is_no_thread_leaves_no_owner(gateway: Gateway):
    answer = await ask(gateway, message("One"))
    body = message("Two", thread={"type": "continue", "previous_message_id": answer.json()["id"]})
    assert_error(await ask(gateway, body), 404, "not_found_error")


async def test_a_custom_skill_is_loaded_by_its_owner_alone(gateway: Gateway, sim: Simulator):
    body, headers = skill("of files")
    made = await post(gateway, body, {**headers, **CURSORS}, path="/v1/skills")
    name = made.json()["id"]

    def using(kind: str, ident: str) -> dict[str, Any]:
        container = {"skills": [{"type": kind, "skill_id": ident, "version": "latest"}]}
        return message("Do it", tools=CODE, container=container)

    mine = await ask(gateway, using("custom", name), conversation())
    assert (mine.status, mine.route, mine.account) == (200, "pinned", made.account), mine.body
    since = sim.mark()
    refused, unknown = [await ask(gateway, using("custom", each), key=BOB) for each in (name, nowhere("skill"))]
    assert_error(refused, 404, "not_found_error")
    assert alike(refused) == alike(unknown)
    assert sim.records(since) == []
    # What Anthropic publishes is nobody's, and lives everywhere.
    published = await ask(gateway, using("anthropic", "xlsx"), conversation(), key=BOB)
    assert (published.status, published.route) == (200, "new")


# -- Uploads that fail ------------------------------------------------------------------------------------------------


async def test_what_is_no_form_is_the_upstreams_to_refuse(gateway: Gateway, sim: Simulator):
    before = held(sim)
    for body, headers in (
        (b"no form", {"content-type": "multipart/form-data; boundary=x"}),
        (b"{}", {"content-type": "application/json"}),
        (b"", {}),
    ):
        answer = await post(gateway, body, headers, path="/v1/files")
        assert_error(answer, 400, "invalid_request_error")
    assert held(sim) == before


@pytest.fixture(scope="module")
def small(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that takes files of at most 2 MiB."""
    config = {"accounts": accounts_of(simulator, 2), "limits": {"max_file_mb": 2}}
    gateway = Gateway(tmp_path_factory.mktemp("small"), config).start()
    yield gateway
    gateway.stop()


async def test_a_file_declared_too_large_is_refused_before_it_comes(small: Gateway, sim: Simulator):
    since = sim.mark()
    async with Wire.open(small) as wire:
        headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(2 * MIB + 1)}
        await wire.send(request(headers=headers, method="POST", path="/v1/files"))
        assert_error(await wire.answer(), 413, "request_too_large")
    assert sim.records(since) == []
    body, headers = form(b"x" * (2 * MIB - 1000))
    assert (await post(small, body, headers, path="/v1/files")).status == 200


async def test_a_chunked_file_is_refused_when_it_is_too_large_and_none_is_made(small: Gateway, sim: Simulator):
    before = held(sim)
    body, headers = form(b"x" * (3 * MIB))
    async with Wire.open(small) as wire:
        await wire.send(request(headers={**headers, "transfer-encoding": "chunked"}, method="POST", path="/v1/files"))
        answer = asyncio.create_task(wire.answer())
        for at in range(0, len(body), 65_536):
            piece = body[at : at + 65_536]
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        await wire.send(b"0\r\n\r\n")
        assert_error(await answer, 413, "request_too_large")
    assert held(sim) == before
    assert (await upload(small)).status == 200


async def test_an_upload_whose_client_goes_leaves_nothing_behind(gateway: Gateway, sim: Simulator):
    before, connections = held(sim), sim.open_connections()
    for size in (1000, 1_500_000):
        body, headers = form(b"x" * 4_000_000)
        async with Wire.open(gateway) as wire:
            sent = {**headers, "content-length": str(len(body))}
            await wire.send(request(headers=sent, method="POST", path="/v1/files") + body[:size])
            await eventually(lambda: gateway.metrics().total("gateway_requests_in_flight") == 1, "its begin")
        await eventually(lambda: gateway.metrics().total("gateway_requests_in_flight") == 0, "its end")
    await eventually(lambda: sim.open_connections() <= connections, "the end of its connection")
    assert held(sim) == before
    assert (await upload(gateway)).status == 200


async def test_what_creates_is_not_repeated_after_a_failure(gateway: Gateway, sim: Simulator):
    before, since = held(sim), sim.mark()
    body, headers = form(b"once")
    for kind, value, status in (("status", 500, 500), ("reset", None, 502), ("html", 502, 502)):
        sim.fault(kind, value, path="/v1/files", times=1)
        answer = await post(gateway, body, headers, path="/v1/files")
        assert answer.status == status, answer.body
    assert len(sim.records(since)) == 3
    assert held(sim) == before


async def test_a_create_that_its_account_has_no_room_for_waits_and_is_made_once(gateway: Gateway, sim: Simulator):
    before, since = held(sim), sim.mark()
    sim.fault("status", 429, path="/v1/files", times=1, retry_after=1)
    answer = await upload(gateway)
    assert [record["status"] for record in sim.records(since)] == [429, 200]
    assert held(sim).keys() - before.keys() == {answer.json()["id"]}


async def test_a_download_that_breaks_off_does_not_look_complete(gateway: Gateway, sim: Simulator):
    file = (await upload(gateway, b"x" * 3_000_000)).json()["id"]
    for number in (100_000, 2_000_000):
        sim.fault("cut", number, path=f"/v1/files/{file}/content", times=1)
        answer = await ask(gateway, path=f"/v1/files/{file}/content")
        assert answer.status in (200, 502)
        assert not answer.ended or answer.status == 502
    assert len((await ask(gateway, path=f"/v1/files/{file}/content")).body) == 3_000_000


# -- Large ------------------------------------------------------------------------------------------------------------


def memory(pid: int, name: str) -> int:
    """A figure of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name}")


def test_an_upload_of_160_megabytes_costs_little_memory(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 1))
    [worker] = gateway.workers()
    mark, piece, count = "large", os.urandom(MIB), 160
    head = f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'.encode()
    tail = f"\r\n--{mark}--\r\n".encode()
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield head
        for number in range(count):
            fresh = number.to_bytes(8, "big") + piece[8:]
            digest.update(fresh)
            yield fresh
        yield tail

    before = memory(worker, "VmRSS")
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
    try:
        headers = {
            "x-api-key": ALICE,
            "content-type": f"multipart/form-data; boundary={mark}",
            "content-length": str(len(head) + count * MIB + len(tail)),
        }
        connection.request("POST", "/v1/files", body(), headers)
        response = connection.getresponse()
        made = json.loads(response.read())
        assert response.status == 200, made
    finally:
        connection.close()
    assert made["size_bytes"] == count * MIB
    assert held(sim)[made["id"]]["sha256"] == digest.hexdigest()
    assert memory(worker, "VmHWM") - before < 64 * MIB

    seen = hashlib.sha256()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
    try:
        connection.request("GET", f"/v1/files/{made['id']}/content", headers={"x-api-key": ALICE})
        response = connection.getresponse()
        while data := response.read(MIB):
            seen.update(data)
        connection.request("DELETE", f"/v1/files/{made['id']}", headers={"x-api-key": ALICE})
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    assert seen.hexdigest() == digest.hexdigest()
    assert memory(worker, "VmHWM") - before < 64 * MIB
