"""Starting, stopping, dying: what operators and kernels do to a gateway, and what its clients notice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.rig import (
    START_SECONDS,
    Answer,
    Gateway,
    Simulator,
    Store,
    Wire,
    accounts_of,
    ask,
    assert_error,
    at_once,
    conversation,
    eventually,
    family,
    free_port,
    message,
    request,
    runs,
    until,
)

Launch = Callable[..., Gateway]
STREAM = message("Tell me everything", stream=True)


# -- Workers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def double(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of two workers, with the embedded store."""
    config = {"workers": 2, "accounts": accounts_of(simulator, 4)}
    gateway = Gateway(tmp_path_factory.mktemp("double"), config).start()
    yield gateway
    gateway.stop()


def served(gateway: Gateway) -> float:
    return gateway.metrics().total("gateway_requests_total", endpoint="messages", code="200")


def prefixes(answers: list[Answer]) -> set[str]:
    """What tells the workers apart in request ids."""
    return {answer.request_id[:-6] for answer in answers}


async def test_metrics_are_sums_over_both_workers(double: Gateway):
    assert len(double.workers()) == 2
    before = served(double)
    answers = await at_once(ask(double, message(), conversation()) for _ in range(60))
    assert {answer.status for answer in answers} == {200}
    assert len(prefixes(answers)) == 2
    assert served(double) == before + 60
    series = double.metrics()
    assert series.total("gateway_affinity_decisions_total", route="new") >= 60
    assert series.total("gateway_requests_in_flight") == 0


async def test_request_ids_are_unique_over_workers(double: Gateway):
    answers = await at_once(ask(double, message()) for _ in range(80))
    assert len({answer.request_id for answer in answers}) == 80


async def test_a_conversation_stays_where_it_is_whichever_worker_serves_it(double: Gateway):
    name = conversation()
    answers = await at_once(ask(double, message(), name) for _ in range(40))
    assert len(prefixes(answers)) == 2
    assert len({answer.account for answer in answers}) == 1
    assert sorted(answer.route for answer in answers) == ["bound"] * 39 + ["new"]


async def test_a_killed_worker_is_replaced_and_what_it_counted_stays(double: Gateway):
    name = conversation()
    home = (await ask(double, message(), name)).account
    for _ in range(2):
        before = served(double)
        old = set(double.workers())
        assert len(old) == 2
        victim = old.pop()
        os.kill(victim, signal.SIGKILL)
        answers = await at_once((ask(double, message(), name) for _ in range(20)), 4)  # while it is being replaced
        assert {(answer.status, answer.account) for answer in answers} == {(200, home)}
        await eventually(lambda: len(double.workers()) == 2 and victim not in double.workers(), "another worker")  # noqa: B023
        until(lambda: all(double.get("/readyz", admin=True).json()["workers"].values()), "its readiness")
        assert double.get("/readyz", admin=True).json()["workers"].keys() == {"0", "1"}
        assert served(double) == before + 20
        answers = await at_once(ask(double, message()) for _ in range(60))
        assert {answer.status for answer in answers} == {200}
        assert len(prefixes(answers)) == 2
        assert served(double) == before + 80
    assert double.line("worker died; starting another")["exit"] == -signal.SIGKILL


# -- Stopping ---------------------------------------------------------------------------------------------------------


