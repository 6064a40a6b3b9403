"""Every kind of fault, seen on the wire."""

import json
import time
import zlib
from typing import Any

import httpx
import pytest

from gateway.lab.simulator import Fault, Simulator, World
from gateway.lab.simulator.errors import ERROR_TYPES
from gateway.lab.simulator.faults import parse
from gateway.lab.simulator.trouble import CHANGES, EARLY, REPLACES
from tests.lab.simulator.simulator_kit import body, exchange, headers, request_bytes, unchunk

STREAM = body(stream=True)
END = b"0\r\n\r\n"


@pytest.fixture
async def sim():
    async with Simulator(World.grid(accounts=2)) as running:
        yield running


@pytest.fixture
async def client(sim):
    async with httpx.AsyncClient(base_url=sim.base_url) as made:
        yield made


async def whole_stream(sim, fault=None):
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, fault), until=END)
    data, ended = unchunk(raw)
    assert ended
    return data


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 429, 500, 503, 529])
async def test_status_answers_with_the_right_error_type(sim, client, status):
    answer = await client.post(
        "/v1/messages", json=body(), headers=headers(sim.world.accounts[0], x_sim_fault=f"status={status}")
    )
    assert answer.status_code == status
    error = answer.json()
    assert error["error"]["type"] == ERROR_TYPES[status][0]
    assert error["request_id"] == answer.headers["request-id"]
    assert "retry-after" not in answer.headers
    assert sim.requests[-1].fault == "status" and sim.requests[-1].completed


async def test_status_429_can_carry_retry_after_and_names_the_organization(sim, client):
    fault = {"kind": "status", "value": 429, "retry_after": 7}
    answer = await client.post(
        "/v1/messages", json=body(), headers=headers(sim.world.accounts[1], x_sim_fault=json.dumps(fault))
    )
    assert answer.headers["retry-after"] == "7"
    assert "organization's (org-sim-2) rate limit" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "status", "type_", "waits", "words"),
    [
        ("enforced_spend_limit_reached", 429, "rate_limit_error", False, "spend limit"),
        ("ramp_limit_exceeded", 429, "rate_limit_error", True, "growing too fast"),
        ("usage_limit", 400, "invalid_request_error", False, "You have reached your specified API usage limits"),
        ("low_credit", 400, "invalid_request_error", False, "credit balance is too low"),
        ("billing_error", 402, "billing_error", False, "billing"),
    ],
)
async def test_account_troubles_by_name(sim, client, kind, status, type_, waits, words):
    answer = await client.post("/v1/messages", json=body(), headers=headers(sim.world.accounts[0], x_sim_fault=kind))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], "retry-after" in answer.headers) == (status, type_, waits)
    assert words in error["message"]
    if status == 429:
        assert error["details"]["error_code"] == kind


async def test_html_is_a_page_and_redirect_points_elsewhere(sim, client):
    page = await client.post("/v1/messages", json=body(), headers=headers(sim.world.accounts[0], x_sim_fault="html"))
    assert page.status_code == 502 and page.headers["content-type"].startswith("text/html")
    moved = await client.post(
        "/v1/messages", json=body(), headers=headers(sim.world.accounts[0], x_sim_fault="redirect=http://other.test/x")
    )
    assert moved.status_code == 302 and moved.headers["location"] == "http://other.test/x"


@pytest.mark.parametrize(("fault", "ending"), [("reset", "reset"), ("reset_before_read", "reset"), ("refuse", "eof")])
async def test_a_connection_ends_without_an_answer(sim, fault, ending):
    assert await exchange(sim, request_bytes(sim, body(), fault)) == (b"", ending)
    assert sim.requests[-1].finished and not sim.requests[-1].completed and not sim.requests[-1].aborted


@pytest.mark.parametrize(("kind", "ending"), [("refuse", "eof"), ("reset_before_read", "reset")])
async def test_early_faults_strike_at_accept_or_once_the_account_is_known(sim, kind, ending):
    sim.faults.add(kind, times=1)
    got, how = await exchange(sim, b"")
    assert (got, how) == (b"", ending)
    sim.faults.add(kind, account="sim-account-2", times=1)
    assert (await exchange(sim, request_bytes(sim, body()), until=b"end_turn"))[1] == "open"
    head, _, _ = request_bytes(sim, body(), account=1).partition(b"\r\n\r\n")
    assert await exchange(sim, head + b"\r\n\r\n") == (b"", ending)
    assert len(sim.requests) == 1 and len(sim.faults) == 0


async def test_junk_is_not_http(sim):
    raw, _ = await exchange(sim, request_bytes(sim, body(), "junk"))
    assert raw and not raw.startswith(b"HTTP/")


