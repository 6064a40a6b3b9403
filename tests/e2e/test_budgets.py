"""Money through real sockets, beside an upstream that keeps its own bill: what is admitted at once stays within the
budget, and what an answer costs is counted to the cent, fees and iterations included."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from gateway.data import load_catalogue
from gateway.records import Usage
from tests.e2e.rig import ADMIN_TOKEN, Answer, Gateway, Store, ask, conversation, eventually, message
from tests.e2e.test_quotas import key_of, not_across_midnight

Launch = Callable[..., Gateway]
NANO = 1_000_000_000
HAIKU, SONNET, OPUS, FABLE = "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-8", "claude-fable-5"
CATALOGUE = load_catalogue()
EPHEMERAL = {"type": "ephemeral"}


def priced(model: str, usage: Usage) -> int:
    return CATALOGUE.bill(model, usage).cost


class Upstream:
    """An account. `tells(body)` gives the model that answers, the usage at the begin of a stream, that at its end, and
    what it bills in nano-dollars; answers wait while it is `held`."""

    def __init__(self) -> None:
        self.port = 0
        self.bill = 0
        self.asked = 0
        self.waiting = 0
        self.tells: Callable[[dict[str, Any]], tuple[str, dict[str, Any], dict[str, Any], int]] = self.plain
        self.open = asyncio.Event()
        self.open.set()
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @staticmethod
    def plain(body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any], int]:
        model = body["model"]
        return model, {"input_tokens": 10}, {"output_tokens": 5}, priced(model, Usage(input=10, output=5))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstream]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            for task, writer in list(self._clients.items()):
                writer.transport.abort()
                await task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients[task] = writer
        try:
            await self._answers(reader, writer)
        finally:
            del self._clients[task]

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length) or b"{}")
                if not head.startswith(b"post /v1/messages"):
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.asked += 1
                self.waiting += 1
                await self.open.wait()
                self.waiting -= 1
                writer.write(self._answer(body))
                await writer.drain()
        writer.close()

    def _answer(self, body: dict[str, Any]) -> bytes:
        model, begins, ends, bill = self.tells(body)
        self.bill += bill
        said: dict[str, Any] = {
            "id": f"msg_{self.asked}", "type": "message", "role": "assistant", "model": model, "stop_sequence": None,
        }  # fmt: skip
        if not body.get("stream"):
            text = [{"type": "text", "text": "Hi"}]
            data = json.dumps(
                {**said, "content": text, "stop_reason": "end_turn", "usage": {**begins, **ends}}
            ).encode()
            kind = b"application/json"
        else:
            told: list[dict[str, Any]] = [
                {"type": "message_start", "message": {**said, "content": [], "stop_reason": None, "usage": begins}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": ends},
                {"type": "message_stop"},
            ]
            data = b"".join(
                b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in told
            )
            kind = b"text/event-stream"
        head = b"HTTP/1.1 200 OK\r\nrequest-id: req_1\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        return head % (kind, len(data)) + data


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream().serving() as serving:
        yield serving


async def launched(
    launch: Launch, store: Store, upstream: Upstream, db: int, budgets: dict[str, float], **config: Any
) -> Gateway:
    """A gateway over that account, and a caller for each budget of a day."""
    with store.client() as client:
        client.execute_command("SELECT", db)
        client.flushdb()
    keys = [{"id": name, "key": key_of(name), "limits": {"budget_usd": {"day": day}}} for name, day in budgets.items()]
    account = {"id": "scripted", "base_url": f"http://127.0.0.1:{upstream.port}", "api_key": "sk-ant-scripted"}
    gateway = launch(wait=False, redis=f"{store.url}/{db}", accounts=[account], keys=keys, **config)
    await asyncio.to_thread(gateway.ready)
    return gateway


def spent(gateway: Gateway, caller: str) -> int:
    """Nano-dollars in the gateway's books."""
    path = f"/admin/v1/usage?group_by=key&key={caller}"
    rows = gateway.get(path, admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).json()["data"]
    return round(sum(row["cost_usd"] for row in rows) * NANO)


async def all_at_once(
    gateway: Gateway, upstream: Upstream, bodies: list[Any], headers: Any, **options: Any
) -> list[Answer]:
    """Ask all of it at the same time: no answer comes before everything is admitted or refused."""
    upstream.open.clear()
    done = 0

    async def one(body: Any) -> Answer:
        nonlocal done
        answer = await ask(gateway, body, headers() if callable(headers) else headers, **options)
        done += 1
        return answer

    work = [asyncio.create_task(one(body)) for body in bodies]
    await eventually(lambda: done + upstream.waiting == len(bodies), "every request admitted or refused", 60)
    upstream.open.set()
    return list(await asyncio.gather(*work))