async def test_sigterm_is_announced_then_streams_finish_and_the_rest_is_told(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4), timeouts={"drain_delay": 1, "drain": 2}, workers=2)
    kin = family(gateway.pid)
    assert len(kin) == 4  # supervisor, two workers, store
    async with (
        Wire.open(gateway) as finishing,
        Wire.open(gateway) as endless,
        Wire.open(gateway) as idle,
    ):
        assert (await idle.ask(message())).status == 200
        await finishing.send(request(STREAM, fault="slow=0.15"))
        await endless.send(request(STREAM, fault="stall=4"))
        heads = [await wire.head() for wire in (finishing, endless)]
        seen = await endless.until_events(4)

        os.kill(gateway.pid, signal.SIGTERM)
        # Not ready, on both listeners, and yet accepting.
        refused = await eventually(lambda: (found := gateway.get("/readyz")).status == 503 and found, "503")
        assert refused.json()["ready"] is False and refused.json()["draining"] is True
        assert gateway.get("/readyz", admin=True).status == 503
        assert gateway.get("/healthz").status == 200
        late = await ask(gateway, message())
        assert (late.status, late["connection"]) == (200, "close")

        def refuses() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", gateway.port)) != 0

        await eventually(refuses, "the end of accepting")
        assert gateway.alive()
        assert await idle.closed()
        done = await finishing.rest(heads[0])
        assert done.ended and done.events[-1][0] == "message_stop"
        cut = await endless.rest(heads[1].but(body=seen))
        assert cut.ended
        assert [name for name, _ in cut.events[4:]] == ["error"]
        assert cut.events[-1][1]["error"]["type"] == "overloaded_error"
        assert gateway.record(cut.request_id)["cause"] == "drain"
    assert gateway.process is not None
    assert gateway.process.wait(20) == 0
    until(lambda: not [pid for pid in kin if runs(pid)], "the end of all processes")
    assert gateway.err.read_text() == ""
    assert [line["event"] for line in gateway.lines()].count("stopped") == 1
    gateway.process = None


async def test_clients_that_do_not_read_are_cut_off_at_the_drain_limit_and_logged(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), timeouts={"drain_delay": 0, "drain": 0.5}, workers=1)
    deaf: list[socket.socket] = []
    try:
        for _ in range(3):
            client = socket.socket()
            deaf.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(request(STREAM, fault="endless=64"))
            assert client.recv(10)

        await asyncio.sleep(1.5)  # until as much has come as is kept for them
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.process is not None
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0
    finally:
        for client in deaf:
            client.close()
    ended = [line for line in gateway.lines() if line["event"] == "request"]
    assert [(line["outcome"], line["cause"], line["status"]) for line in ended] == [("interrupted", "drain", 200)] * 3
    gateway.process = None


async def test_requests_that_wait_for_an_upstream_are_told_at_the_drain_limit_too(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), timeouts={"drain": 0.5})
    since = sim.mark()
    async with Wire.open(gateway) as one, Wire.open(gateway) as other, Wire.open(gateway) as third:
        await one.send(request(message(), fault="silence=60"))
        await other.send(request(STREAM, fault="silence=60"))
        await third.send(request(STREAM, fault={"kind": "silence", "value": 60, "after": "head"}))
        await eventually(lambda: len(sim.records(since)) == 3, "three requests upstream")
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.process is not None
        assert gateway.process.wait(20) == 0
        gateway.process = None
        for wire in (third, one, other):
            assert_error(await wire.answer(), 529, "overloaded_error")
    assert [record["aborted"] for record in sim.finished(since, 3)] == [True] * 3


async def test_a_second_sigterm_stops_at_once(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), timeouts={"drain_delay": 20, "drain": 20})
    kin = family(gateway.pid)
    async with Wire.open(gateway) as wire:
        await wire.send(request(STREAM, fault="stall=4"))
        await wire.head()
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.line("draining")
        os.kill(gateway.pid, signal.SIGTERM)
        try:
            until(lambda: not [pid for pid in kin if runs(pid)], "the end of all processes", 8)
        finally:
            gateway.end(signal.SIGKILL)


async def test_a_killed_supervisor_takes_all_with_it_and_what_it_stored_is_there_again(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 4), workers=2)
    names = [conversation() for _ in range(12)]
    before = [await ask(gateway, message(), name) for name in names]
    kin = family(gateway.pid)
    assert len(kin) == 4
    os.kill(gateway.pid, signal.SIGKILL)
    until(lambda: not [pid for pid in kin if runs(pid)], "the end of workers and store", 15)
    assert gateway.process is not None
    gateway.process.wait()
    gateway.start()
    after = [await ask(gateway, message(), name) for name in names]
    assert [answer.account for answer in after] == [answer.account for answer in before]
    assert {answer.route for answer in after} == {"bound"}


