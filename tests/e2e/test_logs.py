"""What a gateway writes down of others' secrets and words: nothing, wherever one looks; and what it leaves out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    KEYS,
    SECRET,
    Answer,
    Gateway,
    Simulator,
    Wire,
    accounts_of,
    ask,
    at_once,
    blunt,
    conversation,
    message,
    request,
    until,
)
from tests.e2e.test_objects import form, post

Launch = Callable[..., Gateway]
SAID = "canary-of-a-message-10aa"
NAME = "canary-of-a-conversation-9f3a"
SESSION = "canary-of-a-session-77c1"
USER = "canary-of-a-user-5d20"
FILE = "canary-of-a-file-c4e1"
WRONG = "sk-canary-of-a-wrong-key-0000"
PATH = "canary-of-a-path-aa17"
CANARIES = (SAID, NAME, SESSION, USER, FILE, WRONG, PATH, "canary")
OPERATOR = {"authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(scope="module")
def talkative(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """It says all it can say, and keeps all it keeps in its own folder: the store too."""
    config = {
        "accounts": accounts_of(simulator, 3), "log": {"level": "debug"}, "limits": {"max_body_mb": 1},
        "timeouts": {"idle": 1, "ping": 1, "first_byte": 1},
    }  # fmt: skip
    gateway = Gateway(tmp_path_factory.mktemp("talkative"), config).start()
    yield gateway
    gateway.stop()


def written(gateway: Gateway) -> dict[str, bytes]:
    """All that it has written, by where."""
    found = {str(path): path.read_bytes() for path in Path(gateway.config["data_dir"]).rglob("*") if path.is_file()}
    assert any("usage" in name for name in found) and any("append" in name for name in found), sorted(found)
    found["metrics"] = gateway.get("/metrics", admin=True, headers=OPERATOR).body
    return {**found, "stdout": gateway.out.read_bytes(), "stderr": gateway.err.read_bytes()}


def forms(secret: str) -> set[bytes]:
    """A text as it is, and as it may be spelt: within other text, where it is long enough to be told from chance."""
    raw = secret.encode()
    spelt = {base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3)}
    return {raw, quote(secret, safe="").encode(), raw.hex().encode()} | {each for each in spelt if len(each) >= 12}


def assert_silent(gateway: Gateway, secrets: list[str]) -> None:
    for where, data in written(gateway).items():
        assert not [secret for secret in secrets if any(form in data for form in forms(secret))], where


def told(stream: bool = False, **fields: Any) -> dict[str, Any]:
    tools = [{"name": "canary_tool", "description": SAID, "input_schema": {"type": "object"}}]
    return message(SAID, stream=stream, system=f"You are {SAID}.", metadata={"user_id": USER}, tools=tools, **fields)


async def test_no_key_text_or_conversation_id_is_ever_written_anywhere(talkative: Gateway, sim: Simulator):
    sent = ({"X-Conversation-Id": NAME}, {"x-claude-code-session-id": SESSION}, {"user-agent": USER})
    faults = (
        None, "status=429", "status=401", "status=529", "html=502", "cut=300", "reset", "junk", "error_mid_stream=4",
        "first_event_error", "low_credit", "refuse", "stall=3", "redirect=302",
    )  # fmt: skip
    answers: list[Answer] = []
    for fault in faults:
        talkative.mend()
        talk = [ask(talkative, told(stream), each, fault=fault) for stream in (False, True) for each in sent]
        answers += await at_once(talk)
    assert {200, 429, 502} <= {answer.status for answer in answers}

    # What is no proper request, or for another endpoint, or by somebody without a key.
    body, headers = form(FILE.encode() * 100, name=f"{FILE}.txt")
    batch = {"requests": [{"custom_id": "one", "params": told()}]}
    chat = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": SAID}], "user": USER}
    last = [
        await ask(talkative, told(), {"X-Conversation-Id": NAME}, key=WRONG),
        await ask(talkative, told(), {"authorization": f"Bearer {WRONG}"}, key=None),
        await ask(talkative, SAID.encode()),
        await ask(talkative, json.dumps({SAID: SAID}).encode()[:-3]),
        await ask(talkative, told(max_tokens=SAID)),
        await ask(talkative, message(SAID * 60_000)),
        await ask(talkative, told(), {"content-encoding": "gzip"}),
        await ask(talkative, told(), path="/v1/messages/count_tokens"),
        await ask(talkative, chat, path="/v1/chat/completions"),
        await ask(talkative, told(), path=f"/v1/{PATH}/x?key={ALICE}&name={NAME}"),
        await ask(talkative, path=f"/v1/files/{PATH}"),
        await ask(talkative, batch, path="/v1/messages/batches"),
        await post(talkative, body, headers, path="/v1/files"),
    ]
    assert {401, 400, 413, 404} <= {answer.status for answer in last}
    blunt(talkative.port, request(told(), {"X-Conversation-Id": NAME + "\x01"}))
    blunt(talkative.port, b"GET /" + PATH.encode() + b" HTTP/9.9\r\n\r\n")

    # Clients that go in the midst of it.
    for fault in ("stall=3", "silence=60"):
        async with Wire.open(talkative) as wire:
            await wire.send(request(told(True), {"X-Conversation-Id": NAME}, fault=fault))
            if fault.startswith("stall"):
                await wire.head()
                await wire.until_events(2)

    # Operators, who may name conversations and make keys.
    async def operate(method: str, path: str, body: Any = None, token: str = ADMIN_TOKEN) -> Answer:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return talkative.get(f"/admin/v1/{path}", admin=True, headers=headers, method=method, body=data)

    assert (await operate("GET", f"conversations/alice/{NAME}")).status == 200
    assert (await operate("GET", "accounts", token=WRONG)).status == 401
    assert (await operate("GET", f"conversations/alice/{PATH}")).status == 404
    made = (await operate("POST", "keys", {"caller": "alice"})).json()
    assert (await ask(talkative, told(), {"X-Conversation-Id": NAME}, key=made["key"])).status == 200
    assert (await operate("DELETE", f"conversations/alice/{NAME}")).status == 200

    final = await ask(talkative, told(), conversation())
    talkative.record(final.request_id)
    until(lambda: talkative.text().endswith("\n"), "whole lines")
    assert len(talkative.lines()) > len(answers)
    secrets = [*CANARIES, *KEYS, made["key"], SECRET, ADMIN_TOKEN, *(each["api_key"] for each in sim.accounts)]
    assert_silent(talkative, secrets)


async def test_where_one_looks_for_secrets_they_would_be_found(talkative: Gateway, sim: Simulator):
    """The test above sees what is written: the digest of a conversation, an account's name, a caller."""
    answer = await ask(talkative, told(), {"X-Conversation-Id": NAME})
    digest = talkative.record(answer.request_id)["conversation"]
    await ask(talkative, told(), {"X-Conversation-Id": NAME})
    seen = written(talkative)
    for word, places in (
        (digest, ("stdout", "append")),
        ("alice", ("stdout", "usage")),
        (answer.account, ("metrics",)),
    ):
        for place in places:
            assert any(place in where and word.encode() in data for where, data in seen.items()), (word, place)


async def test_of_good_requests_a_share_has_a_line_and_of_others_each(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), workers=2, log={"sample": 0.2})
    good = await at_once(ask(gateway, message(), conversation()) for _ in range(200))
    bad = await at_once(ask(gateway, message(), conversation(), key="sk-wrong") for _ in range(20))
    faulty = await at_once(ask(gateway, message(stream=True), fault="error_mid_stream=4") for _ in range(5))
    for answer in (*bad, *faulty):
        gateway.record(answer.request_id)
    lines = {line["request_id"] for line in gateway.lines() if line["event"] == "request"}
    share = len(lines & {answer.request_id for answer in good}) / len(good)
    assert 0.05 < share < 0.4
    assert gateway.metrics().total("gateway_requests_total", endpoint="messages", code="200") == 205
