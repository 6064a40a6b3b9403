"""A gateway whose file changes while it serves."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    BOB,
    Answer,
    Gateway,
    Simulator,
    Wire,
    accounts_of,
    ask,
    conversation,
    eventually,
    message,
    request,
)

Launch = Callable[..., Gateway]
AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
GOOD = "gateway_config_last_reload_successful"
GOOD_AT = "gateway_config_last_reload_success_timestamp_seconds"


def file_of(gateway: Gateway) -> Path:
    return gateway.folder / "gateway.yaml"


def text_of(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)


def rewrite(gateway: Gateway, **changes: Any) -> None:
    """Change the file as editors do: a new one takes the old one's name."""
    gateway.config |= changes
    new = gateway.folder / "gateway.yaml~"
    new.write_text(text_of(gateway.config))
    new.replace(file_of(gateway))


def pool(gateway: Gateway) -> dict[str, dict[str, Any]]:
    document = gateway.get("/admin/v1/pool", admin=True, headers=AUTHORIZED).json()
    return {account["id"]: account for account in document["accounts"]}


def count(gateway: Gateway, event: str) -> int:
    return sum(line["event"] == event for line in gateway.lines())


async def served_by(gateway: Gateway, number: int, key: str = ALICE) -> set[str]:
    answers = [await ask(gateway, message(), conversation(), key=key) for _ in range(number)]
    assert {answer.status for answer in answers} == {200}
    return {answer.account for answer in answers}


async def test_accounts_join_change_and_leave_without_a_restart(launch: Launch, sim: Simulator):
    accounts = accounts_of(sim, 4)
    gateway = launch(accounts=accounts[:2], workers=2)
    assert len(await served_by(gateway, 12)) == 2
    rewrite(gateway, accounts=[{**accounts[1], "weight": 3}, *accounts[2:]])
    await eventually(lambda: pool(gateway).keys() == {each["id"] for each in accounts[1:]}, "three accounts")
    assert pool(gateway)[accounts[1]["id"]]["weight"] == 3
    assert pool(gateway)[accounts[1]["id"]]["since"] == 0 < pool(gateway)[accounts[2]["id"]]["since"]
    assert accounts[0]["id"] not in await served_by(gateway, 20)
    said = gateway.line("config reloaded")
    assert said["changed"] == [f"accounts.{each['id']}" for each in accounts]
    assert gateway.metrics().total(GOOD) == 1


async def test_a_rotated_credential_is_used_from_the_next_request_on(launch: Launch, sim: Simulator):
    (account,) = accounts_of(sim, 1)
    spare = accounts_of(sim, 2)[1]
    gateway = launch(accounts=[{**account, "api_key": "sk-ant-revoked"}])
    assert (await ask(gateway, message(), conversation())).status != 200
    rewrite(gateway, accounts=[{**account, "api_key": spare["api_key"]}])
    gateway.line("config reloaded")
    since = sim.mark()
    assert (await ask(gateway, message(), conversation())).status == 200
    assert {record["account"] for record in sim.records(since)} == {spare["id"]}
    assert spare["api_key"] not in gateway.text()


async def test_callers_come_and_go_without_a_restart(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), keys=[{"id": "alice", "key": ALICE}])
    assert (await ask(gateway, message(), key=BOB)).status == 401
    async with Wire.open(gateway) as stream:
        await stream.send(request(message("Tell me", stream=True), fault="slow=0.1"))
        head = await stream.head()
        rewrite(gateway, keys=[{"id": "bob", "key": BOB}])
        gateway.line("config reloaded")
        assert (await ask(gateway, message(), key=BOB)).status == 200
        assert (await ask(gateway, message(), key=ALICE)).status == 401
        assert (await stream.rest(head)).events[-1][0] == "message_stop"  # it was let in
    assert gateway.get("/readyz").json()["keys"] == 1
    assert gateway.get("/readyz", admin=True).json()["keys"] == 1


async def test_a_worker_that_is_replaced_serves_by_the_file_as_it_is_now(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2), keys=[{"id": "alice", "key": ALICE}])
    rewrite(gateway, keys=[{"id": "bob", "key": BOB}])
    gateway.line("config reloaded")
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    await eventually(lambda: worker not in gateway.workers() and gateway.workers(), "another worker")
    assert (await ask(gateway, message(), key=BOB)).status == 200
    assert (await ask(gateway, message(), key=ALICE)).status == 401


async def test_what_needs_a_restart_is_named_and_waits_for_it(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 2))
    rewrite(gateway, listen="127.0.0.1:1", workers=3, data_dir="/elsewhere", secret="another" * 6, expose_account=False)
    gateway.line("config reloaded")
    said = gateway.line("config changes need a restart and are ignored until then")
    assert said["settings"] == ["listen", "workers", "data_dir", "secret"]
    answer = await ask(gateway, message(), conversation())
    assert (answer.status, answer.account) == (200, "")
    assert "another" not in gateway.text()
    assert not Path("/elsewhere").exists()


