"""Keys made while gateways serve: they open at once, everywhere, and stop doing so when they are revoked."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    WAIT_SECONDS,
    Gateway,
    Simulator,
    Store,
    Within,
    accounts_of,
    ask,
    assert_error,
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


def create(gateway: Gateway, caller: str, **fields: Any) -> dict[str, Any]:
    status, made = admin(gateway, "POST", "keys", {"caller": caller, **fields})
    assert status == 201, made
    found: dict[str, Any] = made
    return found


def revoke(gateway: Gateway, key: dict[str, Any]) -> None:
    status, answer = admin(gateway, "DELETE", f"keys/{key['id']}")
    assert (status, answer["state"]) == (200, "revoked"), answer


async def opens(gateway: Gateway, key: str) -> bool:
    """Whether each of a few connections is served with the key: workers share the listener."""
    answers = [await ask(gateway, message(), conversation(), key=key) for _ in range(6)]
    assert {answer.status for answer in answers} <= {200, 401, 529}  # 529: without the store no key is unknown
    assert len({answer.status for answer in answers}) == 1, "workers disagree"
    return answers[0].status == 200


async def all_closed(gateway: Gateway, key: str) -> float:
    """Wait until no worker takes the key any more; when that was."""
    closed, refused = 0.0, 0
    async with asyncio.timeout(WAIT_SECONDS):
        while refused < 6:
            answer = await ask(gateway, message(), conversation(), key=key)
            closed = closed if refused else time.monotonic()
            refused = refused + 1 if answer.status == 401 else 0
    return closed


async def eventually_opens(gateway: Gateway, key: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while (await ask(gateway, message(), conversation(), key=key)).status != 200:
            pass


@pytest.fixture(scope="module")
def pair(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways of two workers each on one store."""
    config = {"redis": f"{store.url}/7", "accounts": accounts_of(simulator, 2), "workers": 2}
    gateways = [Gateway(tmp_path_factory.mktemp(f"keys{number}"), config).launch() for number in range(2)]
    for gateway in gateways:
        gateway.ready()
    until(lambda: all(len(admin(each, "GET", "pool")[1]["accounts"]) == 2 for each in gateways), "the pool")
    yield gateways
    for gateway in gateways:
        gateway.stop()


async def test_a_new_key_opens_at_once_here_and_within_a_moment_everywhere(
    pair: list[Gateway], sim: Simulator, within: Within
):
    one, other = pair
    made = create(one, "dave", team="ops")
    assert re.fullmatch("sk-[A-Za-z0-9]{48}", made["key"])
    assert await opens(one, made["key"])  # whoever is handed a key may use it: no worker may lag behind the answer
    created = time.monotonic()
    await eventually_opens(other, made["key"])
    took = time.monotonic() - created
    status, listed = admin(other, "GET", "keys")
    dave = next(each for each in listed["data"] if each["caller"] == "dave")
    assert (status, dave["team"], [key["id"] for key in dave["keys"]]) == (200, "ops", [made["id"]])
    assert made["key"] not in json.dumps(listed)
    within(took, 4.0)  # a message away; the next look takes up to two, where it came before anybody listened


