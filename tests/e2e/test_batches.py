"""Message batches: bodies that pass without being held and are looked through on their way, addresses that lead back to
the gateway, and results whose usage is metered once."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    ALICE_TOO,
    BOB,
    CALLERS,
    KEYS,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    assert_error,
    at_once,
    eventually,
    message,
    request,
    until,
)
from tests.e2e.test_files import MIB, memory
from tests.e2e.test_objects import alike, batch_of, held, nowhere, post, upload, with_file

Launch = Callable[..., Gateway]
PATH = "/v1/messages/batches"
DORA = "sk-" + "D0ra5" * 9 + "one"  # may use no model but the small ones
LARGER = "claude-opus-5-5"
LIMIT = 4 * MIB
# Nano-dollars a token: input, output.
PRICES = {MODEL: (1000, 5000), "claude-sonnet-4-5": (3000, 15_000), LARGER: (4000, 20_000)}


@pytest.fixture(scope="module")
def twins(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways on one store; batches of at most 4 MiB, and proxies on this machine are believed."""
    config = {
        "redis": f"{store.url}/7",
        "accounts": accounts_of(simulator, 4),
        "keys": [*CALLERS, {"id": "dora", "key": DORA, "models": ["claude-haiku-*", "quick"]}],
        "models": {"aliases": {"quick": MODEL, "strong": LARGER}},
        "limits": {"max_batch_mb": 4},
        "trusted_proxies": ["127.0.0.1"],
    }
    gateways = [Gateway(tmp_path_factory.mktemp(name), dict(config)).launch() for name in ("one", "other")]
    for gateway in gateways:
        gateway.ready()
    yield gateways
    for gateway in gateways:
        gateway.stop()


@pytest.fixture
def twin(twins: list[Gateway], sim: Simulator) -> Gateway:
    twins[0].mend()
    return twins[0]


async def create(gateway: Gateway, *params: dict[str, Any], key: str = ALICE) -> dict[str, Any]:
    """A batch of these messages, by default two, that is accepted."""
    answer = await ask(gateway, batch_of(*(params or (message("One"), message("Two")))), path=PATH, key=key)
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json()
    return made


def of_size(size: int, *last: dict[str, Any]) -> bytes:
    """The JSON of a batch of so many bytes, whose last items are these."""
    items = batch_of(message("x"), *last)
    short = len(json.dumps(items))
    items["requests"][0]["params"]["messages"][0]["content"] = "y" * (size - short + 1)
    body = json.dumps(items).encode()
    assert len(body) == size
    return body


def chunked(body: bytes, step: int = 70_000) -> bytes:
    pieces = (body[at : at + step] for at in range(0, len(body), step))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def batches(sim: Simulator) -> set[str]:
    return {name for name, each in held(sim).items() if each["kind"] == "message_batches"}


def account_key(sim: Simulator, name: str) -> str:
    """The key of the account where an object lives."""
    account = held(sim)[name]["account"]
    return next(str(each["api_key"]) for each in sim.accounts if each["id"] == account)


# -- A batch's life ---------------------------------------------------------------------------------------------------


async def test_a_batch_is_made_read_cancelled_and_deleted_by_its_owner(gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, batch_of(message("One"), message("Two")), path=PATH)
    made = answer.json()
    assert (answer.status, made["processing_status"], made["results_url"]) == (200, "in_progress", None)
    assert answer.account == held(sim)[made["id"]]["account"]
    path = f"{PATH}/{made['id']}"
    found = await ask(gateway, path=path, key=ALICE_TOO)
    assert (found.status, found.route, found.account) == (200, "pinned", answer.account)
    assert found.json()["processing_status"] == "ended"
    [first, *_] = (await ask(gateway, path=PATH)).json()["data"]
    assert first == found.json()
    results = await ask(gateway, path=f"{path}/results")
    direct = await ask(
        sim, path=f"{path}/results", key=account_key(sim, made["id"]), headers={"anthropic-version": "2023-06-01"}
    )
    assert results.ended and results.body == direct.body
    assert results["content-type"] == "application/x-jsonl"
    assert {json.loads(line)["custom_id"] for line in results.body.splitlines()} == {"item-0", "item-1"}
    cancelled = await ask(gateway, {}, path=f"{path}/cancel")
    assert (cancelled.status, cancelled.json()["id"]) == (200, made["id"])
    gone = await ask(gateway, method="DELETE", path=path)
    assert (gone.status, gone.json()) == (200, {"id": made["id"], "type": "message_batch_deleted"})
    for method, rest in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
        assert_error(await ask(gateway, method=method, path=path + rest), 404, "not_found_error")
    assert made["id"] not in batches(sim)