@pytest.mark.parametrize("how", ["in place", "by renaming", "through links", "by SIGHUP"])
async def test_a_change_is_noticed_however_it_is_made(how: str, launch: Launch, sim: Simulator):
    accounts = accounts_of(sim, 2)
    gateway = launch(accounts=accounts[:1])
    if how == "through links":  # as Kubernetes mounts a ConfigMap
        gateway.stop()
        for version in ("v1", "v2"):
            (gateway.folder / version).mkdir()
        (gateway.folder / "v1/gateway.yaml").write_text(text_of(gateway.config))
        (gateway.folder / "..data").symlink_to("v1")
        file_of(gateway).unlink()
        file_of(gateway).symlink_to("..data/gateway.yaml")
        gateway.start()
    wanted = {**gateway.config, "accounts": accounts}
    if how == "in place":
        file_of(gateway).write_text(text_of(wanted))
    elif how == "by renaming":
        rewrite(gateway, accounts=accounts)
    elif how == "through links":
        (gateway.folder / "v2/gateway.yaml").write_text(text_of(wanted))
        (gateway.folder / "..data_tmp").symlink_to("v2")
        (gateway.folder / "..data_tmp").replace(gateway.folder / "..data")
        (gateway.folder / "v1/gateway.yaml").unlink()
        (gateway.folder / "v1").rmdir()
    else:
        reloads = count(gateway, "config reloaded")
        os.kill(gateway.pid, signal.SIGHUP)
        await eventually(lambda: count(gateway, "config reloaded") > reloads, "a reload of the same file")
        assert gateway.line("config reloaded")["changes"] == 0
        file_of(gateway).write_text(text_of(wanted))
        os.kill(gateway.pid, signal.SIGHUP)
    await eventually(lambda: len(pool(gateway)) == 2, "the second account")


@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=pytest.mark.torture)])
async def test_bad_reloads_under_load_change_nothing(times: int, launch: Launch, sim: Simulator):
    accounts = accounts_of(sim, 3)
    gateway = launch(accounts=accounts[:2], workers=2)
    good = file_of(gateway).read_bytes()
    before = pool(gateway)
    workers = gateway.workers()
    rnd = random.Random(27)
    bad: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"# nothing but a remark\n",
        lambda: b"{" * 4000,
        lambda: good[: rnd.randrange(1, 60)] + b"\n: [",
        lambda: good.replace(b"accounts:", b"acounts:"),
        lambda: good.replace(b"api_key:", b"api_key: ${NOT_SET_ANYWHERE} #"),
        lambda: b"accounts: []\n" + good.partition(b"accounts:")[0],
        lambda: bytes(rnd.randrange(256) for _ in range(500)) + b"\xff",
        lambda: good + b"accounts: &a [*a, *a]\n",
        lambda: b"listen: &x [1]\n" * 20_000,
        lambda: b"#" * (9 << 20),
    ]
    answers: list[Answer] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            answers.append(await ask(gateway, message(), conversation()))
            await asyncio.sleep(0.005)

    loads = [asyncio.create_task(load()) for _ in range(2)]
    try:
        for number in range(times):
            failures = count(gateway, "config reload failed")
            if number % 10 == 9:
                file_of(gateway).unlink()
            else:
                file_of(gateway).write_bytes(bad[number % len(bad)]())
            os.kill(gateway.pid, signal.SIGHUP)
            await eventually(lambda: count(gateway, "config reload failed") > failures, "its refusal")  # noqa: B023
        series = await asyncio.to_thread(gateway.metrics)
        assert series.total(GOOD) == 0 < series.total(GOOD_AT)
    finally:
        done.set()
        await asyncio.gather(*loads)
    assert len(answers) > times
    assert {answer.status for answer in answers} == {200}
    assert pool(gateway) == before
    assert gateway.workers() == workers
    assert count(gateway, "config reloaded") == 0
    reasons = {line["reason"] for line in gateway.lines() if line["event"] == "config reload failed"}
    assert len(reasons) >= 8 and all(reasons)
    assert not [reason for reason in reasons if ALICE in reason or accounts[0]["api_key"] in reason]

    # Half-written, as a slow editor leaves it for a while, and then whole.
    wanted = text_of({**gateway.config, "accounts": accounts}).encode()
    with file_of(gateway).open("wb") as file:
        for start in range(0, len(wanted), 400):
            file.write(wanted[start : start + 400])
            file.flush()
            await asyncio.sleep(0.01)
    await eventually(lambda: len(pool(gateway)) == 3, "the good one")
    await eventually(lambda: gateway.metrics().total(GOOD) == 1, "the word of it")  # said once the pool has it
