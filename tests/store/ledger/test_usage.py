"""The ledger as it is read, on a real server and on a cluster. What is read is written here by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import redis
from redis.crc import key_slot

from gateway.store.client.connection import StoreDown
from gateway.store.ledger import usage
from gateway.store.ledger.ledger import Ended, Entry, to_enroll, to_settle
from gateway.store.ledger.usage import DAY, HOUR, Span, Sums, TooManyRows, Totals, UsageReader, parts, read_totals
from tests.store.topologies import MASTER, PASSWORD, SENTINEL_PASSWORD, ClusterOf, SentinelSet

pack = msgspec.msgpack.encode
NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())
TODAY = NOON - 12 * HOUR
ONE = [1, 0, 100, 200, 30, 40, 50, 1_000_000_007, 3]


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], UsageReader]]:
    made: list[UsageReader] = []

    def make(url: str) -> UsageReader:
        made.append(UsageReader(url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def count(
    admin: Any, tenant: str, key: str, model: str, account: str, at: int, numbers: list[Any] | bytes = ONE
) -> None:
    """Write an aggregate into the hour of `at` and into its day."""
    admin.sadd("{pool}:tenants", tenant)
    moment = datetime.fromtimestamp(at, UTC)
    for name in (f"u:h:{moment:%Y%m%d%H}", f"u:d:{moment:%Y%m%d}"):
        packed = numbers if isinstance(numbers, bytes) else pack(numbers)
        admin.hset(f"{{{tenant}}}:{name}", f"{key}\0{model}\0{account}", packed)


def entry(number: int, *, at: int = NOON, caller: str = "alice") -> Entry:
    return Entry(f"req_{number}", at * 1000, at * 1000 + 500, caller, "one", "m", "a", "/v1/messages", False, *ONE)


def settle(admin: Any, *entries: Entry | bytes) -> None:
    """Write records into the stream of the team `one`, in this order."""
    for each in entries:
        packed = each if isinstance(each, bytes) else pack(each)
        admin.xadd("{t:one}:s", {"r": packed}, id=f"{NOON * 1000 + 60_000}-*")


def times(number: int) -> Totals:
    return Totals(*(number * each for each in ONE))


def days(start: int, end: int) -> Span:
    """Whole days from today's first moment."""
    return Span(TODAY + start * DAY, TODAY + end * DAY)


# -- Which keys -------------------------------------------------------------------------------------------------------


def test_whole_days_are_taken_from_days_and_the_rest_from_hours():
    span = Span(TODAY - DAY - 2 * HOUR, TODAY + 3 * HOUR)
    assert list(parts(span)) == [
        (":u:h:2026112022", "2026-11-20"),
        (":u:h:2026112023", "2026-11-20"),
        (":u:d:20261121", "2026-11-21"),
        (":u:h:2026112200", "2026-11-22"),
        (":u:h:2026112201", "2026-11-22"),
        (":u:h:2026112202", "2026-11-22"),
    ]
    assert [name for name, _ in parts(days(-1, 1))] == [":u:d:20261121", ":u:d:20261122"]
    assert list(parts(Span(NOON, NOON))) == []
    assert [name for name, _ in parts(Span(NOON - HOUR, NOON))] == [":u:h:2026112211"]


def test_no_hour_is_read_twice_or_left_out_whatever_the_span():
    for start in range(0, 50 * HOUR, 7 * HOUR):
        for end in range(start, 75 * HOUR, 5 * HOUR):
            covered = sorted(
                hour
                for name, _ in parts(Span(TODAY + start, TODAY + end))
                for hour in (
                    [name[5:]] if ":h:" in name else [f"{name[5:]}{each:02}" for each in range(24)]
                )
            )  # fmt: skip
            moments = [datetime.fromtimestamp(TODAY + at, UTC) for at in range(start, end, HOUR)]
            assert covered == [f"{each:%Y%m%d%H}" for each in moments]


# -- Numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_are_exact_whether_a_script_packed_them_whole_or_as_floats():
    large = 2**53 - 1
    assert read_totals(pack([large] * 9)) == Totals(*[large] * 9)
    assert read_totals(pack([float(large)] * 9)) == Totals(*[large] * 9)
    assert read_totals(pack([2**63 - 1, 0, 0, 0, 0, 0, 0, 1e19, -5])).cost_nano == 10**19
    assert read_totals(pack([*ONE, 7])) == times(1)