async def test_for_a_stranger_a_batch_is_as_unknown_as_one_that_never_was(gateway: Gateway, sim: Simulator):
    made, none = (await create(gateway))["id"], nowhere("msgbatch")
    since = sim.mark()
    for method, rest in (
        ("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/new"), ("HEAD", "/new"),
    ):  # fmt: skip
        theirs, nobodys = [
            await ask(gateway, method=method, path=f"{PATH}/{each}{rest}", key=BOB) for each in (made, none)
        ]
        assert theirs.status == 404 and alike(theirs) == alike(nobodys)
    assert sim.records(since) == []
    assert made not in [each["id"] for each in (await ask(gateway, path=f"{PATH}?limit=1000", key=BOB)).json()["data"]]
    assert (await ask(gateway, path=f"{PATH}/{made}")).json()["cancel_initiated_at"] is None


async def test_a_batch_that_still_runs_has_no_results_and_may_be_cancelled(launch: Launch, tmp_path: Any):
    sim = Simulator(tmp_path / "slow", 1, "--batch-seconds", "600")
    try:
        gateway = launch(accounts=accounts_of(sim))
        made = await create(gateway)
        path = f"{PATH}/{made['id']}"
        found = (await ask(gateway, path=path)).json()
        assert (found["processing_status"], found["results_url"]) == ("in_progress", None)
        words = assert_error(await ask(gateway, path=f"{path}/results"), 404, "not_found_error")
        assert "no results yet" in words  # the upstream's own
        assert (await ask(gateway, path=f"{path}/cancel", method="POST")).json()["processing_status"] == "canceling"
        found = (await ask(gateway, path=path)).json()
        assert (found["processing_status"], found["request_counts"]["canceled"]) == ("ended", 2)
        assert found["results_url"] == f"http://gateway.test{path}/results"
        results = await ask(gateway, path=f"{path}/results")
        assert results.body.count(b'"canceled"') == 2
        gateway.record(results.request_id)
        assert metered(gateway, made["id"]) == []
    finally:
        assert sim.end() == 0


def test_the_sdk_follows_the_address_of_results(gateway_url: Gateway):
    with anthropic.Anthropic(base_url=gateway_url.base_url, api_key=gateway_url.api_key, max_retries=0) as client:
        said: list[Any] = [{"custom_id": "one", "params": message("Hello")}]
        made = client.messages.batches.create(requests=said)
        found = client.messages.batches.retrieve(made.id)
        assert found.results_url == f"{gateway_url.base_url}{PATH}/{made.id}/results"
        [result] = list(client.messages.batches.results(made.id))
        assert result.custom_id == "one" and result.result.type == "succeeded"


# -- Addresses --------------------------------------------------------------------------------------------------------


async def addresses(gateway: Gateway, batch: str, host: str, headers: dict[str, str]) -> set[str]:
    """Where every answer about the batch says that its results are, without the path that they must all have."""
    found = set()
    for method, path in (("GET", f"{PATH}/{batch}"), ("GET", f"{PATH}?limit=1"), ("POST", f"{PATH}/{batch}/cancel")):
        data = request(path=path, method=method, headers=headers).replace(b"gateway.test", host.encode())
        async with Wire.open(gateway) as wire:
            await wire.send(data)
            answer = await wire.answer()
        assert answer.status == 200 and b"api.anthropic.com" not in answer.body
        told = answer.json()
        url: str = told["data"][0]["results_url"] if "data" in told else told["results_url"]
        assert url.endswith(f"{PATH}/{batch}/results")
        found.add(url.removesuffix(f"{PATH}/{batch}/results"))
    return found


FORWARDED = {"x-forwarded-proto": "https", "x-forwarded-host": "llm.example.com", "x-forwarded-prefix": "/team/"}


@pytest.mark.parametrize("host", ["gateway.internal:8443", "10.1.2.3", "[::1]:8080", "localhost:1"])
async def test_results_are_where_the_client_reached_the_gateway(host: str, gateway: Gateway):
    batch = (await create(gateway))["id"]
    for headers in ({}, FORWARDED):  # nobody is believed here
        assert await addresses(gateway, batch, host, headers) == {f"http://{host}"}


