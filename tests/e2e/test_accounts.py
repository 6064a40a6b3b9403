"""What operators do with accounts while gateways serve: over the API, and from the command line."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.rig import (
    ADMIN_TOKEN,
    WAIT_SECONDS,
    Gateway,
    Simulator,
    Store,
    Within,
    accounts_of,
    ask,
    conversation,
    eventually,
    free_port,
    message,
    until,
)

Launch = Callable[..., Gateway]


def admin(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=WAIT_SECONDS)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, f"/admin/v1/{path}", text, {"authorization": f"Bearer {ADMIN_TOKEN}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def patch(gateway: Gateway, account: str, **body: Any) -> dict[str, Any]:
    status, answer = admin(gateway, "PATCH", f"accounts/{account}", body)
    assert status == 200, answer
    changed: dict[str, Any] = answer
    return changed


def shown(gateway: Gateway, account: str) -> dict[str, Any]:
    status, answer = admin(gateway, "GET", f"accounts/{account}")
    assert status == 200, answer
    found: dict[str, Any] = {**answer, "headers": {}}  # each gateway hears of those in its own order
    return found


async def served_by(gateway: Gateway, number: int = 16) -> set[str]:
    answers = [await ask(gateway, message(), conversation()) for _ in range(number)]
    assert {answer.status for answer in answers} == {200}
    return {answer.account for answer in answers}


@pytest.fixture(scope="module")
def pair(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways on one store."""
    config = {"redis": f"{store.url}/5", "accounts": accounts_of(simulator, 3)}
    gateways = [Gateway(tmp_path_factory.mktemp(f"pair{number}"), config).launch() for number in range(2)]
    for gateway in gateways:
        gateway.ready()
    until(lambda: all(len(admin(each, "GET", "pool")[1]["accounts"]) == 3 for each in gateways), "the pool")
    yield gateways
    for gateway in gateways:
        gateway.stop()


async def test_a_disabled_account_serves_nothing_on_any_gateway_within_a_moment(
    pair: list[Gateway], sim: Simulator, within: Within
):
    one, other = pair
    account = sim.accounts[0]["id"]
    assert account in await served_by(one, 24)
    assert patch(one, account, state="disabled")["state"] == "disabled"
    changed = time.monotonic()
    await eventually(lambda: shown(other, account)["state"] == "disabled", "the other's knowledge")
    took = time.monotonic() - changed
    since = sim.mark()
    for gateway in pair:
        assert account not in await served_by(gateway)
    assert account not in {record["account"] for record in sim.records(since)}
    back = patch(other, account, state="active")
    assert (back["state"], back["overridden"]) == ("active", {})
    await eventually(lambda: shown(one, account)["state"] == "active", "its return")
    assert account in await served_by(one, 24)
    within(took, 1.0)  # a message and a script away; the next heartbeat would take up to two


async def test_an_override_outlives_the_gateway_that_made_it(pair: list[Gateway], sim: Simulator):
    one, other = pair
    account = sim.accounts[1]["id"]
    patch(one, account, weight=5, state="draining", drain_seconds=600)
    one.stop()
    one.start()
    for gateway in pair:
        await eventually(lambda: shown(gateway, account)["weight"] == 5, "the override")  # noqa: B023
        found = shown(gateway, account)
        assert (found["state"], found["configured"]["state"], found["configured"]["weight"]) == (
            "draining", "active", 1,
        )  # fmt: skip
        assert found["overridden"]["drain_until"] == found["drain_until"] is not None
    assert patch(other, account, weight=None, state="active")["overridden"] == {}


async def test_many_operators_at_once_lose_nothing(pair: list[Gateway], sim: Simulator):
    account = sim.accounts[2]["id"]
    changes = [(pair[n % 2], {"weight": n + 1} if n % 3 else {"state": "draining"}) for n in range(12)]
    await asyncio.gather(*(asyncio.to_thread(patch, gateway, account, **body) for gateway, body in changes))
    for gateway in pair:
        await eventually(lambda: shown(gateway, account) == shown(pair[0], account), "agreement")  # noqa: B023
    found = shown(pair[0], account)
    assert found["state"] == "draining" and found["weight"] > 1
    patch(pair[0], account, weight=None, state="active")


def test_refusals_have_anthropics_shape(pair: list[Gateway], sim: Simulator):
    account = sim.accounts[0]["id"]
    for method, path, body, status, kind in (
        ("GET", "accounts/nobody", None, 404, "not_found_error"),
        ("PATCH", f"accounts/{account}", {"weight": 0}, 400, "invalid_request_error"),
        ("PATCH", f"accounts/{account}", {"mood": 1}, 400, "invalid_request_error"),
    ):
        found, answer = admin(pair[0], method, path, body)
        assert (found, answer["error"]["type"]) == (status, kind)
        assert answer["request_id"]
    assert "mood" in admin(pair[0], "PATCH", f"accounts/{account}", {"mood": 1})[1]["error"]["message"]