@pytest.mark.parametrize(
    "packed",
    [b"", b"\xc1", b"text", pack({"a": 1}), pack(ONE[:8]), pack([*ONE[:8], "9"]), pack([*ONE[:8], None]),
     pack([*ONE[:8], 1.5]), pack([*ONE[:8], float("nan")]), pack([*ONE[:8], float("inf")]), pack(ONE) + b"\x00"],
)  # fmt: skip
async def test_what_cannot_be_read_is_counted_and_the_rest_is_not_lost(server, connect, packed):
    count(server.admin, "t:one", "alice", "m", "a", NOON)
    count(server.admin, "t:one", "alice", "m", "b", NOON, packed)
    sums = await connect(server.url).sum(days(0, 1), ("key",), {})
    assert (sums.rows, sums.unreadable) == ({("alice",): times(1)}, 1)


async def test_fields_and_keys_of_another_make_are_counted_as_unreadable(server, connect):
    count(server.admin, "t:one", "alice", "m", "a", NOON)
    name = "{t:one}:u:d:20261122"
    server.admin.hset(name, mapping={"alice": pack(ONE), b"\xff\0m\0a": pack(ONE), "a\0b\0c\0d": pack(ONE)})
    server.admin.set("{t:one}:u:d:20261121", "no hash")
    sums = await connect(server.url).sum(days(-1, 1), ("key",), {})
    assert (sums.rows, sums.unreadable) == ({("alice",): times(1)}, 4)


# -- Sums -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(server):
    """Two callers of a team, and one without whose name is that of the team; three days."""
    fill(server.admin)
    return server


def fill(admin: Any) -> None:
    for tenant, key in (("t:bob", "alice"), ("t:bob", "carol"), ("c:bob", "bob")):
        for day in range(3):
            count(admin, tenant, key, "m1", "a", NOON - day * DAY)
            count(admin, tenant, key, "m2", "b", NOON - day * DAY - HOUR)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("key",), {("alice",): 6, ("carol",): 6, ("bob",): 6}),
        (("team",), {("bob",): 12, (None,): 6}),
        (("model",), {("m1",): 9, ("m2",): 9}),
        (("account",), {("a",): 9, ("b",): 9}),
        (("day",), {("2026-11-20",): 6, ("2026-11-21",): 6, ("2026-11-22",): 6}),
        (("team", "model"), {("bob", "m1"): 6, ("bob", "m2"): 6, (None, "m1"): 3, (None, "m2"): 3}),
    ],
)
async def test_totals_are_summed_over_tenants_and_days_by_whatever_is_asked(filled, connect, groups, expected):
    sums = await connect(filled.url).sum(days(-2, 1), groups, {})
    assert sums.rows == {group: times(number) for group, number in expected.items()}
    assert sums.unreadable == 0


@pytest.mark.parametrize(
    ("only", "requests"),
    [
        ({}, 18),
        ({"key": ["bob"]}, 6),
        ({"key": ["alice", "bob"]}, 12),
        ({"team": ["bob"]}, 12),
        ({"team": ["bob"], "key": ["bob"]}, 0),
        ({"team": ["none"]}, 0),
        ({"model": ["m1"], "account": ["a"]}, 9),
        ({"model": ["m1"], "account": ["b"]}, 0),
        ({"account": ["b"], "key": ["carol"]}, 3),
    ],
)
async def test_only_what_fits_the_filters_counts(filled, connect, only, requests):
    allowed = {name: frozenset(values) for name, values in only.items()}
    sums = await connect(filled.url).sum(days(-2, 1), ("model", "day"), allowed)
    assert sum(totals.requests for totals in sums.rows.values()) == requests


async def test_a_span_ends_just_before_its_end_and_hours_count_on_their_own(filled, connect):
    reader = connect(filled.url)

    async def requests(start: int, end: int) -> int:
        sums = await reader.sum(Span(start, end), ("day",), {})
        return sum(totals.requests for totals in sums.rows.values())

    assert await requests(NOON, NOON + HOUR) == 3
    assert await requests(NOON - HOUR, NOON) == 3
    assert await requests(NOON + HOUR, NOON + 9 * HOUR) == 0
    assert await requests(NOON - DAY, NOON) == 6
    assert await requests(TODAY - DAY, NOON) == 9
    assert await requests(TODAY - 300 * DAY, TODAY - 2 * DAY) == 0