# -- Not starting -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_started_says_why_in_one_line(double: Gateway, sim: Simulator, tmp_path: Path):
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    address = "{}:{}".format(*taken.getsockname())
    (tmp_path / "file").write_text("in the way")
    admin = {"listen": f"127.0.0.1:{free_port()}", "token": "token-of-an-operator"}
    accounts = accounts_of(sim, 2)
    broken: dict[str, tuple[dict[str, Any], int, str]] = {
        "the port is in use": ({"listen": address}, 1, address),
        "the admin port is in use": ({"admin": {**admin, "listen": address}}, 1, address),
        "a data_dir that cannot be": ({"data_dir": str(tmp_path / "file" / "data")}, 1, "data_dir"),
        "the data_dir of another gateway": ({"data_dir": double.config["data_dir"]}, 1, "data_dir"),
        "an unknown key": ({"timeout": {"idle": 3}}, 2, "timeouts"),
    }
    gateways = {name: Gateway(tmp_path / name, {"accounts": accounts, **each[0]}) for name, each in broken.items()}
    try:
        for gateway in gateways.values():
            gateway.launch()
        for name, (_, code, word) in broken.items():
            process = gateways[name].process
            assert process is not None and process.wait(START_SECONDS) == code, name
            said = gateways[name].err.read_text()
            assert word in said and len(said.splitlines()) == 1, (name, said)
            assert "Traceback" not in gateways[name].text()
        assert double.get("/readyz").json()["store"] == "connected"
    finally:
        taken.close()
        for gateway in gateways.values():
            if gateway.alive():
                gateway.end(signal.SIGKILL)


def test_a_file_that_is_missing_is_named_in_one_line(tmp_path: Path):
    gateway = Gateway(tmp_path, {})
    gateway.run([sys.executable, "-m", "gateway", "serve", "--config", "missing.yaml"])
    assert gateway.process is not None and gateway.process.wait(START_SECONDS) == 2
    said = gateway.err.read_text()
    assert "missing.yaml" in said and len(said.splitlines()) == 1, said


async def test_nothing_in_the_working_directory_is_taken_for_a_module_of_ours(sim: Simulator, tmp_path: Path):
    gateway = Gateway(tmp_path, {"accounts": accounts_of(sim, 1), "workers": 2})
    for name in ("gateway", "yaml", "redis", "uvicorn"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w').close()\nraise SystemExit(3)\n")
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(gateway.config))
    gateway.run([Path(sys.executable).with_name("gateway"), "serve", "--config", file])
    gateway.ready()
    try:
        assert len(gateway.workers()) == 2
        assert (await ask(gateway, message(), conversation())).status == 200
    finally:
        gateway.stop()
    assert not (tmp_path / "executed").exists()


async def test_an_embedded_store_that_is_killed_comes_back_and_moves_nobody(double: Gateway):
    load = Load([double], 8)
    await load.all_see("bound")
    [store] = set(family(double.pid)) - {double.pid, *double.workers()}
    os.kill(store, signal.SIGKILL)
    await load.all_see("bound", "stateless")
    await eventually(lambda: double.get("/readyz").json()["store"] == "connected", "the store again")
    await load.all_see("bound")
    for answers in await load.end():
        assert {answer.status for answer in answers} == {200}
        assert len({answer.account for answer in answers}) == 1


# -- The store goes and comes -----------------------------------------------------------------------------------------


class Pair:
    """Two gateways on one store that is theirs alone and may be ill-treated."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.store = Store(folder / "store")
        config = {"redis": self.store.url, "accounts": accounts_of(simulator, 4), "timeouts": {"store": 1}}
        self.gateways = [Gateway(folder / name, dict(config)) for name in ("left", "right")]

    def start(self) -> None:
        for gateway in self.gateways:
            gateway.launch()
        for gateway in self.gateways:
            gateway.ready()

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.stop()
        assert self.store.end() == 0

    def all_say(self, store: str) -> None:
        for gateway in self.gateways:
            until(lambda each=gateway: each.get("/readyz").json()["store"] == store, f"the store {store}")  # type: ignore[misc]


@pytest.fixture(scope="module")
def pair(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both gateways run; whoever hurts the store puts it right again."""
    pair = Pair(tmp_path_factory.mktemp("pair"), simulator)
    pair.store.start()
    pair.start()
    yield pair
    pair.stop()