@pytest.mark.parametrize("value", ["", "=ping"])
async def test_first_event_error_comes_with_status_200(sim, value):
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, f"first_event_error{value}"), until=END)
    assert raw.startswith(b"HTTP/1.1 200")
    events = unchunk(raw)[0].split(b"\n\n")
    assert [event.split(b"\n")[0] for event in events[:-1]] == [b"event: ping"] * bool(value) + [b"event: error"]
    assert b"overloaded_error" in events[-2]
    assert sim.requests[-1].usage is None


async def test_cut_ends_at_exactly_that_byte_of_the_body(sim):
    everything = await whole_stream(sim)
    for offset in [0, 1, 100, 500, 777, len(everything) - 1]:
        raw, _ = await exchange(sim, request_bytes(sim, STREAM, f"cut={offset}"))
        data, ended = unchunk(raw)
        assert len(data) == offset and not ended
        assert not sim.requests[-1].completed and not sim.requests[-1].aborted
    raw, how = await exchange(sim, request_bytes(sim, STREAM, '{"kind":"cut","value":300,"reset":true}'))
    assert how == "reset" and raw.startswith(b"HTTP/1.1 200")
    raw, _ = await exchange(sim, request_bytes(sim, body(), "cut=50"))
    assert len(raw.partition(b"\r\n\r\n")[2]) == 50 and b"content-length: 50" not in raw


async def test_polite_end_closes_the_chunking_without_message_stop(sim):
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, "polite_end=4"), until=END)
    data, ended = unchunk(raw)
    assert ended and data.count(b"event: ") == 4 and b"message_stop" not in data
    assert not sim.requests[-1].completed


async def test_stall_sends_some_events_and_then_nothing_more(sim):
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, "stall=3"), until=b"ping")
    assert raw.count(b"event: ") == 3
    record = sim.requests[-1]
    assert not record.completed


@pytest.mark.parametrize("data", [body(), STREAM])
async def test_silence_comes_before_the_head_or_before_the_first_event(sim, data):
    started = time.monotonic()
    raw, _ = await exchange(sim, request_bytes(sim, data, "silence=0.05"), until=b"end_turn")
    assert time.monotonic() - started >= 0.045 and raw.startswith(b"HTTP/1.1 200")
    fault = '{"kind":"silence","value":3600,"after":"head"}'
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, fault), until=b"\r\n\r\n")
    assert raw.endswith(b"\r\n\r\n") and b"event" not in raw.partition(b"\r\n\r\n")[2]


async def test_slow_waits_before_each_event(sim):
    started = time.monotonic()
    await whole_stream(sim, "slow=0.003")
    assert time.monotonic() - started >= 0.03


@pytest.mark.parametrize("data", [body("slices"), body("slices", stream=True)])
async def test_slice_changes_the_writes_and_not_the_bytes(sim, data):
    until = b'"global"}}' if "stream" not in data else END
    plain, _ = await exchange(sim, request_bytes(sim, data), until=until)
    sliced, _ = await exchange(sim, request_bytes(sim, data, "slice=7"), until=until)
    payloads = [raw.partition(b"\r\n\r\n")[2].split(b"end_turn")[0] for raw in (plain, sliced)]
    strip = [payload.split(b"content")[-1] for payload in payloads]
    assert strip[0] == strip[1]
    assert sim.requests[-1].completed


async def test_endless_sends_megabytes_without_a_blank_line(sim):
    raw, _ = await exchange(sim, request_bytes(sim, STREAM, "endless=2"), until=END)
    data, ended = unchunk(raw)
    assert ended and abs(len(data) - (2 << 20)) < 40_000
    assert data.count(b"\n\n") == 1 and data.endswith(b"\n\n")


async def test_crlf_changes_the_line_ends_only(sim):
    data = await whole_stream(sim, "crlf")
    assert b"\n" not in data.replace(b"\r\n", b"") and b"message_stop" in data