async def test_many_tenants_are_read_in_batches_of_any_size(server, connect, monkeypatch):
    for number in range(40):
        count(server.admin, f"c:caller-{number}", f"caller-{number}", "m", "a", NOON)
    reader = connect(server.url)
    for fields in (1, 50, 20_000):
        monkeypatch.setattr(usage, "_FIELDS_AT_ONCE", fields)
        sums = await reader.sum(days(-3, 1), ("model",), {})
        assert sums.rows == {("m",): times(40)}


async def test_more_rows_than_anybody_can_hold_are_refused(server, connect, monkeypatch):
    monkeypatch.setattr(usage, "MOST_ROWS", 4)
    for number in range(5):
        count(server.admin, "t:one", "alice", f"m{number}", "a", NOON)
    reader = connect(server.url)
    with pytest.raises(TooManyRows, match="more than 4 rows"):
        await reader.sum(days(0, 1), ("model",), {})
    assert (await reader.sum(days(0, 1), ("key",), {})).rows == {("alice",): times(5)}


# -- Records ----------------------------------------------------------------------------------------------------------


async def test_records_are_listed_the_latest_first_page_by_page(server, connect):
    settle(server.admin, *(entry(number) for number in range(25)))
    reader = connect(server.url)
    before: str | None = ""
    seen: list[Entry] = []
    pages = 0
    while before is not None:
        page = await reader.records("t:one", days(0, 1), "", 10, before)
        seen += page.records
        before, pages = page.next, pages + 1
    assert seen == [entry(number) for number in range(24, -1, -1)]
    assert pages == 3
    assert (await reader.records("t:none", days(0, 1), "", 10, "")).next is None


async def test_records_are_those_of_the_time_and_the_caller_asked_for(server, connect, monkeypatch):
    monkeypatch.setattr(usage, "_LOOKED_AT", 3)
    times_of_arrival = [TODAY - 1, TODAY, NOON, TODAY + DAY - 1, NOON]
    settle(
        server.admin, *(entry(number, at=at) for number, at in enumerate(times_of_arrival)), entry(5, caller="carol")
    )
    reader = connect(server.url)

    async def found(key: str, span: Span) -> list[str]:
        before: str | None = ""
        names: list[str] = []
        while before is not None:
            page = await reader.records("t:one", span, key, 10, before)
            names += [each.id for each in page.records]
            before = page.next
        return names

    assert await found("", days(0, 1)) == ["req_5", "req_4", "req_3", "req_2", "req_1"]
    assert await found("alice", Span(NOON, NOON + HOUR)) == ["req_4", "req_2"]
    assert await found("carol", days(-1, 1)) == ["req_5"]
    assert await found("", days(-1, 0)) == ["req_0"]
    assert await found("", days(2, 3)) == []


async def test_records_that_cannot_be_read_are_counted(server, connect):
    settle(server.admin, entry(1), b"\xc1", pack({"at": 1}), pack(["total", 1, 2]))
    server.admin.xadd("{t:one}:s", {"another": "field"})
    page = await connect(server.url).records("t:one", days(0, 1), "", 10, "")
    assert (page.records, page.unreadable, page.next) == ([entry(1)], 4, None)


@pytest.mark.parametrize("before", ["+", "-", "1", "1-1 COUNT 1", "(1-1", "1-1\n", "٧-1"])
async def test_a_place_that_was_never_given_is_refused(server, connect, before):
    with pytest.raises(ValueError, match="before must be"):
        await connect(server.url).records("t:one", days(0, 1), "", 10, before)


# -- What the ledger writes -------------------------------------------------------------------------------------------


async def test_what_settlements_write_is_what_is_read(server, client, connect):
    for number in range(3):
        for caller in ("alice", "carol"):
            made = msgspec.structs.replace(entry(number, at=NOON - number * DAY, caller=caller), id=f"{caller}{number}")
            assert await client.call(*to_settle([Ended(made, pack(made))])) == [[1], []]
    await client.call(*to_enroll(["t:one"]))
    reader = connect(server.url)
    assert await reader.sum(days(-2, 1), ("key", "team", "model", "account", "day"), {}) == Sums(
        {
            (caller, "one", "m", "a", f"2026-11-{22 - number}"): times(1)
            for caller in ("alice", "carol")
            for number in range(3)
        },
        0,
    )
    assert (await reader.sum(Span(NOON, NOON + HOUR), ("team",), {})).rows == {("one",): times(2)}
    page = await reader.records("t:one", days(-2, 1), "carol", 10, "")
    assert [each.id for each in page.records] == ["carol2", "carol1", "carol0"]


