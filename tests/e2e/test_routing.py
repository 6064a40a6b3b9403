"""What the pool promises to conversations, as an outsider sees it: which account serves them while accounts fail, fill
up, come and go, and what the upstream is spared."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.rig import (
    ADMIN_TOKEN,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    Within,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    message,
    request,
)

Launch = Callable[..., Gateway]
AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
OPUS = "claude-opus-5-5"


def on(account: str, kind: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    """A fault of one account, for the header of one request."""
    return {"kind": kind, "value": value, "account": account, **fields}


def told(gateway: Gateway, account: str, **values: Any) -> dict[str, Any]:
    """An operator changes an account; it as it then stands."""
    path = f"/admin/v1/accounts/{account}"
    answer = gateway.get(path, admin=True, headers=AUTHORIZED, method="PATCH", body=json.dumps(values).encode())
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def seen(gateway: Gateway, account: str) -> dict[str, Any]:
    """An account as an operator sees it."""
    found: dict[str, Any] = gateway.get(f"/admin/v1/accounts/{account}", admin=True, headers=AUTHORIZED).json()
    return found


def health(gateway: Gateway, account: str) -> str:
    return str(seen(gateway, account)["health"]["state"])


def picks(sim: Simulator, since: int) -> list[dict[str, Any]]:
    """Requests for messages, probes left out."""
    return [record for record in sim.records(since) if record["path"] == "/v1/messages"]


def accounts_asked(sim: Simulator, since: int) -> Counter[str]:
    return Counter(record["account"] for record in picks(sim, since))


async def begun(gateway: Gateway, count: int, body: Any = None) -> dict[str, str]:
    """New conversations that have been answered once: id -> account."""
    names = [uuid.uuid4().hex for _ in range(count)]
    answers = await at_once(ask(gateway, body or message(), {"X-Conversation-Id": name}) for name in names)
    assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers if answer.status != 200]
    return {name: answer.account for name, answer in zip(names, answers, strict=True)}


async def turn(gateway: Gateway, name: str, body: Any = None, **options: Any) -> Answer:
    return await ask(gateway, body or message("Hello", "Well", "And then?"), {"X-Conversation-Id": name}, **options)


async def turns(gateway: Gateway, names: Any, body: Any = None) -> dict[str, Answer]:
    """One more turn of each."""
    those = list(names)
    return dict(zip(those, await at_once(turn(gateway, name, body) for name in those), strict=True))


async def one_on(gateway: Gateway, account: str, body: Any = None) -> str:
    """A new conversation that lives there; who has more than his share gets none until the others have theirs."""
    for _ in range(600):
        name = uuid.uuid4().hex
        if (await turn(gateway, name, body)).account == account:
            return name
    raise AssertionError(f"nobody comes to {account}")


def long(tokens: int, text: str = "word", turn: int = 0) -> dict[str, Any]:
    """A body with a cached prefix of this many of the simulator's tokens."""
    said = (f"{text} " * tokens)[: tokens * 4]
    system = [{"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}]
    more = [part for number in range(turn) for part in (f"question {number}", f"answer {number}")]
    return message(*more, f"question {turn}", system=system)


def fresh_text() -> str:
    return uuid.uuid4().hex[:8]


# -- Limits -----------------------------------------------------------------------------------------------------------


async def test_a_429_moves_those_who_ask_while_it_lasts_and_nobody_else(launch: Launch, store: Store, sim: Simulator):
    gateway = launch(redis=f"{store.url}/7", accounts=accounts_of(sim, 4))
    homes = await begun(gateway, 40)
    limited = homes[next(iter(homes))]
    since = sim.mark()
    log: dict[str, list[Answer]] = {name: [] for name in homes}
    over = False

    async def talk(name: str) -> None:
        while not over:
            log[name].append(await turn(gateway, name))
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(talk(name)) for name in homes]
    sim.fault("status", 429, account=limited, retry_after=3)

    def refusals() -> list[dict[str, Any]]:
        return [record for record in picks(sim, since) if record["status"] == 429]

    await eventually(refusals, "a 429")
    await asyncio.sleep(0.2)
    sim.clear()
    times = [record["time"] for record in refusals()]
    reopens = max(times) + 3
    newcomers: set[str] = set()
    while limited not in newcomers:  # until new conversations go there again
        newcomers |= {(await turn(gateway, uuid.uuid4().hex)).account for _ in range(5)}
        assert sim.records(since)[-1]["time"] < reopens + 10
    over = True
    await asyncio.gather(*tasks)

    early = [
        round(record["time"] - times[0], 3)
        for record in picks(sim, since)
        if record["account"] == limited and times[0] + 1 < record["time"] < reopens
    ]
    assert early == []
    assert len(times) <= 40
    went: Counter[str] = Counter()
    for name, answers in log.items():
        accounts = [answer.account for answer in answers]
        routes = [answer.route for answer in answers]
        assert {answer.status for answer in answers} == {200}
        if homes[name] != limited:
            assert set(accounts) == {homes[name]}
            assert set(routes) == {"bound"}
            continue
        away = accounts.index(next(account for account in accounts if account != limited))
        assert len(set(accounts[away:])) == 1 and limited not in accounts[away:]
        assert routes == ["bound"] * away + ["moved"] + ["bound"] * (len(routes) - away - 1)
        went[accounts[-1]] += 1
    assert len(went) > 1, went


async def test_where_all_are_limited_the_true_minimum_is_told_at_once_and_nobody_is_asked(
    gateway: Gateway, sim: Simulator, within: Within
):
    waits = dict(zip([account["id"] for account in sim.accounts[:4]], (31, 5, 17, 23), strict=True))
    for account, seconds in waits.items():
        sim.fault("status", 429, account=account, retry_after=seconds)
    began = time.monotonic()
    assert_error(await ask(gateway, message()), 429, "rate_limit_error")
    sim.clear()
    since = sim.mark()
    took: list[float] = []
    while len(took) < 30 and time.monotonic() < began + 2:
        start = time.monotonic()
        answer = await ask(gateway, message(), conversation())
        took.append(time.monotonic() - start)
        assert_error(answer, 429, "rate_limit_error")
        assert 5 - (time.monotonic() - began) <= int(answer["retry-after"]) <= 5
    within(statistics.median(took), 0.05)
    assert picks(sim, since) == []
    answer = await eventually_served(gateway)
    assert answer.account == sim.accounts[1]["id"]
    assert time.monotonic() - began > 4.9


async def eventually_served(gateway: Gateway) -> Answer:
    deadline = time.monotonic() + 15
    while (answer := await ask(gateway, message(), conversation())).status != 200:
        assert time.monotonic() < deadline, answer.body
        await asyncio.sleep(0.05)
    return answer


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Four organizations of 20,000 input tokens a minute each."""
    simulator = Simulator(tmp_path_factory.mktemp("narrow"), 4, "--itpm", "20000")
    yield simulator
    assert simulator.end() == 0


async def test_new_conversations_are_steered_away_before_an_organization_is_at_its_limit(
    narrow: Simulator, launch: Launch
):
    accounts = accounts_of(narrow)
    accounts[0]["weight"] = 5  # by rank alone it would get five of eight, twice what it may have
    gateway = launch(accounts=accounts)
    narrow.control("POST", "reset")
    since, began = narrow.mark(), time.monotonic()

    async def some() -> list[Answer]:
        found = []
        for _ in range(20):
            found.append(await turn(gateway, uuid.uuid4().hex, message("x" * 3990)))
            await asyncio.sleep(0.1)
        return found

    answers = [answer for part in await at_once(some() for _ in range(3)) for answer in part]
    took = time.monotonic() - began  # where the machine takes its time, limits refill meanwhile
    assert {answer.status for answer in answers} == {200}
    by_status = Counter(record["status"] for record in picks(narrow, since))
    assert by_status[429] <= 1 + took // 5, by_status
    shares = Counter(answer.account for answer in answers)
    assert max(shares.values()) <= 24 + took // 3, shares
    assert shares[accounts[0]["id"]] >= 16, shares  # as much as fits


async def test_an_organization_without_room_is_left_for_one_that_is_busy_but_has_some(tmp_path: Path, launch: Launch):
    """Being busier than the mean is no reason to refuse anybody."""
    limits = {"org-small": {"input_tokens": 10_000}, "org-large": {"input_tokens": 200_000}}
    accounts = [
        {"id": name, "api_key": f"sk-ant-{name}-{'x' * 30}", "workspace": f"w-{name}", "organization": f"org-{name}"}
        for name in ("small", "large")
    ]
    (tmp_path / "world.json").write_text(json.dumps({"accounts": accounts, "limits": limits}))
    unequal = Simulator(tmp_path, 2, "--config", tmp_path / "world.json")
    try:
        gateway = launch(accounts=accounts_of(unequal))
        homes = await begun(gateway, 24)
        there = [name for name in homes if homes[name] == "small"]
        assert len(there) >= 3
        for _ in range(40):  # the small one is full soon, and the large one much busier than the mean
            assert (await turn(gateway, uuid.uuid4().hex, message("x" * 7900))).status == 200
            await asyncio.sleep(0.02)
        for name in there[:3]:
            answer = await turn(gateway, name, message("x" * 11_900))
            assert (answer.status, answer.account, answer.route) == (200, "large", "moved"), answer.body
    finally:
        assert unequal.end() == 0


async def test_beyond_what_all_organizations_have_left_clients_are_refused_and_not_the_gateway(
    narrow: Simulator, launch: Launch
):
    gateway = launch(accounts=accounts_of(narrow))
    narrow.control("POST", "reset")
    since = narrow.mark()
    names = [uuid.uuid4().hex for _ in range(140)]
    answers = await at_once((turn(gateway, name, message("x" * 3990)) for name in names), 8)
    by_status = Counter(answer.status for answer in answers)
    assert by_status.keys() == {200, 429}
    assert by_status[200] >= 70, by_status
    for answer in answers:
        if answer.status == 429:
            assert_error(answer, 429, "rate_limit_error")
            assert 1 <= int(answer["retry-after"]) <= 60
    full = Counter(record["organization"] for record in picks(narrow, since) if record["status"] == 429)
    assert max(full.values()) <= 8, full  # what was under way when the first came back
    # Now that all are known to be full, hardly one is asked to find out.
    since = narrow.mark()
    answers = await at_once((turn(gateway, uuid.uuid4().hex, message("x" * 3990)) for _ in range(60)), 8)
    refused = sum(answer.status == 429 for answer in answers)
    upstream = Counter(record["status"] for record in picks(narrow, since))
    assert refused >= 40, refused
    assert upstream[429] <= 4, upstream


# -- Overload ---------------------------------------------------------------------------------------------------------


async def test_a_burst_of_529_cools_nothing_moves_nobody_and_is_hardly_amplified(gateway: Gateway, sim: Simulator):
    homes = await begun(gateway, 40)
    since = sim.mark()
    sim.fault("status", 529)
    refused = [*(await turns(gateway, homes)).values(), *(await turns(gateway, homes)).values()]
    sim.clear()
    assert {answer.status for answer in refused} == {529}
    assert len(picks(sim, since)) <= len(refused) + 0.2 * (len(refused) + len(homes)) + 1
    assert {health(gateway, account) for account in set(homes.values())} == {"available"}
    for name, answer in (await turns(gateway, homes)).items():
        assert (answer.status, answer.account, answer.route) == (200, homes[name], "bound")


# -- Credentials and money --------------------------------------------------------------------------------------------


async def test_an_account_whose_key_is_refused_is_out_and_no_client_notices(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4))  # one on which no account has less than its share from before
    homes = await begun(gateway, 40)
    [(bad, _)] = Counter(homes.values()).most_common(1)
    sim.fault("status", 401, account=bad)
    first = await turns(gateway, homes)
    assert {answer.status for answer in first.values()} == {200}
    assert bad not in {answer.account for answer in first.values()}
    assert len({answer.account for name, answer in first.items() if homes[name] == bad}) > 1
    await eventually(lambda: health(gateway, bad) == "out", "the account out")
    assert gateway.metrics().total("gateway_account_state", account=bad, state="out") == 1
    since = sim.mark()
    later = await turns(gateway, homes)
    newcomers = await begun(gateway, 20)
    assert bad not in accounts_asked(sim, since) and bad not in newcomers.values()
    for name, answer in later.items():
        assert (answer.account, answer.route) == (first[name].account, "bound")
    sim.clear()
    told(gateway, bad, state="active")
    name = await one_on(gateway, bad)
    assert (await turn(gateway, name)).account == bad
    again = await turns(gateway, homes)
    assert {name: answer.account for name, answer in again.items()} == {
        name: answer.account for name, answer in first.items()
    }


async def test_an_operator_who_says_that_an_account_is_in_order_is_answered_so(gateway: Gateway, sim: Simulator):
    account = sim.accounts[0]["id"]
    assert (await ask(gateway, message(), fault="status=402")).status == 529
    await eventually(lambda: health(gateway, account) == "out", "the account out")
    assert told(gateway, account, state="active")["health"]["state"] == "available"


async def test_a_401_that_the_accounts_own_probe_does_not_confirm_is_soon_forgotten(gateway: Gateway, sim: Simulator):
    name = uuid.uuid4().hex
    account = (await turn(gateway, name)).account
    since = sim.mark()
    sim.fault("status", 401, account=account, path="/v1/messages", times=1)
    assert (await turn(gateway, name)).status == 200
    await eventually(lambda: health(gateway, account) == "available", "the account back")
    probes = [record for record in sim.records(since) if record["path"].startswith("/v1/models")]
    own = [(record["method"], record["status"]) for record in probes if record["account"] == account]
    assert own and set(own) == {("GET", 200)}  # other gateways of these tests may ask about it too
    assert (
        await turn(
            gateway, uuid.uuid4().hex, fault=[on(a["id"], "status", 402) for a in sim.accounts if a["id"] != account]
        )
    ).account == account


# -- Two replicas -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicas(
    simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways on one store."""
    config = {"redis": f"{store.url}/5", "accounts": accounts_of(simulator, 4)}
    left, right = [Gateway(tmp_path_factory.mktemp(name), dict(config)).launch() for name in ("left", "right")]
    for gateway in (left, right):
        gateway.ready()
    yield left, right
    for gateway in (left, right):
        gateway.stop()


@pytest.mark.parametrize(("kind", "value"), [("status", 429), ("enforced_spend_limit_reached", None)])
async def test_what_one_replica_has_learned_of_an_account_the_other_knows_at_once(
    kind: str, value: int | None, replicas: tuple[Gateway, Gateway], sim: Simulator
):
    left, right = replicas
    left.mend()
    homes = await begun(right, 24)
    bad = sim.accounts[1]["id"]
    there = [name for name in homes if homes[name] == bad]
    assert there
    sim.fault(kind, value, account=bad, retry_after=20)
    since = sim.mark()
    assert (await turn(left, there[0])).status == 200  # read from the store, so known here too
    assert accounts_asked(sim, since)[bad] == 1
    await asyncio.sleep(0.1)
    since = sim.mark()
    answers = await turns(right, homes)
    newcomers = await begun(right, 12)
    assert accounts_asked(sim, since)[bad] == 0
    assert bad not in newcomers.values()
    for name, answer in answers.items():
        assert answer.status == 200
        assert homes[name] == bad or (answer.account, answer.route) == (homes[name], "bound")
    sim.clear()
    told(right, bad, state="active")  # and so with good news
    await one_on(left, bad)
    await one_on(right, bad)


# -- Workspaces and organizations -------------------------------------------------------------------------------------

WORLD = (("one", "w-a", "o-1"), ("two", "w-a", "o-1"), ("three", "w-b", "o-1"), ("four", "w-c", "o-2"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Two accounts of one workspace, a third of their organization, and a stranger."""
    folder = tmp_path_factory.mktemp("world")
    accounts = [
        {"id": name, "api_key": f"sk-ant-{name}-{'x' * 30}", "workspace": workspace, "organization": organization}
        for name, workspace, organization in WORLD
    ]
    (folder / "world.json").write_text(json.dumps({"accounts": accounts}))
    simulator = Simulator(folder, 4, "--config", folder / "world.json")
    yield simulator
    assert simulator.end() == 0


async def test_two_accounts_of_one_workspace_serve_one_conversation(world: Simulator, launch: Launch):
    gateway = launch(accounts=accounts_of(world, max_concurrency=1))
    text = fresh_text()
    for _ in range(100):
        name = uuid.uuid4().hex
        home = (await turn(gateway, name, long(5000, text))).account
        if home in ("one", "two"):
            break
    other = "two" if home == "one" else "one"
    slow = asyncio.create_task(turn(gateway, name, long(5000, text, 1), fault="silence=1"))
    since = world.mark()
    await eventually(lambda: world.records(since), "the slow one upstream")
    second = await turn(gateway, name, long(5000, text, 2))
    assert (second.status, second.account, second.route) == (200, other, "bound")
    assert second.json()["usage"]["cache_read_input_tokens"] >= 4900
    first = await slow
    assert (first.status, first.account, first.route) == (200, home, "bound")
    told(gateway, home, state="disabled")
    third = await turn(gateway, name, long(5000, text, 3))
    assert (third.account, third.route) == (other, "bound")
    assert third.json()["usage"]["cache_read_input_tokens"] >= 4900


# -- Changes of the pool ----------------------------------------------------------------------------------------------


def rewrite(gateway: Gateway, **changes: Any) -> None:
    gateway.config |= changes
    new = gateway.folder / "gateway.yaml~"
    new.write_text(yaml.safe_dump(gateway.config, sort_keys=False))
    new.replace(gateway.folder / "gateway.yaml")


async def test_a_conversation_has_a_home_for_each_of_its_models(launch: Launch, sim: Simulator):
    accounts = accounts_of(sim, 4)
    for account, pattern in zip(accounts, ("claude-haiku-*", "claude-haiku-*", "claude-opus-*", "*"), strict=True):
        account["models"] = [pattern]
    gateway = launch(accounts=accounts)
    ids = [account["id"] for account in accounts]
    names = [uuid.uuid4().hex for _ in range(24)]
    for _ in range(3):
        small = await turns(gateway, names, message())
        large = await turns(gateway, names, message(model=OPUS))
        assert {answer.account for answer in small.values()} == {ids[0], ids[1], ids[3]}
        assert {answer.account for answer in large.values()} == {ids[2], ids[3]}
    assert {answer.route for answer in (*small.values(), *large.values())} == {"bound"}


async def test_draining_keeps_the_warm_and_takes_no_new_ones_and_disabled_spreads_them(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4))
    homes = await begun(gateway, 48)
    leaving = homes[next(iter(homes))]
    told(gateway, leaving, state="draining")
    assert leaving not in (await begun(gateway, 40)).values()
    for name, answer in (await turns(gateway, homes)).items():
        assert (answer.status, answer.account, answer.route) == (200, homes[name], "bound")
    assert health(gateway, leaving) == "draining"

    told(gateway, leaving, state="disabled")
    since = sim.mark()
    after = await turns(gateway, homes)
    assert leaving not in accounts_asked(sim, since)
    went = set()
    for name, answer in after.items():
        if homes[name] == leaving:
            assert (answer.status, answer.route) == (200, "moved")
            went.add(answer.account)
        else:
            assert (answer.status, answer.account, answer.route) == (200, homes[name], "bound")
    assert len(went) > 1

    told(gateway, leaving, state="active")
    for name, answer in (await turns(gateway, homes)).items():
        assert (answer.account, answer.route) == (after[name].account, "bound")
    await one_on(gateway, leaving)


async def test_neither_weights_nor_a_new_account_move_a_warm_conversation(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4))
    homes = await begun(gateway, 48)

    async def all_at_home() -> None:
        for name, answer in (await turns(gateway, homes)).items():
            assert (answer.status, answer.account, answer.route) == (200, homes[name], "bound")

    favourite = sim.accounts[0]["id"]
    assert told(gateway, favourite, weight=100)["weight"] == 100
    await all_at_home()
    rewrite(gateway, accounts=accounts_of(sim, 5))
    fifth = sim.accounts[4]["id"]
    await eventually(lambda: gateway.get(f"/admin/v1/accounts/{fifth}", admin=True, headers=AUTHORIZED).status == 200)
    await eventually(lambda: seen(gateway, fifth)["in_pool"], "the fifth account in the pool")
    await all_at_home()
    told(gateway, favourite, weight=0.01)
    await all_at_home()
    assert fifth in (await begun(gateway, 60)).values()
    rewrite(gateway, accounts=accounts_of(sim, 4))
    await eventually(
        lambda: gateway.get(f"/admin/v1/accounts/{fifth}", admin=True, headers=AUTHORIZED).status == 404, "four again"
    )
    await all_at_home()


# -- Single flight ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_of_six_equal_first_requests_at_once_one_writes_the_cache_and_the_others_read_it(
    stream: bool, gateway: Gateway, sim: Simulator
):
    name = uuid.uuid4().hex
    body = {**long(6000, fresh_text()), "stream": stream}
    since = sim.mark()
    answers = await at_once(turn(gateway, name, body, fault="silence=0.4") for _ in range(6))
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.account for answer in answers}) == 1
    usages = [record["usage"] for record in sim.finished(since, 6)]
    writes = [usage["cache_creation_input_tokens"] for usage in usages]
    reads = [usage["cache_read_input_tokens"] for usage in usages]
    assert sorted(bool(each) for each in writes) == [False] * 5 + [True]
    assert sorted(reads)[1] >= 5900
    assert sorted(answer.route for answer in answers) == ["bound"] * 5 + ["new"]


# -- What only one workspace has --------------------------------------------------------------------------------------


async def a_file(gateway: Gateway) -> tuple[dict[str, Any], str]:
    form = b'--X\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n--X--\r\n'
    head = {
        "content-type": "multipart/form-data; boundary=X",
        "content-length": str(len(form)),
        "anthropic-version": "2023-06-01",
    }
    async with Wire.open(gateway) as wire:
        await wire.send(request(headers=head, path="/v1/files", method="POST") + form)
        made = await wire.answer()
    document = {"type": "document", "source": {"type": "file", "file_id": made.json()["id"]}}
    content = [{"type": "text", "text": "Read this"}, document]
    return {**message(), "messages": [{"role": "user", "content": content}]}, made.account


async def a_container(gateway: Gateway) -> tuple[dict[str, Any], str]:
    tools = [{"type": "code_execution_20250825", "name": "code_execution"}]
    made = await ask(gateway, message(tools=tools), conversation())
    return message(container=made.json()["container"]["id"], tools=tools), made.account


@pytest.mark.parametrize("make", [a_file, a_container])
async def test_a_request_that_names_what_one_workspace_has_goes_there_or_fails(
    make: Callable[[Gateway], Awaitable[tuple[dict[str, Any], str]]], gateway: Gateway, sim: Simulator, within: Within
):
    name = uuid.uuid4().hex
    body, home = await make(gateway)
    assert (await turn(gateway, name)).status == 200
    since = sim.mark()
    answer = await turn(gateway, name, body)
    assert (answer.status, answer.account, answer.route) == (200, home, "pinned")

    sim.fault("status", 429, account=home, retry_after=1, times=1)  # worth the wait
    answer = await turn(gateway, name, body)
    assert (answer.status, answer.account, answer.route) == (200, home, "pinned")

    sim.fault("status", 429, account=home, retry_after=30, times=1)
    for attempts in ("1", "0"):
        began = time.monotonic()
        answer = await turn(gateway, name, body)
        assert_error(answer, 429, "rate_limit_error")
        assert 25 <= int(answer["retry-after"]) <= 30
        assert (answer.route, answer["x-gateway-attempts"]) == ("pinned", attempts)
        within(time.monotonic() - began, 5)
    gateway.mend()

    sim.fault("status", 529, account=home, times=1)
    answer = await turn(gateway, name, body)
    assert (answer.status, answer.account, answer.route) == (200, home, "pinned")
    for fault in ("status=500", "status=403"):
        assert (await turn(gateway, name, body, fault=fault)).status == int(fault[-3:])
    sim.fault("status", 401, account=home)
    assert_error(await turn(gateway, name, body), 529, "overloaded_error")
    sim.clear()
    gateway.mend()
    assert accounts_asked(sim, since).keys() == {home}
    answer = await turn(gateway, name, body)
    assert (answer.status, answer.account, answer.route) == (200, home, "pinned")


# -- What operators see -----------------------------------------------------------------------------------------------


async def test_an_operator_sees_what_an_account_says_of_itself(gateway: Gateway, sim: Simulator):
    answer = await ask(gateway, message())
    headers = await eventually(lambda: seen(gateway, answer.account)["headers"], "its headers")
    assert headers["anthropic-organization-id"].startswith("org")
    assert answer["anthropic-organization-id"] == ""