# -- Without the store ------------------------------------------------------------------------------------------------


async def test_without_the_store_a_gateway_starts_from_what_was_agreed_last(
    launch: Launch, sim: Simulator, tmp_path: Path
):
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store").start()
    accounts = accounts_of(sim, 3)
    one = launch(redis=store.url, accounts=accounts)
    other = launch(redis=store.url, accounts=accounts[1:])
    ids = [account["id"] for account in accounts]
    await eventually(lambda: not shown(other, ids[0])["held"], "the account that one gateway alone holds")
    patch(one, ids[1], state="disabled")
    await eventually(lambda: shown(other, ids[1])["state"] == "disabled", "the override")
    kept = other.folder / "data/pool.json"
    await eventually(lambda: b"disabled" in kept.read_bytes(), "the snapshot")
    assert kept.stat().st_mode & 0o777 == 0o600
    epoch = admin(other, "GET", "pool")[1]["epoch"]
    other.stop()
    store.end(signal.SIGKILL)
    status, answer = admin(one, "PATCH", f"accounts/{ids[2]}", {"state": "disabled"})
    assert (status, answer["error"]["type"]) == (503, "api_error")

    other.start()
    document = admin(other, "GET", "pool")[1]
    assert document["epoch"] == epoch
    assert {each["id"]: each["state"] for each in document["accounts"]} == {
        ids[0]: "active", ids[1]: "disabled", ids[2]: "active",
    }  # fmt: skip
    assert await served_by(other) == {ids[2]}  # it has no credential for the first
    store.start()
    await eventually(lambda: other.get("/readyz", admin=True).json()["store"] == "connected", "the store")
    patch(other, ids[1], state="active")
    await eventually(lambda: shown(one, ids[1])["state"] == "active", "agreement")
    one.stop()
    other.stop()
    store.end()


async def test_a_snapshot_that_makes_no_sense_costs_a_warning(launch: Launch, sim: Simulator):
    gateway = launch(wait=False, redis=f"redis://127.0.0.1:{free_port()}", accounts=accounts_of(sim, 2))
    data = gateway.folder / "data"
    gateway.end(signal.SIGKILL)
    data.mkdir(exist_ok=True)
    (data / "pool.json").write_bytes(b'{"document": {"epoch": 3, "acc')
    gateway.start()
    assert gateway.line("pool snapshot ignored")["level"] == "warning"
    assert len(await served_by(gateway)) == 2


# -- From the command line --------------------------------------------------------------------------------------------


def command(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9"}).invoke(app, ["accounts", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_accounts_are_listed_and_changed_from_the_command_line(pair: list[Gateway], sim: Simulator):
    file = pair[0].folder / "gateway.yaml"
    account = sim.accounts[0]["id"]
    code, out, err = command("list", "--config", file)
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["ID", "STATE", "WEIGHT"], *([each["id"], "active", "1"] for each in sim.accounts[:3])
    ]  # fmt: skip
    code, out, _ = command("drain", account, "--seconds", "2m", "--json", "--config", file)
    assert (code, json.loads(out)["state"]) == (0, "draining")
    code, out, _ = command("weight", account, "2.5", "--config", file)
    assert (code, out.splitlines()[1].split()[:3]) == (0, [account, "draining", "2.5"])
    assert command("disable", account, "--config", file)[0] == 0
    assert shown(pair[0], account)["state"] == "disabled"
    assert command("weight", account, "--config", file)[0] == 0
    code, out, _ = command("enable", account, "--config", file)
    assert (code, shown(pair[0], account)["overridden"]) == (0, {})


def test_what_cannot_be_done_is_said_in_one_line(pair: list[Gateway], sim: Simulator, tmp_path: Path):
    file = pair[0].folder / "gateway.yaml"
    account = sim.accounts[0]["id"]
    for words, code, said in (
        (["drain", "nobody", "--config", file], 1, "There is no account of the id nobody"),
        (["weight", account, "0", "--config", file], 2, "weight must be greater than 0"),
        (["drain", account, "--until", "tomorrow", "--config", file], 2, "drain_until must be a time"),
        (["list", "--config", tmp_path / "none.yaml"], 2, "no such file"),
    ):
        found, out, err = command(*words)
        assert (found, out) == (code, "")
        assert said in err and len(err.splitlines()) == 1
    stopped = tmp_path / "gateway.yaml"
    stopped.write_text(file.read_text().replace(str(pair[0].admin_port), str(free_port())))
    code, out, err = command("list", "--config", stopped)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "is it running" in err
    stopped.write_text(file.read_text().replace(ADMIN_TOKEN, "another-token-entirely"))
    code, out, err = command("list", "--config", stopped)
    assert (code, out) == (1, "") and "admin.token" in err