# -- Stores -----------------------------------------------------------------------------------------------------------


async def test_reading_writes_nothing_and_an_empty_store_has_no_rows(server, connect):
    reader = connect(server.url)
    assert (await reader.sum(days(-30, 1), ("key",), {})).rows == {}
    assert (await reader.records("t:one", days(-30, 1), "", 10, "")).records == []
    assert server.admin.keys() == []


async def test_a_store_that_is_away_or_silent_is_said_to_be_so(own_server, connect):
    server = own_server()
    fill(server.admin)
    reader = connect(server.url)
    assert (await reader.sum(days(0, 1), ("key",), {})).rows
    server.pause()
    try:
        with pytest.raises(StoreDown):
            await reader.sum(days(0, 1), ("key",), {})
    finally:
        server.resume()
    server.kill()
    for asked in (reader.sum(days(0, 1), ("key",), {}), reader.records("t:one", days(0, 1), "", 10, "")):
        with pytest.raises(StoreDown):
            await asked


async def test_a_store_that_goes_away_midway_is_said_to_be_so(own_server, connect, monkeypatch):
    monkeypatch.setattr(usage, "_FIRST", 1)
    monkeypatch.setattr(usage, "_MOST", 1)
    server = own_server()
    fill(server.admin)
    reader = connect(server.url)
    read = reader._read

    async def read_and_end(keys: list[str]) -> Any:
        found = await read(keys)
        server.kill()
        return found

    monkeypatch.setattr(reader, "_read", read_and_end)
    with pytest.raises(StoreDown):
        await reader.sum(days(-2, 1), ("key",), {})


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterOf]:
    cluster = ClusterOf(3)
    yield cluster
    cluster.end()


async def test_a_node_that_is_slow_when_it_is_first_asked_is_waited_for(cluster, connect):
    """As one is on a busy machine, for longer than one reply may take."""
    slow = cluster.owner(key_slot(b"{pool}:tenants"))
    reader = connect(f"redis+cluster://127.0.0.1:{slow.port}")
    slow.pause()
    resumed = asyncio.get_running_loop().call_later(1.3, slow.resume)
    try:
        assert await reader.sum(days(-1, 1), ("key",), {}) == Sums({}, 0)
    finally:
        resumed.cancel()
        slow.resume()


async def test_a_cluster_is_summed_over_all_its_primaries(cluster, connect):
    with redis.RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port) as client:
        for number in range(30):
            count(client, f"t:team-{number}", "alice", "m", "a", NOON)
            count(client, f"t:team-{number}", "alice", "m", "a", NOON - DAY)
        client.xadd("{t:team-7}:s", {"r": pack(entry(0))}, id=f"{NOON * 1000}-1")
    assert all(node.admin.dbsize() > 5 for node in cluster.primaries)
    reader = connect(cluster.url)
    assert (await reader.sum(days(-1, 1), ("key",), {})).rows == {("alice",): times(60)}
    teams = await reader.sum(days(0, 1), ("team",), {})
    assert teams.rows == {(f"team-{number}",): times(1) for number in range(30)}
    assert len((await reader.records("t:team-7", days(0, 1), "", 10, "")).records) == 1
    cluster.primaries[2].kill()
    with pytest.raises(StoreDown):
        await reader.sum(days(-1, 1), ("key",), {})


async def test_a_master_behind_sentinels_is_read(connect):
    servers = SentinelSet(1)
    try:
        fill(servers.master().admin)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in servers.sentinels)
        secret, own = quote(PASSWORD, safe=""), quote(SENTINEL_PASSWORD)
        url = f"redis+sentinel://:{secret}@{hosts}/{MASTER}/0?sentinel_password={own}"
        assert (await connect(url).sum(days(-2, 1), ("team",), {})).rows[("bob",)] == times(12)
    finally:
        servers.end()
