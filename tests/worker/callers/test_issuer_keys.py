"""An issuer's keys over time: fetched once, kept while nobody can say more, asked for anew only so often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from gateway.upstream.transport import NotSent
from gateway.worker.callers.issuer_keys import ASK_AGAIN, STALE, IssuerKeys, NoKeys, Source
from tests.journeys.world import World
from tests.minting import key_set, rsa

ONE, TWO = rsa("one"), rsa("two")


class Issuer:
    """One that answers what it is told to; a `clock` beside it."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = key_set(ONE)
        self.asked = 0
        self.now = 1_800_000_000.0
        self.changes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.keys = IssuerKeys("k8s", self, self.changed, lambda: self.now)

    async def fetch(self) -> tuple[bytes, float]:
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, 600.0

    async def aclose(self) -> None:
        return

    def changed(self) -> None:
        self.changes += 1

    async def has(self, kid: str) -> bool:
        return await self.keys.find(kid, "RS256") is not None


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    yield issuer
    await issuer.keys.close()


async def test_keys_are_fetched_once_and_known_from_then_on(issuer: Issuer):
    assert await issuer.has("one")
    assert await issuer.has("one")
    assert issuer.asked == 1


async def test_all_who_wait_for_the_first_fetch_share_it(issuer: Issuer):
    issuer.gate.clear()
    waiting = [asyncio.create_task(issuer.has("one")) for _ in range(20)]
    await asyncio.sleep(0)
    issuer.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert issuer.asked == 1


async def test_whoever_gives_up_leaves_the_fetch_to_the_others(issuer: Issuer):
    issuer.gate.clear()
    first, second = (asyncio.create_task(issuer.has("one")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    issuer.gate.set()
    assert await second
    assert issuer.asked == 1


async def test_where_nobody_could_ever_say_the_keys_are_not_known(issuer: Issuer):
    issuer.answer = NotSent("cannot connect")
    with pytest.raises(NoKeys):
        await issuer.has("one")
    assert issuer.keys.failing
    issuer.now += 1.0
    issuer.answer = key_set(ONE)
    assert await issuer.has("one")
    assert not issuer.keys.failing


async def test_an_unknown_key_is_asked_for_at_most_once_in_a_while(issuer: Issuer):
    assert await issuer.has("one")
    issuer.now += ASK_AGAIN
    for _ in range(50):
        assert not await issuer.has("two")
    assert issuer.asked == 2
    issuer.answer = key_set(ONE, TWO)
    assert not await issuer.has("two")
    issuer.now += ASK_AGAIN
    assert await issuer.has("two")
    assert issuer.asked == 3


@pytest.mark.parametrize(
    "answer", [NotSent("cannot connect"), ValueError("answered 500"), b"nonsense", b'{"keys":' * 5000, key_set()]
)
async def test_what_is_known_is_used_for_a_day_while_nobody_can_say_more(issuer: Issuer, answer):
    assert await issuer.has("one")
    issuer.answer = answer
    issuer.now += STALE - 1
    assert not await issuer.has("two")  # which asks
    assert issuer.keys.failing
    assert await issuer.has("one")
    issuer.now += 1
    with pytest.raises(NoKeys):
        await issuer.has("one")


async def test_who_follows_is_told_of_other_keys_alone(issuer: Issuer):
    assert await issuer.has("one")
    issuer.now += ASK_AGAIN
    assert not await issuer.has("two")
    assert issuer.changes == 0
    issuer.answer = key_set(TWO)
    issuer.now += ASK_AGAIN
    assert await issuer.has("two")
    assert issuer.changes == 1
    assert not await issuer.has("one")


async def test_a_file_is_read(tmp_path):
    file = tmp_path / "jwks.json"
    file.write_bytes(key_set(ONE))
    data, fresh = await Source(file=str(file)).open().fetch()
    assert json.loads(data)["keys"][0]["kid"] == "one"
    assert fresh > 0
    with pytest.raises(OSError):
        await Source(file=str(tmp_path / "none")).open().fetch()


class Web:
    """An HTTP server that gives one answer and remembers what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await writer.drain()
        writer.close()


async def fetched(answer: bytes, path: str = "/keys?x=1", **source: str) -> tuple[bytes, float, bytes]:
    web = Web(answer)
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = Source(uri=f"http://127.0.0.1:{port}{path}", **source).open()
        try:
            data, fresh = await url.fetch()
        finally:
            await url.aclose()
    return data, fresh, web.heads[0]


def answered(body: bytes, head: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (head, more, len(body), body)


async def test_a_url_is_fetched_and_says_how_long_its_answer_is_fresh(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    answer = answered(b"{}", more=b"cache-control: public, max-age=1800\r\n")
    data, fresh, head = await fetched(answer, token_file=str(token))
    assert (data, fresh) == (b"{}", 1800.0)
    assert head.startswith(b"GET /keys?x=1 HTTP/1.1\r\n")
    assert b"authorization: Bearer secret\r\n" in head


@pytest.mark.parametrize(
    ("said", "fresh"),
    [(b"max-age=1", 600.0), (b"max-age=99999999", 3600.0), (b"no-store", 600.0), (b"s-max-age=1", 600.0)],
)
async def test_freshness_is_bounded(said, fresh):
    assert (await fetched(answered(b"{}", more=b"cache-control: %b\r\n" % said)))[1] == fresh


@pytest.mark.parametrize(
    "answer",
    [answered(b"", b"302 Found", b"location: http://127.0.0.1:9/keys\r\n"), answered(b"{}", b"500 Oops"),
     answered(b"x" * ((1 << 20) + 1))],
)  # fmt: skip
async def test_nothing_is_followed_and_nothing_endless_read(answer):
    with pytest.raises(ValueError):
        await fetched(answer)


AWAY, GOOD = NotSent("cannot connect"), key_set(ONE)


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        ([GOOD, *[AWAY] * 8, GOOD, AWAY, GOOD], [300, 1, 2, 4, 8, 16, 32, 60, 60, 300, 1]),
        ([*[RuntimeError("a fault of ours")] * 3, GOOD, GOOD], [1, 2, 4, 300]),
    ],
    ids=["one that is away", "one that never answered"],
)
def test_they_are_fetched_anew_in_half_their_time_and_ever_less_often_while_that_fails(answers, pauses):
    answers, times = list(answers), []

    class Changing(Issuer):
        async def fetch(self) -> tuple[bytes, float]:
            times.append(asyncio.get_running_loop().time())
            self.answer = answers.pop(0)
            if not answers:
                done.set()
            return await super().fetch()

    done = asyncio.Event()

    async def main() -> None:
        issuer = Changing()
        issuer.keys.start()
        await done.wait()
        await issuer.keys.close()

    with asyncio.Runner(loop_factory=World) as runner:
        runner.run(main())
    assert [after - before for before, after in pairwise(times)] == pauses
