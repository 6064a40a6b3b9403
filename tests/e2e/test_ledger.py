"""The ledger against the upstream's own count: mixed traffic over two gateways of two workers each on one store, while
clients go, accounts fail, a replica dies, and the store dies, forgets or loses its replies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
import redis
from typer.testing import CliRunner

from gateway.cli import app
from tests import subjects
from tests.e2e.rig import (
    ADMIN_TOKEN,
    MODEL,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    at_once,
    conversation,
    events,
    eventually,
    family,
    free_port,
    message,
    request,
    runs,
    until,
)
from tests.e2e.test_objects import batch_of

Launch = Callable[..., Gateway]
NANO = 1_000_000_000
SONNET, OPUS = "claude-sonnet-4-5", "claude-opus-5-5"  # the latter remembers prompts from 512 tokens on
# Nano-dollars a token: input, cache read, cache written for 5 minutes and for an hour, output.
PRICES = {
    MODEL: (1000, 100, 1250, 2000, 5000),
    SONNET: (3000, 300, 3750, 6000, 15_000),
    OPUS: (4000, 200, 5000, 8000, 20_000),
}
CLASSES = ("input_tokens", "cache_read_input_tokens", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens",
           "output_tokens")  # fmt: skip
Tokens = tuple[int, ...]  # by CLASSES
SCENES = ("mixed", "killed", "away", "frozen", "flushed", "unheard")
WIDE = {"requests_per_minute": 100_000, "input_tokens_per_minute": 10_000_000, "output_tokens_per_minute": 10_000_000,
        "concurrency": 1000, "budget_usd": {"day": 10_000, "month": 100_000}}  # fmt: skip


def callers(scene: str) -> list[dict[str, Any]]:
    """Five callers: two of a team with limits, one of them without its own; one alone without any, one with all; and
    one who often hears that it is too much."""
    limits: dict[str, dict[str, Any]] = {
        "one": WIDE, "two": {}, "free": {}, "alone": WIDE, "tight": {"requests_per_minute": 20, "concurrency": 4},
    }  # fmt: skip
    teams = {"one": scene, "two": scene}
    return [
        {"id": f"{scene}-{name}", "key": key_of(f"{scene}-{name}"), "limits": each}
        | ({"team": teams[name]} if name in teams else {})
        for name, each in limits.items()
    ]


def key_of(caller: str) -> str:
    return "sk-" + (caller.replace("-", "0") * 48)[:48]


def tenants(scene: str) -> list[dict[str, str]]:
    """Whose records to ask for."""
    return [{"team": scene}, *({"key": f"{scene}-{name}"} for name in ("free", "alone", "tight"))]


@dataclass
class World:
    """One upstream, one store, two replicas."""

    sim: Simulator
    store: Store
    gateways: list[Gateway]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    options = ("--answer-tokens", "5-120", "--tokens-per-event", "2", "--organizations", "3")
    simulator = Simulator(tmp_path_factory.mktemp("upstream"), 6, *options)
    yield simulator
    assert simulator.end() == 0


@pytest.fixture(scope="module")
def world(upstream: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store = Store(tmp_path_factory.mktemp("books")).start()
    world = World(upstream, store, replicas(tmp_path_factory, upstream, store.url))
    yield world
    for gateway in world.gateways:
        gateway.stop()
    assert store.end() == 0


@pytest.fixture(params=[pytest.param(1, id="short"), pytest.param(15, id="10,000", marks=pytest.mark.torture)])
def scale(request: pytest.FixtureRequest) -> int:
    """How many times as much traffic as usual."""
    return int(request.param)


@pytest.fixture(autouse=True)
def _calm(upstream: Simulator) -> None:
    upstream.clear()


def replicas(folders: pytest.TempPathFactory, upstream: Simulator, url: str) -> list[Gateway]:
    config = {
        "redis": url,
        "timeouts": {"store": 1},
        "accounts": accounts_of(upstream),
        "workers": 2,
        "keys": [each for scene in SCENES for each in callers(scene)],
        "teams": [{"id": scene, "limits": WIDE} for scene in SCENES],
    }
    gateways = [Gateway(folders.mktemp(name), dict(config)).launch() for name in ("left", "right")]
    for gateway in gateways:
        gateway.ready()
    return gateways


# -- Traffic ----------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a client knows of one request of its own; `tag` is with the upstream's record too."""

    tag: str
    caller: str
    kind: str
    request_id: str = ""
    status: int = 0  # 0: nothing came
    whole: bool = False  # the answer came to its end
    begun: bool = False  # input was told
    tokens: Tokens | None = None  # of a whole answer