async def test_other_limits_of_a_caller_hold_everywhere_within_a_moment(pair: list[Gateway], sim: Simulator):
    one, other = pair
    made = create(one, "erin", limits={"requests_per_minute": 1, "budget_usd": {"day": 5}})
    await eventually_opens(other, made["key"])
    assert (await ask(other, message(), conversation(), key=made["key"])).status == 429
    file = str(one.folder / "gateway.yaml")
    done = CliRunner().invoke(
        app, ["keys", "limit", "erin", "--rpm", "6000", "--day", "none", "--config", file, "--json"]
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["limits"] == {"requests_per_minute": 6000}
    await eventually_opens(other, made["key"])
    status, changed = admin(other, "PATCH", "callers/erin", {"models": ["claude-haiku-*"]})
    assert (status, changed["models"], changed["limits"]) == (200, ["claude-haiku-*"], {"requests_per_minute": 6000})

    async def refused() -> bool:
        return (await ask(one, message(model="claude-opus-4-5"), conversation(), key=made["key"])).status == 403

    async with asyncio.timeout(WAIT_SECONDS):
        while not await refused():
            pass
    assert await opens(one, made["key"])
    status, answer = admin(one, "PATCH", "callers/alice", {"limits": {}})
    assert status == 409 and "configuration file" in answer["error"]["message"]
    status, listed = admin(other, "GET", "audit?limit=10")
    about_erin = [entry for entry in listed["data"] if entry["resource"] == "callers/erin"]
    assert [set(entry["changes"]) for entry in about_erin] == [{"models"}, {"limits"}]


async def test_a_revoked_key_is_refused_everywhere_within_a_second(pair: list[Gateway], sim: Simulator):
    one, other = pair
    made = create(other, "erin")
    for gateway in pair:
        await eventually_opens(gateway, made["key"])
    revoked = time.monotonic()
    await asyncio.to_thread(revoke, one, made)
    closed = [await all_closed(gateway, made["key"]) for gateway in (one, other)]
    assert_error(await ask(one, message(), key=made["key"]), 401, "authentication_error")
    assert max(closed) - revoked < 1.0


async def test_a_deleted_caller_is_refused_everywhere_at_once_and_its_usage_stays(pair: list[Gateway], sim: Simulator):
    one, other = pair
    who = "o'brien+lab@acme.example"
    keys = [create(other, who, limits={"budget_usd": {"day": 5}}) for _ in range(2)]
    for made in keys:
        for gateway in pair:
            await eventually_opens(gateway, made["key"])
    status, gone = admin(one, "DELETE", f"callers/{quote(who, safe='')}")
    assert (status, gone["caller"], gone["revoked"]) == (200, who, 2)
    for gateway in pair:
        for made in keys:
            await all_closed(gateway, made["key"])
        await eventually(lambda: who not in str(admin(gateway, "GET", "keys")[1]), "its end")  # noqa: B023
    used = f"usage?group_by=key&key={quote(who, safe='')}"
    await eventually(lambda: admin(one, "GET", used)[1]["data"], "its usage")
    [row] = admin(other, "GET", used)[1]["data"]
    assert (row["key"], row["requests"] >= 4) == (who, True)
    [entry] = [each for each in admin(other, "GET", "audit")[1]["data"] if each["action"] == "caller.delete"]
    assert (entry["resource"], entry["changes"]["keys_revoked"]) == (f"callers/{who}", [0, 2])
    again = create(one, who)
    for gateway in pair:
        await eventually_opens(gateway, again["key"])
    assert admin(other, "DELETE", f"callers/{quote(who, safe='')}/keys")[1]["revoked"] == 1
    for gateway in pair:
        await all_closed(gateway, again["key"])


async def test_a_caller_made_anew_has_none_of_the_conversations_of_the_one_that_was_deleted(
    pair: list[Gateway], sim: Simulator
):
    one, other = pair
    headers = conversation()
    first = create(one, "twice")["key"]
    for gateway in pair:
        await eventually_opens(gateway, first)
    assert (await ask(one, message(), headers, key=first))["x-gateway-route"] == "new"
    assert (await ask(other, message(), headers, key=first))["x-gateway-route"] == "bound"
    (name,) = headers.values()
    assert admin(one, "GET", f"conversations/twice/{name}")[1]["bindings"]
    assert admin(one, "DELETE", "callers/twice")[0] == 200
    second = create(one, "twice")["key"]
    for gateway in pair:
        await eventually_opens(gateway, second)
    assert admin(one, "GET", f"conversations/twice/{name}")[0] == 404
    assert (await ask(other, message(), headers, key=second))["x-gateway-route"] == "new"
    assert (await ask(one, message(), headers, key=second))["x-gateway-route"] == "bound"


async def test_an_address_may_be_a_caller_wherever_one_is_named(launch: Launch, sim: Simulator):
    who = "ada.lovelace@acme.example"
    gateway = launch(accounts=accounts_of(sim, 1), keys=[{"id": who, "key": ALICE, "limits": {"concurrency": 3}}])
    name = conversation()
    answer = await ask(gateway, message(), name, key=ALICE)
    assert answer.status == 200 and gateway.record(answer.request_id)["caller"] == who
    path = f"conversations/{quote(who, safe='')}/{name['X-Conversation-Id']}"
    assert admin(gateway, "GET", path)[1]["caller"] == who
    [level] = admin(gateway, "GET", "limits")[1]["data"]
    assert level["id"] == who
    await eventually(lambda: admin(gateway, "GET", f"usage?group_by=key&key={who}")[1]["data"], "its usage")
    shown = CliRunner().invoke(app, ["usage", "--key", who, "--config", str(gateway.folder / "gateway.yaml")])
    assert shown.exit_code == 0 and who in shown.stdout


async def test_both_keys_open_while_one_replaces_the_other(pair: list[Gateway], sim: Simulator):
    one, other = pair
    old = create(one, "frank", metadata={"floor": "3"})
    status, new = admin(other, "POST", f"keys/{old['id']}/rotate", {"overlap": 600})
    assert (status, new["caller"], new["metadata"]) == (201, "frank", {"floor": "3"})
    for gateway in pair:
        await eventually_opens(gateway, new["key"])
        assert await opens(gateway, old["key"])
    status, newer = admin(one, "POST", f"keys/{new['id']}/rotate", {"overlap": 0})
    assert (status, newer["replaces"]["state"]) == (201, "expired")
    for gateway in pair:
        await eventually_opens(gateway, newer["key"])
        await all_closed(gateway, new["key"])
        assert await opens(gateway, old["key"])


async def test_a_key_expires_by_itself(pair: list[Gateway], sim: Simulator):
    made = create(pair[0], "grace", expires_in=2)
    await eventually_opens(pair[0], made["key"])
    for gateway in pair:
        await all_closed(gateway, made["key"])
    grace = next(each for each in admin(pair[0], "GET", "keys")[1]["data"] if each["caller"] == "grace")
    assert grace["keys"][0]["state"] == "expired"


async def test_a_caller_of_the_file_keeps_its_place_when_its_key_is_replaced(pair: list[Gateway], sim: Simulator):
    """The caller is the same one: its conversations stay where they are."""
    one, other = pair
    made = create(one, "alice")
    name = conversation()
    first = await ask(one, message(), name, key=ALICE)
    await eventually_opens(other, made["key"])
    again = await ask(other, message("Hello there", "Hi", "And now?"), name, key=made["key"])
    assert (again.status, again.route, again.account) == (200, "bound", first.account)
    stranger = create(one, "heidi")
    await eventually_opens(other, stranger["key"])
    assert (await ask(other, message(), name, key=stranger["key"])).route == "new"


async def test_models_of_a_caller_made_at_run_time_are_its_only_ones(pair: list[Gateway], sim: Simulator):
    made = create(pair[0], "ivan", models=["claude-opus-*"])
    answer = await ask(pair[0], message(), conversation(), key=made["key"])
    assert answer.status == 403
    other = await ask(pair[0], message(model="claude-opus-4-6"), conversation(), key=made["key"])
    assert other.status == 200


async def test_many_operators_at_once_lose_nothing(pair: list[Gateway], sim: Simulator):
    made = await asyncio.gather(*(asyncio.to_thread(create, pair[n % 2], f"many-{n % 4}") for n in range(16)))
    gone = made[:6]
    await asyncio.gather(
        *(asyncio.to_thread(revoke, pair[(n + 1) % 2], key) for n, key in enumerate(gone)),
        *(asyncio.to_thread(create, pair[n % 2], f"many-{n}") for n in range(4)),
    )

    def states() -> list[dict[str, str]]:
        found = []
        for gateway in pair:
            callers = [each for each in admin(gateway, "GET", "keys")[1]["data"] if each["caller"].startswith("many")]
            found.append({key["id"]: key["state"] for each in callers for key in each["keys"]})
        return found

    await eventually(lambda: (both := states())[0] == both[1] and len(both[0]) == 20, "agreement")
    assert {id_ for id_, state in states()[0].items() if state == "revoked"} == {key["id"] for key in gone}


async def test_a_reload_of_the_file_leaves_keys_made_at_run_time_as_they_are(launch: Launch, sim: Simulator):
    gateway = launch(accounts=accounts_of(sim, 1))
    made, extra = create(gateway, "judy"), create(gateway, "carol")
    assert await opens(gateway, made["key"]) and await opens(gateway, extra["key"])
    config = {**gateway.config, "keys": [each for each in gateway.config["keys"] if each["id"] != "carol"]}
    (gateway.folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    os.kill(gateway.pid, signal.SIGHUP)
    await all_closed(gateway, extra["key"])  # the file no longer has the caller
    assert await opens(gateway, made["key"]) and await opens(gateway, ALICE)


async def test_a_revocation_of_which_no_message_comes_acts_with_the_next_look(
    launch: Launch, sim: Simulator, tmp_path: Path
):
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store").start()
    gateway = launch(redis=store.url, accounts=accounts_of(sim, 1))
    made = create(gateway, "kim")
    assert await opens(gateway, made["key"])
    with store.client() as client:
        record = json.loads(client.hget("{pool}:keys", made["id"]))
        record["revoked_at"] = 1
        client.hset("{pool}:keys", made["id"], json.dumps(record))
        client.set("{pool}:keys:version", "99-lost")
    await all_closed(gateway, made["key"])
    gateway.stop()
    store.end()


async def test_without_the_store_a_gateway_starts_with_the_keys_it_knew_and_gives_them_back(
    launch: Launch, sim: Simulator, tmp_path: Path
):
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store").start()
    gateway = launch(redis=store.url, accounts=accounts_of(sim, 1), workers=2)
    kept, gone = create(gateway, "leo"), create(gateway, "leo")
    revoke(gateway, gone)
    file = gateway.folder / "data/keys.json"
    await eventually(lambda: file.exists() and b'"revoked_at":0' in file.read_bytes(), "the snapshot")
    assert file.stat().st_mode & 0o777 == 0o600
    assert kept["key"] not in file.read_text() and hashlib.sha256(kept["key"].encode()).hexdigest() in file.read_text()
    gateway.stop()
    store.end(signal.SIGKILL)
    for left in (tmp_path / "store").rglob("*.aof*"):
        left.unlink()

    gateway.start()
    assert await opens(gateway, kept["key"]) and not await opens(gateway, gone["key"])
    status, answer = admin(gateway, "POST", "keys", {"caller": "leo"})
    assert (status, answer["error"]["type"]) == (503, "api_error")
    assert admin(gateway, "DELETE", f"keys/{kept['id']}")[0] == 503
    store.start()  # empty
    await eventually(lambda: admin(gateway, "POST", "keys", {"caller": "leo"})[0] == 201, "the store")
    with store.client() as client:
        assert client.hlen("{pool}:keys") == 3
        client.flushall()
        await eventually(lambda: client.hlen("{pool}:keys") == 3, "what was flushed")
    await eventually_opens(gateway, kept["key"])
    await all_closed(gateway, gone["key"])  # one worker may learn later than another that the store is back
    gateway.stop()
    store.end()


def test_keys_are_made_and_revoked_from_the_command_line(pair: list[Gateway], sim: Simulator):
    def command(*words: str) -> tuple[int, str, str]:
        file = str(pair[0].folder / "gateway.yaml")
        done = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9"}).invoke(app, ["keys", *words, "--config", file])
        return done.exit_code, done.stdout, done.stderr

    def status(key: str) -> int:
        return asyncio.run(ask(pair[0], message(), conversation(), key=key)).status

    code, out, err = command("create", "mallory", "--team", "red", "--expires", "30d")
    key = out.strip()
    assert code == 0 and re.fullmatch("sk-[A-Za-z0-9]{48}", key) and key not in err
    assert status(key) == 200
    code, out, _ = command("rotate", "mallory", "--overlap", "0s")
    assert (code, status(key), status(out.strip())) == (0, 401, 200)
    listed = json.loads(command("list", "--json")[1])
    (live,) = [
        key["id"] for each in listed if each["caller"] == "mallory" for key in each["keys"] if key["state"] == "active"
    ]
    assert command("revoke", live)[0] == 0
    assert status(out.strip()) == 401
    code, shown, _ = command("list")
    assert code == 0 and live in shown and out.strip() not in shown


def test_what_no_gateway_answers_is_said(tmp_path: Path):
    file = tmp_path / "gateway.yaml"
    said = {
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN}, "secret": "s" * 32,
        "accounts": [{"id": "a", "api_key": "sk-x"}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(said))
    done = CliRunner().invoke(app, ["keys", "create", "bob", "--config", str(file)])
    assert (done.exit_code, done.stdout) == (1, "") and "is it running" in done.stderr


def test_no_key_is_in_a_log_or_in_the_store(pair: list[Gateway], store: Store):
    made = create(pair[0], "nina")
    until(lambda: any(made["id"] in line.get("key", "") for line in pair[0].lines()), "the line")
    for gateway in pair:
        assert made["key"] not in gateway.text() and made["key"][3:25] not in gateway.text()
    with redis.Redis.from_url(f"{store.url}/7", decode_responses=True) as client:
        everything = json.dumps([client.hgetall("{pool}:keys"), client.hgetall("{pool}:callers")])
    assert made["id"] in everything and made["key"][3:25] not in everything


def test_teams_without_limits_are_named_at_the_start_and_refused_where_they_are_an_error(
    launch: Launch, store: Store, sim: Simulator
):
    config = {"redis": f"{store.url}/14", "accounts": accounts_of(sim, 1), "teams": [{"id": "research"}]}
    keys = [{"id": "alice", "key": ALICE, "team": "reserch"}]
    gateway = launch(keys=keys, **config)
    made = create(gateway, "made", team="researhc")
    assert 'did you mean "research"?' in made["warnings"][0]
    gateway.stop()
    gateway.start()
    said = [line["event"] for line in gateway.lines() if "not defined under teams" in line["event"]]
    assert sum('"reserch"' in each for each in said) == 2  # at both starts
    assert sum('"researhc"' in each for each in said) == 1
    gateway.stop()
    gateway.config["teams_strict"] = True
    gateway.launch()
    until(lambda: not gateway.alive(), "its refusal to start")
    assert 'keys[0].team: team "reserch" is not defined' in gateway.err.read_text()
    gateway.err.write_text("")
    gateway.config["keys"][0]["team"] = "research"
    gateway.start()
    assert asyncio.run(ask(gateway, message(), key=ALICE)).status == 200
    answer = asyncio.run(ask(gateway, message(), key=made["key"]))
    assert "is not defined at this gateway" in assert_error(answer, 403, "permission_error")
    assert admin(gateway, "POST", "keys", {"caller": "another", "team": "researhc"})[0] == 400