def prompt(number: int, words: int = 4000) -> dict[str, Any]:
    """A body whose prompt nobody has in a cache, and asks for it to be kept."""
    text = f"{number} " + "word " * words
    return message(max_tokens=100, system=[{"type": "text", "text": text, "cache_control": EPHEMERAL}])


def writes_all(body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any], int]:
    """A prompt that no cache has: all of it is written to one."""
    tokens = len(json.dumps(body)) // 4
    model = body["model"]
    begins = {"input_tokens": 0, "cache_creation_input_tokens": tokens}
    return model, begins, {"output_tokens": 100}, priced(model, Usage(cache_write_5m=tokens, output=100))


@pytest.mark.parametrize("mode", ["capped", "strict"])
async def test_other_prompts_of_one_warm_conversation_at_once_stay_within_the_budget(
    launch: Launch, store: Store, upstream: Upstream, mode: str
):
    await not_across_midnight()
    each = writes_all(prompt(0))[3]
    budget = round(11.5 * each)
    config = {"workers": 2, "budget_mode": mode}
    gateway = await launched(launch, store, upstream, 11, {"warm": budget / NANO}, **config)
    upstream.tells = writes_all
    name, key = conversation(), key_of("warm")
    assert (await ask(gateway, prompt(0), name, key=key)).status == 200  # now the conversation is warm
    await eventually(lambda: spent(gateway, "warm") == upstream.bill, "its settlement")
    answers = await all_at_once(gateway, upstream, [prompt(number) for number in range(1, 201)], name, key=key)
    served = sum(answer.status == 200 for answer in answers)
    assert {answer.status for answer in answers} == {200, 429}
    assert 9 <= served <= 11 and upstream.asked == 1 + served
    await eventually(lambda: spent(gateway, "warm") == upstream.bill, "settlements")
    assert upstream.bill <= 1.1 * budget


async def test_a_warm_conversation_may_go_on_with_what_is_left(launch: Launch, store: Store, upstream: Upstream):
    """The discount is there for a conversation's next turn, again and again: whoever reads a cache needs less."""
    await not_across_midnight()
    write = writes_all(prompt(0))[3]
    gateway = await launched(launch, store, upstream, 11, {"warm": 1.5 * write / NANO})
    upstream.tells = writes_all
    name, key = conversation(), key_of("warm")
    assert (await ask(gateway, prompt(0), name, key=key)).status == 200
    await eventually(lambda: spent(gateway, "warm") == upstream.bill, "its settlement")

    def reads(body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any], int]:
        usage = Usage(cache_read=len(json.dumps(body)) // 4, output=1)
        begins = {"input_tokens": 0, "cache_read_input_tokens": usage.cache_read}
        return HAIKU, begins, {"output_tokens": 1}, priced(HAIKU, usage)

    upstream.tells = reads
    for _ in range(3):
        assert (await ask(gateway, prompt(0), name, key=key)).status == 200
        await eventually(lambda: spent(gateway, "warm") == upstream.bill, "its settlement")
    assert (await ask(gateway, prompt(0), conversation(), key=key)).status == 429  # cold, it does not fit


@pytest.mark.parametrize("mode", ["capped", "strict"])
async def test_documents_by_url_at_once_stay_within_the_budget_and_one_request(
    launch: Launch, store: Store, upstream: Upstream, mode: str
):
    await not_across_midnight()
    tokens = 180_000
    each = priced(HAIKU, Usage(input=tokens, output=5))
    upstream.tells = lambda body: (body["model"], {"input_tokens": tokens}, {"output_tokens": 5}, each)
    gateway = await launched(launch, store, upstream, 11, {"reader": 0.25}, workers=2, budget_mode=mode)
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/long.pdf"}}
    body = message(max_tokens=100)
    body["messages"][0]["content"] = [document, {"type": "text", "text": "What does it say?"}]
    answers = await all_at_once(gateway, upstream, [body] * 200, conversation, key=key_of("reader"))
    assert 1 <= sum(answer.status == 200 for answer in answers) == upstream.asked <= 2
    await eventually(lambda: spent(gateway, "reader") == upstream.bill, "settlements")
    assert upstream.bill <= 0.25 * NANO + each
    while (await ask(gateway, body, key=key_of("reader"))).status == 200:
        await eventually(lambda: spent(gateway, "reader") == upstream.bill, "its settlement")
    assert upstream.bill <= 0.25 * NANO + each


async def test_searches_cost_their_fee_and_a_budget_reserves_as_many_as_there_may_be(
    launch: Launch, store: Store, upstream: Upstream
):
    await not_across_midnight()

    def searches(body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any], int]:
        made = body["tools"][0].get("max_uses", 15)
        ends = {"output_tokens": 5, "server_tool_use": {"web_search_requests": made, "web_fetch_requests": 0}}
        return HAIKU, {"input_tokens": 10}, ends, priced(HAIKU, Usage(input=10, output=5)) + made * NANO // 100

    upstream.tells = searches
    gateway = await launched(launch, store, upstream, 11, {"searcher": 0.1, "few": 0.1, "rich": 100}, workers=2)
    tool = {"type": "web_search_20250305", "name": "web_search"}

    def body(**fields: Any) -> dict[str, Any]:
        return message(max_tokens=10, tools=[{**tool, **fields}])

    for stream in (False, True):
        bodies = [{**body(max_uses=4), "stream": stream}] * 50
        answers = await all_at_once(gateway, upstream, bodies, conversation, key=key_of("few"))
        assert sum(answer.status == 200 for answer in answers) == (0 if stream else 2)
    await eventually(lambda: spent(gateway, "few") == upstream.bill, "settlements")
    assert 0.08 * NANO < upstream.bill < 0.1 * NANO
    asked = upstream.asked
    answers = await all_at_once(gateway, upstream, [body()] * 10, conversation, key=key_of("searcher"))
    assert {answer.status for answer in answers} == {429} and upstream.asked == asked
    before = upstream.bill
    for stream in (False, True):
        assert (await ask(gateway, {**body(), "stream": stream}, key=key_of("rich"))).status == 200
    await eventually(lambda: spent(gateway, "rich") == upstream.bill - before, "settlements")
    assert upstream.bill - before > 0.3 * NANO