async def test_results_are_where_an_operator_says_that_clients_reach_the_gateway(launch: Launch, sim: Simulator):
    url = "https://llm.acme.test/claude"
    gateway = launch(accounts=accounts_of(sim, 1), public_url=f"{url}/", trusted_proxies="0.0.0.0/0")
    batch = (await create(gateway))["id"]
    for headers in ({}, FORWARDED):
        assert await addresses(gateway, batch, "inside", headers) == {url}
    me = gateway.get("/admin/v1/me", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).json()
    assert me["clients"]["public_url"] == url


async def test_a_proxy_that_is_believed_says_where_the_client_reached_it(twin: Gateway):
    batch = (await create(twin))["id"]
    for headers, base in (
        ({}, "http://inside:80"),
        (FORWARDED, "https://llm.example.com/team"),
        ({"x-forwarded-proto": "https"}, "https://inside:80"),
        ({"x-forwarded-host": "a.example:8443, b.example"}, "http://a.example:8443"),
        ({"x-forwarded-prefix": "/a/b"}, "http://inside:80/a/b"),
        ({"x-forwarded-proto": "javascript"}, "http://inside:80"),
    ):
        assert await addresses(twin, batch, "inside:80", headers) == {base}


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-forwarded-host", 'a"b'), ("x-forwarded-host", "a/b@c"), ("x-forwarded-prefix", '/x","id":"y'),
     ("x-forwarded-prefix", "//evil"), ("host", 'h"q')],
)  # fmt: skip
async def test_what_a_header_says_cannot_break_out_of_an_address(name: str, value: str, twin: Gateway):
    batch = (await create(twin))["id"]
    data = request(path=f"{PATH}/{batch}", headers={} if name == "host" else {name: value})
    if name == "host":
        data = data.replace(b"gateway.test", value.encode())
    async with Wire.open(twin) as wire:
        await wire.send(data)
        answer = await wire.answer()
    if answer.status == 200:
        told = answer.json()
        assert told["id"] == batch and told["results_url"].endswith(f"{PATH}/{batch}/results")
        assert value not in told["results_url"]
    else:
        assert_error(answer, 400, "invalid_request_error")


async def test_no_key_of_the_gateway_goes_up_and_no_address_of_the_upstream_comes_down(
    gateway: Gateway, sim: Simulator
):
    since = sim.mark()
    made = await create(gateway)
    path = f"{PATH}/{made['id']}"
    answers = [
        await ask(gateway, method=method, path=each)
        for method, each in (
            ("GET", path), ("GET", PATH), ("GET", f"{path}/results"), ("POST", f"{path}/cancel"), ("DELETE", path),
        )
    ]  # fmt: skip
    assert {answer.status for answer in answers} == {200}
    records = sim.records(since)
    assert len(records) >= 6
    assert not [key for key in KEYS if key in json.dumps(records)]
    for answer in answers:
        text = json.dumps(answer.headers) + answer.body.decode()
        assert "api.anthropic.com" not in text
        assert not [each for each in sim.accounts if each["api_key"] in text or each["organization"] in text]