KINDS = {
    "json": 22, "stream": 22, "cached": 22, "cached stream": 10, "chat": 4, "count": 3, "wrong": 4, "gone": 6,
    "gone stream": 10, "cut": 4, "reset": 1,
}  # fmt: skip


def tokens_of(usage: dict[str, Any]) -> Tokens:
    """The five classes of a `usage` as answers have it, or of an OpenAI one."""
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], 0, 0, 0, usage["completion_tokens"]
    split = usage.get("cache_creation") or {}
    return (
        usage["input_tokens"], usage["cache_read_input_tokens"], split.get("ephemeral_5m_input_tokens", 0),
        split.get("ephemeral_1h_input_tokens", 0), usage["output_tokens"],
    )  # fmt: skip


class Traffic:
    """Requests of all kinds by the callers of a scene."""

    def __init__(self, scene: str, gateways: list[Gateway], seed: int, kinds: dict[str, int] = KINDS) -> None:
        self.scene = scene
        self.told: list[Told] = []
        self._gateways = gateways
        self._random = random.Random(seed)
        self._kinds = kinds
        self._ids = [caller["id"] for caller in callers(scene)]
        self._talks = {caller: [conversation() for _ in range(4)] for caller in self._ids}

    async def send(self, count: int, limit: int = 24) -> None:
        await at_once((self._one(number) for number in range(count)), limit)

    async def _one(self, number: int) -> None:
        chance = self._random
        [kind] = chance.choices(list(self._kinds), list(self._kinds.values()))
        [caller] = chance.choices(self._ids, [5, 5, 5, 5, 1])
        for attempt in range(3):
            told = Told(f"{self.scene}-{number}-{attempt}-{uuid.uuid4().hex[:6]}", caller, kind)
            self.told.append(told)
            await self._ask(told, self._gateways[(number + attempt) % len(self._gateways)])
            if told.kind.startswith("gone") or told.status in (200, 400) or caller.endswith("tight"):
                return
            await asyncio.sleep(0.05)  # a patient client tries again

    async def _ask(self, told: Told, gateway: Gateway) -> None:
        chance, kind = self._random, told.kind
        text = f"{chance.random()} " + "word " * chance.randrange(400)
        model = chance.choice((MODEL, SONNET, OPUS))
        headers = {"x-test-tag": told.tag}
        path, fault, stream = "/v1/messages", None, "stream" in kind or kind == "cut"
        if chance.random() < 0.6:
            headers |= chance.choice(self._talks[told.caller])
        body = message(text, model=model, max_tokens=chance.choice((3, 64, 4000)), stream=stream)
        if kind.startswith("cached"):
            ttl = chance.choice(("5m", "1h"))
            said = f"{told.caller} {ttl} {chance.randrange(2)} " + "remember " * 400
            system = [{"type": "text", "text": said, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
            body |= {"system": system, "model": OPUS}
        elif kind == "chat":
            path = "/v1/chat/completions"
        elif kind == "count":
            path = "/v1/messages/count_tokens"
            del body["max_tokens"], body["stream"]
        elif kind == "wrong":
            body["max_tokens"] = -1
        elif kind == "gone":
            fault = "silence=0.3"
        elif kind == "gone stream":
            fault = "slow=0.01"
            body["max_tokens"] = 4000
        elif kind == "held":
            fault = "slow=2"
            body |= {"max_tokens": 4000, "stream": True}
        elif kind == "cut":
            fault = f"cut={chance.randrange(600, 6000)}"
            body["max_tokens"] = 4000
        elif kind == "reset":
            fault = "reset"
        leave = 0.02 + chance.random() * (0.25 if kind == "gone" else 0.5)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with Wire.open(gateway) as wire:
                await wire.send(request(body, headers, key=key_of(told.caller), path=path, fault=fault))
                if kind.startswith("gone"):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(leave):
                            await _read(wire, told)
                else:
                    await _read(wire, told)


async def _read(wire: Wire, told: Told) -> None:
    """As far as the answer comes; what it said is in `told` also if this is cancelled."""
    head = await wire.head()
    told.request_id, told.status = head.request_id, head.status
    body = b""
    try:
        while piece := await wire.piece():
            body += piece
            told.begun = told.begun or (b"message_start" in body and body.count(b"\n\n") > 0)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    if head["content-type"].startswith("text/event-stream"):
        found = events(body)
        if found[-1][0] == "message_stop":
            told.whole = True
            usage = dict(found[0][1]["message"]["usage"])
            for name, data in found:
                if name == "message_delta":
                    usage |= data["usage"]
            told.tokens = tokens_of(usage)
    else:
        told.whole = True
        usage = json.loads(body).get("usage")
        if told.status == 200 and usage is not None:
            told.tokens = tokens_of(usage)


# -- The books --------------------------------------------------------------------------------------------------------


def admin(gateway: Gateway, path: str, **query: Any) -> dict[str, Any]:
    words = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    answer = gateway.get(f"/admin/v1/{path}?{words}", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body, parse_float=lambda text: round(float(text) * NANO) / NANO)
    return found


def records(gateway: Gateway, scene: str) -> list[dict[str, Any]]:
    """Every record of the scene's callers, as operators read them."""
    found: list[dict[str, Any]] = []
    for tenant in tenants(scene):
        before = ""
        while before is not None:
            page = admin(gateway, "usage/records", **tenant, limit=1000, before=before, **{"from": "1d"})
            assert "unreadable" not in page
            found += page["data"]
            before = page["next"]
    return found


def totals(gateway: Gateway, scene: str, *groups: str) -> dict[tuple[str, ...], dict[str, Any]]:
    query = "&".join(f"key={each['id']}" for each in callers(scene))
    answer = gateway.get(
        f"/admin/v1/usage?group_by={','.join(groups)}&from=1d&detail=true&{query}", admin=True,
        headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
    )  # fmt: skip
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)
    assert "unreadable" not in found
    return {tuple(str(row[group]) for group in groups): row for row in found["data"]}


def counted(row: dict[str, Any]) -> Tokens:
    """The five classes of a row or a record."""
    split = row["cache_creation"]
    return (
        row["input_tokens"], row["cache_read_input_tokens"], split["ephemeral_5m_input_tokens"],
        split["ephemeral_1h_input_tokens"], row["output_tokens"],
    )  # fmt: skip


def plus(*all_of_them: Tokens) -> Tokens:
    return tuple(map(sum, zip(*all_of_them, strict=True))) if all_of_them else (0,) * 5


def nano(dollars: float) -> int:
    return round(dollars * NANO)


def priced(model: str, tokens: Tokens) -> int:
    fresh, read, write_5m, write_1h, output = tokens
    prices = PRICES[model]
    return (
        fresh * prices[0] + read * prices[1] + write_5m * prices[2] + write_1h * prices[3] + output * prices[4]
    )  # fmt: skip


def saved(model: str, tokens: Tokens) -> int:
    return tokens[1] * (PRICES[model][0] - PRICES[model][1])


def sim_tokens(record: dict[str, Any]) -> Tokens:
    usage = record["usage"]
    return tuple(usage[name] for name in CLASSES) if usage is not None else (0,) * 5


def tag_of(record: dict[str, Any]) -> str:
    return next((value for name, value in record["headers"] if name.lower() == "x-test-tag"), "")


@dataclass
class Books:
    """What the three parties say of one scene; `check` compares them."""

    scene: str
    gateways: list[Gateway]
    sim: Simulator
    traffic: Traffic
    since: int
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # upstream's records by tag
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # the ledger's by request id
    provisional: int = 0

    def read(self) -> None:
        answers = [
            record for record in self.sim.records(self.since)
            if "count_tokens" not in record["path"] and tag_of(record).startswith(f"{self.scene}-")
        ]  # fmt: skip
        grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for record in answers:
            grouped[tag_of(record)].append(record)
        self.seen = dict(grouped)
        listed = records(self.gateways[0], self.scene)
        final = [entry for entry in listed if not entry["provisional"]]
        twice = [name for name, count in Counter(entry["request_id"] for entry in final).items() if count > 1]
        assert not twice, f"{len(twice)} ids are twice in the records, such as {twice[:3]}"
        self.entries = {entry["request_id"]: entry for entry in listed if entry["provisional"]}
        self.provisional = len(self.entries)
        self.entries |= {entry["request_id"]: entry for entry in final}
        assert records(self.gateways[1], self.scene) == listed

    # Each of these is one promise.

    def whole_answers_are_exact(self) -> int:
        whole = [each for each in self.traffic.told if each.whole and each.tokens and each.kind != "count"]
        for each in whole:
            entry = self.entries.get(each.request_id)
            assert entry is not None, f"not in the ledger: {each}"
            [record] = [record for record in self.seen[each.tag] if record["usage"]]
            assert counted(entry) == sim_tokens(record) == each.tokens, (each, entry, record)
            assert (entry["estimated"], entry["provisional"], entry["requests"]) == (False, False, 1), entry
            assert (entry["key"], entry["model"], entry["account"]) == (each.caller, record["model"], record["account"])
            assert nano(entry["cost_usd"]) == priced(entry["model"], counted(entry)), entry
            assert nano(entry["savings_usd"]) == saved(entry["model"], counted(entry)), entry
        return len(whole)

    def broken_answers_are_estimated(self) -> tuple[int, int, int]:
        """(how many of which input was told, output as the upstream produced it, as the ledger has it)"""
        lines = {
            line["upstream_request_id"]: line["request_id"]
            for gateway in self.gateways for line in gateway.lines()
            if line["event"] == "request" and line.get("upstream_request_id")
        }  # fmt: skip
        begun = produced = booked = 0
        for each in self.traffic.told:
            if each.whole or each.kind == "count":
                continue
            served = [record for record in self.seen.get(each.tag, ()) if record["usage"]]
            if not served:
                continue
            record = served[-1]
            entry = self.entries.get(each.request_id or lines.get(record["request_id"], ""))
            if entry is None:
                assert not each.begun, f"not in the ledger: {each} {record}"
                continue
            if entry["provisional"]:
                continue  # of a process that died
            if each.begun:
                assert counted(entry)[:4] == sim_tokens(record)[:4], (each, entry, record)
                begun += 1
                produced += sim_tokens(record)[4]
                booked += entry["output_tokens"]
                assert entry["estimated"] or entry["output_tokens"] == sim_tokens(record)[4]
            assert entry["requests"] == 1, (each, entry, record)
        return begun, produced, booked

    def requests_are_those_that_were_sent(self, doubtful: int = 0) -> int:
        for caller in (each["id"] for each in callers(self.scene)):
            sent = {each.tag for each in self.traffic.told if each.caller == caller} & set(self.seen)
            of_caller = [entry for entry in self.entries.values() if entry["key"] == caller]
            counts = sum(entry["requests"] for entry in of_caller)
            assert len(sent) <= counts <= len(sent) + doubtful, (caller, len(sent), counts)
            odd = [entry for entry in of_caller if entry["estimated"] > entry["requests"]]
            assert not odd, f"estimated, yet no request: {odd[:2]}"
        return sum(entry["requests"] for entry in self.entries.values())

    def totals_are_the_sum_of_records(self) -> None:
        for groups in (("key",), ("team",), ("model",), ("account",), ("day",), ("key", "model", "account")):
            sums: dict[tuple[str, ...], list[Any]] = defaultdict(lambda: [0, 0, (0,) * 5, 0, 0])
            for entry in self.entries.values():
                row = sums[tuple(str(entry["at"][:10] if name == "day" else entry[name]) for name in groups)]
                row[0] += entry["requests"]
                row[1] += entry["estimated"]
                row[2] = plus(row[2], counted(entry))
                row[3] += nano(entry["cost_usd"])
                row[4] += nano(entry["savings_usd"])
            found = {
                name: [
                    row["requests"], row["estimated_requests"], counted(row), nano(row["cost_usd"]),
                    nano(row["savings_usd"]),
                ]
                for name, row in totals(self.gateways[0], self.scene, *groups).items()
            }  # fmt: skip
            assert found == dict(sums), groups
            assert totals(self.gateways[1], self.scene, *groups).keys() == found.keys()

    def completed_ones_are_the_upstreams_total(self, before: list[dict[str, Any]]) -> None:
        """The upstream's own totals since then, less those of which a client's going was noticed too late."""
        after = self.sim.control("GET", "usage")["data"]
        total = [
            sum(row["completed"][name] for row in after) - sum(row["completed"][name] for row in before)
            for name in CLASSES
        ]
        completed = {
            tag: sim_tokens(record) for tag, each in self.seen.items() for record in each if record["completed"]
        }
        whole = {each.tag: each.request_id for each in self.traffic.told if each.whole and each.tag in completed}
        exact = plus(*(counted(self.entries[name]) for name in whole.values()))
        late = plus(*(tokens for tag, tokens in completed.items() if tag not in whole))
        assert tuple(total) == plus(exact, late) and sum(late) < sum(exact) / 10


def open_ones(store: Store, db: int = 0) -> dict[str, Any]:
    """Reservations, leases and reserved dollars; nothing where all has ended."""
    found: dict[str, Any] = {}
    with redis.Redis.from_url(f"{store.url}/{db}", decode_responses=True) as client:
        for key in client.scan_iter("{*}:r", count=1000):
            found[key] = client.hlen(key)
        for key in client.scan_iter("{*}:c:*", count=1000):
            found[key] = client.zrange(key, 0, -1)
        for key in client.scan_iter("{*}:q:*", count=1000):
            if reserved := subjects.read(client, key).get("reserved"):
                found[key] = reserved
    return found


async def all_ended(gateways: Iterable[Gateway], store: Store, db: int = 0, seconds: float = 20) -> None:
    for gateway in gateways:
        await eventually(lambda: gateway.metrics().total("gateway_requests_in_flight") == 0, "idle gateways")  # noqa: B023
    begin = time.monotonic()
    while left := await asyncio.to_thread(open_ones, store, db):
        assert time.monotonic() - begin < seconds, f"after {seconds} s: {left}"
        await asyncio.sleep(0.1)


def report(scene: str, **figures: Any) -> None:
    print(f"\n{scene}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))


def within_a_fifth(produced: int, booked: int) -> bool:
    return abs(booked - produced) <= 0.2 * produced


def trouble(sim: Simulator) -> None:
    """Accounts refuse now and then, so that requests go on to others."""
    accounts = [account["id"] for account in sim.accounts]
    for account in accounts[:4]:
        sim.fault("status", 529, account=account, times=6)
    sim.fault("status", 429, account=accounts[4], times=3, retry_after=1)
    sim.fault("first_event_error", None, times=8)
    sim.fault("status", 500, account=accounts[5], times=3)


# -- Scenes -----------------------------------------------------------------------------------------------------------


async def test_every_token_of_mixed_traffic_is_counted_once(world: World, scale: int):
    sim, gateways = world.sim, world.gateways
    before, since = sim.control("GET", "usage")["data"], sim.mark()
    traffic = Traffic("mixed", gateways, seed=1)
    for _ in range(3 if scale == 1 else 20):
        trouble(sim)
        await traffic.send(500)
    await all_ended(gateways, world.store)
    books = Books("mixed", gateways, sim, traffic, since)
    books.read()
    whole = books.whole_answers_are_exact()
    begun, produced, booked = books.broken_answers_are_estimated()
    report("mixed", asked=len(traffic.told), whole=whole, broken=begun, produced=produced, booked=booked)
    assert whole > 900 and begun > 60
    books.totals_are_the_sum_of_records()
    books.completed_ones_are_the_upstreams_total(before)
    assert sum(entry["savings_usd"] for entry in books.entries.values()) > 0
    assert sum(entry["cache_creation"]["ephemeral_1h_input_tokens"] for entry in books.entries.values()) > 0
    assert any(each.status == 429 for each in traffic.told if each.caller == "mixed-tight")
    assert max(len(each) for each in books.seen.values()) > 1  # some went on to another account
    books.requests_are_those_that_were_sent()
    assert within_a_fifth(produced, booked)


def test_the_command_and_the_admin_api_say_the_same(world: World):
    file = str(world.gateways[0].folder / "gateway.yaml")
    for groups in ("key", "team,model", "account", "day"):
        words = ["usage", "--from", "1d", "--group-by", groups, "--json", "--config", file]
        done = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9"}).invoke(app, words)
        assert done.exit_code == 0, done.stderr
        told = admin(world.gateways[1], "usage", group_by=groups, **{"from": "1d"})["data"]
        assert json.loads(done.stdout) == told and told


async def test_items_of_a_batch_are_counted_once_at_half_the_price(world: World):
    left, right = world.gateways
    key = key_of("mixed-free")

    def of_items() -> list[dict[str, Any]]:
        page = admin(left, "usage/records", key="mixed-free", limit=1000, **{"from": "1d"})
        return [entry for entry in page["data"] if entry["endpoint"] == "batch_items"]

    before = totals(left, "mixed", "key")["mixed-free",]
    items = [message(f"item {number}", model=(MODEL, SONNET)[number % 2]) for number in range(6)]
    made = await ask(left, batch_of(*items), path="/v1/messages/batches", key=key)
    assert made.status == 200, made.body
    path = f"/v1/messages/batches/{made.json()['id']}"
    async with asyncio.timeout(20):
        state = ""
        while state != "ended":
            await asyncio.sleep(0.05)
            state = (await ask(left, path=path, key=key)).json()["processing_status"]
    answers = await at_once(ask(gateway, path=f"{path}/results", key=key) for gateway in (left, right) * 5)
    used: dict[str, Tokens] = {}
    for line in answers[0].body.splitlines():
        said = json.loads(line)["result"]["message"]
        used[said["model"]] = plus(used.get(said["model"], (0,) * 5), tokens_of(said["usage"]))
    assert set(used) == {MODEL, SONNET} and {answer.body for answer in answers} == {answers[0].body}
    await eventually(lambda: plus(*map(counted, of_items())) == plus(*used.values()), "the items' records")
    await asyncio.sleep(0.3)
    found = of_items()
    assert {(entry["model"], counted(entry)) for entry in found} == set(used.items()) and len(found) == 2
    assert {entry["model"]: nano(entry["cost_usd"]) for entry in found} == {
        model: -(-priced(model, tokens) // 2) for model, tokens in used.items()
    }
    after = totals(left, "mixed", "key")["mixed-free",]
    assert nano(after["cost_usd"]) - nano(before["cost_usd"]) == sum(nano(entry["cost_usd"]) for entry in found)


async def test_a_store_that_is_killed_and_comes_back_loses_nothing(world: World, scale: int):
    sim, gateways = world.sim, world.gateways
    before, since = sim.control("GET", "usage")["data"], sim.mark()
    traffic = Traffic("away", gateways, seed=2)
    work = asyncio.create_task(traffic.send(700 * scale))
    await eventually(lambda: len(traffic.told) > 200, "traffic")
    world.store.end(signal.SIGKILL)
    begun = len(traffic.told)
    await eventually(lambda: len(traffic.told) > begun + 200, "traffic without a store")
    world.store.start()  # from this thread: a child of ours ends with the thread that started it
    await work
    for gateway in gateways:
        await eventually(lambda: gateway.get("/readyz").json()["store"] == "connected", "the store")  # noqa: B023
    await all_ended(gateways, world.store, seconds=60)
    await settled(Books("away", gateways, sim, traffic, since), before)


async def test_a_store_that_hangs_and_goes_on_counts_nothing_twice(world: World, scale: int):
    """What it was sent before it hung it does when it goes on, after it was taken for dead and told by others."""
    sim, gateways = world.sim, world.gateways
    before, since = sim.control("GET", "usage")["data"], sim.mark()
    traffic = Traffic("frozen", gateways, seed=6)
    work = asyncio.create_task(traffic.send(600 * scale))
    for _ in range(3):
        begun = len(traffic.told)
        await eventually(lambda: len(traffic.told) > begun + 80, "traffic")  # noqa: B023
        os.kill(world.store.pid, signal.SIGSTOP)
        try:
            begun = len(traffic.told)
            await eventually(lambda: len(traffic.told) > begun + 80, "traffic without a store")  # noqa: B023
        finally:
            os.kill(world.store.pid, signal.SIGCONT)
    await work
    for gateway in gateways:
        await eventually(lambda: gateway.get("/readyz").json()["store"] == "connected", "the store")  # noqa: B023
    await all_ended(gateways, world.store, seconds=60)
    await settled(Books("frozen", gateways, sim, traffic, since), before)


async def test_a_store_that_forgets_everything_is_told_again(world: World, scale: int):
    sim, gateways = world.sim, world.gateways
    before, since = sim.control("GET", "usage")["data"], sim.mark()
    traffic = Traffic("flushed", gateways, seed=3)
    work = asyncio.create_task(traffic.send(700 * scale))

    def books_before() -> list[Any]:
        """What scenes before this one have left: totals, and what is spent of budgets."""
        found: list[Any] = [totals(gateways[0], scene, "key", "model", "account") for scene in ("mixed", "away")]
        with world.store.client() as client:
            for tenant, subject in (
                ("c:mixed-alone", "c:mixed-alone"),
                ("t:mixed", "t:mixed"),
                ("t:away", "c:away-one"),
            ):
                kept = subjects.read(client, f"{{{tenant}}}:q:{subject}")
                found.append([kept.get("day_spent"), kept.get("month_spent")])
        return found

    earlier = books_before()
    assert all(all(each) for each in earlier)
    await eventually(lambda: len(traffic.told) > 350 * scale, "traffic", 20.0 * scale)
    with world.store.client() as client:
        client.flushall()
    await work
    await all_ended(gateways, world.store, seconds=60)
    await eventually(lambda: books_before() == earlier, "what was before")
    await settled(Books("flushed", gateways, sim, traffic, since), before)


async def settled(books: Books, before: list[dict[str, Any]], doubtful: int = 0) -> None:
    """Compare the books of a scene with as much trouble, once the last record is there."""
    begin = time.monotonic()
    while True:
        try:
            await asyncio.to_thread(books.read)
            whole = books.whole_answers_are_exact()
            begun, produced, booked = books.broken_answers_are_estimated()
            break
        except AssertionError:
            if time.monotonic() - begin > 20:
                raise
            await asyncio.sleep(0.5)
    report(
        books.scene, asked=len(books.traffic.told), whole=whole, broken=begun, produced=produced, booked=booked,
        provisional=books.provisional,
    )  # fmt: skip
    books.totals_are_the_sum_of_records()
    if not doubtful:
        books.completed_ones_are_the_upstreams_total(before)
    books.requests_are_those_that_were_sent(doubtful)


class Deaf:
    """A way to the store on which, for a moment, requests still get through and replies do not; connections that have
    missed some are closed afterwards. In a thread of its own."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.swallowed = 0
        self._to = port
        self._deaf = False
        self._hurt: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()

    def deaf(self, on: bool) -> None:
        self._deaf = on
        if not on:
            self._loop.call_soon_threadsafe(self._close_hurt)

    def _close_hurt(self) -> None:
        for writer in self._hurt:
            writer.transport.abort()
        self._hurt.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, replies: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if replies and (self._deaf or target in self._hurt):
                        self.swallowed += len(data)
                        self._hurt.add(target)
                        continue
                    target.write(data)
                    await target.drain()
            if not replies:
                target.close()  # the store reads what was sent to its end
            else:
                target.transport.abort()

        await asyncio.gather(pump(reader, back, False), pump(there, writer, True))

    def end(self) -> None:
        async def close() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def test_what_a_store_did_and_could_not_say_is_done_once(
    world: World, tmp_path_factory: pytest.TempPathFactory, scale: int
):
    sim = world.sim
    way = Deaf(world.store.port)
    gateways = replicas(tmp_path_factory, sim, f"redis://127.0.0.1:{way.port}/3")
    try:
        before, since = sim.control("GET", "usage")["data"], sim.mark()
        traffic = Traffic("unheard", gateways, seed=4)
        work = asyncio.create_task(traffic.send(500 if scale == 1 else 10_000, 12))
        while not work.done():
            await asyncio.sleep(0.4)
            way.deaf(True)
            await asyncio.sleep(0.2)
            way.deaf(False)
        await work
        assert way.swallowed > 1000
        await all_ended(gateways, world.store, 3, 60)
        await settled(Books("unheard", gateways, sim, traffic, since), before)
        # Taken in the store, not heard of, and then refused by what a process knows alone: that is given back too.
        way.deaf(True)
        key = key_of("unheard-tight")
        answers = await at_once((ask(gateways[n % 2], message(), conversation(), key=key) for n in range(40)), 40)
        way.deaf(False)
        assert {answer.status for answer in answers} == {200, 429}
        await all_ended(gateways, world.store, 3, 60)
    finally:
        for gateway in gateways:
            gateway.stop()
        way.end()


async def test_a_replica_that_is_killed_leaves_estimates_and_loses_nothing(world: World, scale: int):
    sim, gateways = world.sim, world.gateways
    before, since = sim.control("GET", "usage")["data"], sim.mark()
    traffic, victim = Traffic("killed", gateways, seed=5), gateways[1]
    held = Traffic("killed", [victim], seed=6, kinds={"held": 1})
    holding = asyncio.create_task(held.send(8))
    await eventually(lambda: sum(each.begun for each in held.told) > 4, "streams that outlast it", 20.0)
    work = asyncio.create_task(traffic.send(700 * scale))
    await eventually(lambda: len(traffic.told) > 350 * scale, "traffic", 20.0 * scale)
    kin = family(victim.pid)
    for pid in kin:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    assert victim.process is not None
    victim.process.wait()
    until(lambda: not [pid for pid in kin if runs(pid)], "its end")
    victim.process = None
    open_then = len(open_ones(world.store))
    victim.launch()
    await asyncio.to_thread(victim.ready)
    await work
    await holding
    traffic.told += held.told
    await all_ended(gateways, world.store, seconds=max(1.0, 62 - (time.monotonic() - died)))
    took = time.monotonic() - died
    books = Books("killed", gateways, sim, traffic, since)
    await settled(books, before, doubtful=12)
    report("killed", seconds_to_estimates=round(took, 1), estimates=books.provisional, open_keys_then=open_then)
    assert books.provisional > 4
    assert all(entry["estimated"] for entry in books.entries.values() if entry["provisional"])


# -- Models that nobody knows -----------------------------------------------------------------------------------------


async def test_a_model_that_nobody_knows_costs_what_the_default_does(launch: Launch):
    name = "claude-next-9"
    said = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": name, "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hi"}],
        "usage": {"input_tokens": 1000, "output_tokens": 100},
    }  # fmt: skip
    body = json.dumps(said).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        account = {"id": "next", "base_url": f"http://127.0.0.1:{port}", "api_key": "sk-next"}
        gateway = launch(wait=False, accounts=[account])
        await asyncio.to_thread(gateway.ready)
        answer: Answer = await ask(gateway, message(model=name))
        assert (answer.status, answer.json()["model"]) == (200, name)
        await eventually(lambda: admin(gateway, "usage", group_by="model")["data"], "its record", 4)
        [row] = admin(gateway, "usage", group_by="model")["data"]
        assert (row["model"], row["input_tokens"], row["output_tokens"]) == (name, 1000, 100)
        assert nano(row["cost_usd"]) == 1000 * 5000 + 100 * 25_000  # as claude-opus-5
        series = gateway.metrics()
        unpriced = [key for key, value in series.items() if "default" in key[0] or "unpriced" in key[0] if value]
        assert unpriced, "no metric says that a price was guessed"
        await asyncio.to_thread(gateway.stop)
