"""Answers that no account of Anthropic's should give, and some upstream does: encoded, none at all, with its key."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable

import anthropic
import pytest

from tests.e2e.rig import ALICE, MODEL, Gateway, ask, assert_error, conversation, message
from tests.e2e.upstream import EVENTS, JSON, SSE, Reply, Request, Upstream, error, served

WHOLE = b"".join(EVENTS)
GOOD = json.dumps({
    "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "Good evening."}], "usage": {"input_tokens": 20, "output_tokens": 5},
}).encode()  # fmt: skip
GZIP = {"content-encoding": "gzip"}


class Scripted(Upstream):
    """Accounts that give the answer of this name to a message that is just that name, and a good one to any other;
    `bad` are those that do so."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        super().__init__(self._answer)
        self.replies = replies
        self.bad: tuple[str, ...] = ("a0", "a1")

    @staticmethod
    def name_of(request: Request) -> str:
        name: str = json.loads(request.body)["messages"][0]["content"]
        return name

    def _answer(self, request: Request) -> Reply:
        said = self.name_of(request)
        return self.replies[said] if said in self.replies and request.account in self.bad else served()


REPLIES: dict[str, Reply] = {
    "encoded": (200, JSON | GZIP, gzip.compress(GOOD)),
    "encoded stream": (200, SSE | GZIP, gzip.compress(WHOLE)),
    "nothing": (200, JSON | {"content-length": "0"}, b""),
    "no message": (200, JSON, b'{"hello": "world"}'),
}


@pytest.fixture
async def upstream() -> AsyncIterator[Scripted]:
    async with Scripted(REPLIES).serve() as upstream:
        assert isinstance(upstream, Scripted)
        yield upstream


async def test_an_answer_that_is_encoded_though_nobody_asked_for_it_is_metered(
    upstream: Scripted, launch: Callable[..., Gateway]
):
    gateway = launch(accounts=upstream.accounts(1, 1))
    answer = await ask(gateway, message("encoded"))
    assert answer["content-encoding"] == "gzip"  # a client of HTTP reads it
    assert json.loads(gzip.decompress(answer.body)) == json.loads(GOOD)
    stream = await ask(gateway, message("encoded stream", stream=True))
    assert stream["content-encoding"] == "" and stream.body == WHOLE
    for each in (answer, stream):
        line = gateway.record(each.request_id)
        assert line["usage"] == {"input": 20, "output": 5} and "estimated" not in line
    assert {request.headers["accept-encoding"] for request in upstream.seen} == {"identity"}
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key=ALICE, max_retries=0) as client:
        said = await client.messages.create(
            model=MODEL, max_tokens=64, messages=[{"role": "user", "content": "encoded"}]
        )
        assert said.content[0].type == "text" and said.content[0].text == "Good evening."


@pytest.mark.parametrize("said", ["nothing", "no message"])
async def test_a_200_that_is_no_message_is_another_accounts_to_answer_and_else_a_502(
    said: str, upstream: Scripted, launch: Callable[..., Gateway]
):
    gateway = launch(accounts=upstream.accounts(1, 1))
    upstream.bad = ("a0",)
    answers = [await ask(gateway, message(said, stream=stream), conversation()) for stream in (False, True) * 8]
    assert {(answer.status, answer.account) for answer in answers} == {(200, "a1")}
    assert {answer["x-gateway-attempts"] for answer in answers} == {"1", "2"}
    upstream.bad = ("a0", "a1")
    answer = await ask(gateway, message(said), conversation())
    assert_error(answer, 502, "api_error")
    line = gateway.record(answer.request_id)
    assert (
        (line["status"], line["outcome"]) == (502, "error") and not line.get("usage") and not line.get("cost_nano_usd")
    )


def echoes(status: int) -> Callable[[Request], Reply]:
    """A refusal that repeats the account's key wherever it can."""

    def answer(request: Request) -> Reply:
        key = request.headers.get("x-api-key") or request.headers["authorization"].removeprefix("Bearer ")
        _, headers, body = error(status, f"bad key {key}; your headers: x-api-key: {key}, authorization: Bearer {key}")
        return status, {**headers, "x-api-key": key, "authorization": f"Bearer {key}", "X-Api-Key-Id": "1"}, body

    return answer


@pytest.mark.parametrize("status", [400, 401, 409, 429, 500])
async def test_an_accounts_key_that_its_upstream_repeats_reaches_neither_client_nor_log(
    status: int, launch: Callable[..., Gateway]
):
    async with Upstream(echoes(status)).serve() as upstream:
        upstream.probes = echoes(status)
        gateway = launch(accounts=upstream.accounts(1, 1), log={"level": "debug"})
        for body, path in (
            (message(), "/v1/messages"),
            (message(stream=True), "/v1/messages"),
            (message(), "/v1/messages/count_tokens"),
            (message(), "/v1/chat/completions"),
            ({"a": 1}, "/v1/files"),
            ({"a": 1}, "/v1/next_month"),
        ):
            answer = await ask(gateway, body, path=path)
            assert answer.status >= 400
            said = json.dumps(answer.headers).encode() + answer.body
            assert b"key-of-a" not in said, (path, said)
            assert not {name for name, _ in answer.headers} & {"x-api-key", "authorization"}
            gateway.record(answer.request_id)
        assert "key-of-a" not in gateway.text() + gateway.err.read_text()
        assert upstream.seen
