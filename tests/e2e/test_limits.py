"""What a client may take of the data listener: time, room, connections, and liberties with HTTP."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.e2e.rig import (
    ALICE,
    Gateway,
    Simulator,
    Wire,
    ask,
    assert_error,
    blunt,
    eventually,
    message,
    parsed,
    request,
)

HEAD = f"POST /v1/messages HTTP/1.1\r\nhost: gateway.test\r\nx-api-key: {ALICE}\r\n".encode()
BODY = request(message())[request(message()).index(b"\r\n\r\n") + 4 :]


# -- Time -------------------------------------------------------------------------------------------------------------


async def test_a_head_or_a_body_that_does_not_come_is_a_408(tight: Gateway, sim: Simulator):
    since = sim.mark()

    async def slow(*parts: bytes) -> None:
        async with Wire.open(tight) as wire:
            for part in parts:
                await wire.send(part)
            assert_error(await wire.answer(), 408, "timeout_error")
            assert await wire.closed()

    async def second() -> None:
        async with Wire.open(tight) as wire:
            assert (await wire.ask(message("first"))).status == 200
            await wire.send(HEAD)
            assert_error(await wire.answer(), 408, "timeout_error")
            assert await wire.closed()

    async def dripping() -> None:
        async with Wire.open(tight) as wire:
            answer = asyncio.create_task(wire.answer())
            for byte in HEAD * 100:
                await wire.send(bytes([byte]))
                if await asyncio.wait([answer], timeout=0.05) != (set(), {answer}):
                    break
            assert_error(await answer, 408, "timeout_error")

    await asyncio.gather(
        slow(b"P"),
        slow(HEAD),
        slow(HEAD + b"content-length: 100\r\n\r\n"),
        slow(HEAD + b"content-length: 100\r\n\r\n", BODY[:50]),
        slow(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"10\r\nabc"),
        slow(request(message(), key="wrong")[:-10].replace(b"key: wrong", b"key: " + ALICE.encode())),
        second(),
        dripping(),
    )
    assert len(sim.records(since)) == 1


async def test_a_connection_that_says_nothing_is_closed(tight: Gateway):
    async def silent() -> None:
        async with Wire.open(tight) as wire:
            assert await wire.closed()

    async def idle() -> None:
        async with Wire.open(tight) as wire:
            assert (await wire.ask(message())).status == 200
            async with asyncio.timeout(20):
                assert await wire.reader.read(1) == b""  # without a word: nobody has asked anything

    await asyncio.gather(silent(), idle())


async def test_slow_clients_do_not_hold_up_the_others(tight: Gateway):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(12):
            wire = await stack.enter_async_context(Wire.open(tight))
            await wire.send(HEAD + b"content-length: 100\r\n\r\n{")
        for _ in range(5):
            assert (await ask(tight, message())).status == 200


# -- Room -------------------------------------------------------------------------------------------------------------

LARGE = {
    "one header of a megabyte": HEAD + b"x-large: " + b"x" * (1 << 20) + b"\r\n\r\n",
    "one header name of a megabyte": HEAD + b"x" * (1 << 20) + b": 1\r\n\r\n",
    "100,000 small headers": HEAD + b"a: b\r\n" * 100_000 + b"\r\n",
    "100,000 different headers": HEAD + b"".join(b"x-%d: \r\n" % number for number in range(100_000)) + b"\r\n",
    "a target of a megabyte": b"GET /v1/models?" + b"x" * (1 << 20) + b" HTTP/1.1\r\nhost: gateway.test\r\n\r\n",
    "a head without an end": HEAD + b"x-large: " + b"x" * (1 << 20),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_head_that_is_too_large_is_a_431(kind: str, tight: Gateway, sim: Simulator):
    since = sim.mark()
    assert_error(parsed(blunt(tight.port, LARGE[kind])), 431, "request_too_large")
    assert sim.records(since) == []


async def test_a_large_head_within_the_bound_is_served(tight: Gateway):
    headers = {f"x-large-{number}": "x" * 6000 for number in range(10)}
    assert (await ask(tight, message(), headers)).status == 200


async def test_connections_beyond_the_bound_are_told_so_and_room_is_given_back(tight: Gateway):
    bound = tight.config["limits"]["max_connections"]
    async with contextlib.AsyncExitStack() as stack:
        wires: list[Wire] = []

        async def one_more() -> bool:
            """Whether one more connection is served."""
            one = contextlib.AsyncExitStack()
            wire = await one.enter_async_context(Wire.open(tight))
            answer = await wire.ask(path="/healthz", key=None)
            if answer.status != 200:
                assert_error(answer, 529, "overloaded_error")
                assert answer["retry-after"]
                assert await wire.closed()
                await one.aclose()
                return False
            wires.append(wire)
            stack.push_async_exit(one)
            return True

        async def fill() -> bool:
            while await one_more():
                pass
            return len(wires) == bound

        async with asyncio.timeout(20):  # connections of the tests before may still be on their way out
            while not await fill():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.05)
        answers = [await wire.ask(message()) for wire in wires]
        assert {answer.status for answer in answers} == {200}
    await eventually(lambda: tight.get("/healthz").status == 200, "room again")


# -- Liberties --------------------------------------------------------------------------------------------------------

POST = HEAD + b"connection: close\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
SIZE = b"%x\r\n" % len(BODY)
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: gateway.test\r\nx-api-key: " + ALICE.encode() + b"\r\n\r\n"


def target(path: bytes) -> bytes:
    return POST.replace(b"/v1/messages", path) + LENGTH + b"\r\n" + BODY


MALFORMED = {
    "length and chunks": POST + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"content-length: 0\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
    "two lengths in one": POST + b"content-length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "a negative length": POST + b"content-length: -1\r\n\r\n" + BODY,
    "a length with a sign": POST + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a length in hex": POST + b"content-length: 0x10\r\n\r\n" + BODY,
    "an enormous length": POST + b"content-length: 99999999999999999999999999\r\n\r\n" + BODY,
    "an empty length": POST + b"content-length: \r\n\r\n" + BODY,
    "unknown transfer coding": POST + b"transfer-encoding: xchunked\r\n\r\n" + SIZE + BODY + b"\r\n0\r\n\r\n",
    "chunked not last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n" + SIZE + BODY + b"\r\n0\r\n\r\n",
    "chunked with a vertical tab": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"transfer-encoding : chunked\r\n" + LENGTH + b"\r\n" + BODY,
    "bare line feeds": (POST + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "one bare line feed": POST + b"x-one: 1\nx-two: 2\r\n" + LENGTH + b"\r\n" + BODY,
    "a bare carriage return": POST + b"x-one: 1\rx-two: 2\r\n" + LENGTH + b"\r\n" + BODY,
    "a folded header": POST + b"x-one: 1\r\n folded\r\n" + LENGTH + b"\r\n" + BODY,
    "a header without a colon": POST + b"nonsense\r\n" + LENGTH + b"\r\n" + BODY,
    "a header without a name": POST + b": 1\r\n" + LENGTH + b"\r\n" + BODY,
    "a header name with a space": POST + b"x one: 1\r\n" + LENGTH + b"\r\n" + BODY,
    "NUL in a header": POST + b"x-one: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "a control character in a header": POST + b"x-one: a\x01b\r\n" + LENGTH + b"\r\n" + BODY,
    "a bad chunk size": POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size with a sign": POST + b"transfer-encoding: chunked\r\n\r\n-5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk longer than its size": POST + b"transfer-encoding: chunked\r\n\r\n1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunks ended by line feeds": POST + b"transfer-encoding: chunked\r\n\r\n" + SIZE[:-2] + b"\n" + BODY + b"\n0\n\n",
    "no host": (POST + LENGTH + b"\r\n" + BODY).replace(b"host: gateway.test\r\n", b""),
    "two hosts": POST + b"host: elsewhere.test\r\n" + LENGTH + b"\r\n" + BODY,
    "an absolute target": target(b"http://gateway.test/v1/messages"),
    "another host as target": target(b"http://elsewhere.test/v1/messages"),
    "a target without a slash": target(b"v1/messages"),
    "a fragment": target(b"/v1/messages#x"),
    "two slashes": target(b"//v1/messages"),
    "two slashes inside": target(b"/v1//messages"),
    "an encoded parent": target(b"/v1/%2e%2e/v1/messages"),
    "an encoded parent in capitals": target(b"/v1/x/%2E%2E/messages"),
    "a parent": target(b"/v1/x/../messages"),
    "a dot": target(b"/v1/./messages"),
    "an encoded letter": target(b"/v1/message%73"),
    "an encoded slash": target(b"/v1%2fmessages"),
    "an encoded NUL": target(b"/v1/messages%00"),
    "a parameter": target(b"/v1/messages;x=1"),
    "a backslash": target(b"/v1\\messages"),
    "a space in the target": target(b"/v1/messages ?x"),
    "letters beyond ASCII": target("/v1/messagés".encode()),
    "a model's parent": target(b"/v1/models/..%2fmessages"),
    "no version": b"POST /v1/messages\r\n\r\n" + BODY,
    "an unknown version": POST.replace(b"HTTP/1.1", b"HTTP/3.7") + LENGTH + b"\r\n" + BODY,
    "no HTTP": b"HELO gateway.test\r\n\r\n",
    "a method in small letters": POST.replace(b"POST", b"post") + LENGTH + b"\r\n" + BODY,
    "CONNECT": b"CONNECT elsewhere.test:443 HTTP/1.1\r\nhost: elsewhere.test\r\nconnection: close\r\n\r\n",
    "OPTIONS of everything": b"OPTIONS * HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9,
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 500,
    "zeros": b"\0" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_request_is_refused_and_never_forwarded(kind: str, tight: Gateway, sim: Simulator):
    since = sim.mark()
    said = blunt(tight.port, MALFORMED[kind])
    if said:
        answer = parsed(said)
        assert 400 <= answer.status < 500, said
        assert answer.json()["type"] == "error" and answer.json()["request_id"]
        assert said.count(b"HTTP/1.1") == 1
    assert sim.records(since) == []


async def test_after_all_that_the_listener_serves(tight: Gateway):
    assert (await ask(tight, message())).status == 200


async def test_the_offer_of_an_upgrade_is_no_reason_to_refuse(tight: Gateway):
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    answer = await ask(tight, message(), upgrade)
    assert answer.status == 200