# -- Bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [900, MIB - 1, MIB, MIB + 1, 3_400_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_passes_byte_for_byte(size: int, framing: str, twin: Gateway, sim: Simulator):
    body = of_size(size)
    since = sim.mark()
    if framing == "length":
        answer = await ask(twin, body, path=PATH)
    else:
        async with Wire.open(twin) as wire:
            await wire.send(request(headers={"transfer-encoding": "chunked"}, method="POST", path=PATH))
            await wire.send(chunked(body))
            answer = await wire.answer()
    assert answer.status == 200, answer.body
    [record] = sim.records(since)
    assert (record["body_size"], record["body_sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert answer.json()["id"] in batches(sim)


async def test_a_body_of_just_the_permitted_size_passes_and_one_byte_more_does_not(twin: Gateway, sim: Simulator):
    assert (await ask(twin, of_size(LIMIT), path=PATH)).status == 200
    before = batches(sim)
    async with Wire.open(twin) as wire:
        await wire.send(request(headers={"content-length": str(LIMIT + 1)}, method="POST", path=PATH))
        assert_error(await wire.answer(), 413, "request_too_large")
    for size in (LIMIT + 1, LIMIT + 300_000):
        async with Wire.open(twin) as wire:
            await wire.send(request(headers={"transfer-encoding": "chunked"}, method="POST", path=PATH))
            await wire.send(chunked(of_size(size)))
            assert_error(await wire.answer(), 413, "request_too_large")
    assert batches(sim) == before
    assert (await create(twin))["id"]


async def test_a_client_that_goes_amid_its_batch_leaves_none_behind(twin: Gateway, sim: Simulator):
    before, connections = batches(sim), sim.open_connections()
    body = of_size(3_500_000)
    for size in (100, MIB // 2, 2_500_000):
        for head in (
            request(headers={"content-length": str(len(body))}, method="POST", path=PATH) + body[:size],
            request(headers={"transfer-encoding": "chunked"}, method="POST", path=PATH) + chunked(body)[:size],
        ):
            async with Wire.open(twin) as wire:
                await wire.send(head)
                await eventually(lambda: in_flight(twin) == 1, "its begin")
            await eventually(lambda: in_flight(twin) == 0, "its end")
    await eventually(lambda: sim.open_connections() <= connections, "the end of its connections")
    assert batches(sim) == before
    assert (await create(twin))["id"]


def in_flight(gateway: Gateway) -> float:
    return gateway.metrics().total("gateway_requests_in_flight")


async def test_an_account_that_dies_amid_a_large_batch_is_no_second_batch(twin: Gateway, sim: Simulator):
    before = batches(sim)
    for kind, value in (("reset", None), ("status", 500), ("status", 401)):
        sim.fault(kind, value, path=PATH, times=1)
        answer = await ask(twin, of_size(3_000_000), path=PATH)
        assert answer.status in (500, 502, 529), answer.body
        twin.mend()
    assert batches(sim) == before
    await eventually(lambda: twin.metrics().total("gateway_account_state", state="out") == 0, "its return")
    assert (await create(twin))["id"]


# -- What a body may not name -----------------------------------------------------------------------------------------

NAMED = json.dumps(message("Hello", model=LARGER)).encode()
MODELS: dict[str, bytes] = {
    "as any": NAMED,
    "with blanks": NAMED.replace(b'"model": ', b'"model"\n \t:\r\n  '),
    "behind an allowed one": b'{"model": "%b", ' % MODEL.encode() + NAMED[1:],
    "before an allowed one": NAMED[:-1] + b', "model": "%b"}' % MODEL.encode(),
    "deep inside": b'{"model":"%b","max_tokens":9,"messages":[],"fallbacks":[{"model":"%b"}]}'
    % (MODEL.encode(), LARGER.encode()),
    "with an escaped key": NAMED.replace(b'"model"', b'"mod\\u0065l"'),
    "with an escaped value": NAMED.replace(b"claude-opus", b"claude\\u002dopus"),
    "by an alias": NAMED.replace(LARGER.encode(), b"strong"),
}


@pytest.mark.parametrize("where", ["at once", "behind 2 MB"])
@pytest.mark.parametrize("kind", MODELS)
async def test_a_batch_with_a_model_that_the_caller_may_not_use_is_refused(
    kind: str, where: str, twin: Gateway, sim: Simulator
):
    assert len(NAMED) > 50
    before = batches(sim)
    body = batch_with(MODELS[kind], 2_100_000 if where != "at once" else 0)
    status, error = (403, "permission_error")
    if "escaped" in kind or "alias" in kind:  # the latter are not replaced in batches
        status, error = (400, "invalid_request_error")
    assert_error(await ask(twin, body, path=PATH, key=DORA), status, error)
    packed = gzip.compress(body)
    assert_error(await ask(twin, packed, {"content-encoding": "gzip"}, path=PATH, key=DORA), status, error)
    async with Wire.open(twin) as wire:
        await wire.send(request(headers={"transfer-encoding": "chunked"}, method="POST", path=PATH, key=DORA))
        await wire.send(chunked(body, 65_537))
        assert_error(await wire.answer(), status, error)
    assert batches(sim) == before


def batch_with(params: bytes, behind: int = 0) -> bytes:
    """A batch with these raw parameters behind so many bytes of others, which do not compress to nothing."""
    first = b'{"custom_id":"first","params":{"model":"%b","max_tokens":9,"messages":[{"role":"user","content":"%b"}]}},'
    text = os.urandom(behind // 2).hex().encode()
    lead = first % (MODEL.encode(), text) if behind else b""
    return b'{"requests":[%b{"custom_id":"last","params":%b}]}' % (lead, params)


async def test_a_caller_may_make_batches_of_what_it_may_use(twin: Gateway, sim: Simulator):
    allowed = json.dumps(message("Hello")).encode()
    for behind in (0, 2_100_000):
        answer = await ask(twin, batch_with(allowed, behind), path=PATH, key=DORA)
        assert answer.status == 200, answer.body
        # A model's name as text, or as some other key's value, is none.
        words = allowed.replace(b"Hello", LARGER.encode() + b'","name":"' + LARGER.encode())
        assert (await ask(twin, batch_with(words, behind), path=PATH, key=DORA)).status == 200
    assert (await ask(twin, batch_of(message(model=LARGER)), path=PATH)).status == 200


@pytest.mark.parametrize("where", ["at once", "behind 2 MB"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_a_batch_that_names_a_strangers_object_is_refused(
    where: str, packed: bool, twin: Gateway, sim: Simulator
):
    theirs = (await upload(twin, key=BOB)).json()["id"]
    before = batches(sim)
    plain = batch_with(json.dumps(with_file(theirs)).encode(), 2_100_000 if where != "at once" else 0)
    headers = {"content-encoding": "gzip"} if packed else {}
    for body in (
        plain,
        plain.replace(b'"file_id"', b'"anything_else"'),
        plain.replace(b'"type": "document"', b'"type": "container_upload"'),
    ):
        sent = gzip.compress(body, 1) if packed else body
        assert_error(await ask(twin, sent, headers, path=PATH), 404, "not_found_error")
    escaped = plain.replace(b"file_01", b"file\\u005f01")
    sent = gzip.compress(escaped, 1) if packed else escaped
    assert_error(await ask(twin, sent, headers, path=PATH), 400, "invalid_request_error")
    assert batches(sim) == before
    # To its owner it is open.
    sent = gzip.compress(plain, 1) if packed else plain
    answer = await ask(twin, sent, headers, path=PATH, key=BOB)
    assert answer.status == 200, answer.body
    assert held(sim)[answer.json()["id"]]["account"] == held(sim)[theirs]["account"]


async def test_a_batch_goes_where_its_files_live(twin: Gateway, sim: Simulator):
    file = await upload(twin)
    made = await ask(twin, batch_of(with_file(file.json()["id"]), message("Hello")), path=PATH)
    assert (made.status, made.route, made.account) == (200, "pinned", file.account)
    results = await ask(twin, path=f"{PATH}/{made.json()['id']}/results")
    assert results.body.count(b'"succeeded"') == 2


# -- Encodings --------------------------------------------------------------------------------------------------------


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "identity": ("identity", bytes),
}


@pytest.mark.parametrize("size", [2000, 3_000_000])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_compressed_body_passes_as_it_came(encoding: str, size: int, twin: Gateway, sim: Simulator):
    name, pack = ENCODINGS[encoding]
    body = pack(batch_with(json.dumps(message("Hello")).encode(), size))
    since = sim.mark()
    answer = await ask(twin, body, {"content-encoding": name}, path=PATH)
    assert answer.status == 200, answer.body
    [record] = sim.records(since)
    assert record["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert ["content-encoding", name] in record["headers"]
    assert answer.json()["request_counts"]["processing"] == 2


HIDDEN: dict[str, list[tuple[str, str]]] = {
    "gzip, then identity": [("content-encoding", "gzip"), ("content-encoding", "identity")],
    "identity, then gzip": [("content-encoding", "identity"), ("content-encoding", "gzip")],
    "both in one": [("content-encoding", "gzip, identity")],
    "gzip and nothing": [("content-encoding", "gzip"), ("content-encoding", "")],
    "in capitals": [("Content-Encoding", "GZip")],
    "by its old name": [("content-encoding", "x-gzip")],
    "no encoding at all": [],
}


@pytest.mark.parametrize("kind", HIDDEN)
async def test_nothing_is_hidden_by_what_is_said_of_an_encoding(kind: str, twin: Gateway, sim: Simulator):
    theirs = (await upload(twin, key=BOB)).json()["id"]
    before, since = batches(sim), sim.mark()
    for body, key in ((with_file(theirs), ALICE), (message(model=LARGER), DORA)):
        packed = gzip.compress(json.dumps(batch_of(body)).encode())
        assert (await ask(twin, packed, HIDDEN[kind], path=PATH, key=key)).status in (400, 403, 404)
        assert (await ask(twin, gzip.compress(json.dumps(body).encode()), HIDDEN[kind], key=key)).status >= 400
    assert batches(sim) == before
    assert not [record for record in sim.records(since) if record["status"] == 200]


TYPES = [
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "text/plain",
    "application/x-www-form-urlencoded",
]


@pytest.mark.parametrize("kind", TYPES)
async def test_a_batch_is_looked_through_whatever_it_is_called(kind: str, twin: Gateway, sim: Simulator):
    theirs = (await upload(twin, key=BOB)).json()["id"]
    before = batches(sim)
    for body, key, status in ((with_file(theirs), ALICE, 404), (message(model=LARGER), DORA, 403)):
        answer = await post(twin, json.dumps(batch_of(body)).encode(), {"content-type": kind}, path=PATH, key=key)
        assert answer.status == status
    assert batches(sim) == before


WHOLE = gzip.compress(json.dumps(batch_of(message("Hello"))).encode())
BROKEN: dict[str, tuple[str, bytes, int, str]] = {
    "no gzip at all": ("gzip", b"this is not gzip", 400, "request_body_encoding_invalid"),
    "half of it": ("gzip", WHOLE[: len(WHOLE) // 2], 400, "request_body_encoding_invalid"),
    "a wrong checksum": ("gzip", WHOLE[:-8] + bytes(8), 400, "request_body_encoding_invalid"),
    "something behind it": ("gzip", WHOLE + b"{}", 400, "request_body_encoding_invalid"),
    "brotli": ("br", WHOLE, 400, "request_body_encoding_unsupported"),
    "zstd": ("zstd", WHOLE, 400, "request_body_encoding_unsupported"),
    "one coding unknown": ("gzip, br", WHOLE, 400, "request_body_encoding_unsupported"),
    "a bomb": ("gzip", gzip.compress(b" " * (LIMIT + 1)), 413, "request_body_too_large_after_decoding"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_body_that_cannot_be_looked_through_is_refused(kind: str, twin: Gateway, sim: Simulator):
    name, body, status, code = BROKEN[kind]
    before = batches(sim)
    answer = await ask(twin, body, {"content-encoding": name}, path=PATH)
    assert answer.status == status
    assert answer.json()["error"]["details"] == {"error_code": code}
    assert batches(sim) == before


async def test_a_large_gzip_body_that_breaks_at_its_end_makes_no_batch(twin: Gateway, sim: Simulator):
    before = batches(sim)
    body = gzip.compress(batch_with(json.dumps(message("Hello")).encode(), 3_500_000), 1)
    assert len(body) > MIB
    for broken in (body[:-8] + bytes(8), body[:-20]):
        answer = await ask(twin, broken, {"content-encoding": "gzip"}, path=PATH)
        assert_error(answer, 400, "invalid_request_error")
        assert answer.json()["error"]["details"] == {"error_code": "request_body_encoding_invalid"}
    assert batches(sim) == before


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe"])
async def test_json_that_is_no_plain_utf_8_is_refused(mark: bytes, twin: Gateway, sim: Simulator):
    before = batches(sim)
    text = json.dumps(batch_of(message(model=LARGER)))
    body = mark + (text.encode() if len(mark) == 3 else text.encode("utf-16-le"))
    assert_error(await ask(twin, body, path=PATH, key=DORA), 400, "invalid_request_error")
    assert_error(await ask(twin, text.encode("utf-16-be"), path=PATH, key=DORA), 400, "invalid_request_error")
    assert batches(sim) == before


async def test_what_is_no_proper_batch_is_the_upstreams_to_refuse(twin: Gateway, sim: Simulator):
    before = batches(sim)
    for body in (b"", b"{", b"[]", b'{"requests":[]}', b'{"requests":7}', b"\x80"):
        assert_error(await ask(twin, body, path=PATH), 400, "invalid_request_error")
    assert batches(sim) == before


# -- Metering ---------------------------------------------------------------------------------------------------------

Sums = tuple[int, int, int]  # input tokens, output tokens, nano-dollars


def metered(gateway: Gateway, batch: str) -> list[dict[str, Any]]:
    """The records of usage of a batch's items."""
    tag = f'"request_id":"{batch}/'
    return [json.loads(line) for line in gateway.text().splitlines(keepends=True) if tag in line and line[-1] == "\n"]


def sums(records: list[dict[str, Any]]) -> dict[str, Sums]:
    """What records say of each model."""
    found: dict[str, Sums] = {}
    for each in records:
        assert (each["endpoint"], each["status"], each["outcome" if "outcome" in each else "status"]) in (
            ("batch_items", 200, 200),
            ("batch_items", 200, "ok"),
        )
        before = found.get(each["model"], (0, 0, 0))
        usage = each["usage"]
        more = (usage.get("input", 0), usage.get("output", 0), each["cost_nano_usd"])
        found[each["model"]] = (before[0] + more[0], before[1] + more[1], before[2] + more[2])
    return found


def used(results: bytes) -> dict[str, Sums]:
    """What the results themselves say, at half price."""
    inputs: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for line in results.splitlines():
        result = json.loads(line)["result"]
        if result["type"] == "succeeded":
            told = result["message"]
            inputs[told["model"]] += told["usage"]["input_tokens"]
            outputs[told["model"]] += told["usage"]["output_tokens"]
    return {
        model: (
            inputs[model],
            outputs[model],
            (inputs[model] * PRICES[model][0] + outputs[model] * PRICES[model][1]) // 2,
        )
        for model in inputs
    }


async def settled(gateways: list[Gateway], answers: list[Answer]) -> None:
    """Wait until whatever these answers were metered for is written."""
    for answer in answers:
        until(lambda: any(f'"request_id":"{answer.request_id}"' in each.text() for each in gateways))  # noqa: B023
    marks = [len(gateway.text()) for gateway in gateways]
    for gateway in gateways:
        gateway.metrics()
        await ask(gateway, message())
    until(lambda: all(len(gateway.text()) > mark for gateway, mark in zip(gateways, marks, strict=True)))


ITEMS = [
    *(message(f"Question {number}", model=MODEL) for number in range(5)),
    *(message(f"Question {number}", model="claude-sonnet-4-5") for number in range(3)),
    message(model="claude-none-1"),
]


async def test_results_are_metered_once_at_half_price_however_often_they_are_read(
    twins: list[Gateway], twin: Gateway, sim: Simulator
):
    made = await create(twin, *ITEMS)
    path = f"{PATH}/{made['id']}/results"
    answers = [await ask(gateway, path=path) for gateway in (*twins, *twins)]
    assert len({answer.body for answer in answers}) == 1
    until(lambda: [record for gateway in twins for record in metered(gateway, made["id"])], "the records")
    await settled(twins, answers)
    records = [record for gateway in twins for record in metered(gateway, made["id"])]
    assert len(records) == 2 and len({record["request_id"] for record in records}) == 2
    assert sums(records) == used(answers[0].body)
    for record in records:
        assert (record["caller"], record["team"], record["account"]) == ("alice", "research", answers[0].account)
    for gateway, answer in zip((*twins, *twins), answers, strict=True):
        line = gateway.record(answer.request_id)
        assert (line["endpoint"], line.get("cost_nano_usd", 0)) == ("batch_results", 0)


async def test_results_that_many_read_at_once_are_metered_once(twins: list[Gateway], twin: Gateway, sim: Simulator):
    for _ in range(3):
        made = await create(twin, *ITEMS)
        path = f"{PATH}/{made['id']}/results"
        answers = await at_once(ask(twins[number % 2], path=path) for number in range(12))
        until(lambda: [record for gateway in twins for record in metered(gateway, made["id"])], "the records")  # noqa: B023
        await settled(twins, answers)
        assert sums([record for gateway in twins for record in metered(gateway, made["id"])]) == used(answers[0].body)


async def test_metrics_count_what_results_used(twin: Gateway, sim: Simulator):
    def tokens(kind: str) -> float:
        return twin.metrics().total("gateway_tokens_total", type=kind)

    before = {kind: tokens(kind) for kind in ("input", "output")}
    made = await create(twin, *ITEMS)
    results = await ask(twin, path=f"{PATH}/{made['id']}/results")
    whole = used(results.body).values()
    for index, kind in enumerate(before):
        expected = before[kind] + sum(each[index] for each in whole)
        until(lambda: tokens(kind) == expected, f"{kind} tokens")  # noqa: B023


def partly(gateway: Gateway, path: str, size: int) -> bytes:
    """Read so many bytes of an answer that is much longer, by a client that takes in little, and go."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(20)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(request(path=path))
        seen = b""
        while len(seen) < size:
            seen += client.recv(65_536)
        return seen


async def test_what_was_read_in_part_and_then_whole_counts_each_line_once(launch: Launch, tmp_path: Any):
    size = 24 * MIB
    sim = Simulator(tmp_path / "results", 1, "--batch-results-bytes", str(size))
    try:
        gateway = launch(accounts=accounts_of(sim))
        made = await create(gateway, *ITEMS)
        path = f"{PATH}/{made['id']}/results"
        for part in (MIB, 3 * MIB):
            partly(gateway, path, part)
            await eventually(lambda: in_flight(gateway) == 0, "its end")
        early = until(lambda: metered(gateway, made["id"]), "the records of its part")
        answer = await ask(gateway, path=path)
        assert answer.ended and len(answer.body) >= size
        whole = used(answer.body)
        until(lambda: sums(metered(gateway, made["id"])).keys() == whole.keys(), "the records")
        until(lambda: sums(metered(gateway, made["id"]))[MODEL][1] >= whole[MODEL][1], "all of them")
        again = await ask(gateway, path=path)
        await settled([gateway], [answer, again])
        found = sums(metered(gateway, made["id"]))
        assert {model: each[:2] for model, each in found.items()} == {model: each[:2] for model, each in whole.items()}
        # Each stretch is rounded by itself: half a nano-dollar.
        assert all(abs(found[model][2] - whole[model][2]) <= 4 for model in whole)
        assert 0 < sums(early)[MODEL][1] < whole[MODEL][1]
    finally:
        assert sim.end() == 0


async def test_results_read_while_the_store_is_away_are_metered_once(launch: Launch, sim: Simulator, tmp_path: Any):
    store = Store(tmp_path / "store").start()
    gateway = launch(accounts=accounts_of(sim, 2), redis=store.url)
    made = await create(gateway, *ITEMS)
    path = f"{PATH}/{made['id']}/results"
    store.end(signal.SIGKILL)
    await eventually(lambda: gateway.metrics().total("gateway_degraded", mode="store") == 1, "the store away")
    answers = [await ask(gateway, path=path) for _ in range(2)]
    assert {answer.status for answer in answers} == {200}
    until(lambda: metered(gateway, made["id"]), "the records")
    store.start()
    await eventually(lambda: gateway.metrics().total("gateway_degraded", mode="store") == 0, "the store")
    answers.append(await ask(gateway, path=path))
    await settled([gateway], answers)
    assert sums(metered(gateway, made["id"])) == used(answers[0].body)
    gateway.stop()
    assert store.end() == 0


# -- Large ------------------------------------------------------------------------------------------------------------


def test_results_of_130_megabytes_cost_little_memory(launch: Launch, tmp_path: Any):
    size = 130 * MIB
    sim = Simulator(tmp_path / "large", 1, "--batch-results-bytes", str(size))
    connection = None
    try:
        gateway = launch(accounts=accounts_of(sim))
        [worker] = gateway.workers()
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
        headers = {"x-api-key": ALICE, "content-type": "application/json"}
        connection.request("POST", PATH, json.dumps(batch_of(message("Hello"))), headers)
        batch = json.loads(connection.getresponse().read())["id"]
        before = memory(worker, "VmRSS")
        connection.request("GET", f"{PATH}/{batch}/results", headers=headers)
        response = connection.getresponse()
        total = lines = 0
        last = b""
        while data := response.read(MIB):
            total += len(data)
            lines += data.count(b"\n")
            last = data[-1:]
        assert (response.status, last) == (200, b"\n") and total >= size
        assert memory(worker, "VmHWM") - before < 64 * MIB
        until(lambda: metered(gateway, batch), "the record")
        [record] = metered(gateway, batch)
        assert record["request_id"] == f"{batch}/0-{lines}/{MODEL}"
    finally:
        if connection is not None:
            connection.close()
        assert sim.end() == 0