class Load:
    """Conversations that go on and on, whatever happens; `answers` by conversation, in order."""

    def __init__(self, gateways: list[Gateway], count: int) -> None:
        self.answers: list[list[Answer]] = [[] for _ in range(count)]
        self._gateways = gateways
        self._over = False
        self._tasks = [asyncio.create_task(self._talk(number)) for number in range(count)]

    async def _talk(self, number: int) -> None:
        name = conversation()
        while not self._over:
            gateway = self._gateways[(number + len(self.answers[number])) % len(self._gateways)]
            self.answers[number].append(await ask(gateway, message(), name))
            await asyncio.sleep(0.02)

    async def all_see(self, *routes: str) -> None:
        """Until the next two answers of every conversation have one of these routes."""
        begin = [len(each) for each in self.answers]

        def seen() -> bool:
            later = [each[start:] for each, start in zip(self.answers, begin, strict=True)]
            return all(len(each) > 1 and {answer.route for answer in each[-2:]} <= set(routes) for each in later)

        for task in self._tasks:
            if task.done():
                task.result()
        await eventually(seen, f"routes {routes}; last ones {[each[-1].route for each in self.answers if each]}")

    async def end(self) -> list[list[Answer]]:
        self._over = True
        await asyncio.gather(*self._tasks)
        return self.answers


async def test_a_store_that_is_killed_and_comes_back_costs_no_request_and_moves_nobody(pair: Pair):
    load = Load(pair.gateways, 12)
    await load.all_see("bound")
    pair.store.end(signal.SIGKILL)
    await load.all_see("stateless")
    pair.all_say("away")
    assert [gateway.get("/readyz").status for gateway in pair.gateways] == [200, 200]
    pair.store.start()
    await load.all_see("bound")
    for answers in await load.end():
        assert {answer.status for answer in answers} == {200}
        assert len({answer.account for answer in answers}) == 1
        assert answers[0].route == "new"
    pair.all_say("connected")


async def test_a_store_that_hangs_is_as_good_as_gone(pair: Pair):
    load = Load(pair.gateways, 12)
    await load.all_see("bound")
    os.kill(pair.store.pid, signal.SIGSTOP)
    try:
        await load.all_see("stateless")
    finally:
        os.kill(pair.store.pid, signal.SIGCONT)
    await load.all_see("bound")
    for answers in await load.end():
        assert {answer.status for answer in answers} == {200}
        assert len({answer.account for answer in answers}) == 1


async def test_a_store_that_forgets_everything_moves_nobody(pair: Pair):
    load = Load(pair.gateways, 12)
    await load.all_see("bound")
    with pair.store.client() as client:
        client.flushall()
        client.script_flush()
        await load.all_see("bound")
        await eventually(lambda: client.exists("{pool}:document"), "the pool document again")
    for answers in await load.end():
        assert {answer.status for answer in answers} == {200}
        assert len({answer.account for answer in answers}) == 1


async def test_gateways_that_start_without_their_store_serve_and_agree(sim: Simulator, tmp_path: Path):
    pair = Pair(tmp_path, sim)
    pair.start()
    pair.all_say("away")
    names = [conversation() for _ in range(20)]
    alone = [[await ask(gateway, message(), name) for gateway in pair.gateways] for name in names]
    for answers in alone:
        assert [(answer.status, answer.route) for answer in answers] == [(200, "stateless")] * 2
        assert answers[0].account == answers[1].account
    pair.store.start()
    pair.all_say("connected")
    for name, [before, _] in zip(names, alone, strict=True):
        answers = [await ask(gateway, message(), name) for gateway in pair.gateways * 2]
        assert {answer.account for answer in answers} == {before.account}
        assert [answer.route for answer in answers[1:]] == ["bound"] * 3
    pair.stop()