async def test_interim_trailers_close_delimited_and_gzip_are_other_framings_of_the_same_answer(sim):
    plain = json.loads((await exchange(sim, request_bytes(sim, body()), until=b'"global"}}'))[0].split(b"\r\n\r\n")[1])

    raw, _ = await exchange(sim, request_bytes(sim, body(), "interim"), until=b'"global"}}')
    interim, head, data = raw.split(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 103") and head.startswith(b"HTTP/1.1 200")
    assert json.loads(data)["content"] == plain["content"]

    raw, _ = await exchange(sim, request_bytes(sim, body(), "trailers"), until=b"x-sim-trailer: end\r\n\r\n")
    assert b"transfer-encoding: chunked" in raw
    assert json.loads(unchunk(raw.replace(b"0\r\nx-sim", b"0\r\n\r\nx-sim"))[0])["content"] == plain["content"]

    raw, how = await exchange(sim, request_bytes(sim, body(), "close_delimited"))
    head, _, data = raw.partition(b"\r\n\r\n")
    assert how == "eof" and b"content-length" not in head and b"chunked" not in head
    assert json.loads(data)["content"] == plain["content"]
    assert sim.requests[-1].completed

    async with httpx.AsyncClient(base_url=sim.base_url) as client:
        for ask in (body(), STREAM):
            wanted = headers(sim.world.accounts[0], x_sim_fault="gzip", accept_encoding="identity")
            async with client.stream("POST", "/v1/messages", json=ask, headers=wanted) as answer:
                packed = b"".join([piece async for piece in answer.aiter_raw()])
            assert answer.headers["content-encoding"] == "gzip"
            assert b"end_turn" in zlib.decompress(packed, 31)


async def test_error_mid_stream_ends_a_stream_with_an_error_event(sim):
    data = await whole_stream(sim, "error_mid_stream=5")
    events = data.split(b"\n\n")[:-1]
    assert len(events) == 6 and events[-1].startswith(b"event: error\n")


async def test_several_faults_in_one_header_combine(sim):
    data = await whole_stream(sim, "crlf,slice=5,error_mid_stream=2")
    assert data.count(b"event: ") == 3
    assert sim.requests[-1].fault == "crlf,slice,error_mid_stream"


async def test_a_fault_strikes_matching_accounts_models_and_paths_and_only_so_often(sim, client):
    async def status(account=0, path="/v1/messages", **fields):
        head = headers(sim.world.accounts[account])
        return (await client.post(path, json=body(**fields), headers=head)).status_code

    sim.faults.add("status", 500, account="sim-account-1", model="claude-opus-4-6", path="/v1/messages", times=2)
    opus = {"model": "claude-opus-4-6"}
    assert [await status(1, **opus), await status(0), await status(0, "/v1/messages/count_tokens", **opus)] == [200] * 3
    assert [await status(0, **opus) for _ in range(3)] == [500, 500, 200]


async def test_faults_are_set_listed_and_cleared_over_http(sim, client):
    fault = {"account": "sim-account-2", "model": None, "kind": "status", "value": 401, "times": None}
    assert (await client.post("/_sim/faults", json=fault)).status_code == 200
    head = headers(sim.world.accounts[1])
    for _ in range(3):
        assert (await client.get("/v1/models", headers=head)).status_code == 401
    assert [one["value"] for one in (await client.get("/_sim/faults")).json()] == [401]
    await client.delete("/_sim/faults?account=sim-account-1")
    assert len(sim.faults) == 1
    await client.delete("/_sim/faults")
    assert (await client.get("/v1/models", headers=head)).status_code == 200
    bad: Any
    for bad in (
        {"kind": "nothing"},
        {"kind": "reset", "account": "nobody"},
        {"kind": "cut", "value": "x"},
        {"no": 1},
        [],
    ):
        assert (await client.post("/_sim/faults", json=bad)).status_code == 400
    assert len(sim.faults) == 0
    assert (await client.get("/_sim/nothing")).status_code == 404


async def test_a_fault_header_for_another_account_does_nothing_and_a_bad_one_is_a_400(sim, client):
    other = json.dumps({"kind": "status", "value": 500, "account": "sim-account-2"})
    answers = [
        (await client.post("/v1/messages", json=body(), headers=headers(sim.world.accounts[n], x_sim_fault=other)))
        for n in (0, 1)
    ]
    assert [answer.status_code for answer in answers] == [200, 500]
    bad = await client.post("/v1/messages", json=body(), headers=headers(sim.world.accounts[0], x_sim_fault="{"))
    assert bad.status_code == 400


def test_a_fault_header_is_a_name_a_name_with_a_value_or_json():
    assert parse("reset") == [Fault(kind="reset")]
    assert parse("cut=12, crlf") == [Fault(kind="cut", value=12), Fault(kind="crlf")]
    assert parse('[{"kind":"stall","value":2,"times":3}]') == [Fault(kind="stall", value=2, times=3)]
    with pytest.raises(ValueError, match="unknown fault"):
        parse("nonsense=1")


@pytest.mark.parametrize("kind", [*REPLACES, *CHANGES, *EARLY])
@pytest.mark.parametrize("data", [body(), STREAM])
async def test_every_kind_ends_and_leaves_the_server_well(sim, kind, data):
    fault = {"kind": kind, "value": {"silence": 0.01, "slow": 0.001}.get(kind, 429 if kind == "status" else 2)}
    if kind == "redirect":
        fault["value"] = None
    sim.faults.add(Fault(**fault, times=1))
    until = b"event: content_block_start" if kind == "stall" else None
    if kind == "stall" and "stream" not in data:
        until = b"end_turn"
    closing = request_bytes(sim, data).replace(b"host: sim", b"host: sim\r\nconnection: close")
    await exchange(sim, closing, until=until)
    raw, _ = await exchange(sim, request_bytes(sim, body()), until=b"end_turn")
    assert raw.startswith(b"HTTP/1.1 200")