def tokens(**counts: int) -> dict[str, int]:
    names = {"fresh": "input_tokens", "output": "output_tokens", "written": "cache_creation_input_tokens"}
    return {names[name]: count for name, count in counts.items()}


async def test_every_iteration_is_billed_at_the_price_of_its_own_model(
    launch: Launch, store: Store, upstream: Upstream
):
    gateway = await launched(launch, store, upstream, 11, {"iterating": 100})

    async def billed(model: str, begins: dict[str, Any], ends: dict[str, Any], bill: int) -> None:
        for stream in (False, True):
            before = spent(gateway, "iterating")
            upstream.tells = lambda _: (model, begins, ends, bill)
            body = {**message(model=FABLE, max_tokens=100), "stream": stream}
            assert (await ask(gateway, body, conversation(), key=key_of("iterating"))).status == 200
            await eventually(lambda: spent(gateway, "iterating") - before == bill, f"a bill of {bill}")  # noqa: B023

    compacted = [
        {"type": "compaction", **tokens(fresh=180_000, output=3500)},
        {"type": "message", **tokens(fresh=23_000, output=1000)},
    ]
    bill = priced(FABLE, Usage(input=180_000, output=3500)) + priced(FABLE, Usage(input=23_000, output=1000))
    ends = {**tokens(fresh=23_000, output=1000), "iterations": compacted}
    await billed(FABLE, {"input_tokens": 45}, ends, bill)

    declined = [
        {"type": "message", "model": FABLE, **tokens(fresh=50_000, output=1)},
        {"type": "fallback_message", "model": OPUS, **tokens(fresh=51_000, output=800)},
    ]
    bill = priced(FABLE, Usage(input=50_000, output=1)) + priced(OPUS, Usage(input=51_000, output=800))
    ends = {**tokens(fresh=51_000, output=800), "iterations": declined}
    await billed(OPUS, {"input_tokens": 51_000}, ends, bill)


async def test_writes_for_an_hour_are_billed_so_when_their_split_comes_late_or_never(
    launch: Launch, store: Store, upstream: Upstream
):
    gateway = await launched(launch, store, upstream, 11, {"hourly": 100})

    async def billed(ttl: str, begins: dict[str, Any], ends: dict[str, Any], bill: int) -> None:
        for stream in (False, True):
            before = spent(gateway, "hourly")
            upstream.tells = lambda _: (HAIKU, begins, {"output_tokens": 1, **ends}, bill)
            body = {**prompt(1, 100), "stream": stream}
            body["system"][0]["cache_control"] = {**EPHEMERAL, "ttl": ttl}
            assert (await ask(gateway, body, conversation(), key=key_of("hourly"))).status == 200
            await eventually(lambda: spent(gateway, "hourly") - before == bill, f"a bill of {bill}")  # noqa: B023

    told = {"input_tokens": 1, "cache_creation_input_tokens": 5000}
    hour = priced(HAIKU, Usage(input=1, cache_write_1h=5000, output=1))
    minutes = priced(HAIKU, Usage(input=1, cache_write_5m=5000, output=1))
    await billed("1h", told, {}, hour)
    await billed("5m", told, {}, minutes)
    late = {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 5000}}
    await billed("1h", told, late, hour)
    await billed("5m", told, late, hour)  # what is told counts
