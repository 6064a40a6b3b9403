"""`gateway doctor`, on a real store, a simulated upstream and a gateway that runs."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
import redis
import yaml

from gateway.commands.checkup import accounts, machine, running
from gateway.commands.checkup.accounts import Answer
from gateway.commands.checkup.causes import once
from gateway.commands.checkup.finding import Finding, Level, caused, failed, ok, warning
from gateway.commands.checkup.store import clock, size
from gateway.config.file import loads
from gateway.config.schema import Account
from gateway.core.routing.outcomes import Outcome
from gateway.data import load_catalogue
from gateway.records import Usage
from tests.commands.conftest import Run
from tests.e2e.cloud_accounts import bedrock, foundry, vertex
from tests.e2e.rig import ADMIN_TOKEN, ALICE, SECRET, Gateway, Simulator, Store, accounts_of, free_port, message, until
from tests.minting import key_set, rsa

HAIKU = "claude-haiku-4-5"
Findings = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def plan(simulator: Simulator, store: Store, tmp_path: Path) -> dict[str, Any]:
    """A configuration that is in order, to be spoiled; nothing runs with it."""
    return {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN},
        "redis": f"{store.url}/2",
        "data_dir": str(tmp_path / "data"),
        "secret": SECRET,
        "accounts": accounts_of(simulator),
        "keys": [{"id": "alice", "key": ALICE}],
        "limits": {"max_connections": 100},
    }


@pytest.fixture
def examine(run: Run, tmp_path: Path, plan: dict[str, Any]):
    """Runs `doctor --json` on the plan; gives its exit code and its findings by what they are about and check."""

    def examine(*words: object, **changes: Any) -> tuple[int, Findings]:
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump({**plan, **changes}))
        path.chmod(0o600)
        code, out, err = run("doctor", "--json", "--config", path, *words)
        assert err == ""
        said = json.loads(out)
        assert said["ok"] == (code == 0) == (said["counts"]["failed"] == 0)
        assert sum(said["counts"].values()) == len(said["findings"])
        for each in said["findings"]:
            assert each["message"] and (each["level"] == "ok") == (each["advice"] is None), each
        return code, {(each["about"], each["check"]): each for each in said["findings"]}

    return examine


def bad(findings: Findings) -> dict[tuple[str, str], str]:
    return {name: each["level"] for name, each in findings.items() if each["level"] != "ok"}


def test_all_is_well_where_all_is_well(examine: Any):
    code, found = examine()
    assert (code, bad(found)) == (0, {})
    names = {about for about, _ in found}
    assert {"configuration", "machine", "data_dir", "ports", "store", "account sim-account-1"} <= names
    assert {check for about, check in found if about == "store"} >= {
        "version", "maxmemory-policy", "persistence", "memory", "scripts", "latency", "clock",
    }  # fmt: skip


def test_a_gateway_that_runs_is_recognised_by_its_ports(run: Run, gateway: Gateway, file: Path):
    code, out, _ = run("doctor", "--config", file)
    assert code == 0
    assert f"ok       ports: admin.listen: 127.0.0.1:{gateway.admin_port}: a gateway answers" in out
    assert "ok       gateway: version: " in out and "ok       gateway: ready: 1 workers" in out


def test_a_port_that_something_else_uses_is_a_failure(examine: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "SECONDS", 0.2)  # it never answers
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, found = examine("--offline", listen=f"127.0.0.1:{other.getsockname()[1]}")
    assert (code, bad(found)) == (1, {("ports", "listen"): "failed"})
    assert "stop what uses it" in found["ports", "listen"]["advice"]


@pytest.fixture
def settings(store: Store) -> Iterator[redis.Redis]:
    """The store, to be set wrongly; afterwards it is as before."""
    with store.client() as client:
        before = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "appendonly")}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def test_a_store_that_forgets_is_a_failure(examine: Any, settings: redis.Redis):
    settings.config_set("maxmemory-policy", "allkeys-lru")
    settings.config_set("appendonly", "no")
    code, found = examine()
    assert code == 1
    assert bad(found) == {("store", "maxmemory-policy"): "failed", ("store", "persistence"): "warning"}
    assert "noeviction" in found["store", "maxmemory-policy"]["advice"]


def test_a_store_that_is_nearly_full_is_told_before_it_is(examine: Any, settings: redis.Redis):
    used = settings.info("memory")["used_memory"]
    settings.config_set("maxmemory", int(used * 1.1))
    code, found = examine()
    assert (code, found["store", "memory"]["level"]) == (0, "warning")


def test_a_store_that_is_away_or_wants_another_password_is_a_failure(examine: Any, store: Store):
    code, found = examine(redis=f"redis://:a-password-of-mine@127.0.0.1:{free_port()}")
    assert (code, found["store", "reachable"]["level"]) == (1, "failed")
    code, found = examine(redis=f"redis://nobody:a-password-of-mine@127.0.0.1:{store.port}")
    assert (code, found["store", "reachable"]["level"]) == (1, "failed")
    assert "password" in found["store", "reachable"]["advice"]
    assert "a-password-of-mine" not in json.dumps(list(found.values()))


def test_without_redis_the_server_is_looked_for_that_will_start(examine: Any):
    code, found = examine(redis="")
    assert (code, bad(found)) == (0, {})
    assert "will start with the gateway" in found["store", "embedded"]["message"]


def test_accounts_that_do_not_work_say_what_to_do(examine: Any, plan: dict[str, Any], simulator: Simulator):
    one, two, three = plan["accounts"]
    two["api_key"] = "sk-of-nobody-at-all"
    gone = {**three, "id": "gone", "base_url": f"http://127.0.0.1:{free_port()}"}
    picky = {**three, "models": ["claude-none-9"]}
    behind = {**one, "id": "behind", "proxy": f"http://user:proxy-password@127.0.0.1:{free_port()}"}
    code, found = examine(accounts=[one, two, picky, gone, behind])
    assert code == 1
    assert bad(found) == {
        ("account sim-account-2", "credential"): "failed",
        ("account sim-account-3", "models"): "failed",
        ("account gone", "reachable"): "failed",
        ("account behind", "reachable"): "failed",
        ("configuration", "warning"): "warning",  # two have one key
    }
    assert "api_key" in found["account sim-account-2", "credential"]["advice"]
    assert "proxy" in found["account behind", "reachable"]["advice"]
    said = json.dumps(list(found.values()))
    for secret in ("sk-of-nobody", "proxy-password", one["api_key"], SECRET, ADMIN_TOKEN, ALICE):
        assert secret not in said


@pytest.mark.parametrize("fault", ["low_credit", "billing_error", "usage_limit", "enforced_spend_limit_reached"])
def test_an_account_whose_organization_has_no_money_has_a_key_that_works(
    examine: Any, simulator: Simulator, fault: str
):
    simulator.fault(fault, account="sim-account-2", path="/v1/models")
    try:
        code, found = examine()
    finally:
        simulator.clear()
    assert (code, bad(found)) == (1, {("account sim-account-2", "credit"): "failed"})
    assert found["account sim-account-2", "credential"]["message"] == "accepted"
    assert "add credit" in found["account sim-account-2", "credit"]["advice"]


def test_what_the_running_gateway_holds_out_is_told_though_its_key_is_accepted(
    run: Run, gateway: Gateway, file: Path, simulator: Simulator
):
    account = gateway.config["accounts"][0]["id"]
    simulator.fault("low_credit", account=account, path="/v1/messages")

    def told() -> list[dict[str, Any]]:
        body = json.dumps(message(f"Hello {time()}")).encode()
        gateway.get("/v1/messages", headers={"x-api-key": ALICE}, method="POST", body=body)
        code, out, _ = run("doctor", "--json", "--config", file)
        found = [each for each in json.loads(out)["findings"] if each["about"] == f"account {account}"]
        return found if code == 0 and any(each["check"] == "health" for each in found) else []

    try:
        found = {each["check"]: each for each in until(told, "the account that is out")}
    finally:
        simulator.clear()
        assert run("accounts", "enable", account, "--config", file)[0] == 0
    assert (found["credential"]["level"], found["health"]["level"]) == ("ok", "warning")
    assert "holds it out (billing) since 20" in found["health"]["message"]
    assert "out of credit" in found["health"]["advice"]


def test_an_account_that_the_running_gateway_holds_failing_is_named_with_what_happened():
    why = "It fails where other accounts do not: answers broken off in the middle in 3 conversations. Judged by here.1."
    health = {"state": "failing", "reason": "cuts", "since": "2026-11-22T07:00:00Z", "why": why}
    [found] = running._health({"id": "team-a", "health": {**health, "until": "2026-11-22T07:00:10Z"}})
    assert (found.level, found.about, found.advice) == (Level.warning, "account team-a", why)
    assert found.message == (
        "the running gateway holds it failing (cuts) since 2026-11-22T07:00:00Z, until 2026-11-22T07:00:10Z at least"
    )
    [later] = running._health({"id": "team-b", "health": {**health, "until": None}})
    assert later.message.endswith("since 2026-11-22T07:00:00Z") and later.cause == found.cause
    assert list(running._health({"id": "team-c", "health": {**health, "state": "available"}})) == []


def test_each_cause_is_told_once(examine: Any, plan: dict[str, Any]):
    one, two, three = plan["accounts"]
    nowhere = f"http://127.0.0.1:{free_port()}"
    away = [{**one, "id": f"away-{number}", "api_key": f"sk-{number}", "base_url": nowhere} for number in range(7)]
    mistyped = {**two, "models": ["claude-haiku-*", "claude-opsu-*"]}
    doubled = {**three, "base_url": f"{three['base_url']}/v1"}
    code, found = examine(accounts=[one, *away, mistyped, doubled])
    assert code == 1
    assert bad(found) == {
        ("accounts away-0, away-1, away-2, away-3, away-4 and 2 more", "reachable"): "failed",
        ("account sim-account-2", "models"): "warning",
        ("account sim-account-3", "base_url"): "failed",
    }
    assert found["account sim-account-3", "base_url"]["advice"] == "leave /v1 out"


def test_a_key_that_two_accounts_have_is_one_mistake(examine: Any, plan: dict[str, Any]):
    one = plan["accounts"][0]
    copied = {**one, "id": "copied", "organization": "another", "workspace": "another"}
    code, found = examine(accounts=[one, copied])
    assert (code, bad(found)) == (0, {("configuration", "warning"): "warning"})
    assert "the same api_key" in found["configuration", "warning"]["message"]


def test_a_workspace_that_the_file_has_twice_is_told_with_its_organization():
    a, b = (Account(id=name, api_key=f"sk-{name}") for name in "ab")
    seen = Answer(200, models=(), identity={"organization": "org-1", "workspace": "wrkspc-1"})
    [found] = accounts.identities([(a, seen), (b, seen)])
    assert (found.about, found.check) == ("organization and workspace", "a and b")
    assert [each.level for each in accounts.identities([(a, seen)])] == [Level.ok, Level.ok]


def test_what_the_running_gateway_says_of_what_was_seen_is_an_echo():
    seen = [
        failed("account a", "credential", "refused (401)", "give a key"),
        failed("store", "reachable", "no", "mend"),
    ]
    health = warning("account a", "health", "the running gateway holds it out (credential) since 20", "Give it a key.")
    lost = failed("gateway", "store", "it has lost its store", "bring it back")
    assert once([health, lost, *seen]) == seen
    assert once([health, lost]) == [health, lost]


def test_accounts_and_nodes_of_which_the_same_is_to_say_are_named_together():
    out = [
        caused("out billing", warning(f"account {name}", "health", f"out since {name}", "Settle that."))
        for name in "abc"
    ]
    nodes = [caused("policy: lru", failed("store", f"policy node:{number}", "lru", "set it")) for number in (1, 2)]
    fine = [ok("account a", "credential", "accepted"), ok("account b", "credential", "accepted")]
    found = once([*fine, *out, *nodes])
    assert [(each.about, each.check) for each in found] == [
        ("account a", "credential"), ("account b", "credential"), ("accounts a, b, c", "health"),
        ("store", "policy node:1, node:2"),
    ]  # fmt: skip
    assert found[2].message == "out since a"


def test_an_organization_that_the_file_has_otherwise_is_a_failure(examine: Any, plan: dict[str, Any]):
    plan["accounts"][1]["organization"] = plan["accounts"][0]["organization"]
    code, found = examine()
    assert code == 1
    assert bad(found) == {("organization", "sim-account-1 and sim-account-2"): "failed"}


def test_offline_nobody_is_asked(examine: Any, simulator: Simulator):
    since = simulator.mark()
    code, found = examine("--offline", redis=f"redis://127.0.0.1:{free_port()}")
    assert code == 0
    assert not [about for about, _ in found if about == "store" or about.startswith("account")]
    assert simulator.records(since) == []


def test_a_file_that_cannot_be_used_is_no_diagnosis(run: Run, tmp_path: Path):
    (tmp_path / "gateway.yaml").write_text("accounts: []\n")
    code, out, err = run("doctor", "--config", tmp_path / "gateway.yaml")
    assert (code, out) == (2, "") and "needs at least 1 item" in err


def test_keys_in_a_file_that_everybody_can_read_are_a_warning(run: Run, tmp_path: Path, plan: dict[str, Any]):
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(plan))
    path.chmod(0o644)
    code, out, _ = run("doctor", "--offline", "--config", path)
    assert (
        code == 0
        and f"warning  configuration: rights: everybody here can read it, and it holds keys: chmod 600 {path}" in out
    )


def test_each_finding_is_one_line_where_there_is_no_terminal(run: Run, file: Path):
    _, out, _ = run("doctor", "--offline", "--config", file)
    assert all(line.startswith(("ok       ", "warning  ", "failed   ")) for line in out.splitlines())
    assert "\x1b" not in out


# Parts, without a network.


@pytest.mark.parametrize(
    ("answer", "level", "word"),
    [
        (Answer(401), Level.failed, "api_key"),
        (Answer(403), Level.failed, "Messages API"),
        (Answer(404), Level.failed, "base_url"),
        (Answer(418), Level.failed, "base_url"),
        (Answer(400), Level.failed, "base_url"),
        (Answer(400, spent=True), Level.failed, "add credit"),
        (Answer(402, spent=True), Level.failed, "add credit"),
        (Answer(429, spent=True), Level.failed, "raise the limit"),
        (Answer(429), Level.warning, "later"),
        (Answer(529), Level.warning, "later"),
        (Answer(200, models=None), Level.failed, "base_url"),
        (Answer(0, "certificate verify failed"), Level.failed, "ca_file"),
        (Answer(200, models=("claude-opus-5",)), Level.failed, "correct models"),
    ],
)
def test_what_an_account_answers_means(answer: Answer, level: Level, word: str):
    account = Account(id="a", api_key="sk-1", models=("claude-haiku-4-5",))
    worst = next(each for each in accounts.judge(account, answer, load_catalogue()) if each.level is not Level.ok)
    assert worst.level is level and word in worst.advice


def test_a_pattern_fits_a_model_by_its_short_name_too():
    account = Account(id="a", api_key="sk-1", models=("claude-haiku-4-5", "claude-none-*"))
    found = list(accounts.judge(account, Answer(200, models=("claude-haiku-4-5-20251001",)), load_catalogue()))
    assert [each.level for each in found] == [Level.ok, Level.warning]
    assert "claude-none-*" in found[1].message and "haiku" not in found[1].message


def test_a_model_counts_as_served_by_any_of_its_names():
    account = Account(id="a", api_key="sk-1", models=("claude-haiku-4-5",))
    there = ("claude-haiku-4-5-20251001", "claude-opus-5")
    found = list(accounts.judge(account, Answer(200, models=there), load_catalogue()))
    assert [each.message for each in found if each.check == "models"] == ["serves 1 of 2"]


def test_clocks_that_differ_are_told_by_how_much():
    assert clock("store", 0.05).level is Level.ok
    assert clock("account a", 2.5, exact=1.0).level is Level.ok
    ahead, behind = clock("store", 5.0), clock("store", -3600.0)
    assert (ahead.level, "5.0 s ahead" in ahead.message) == (Level.warning, True)
    assert (behind.level, "behind" in behind.message) == (Level.failed, True)


def directory(path: Path) -> dict[str, Finding]:
    return {each.check: each for each in machine.check_data_dir(path)}


def test_a_data_dir_is_found_as_it_is(tmp_path: Path):
    assert directory(tmp_path / "new" / "data")["writable"].message.endswith("(to be made)")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    assert directory(tmp_path / "file")["writable"].level is Level.failed
    assert "lock" not in directory(tmp_path)


def test_a_lock_is_left_over_held_or_held_by_nobody_known(tmp_path: Path):
    lock = tmp_path / "store.lock"
    lock.write_text("999999999\n")
    assert directory(tmp_path)["lock"].message == "free"
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert directory(tmp_path)["lock"].level is Level.warning
        lock.write_text(f"{os.getpid()}\n")
        assert directory(tmp_path)["lock"].message == f"held by process {os.getpid()}"


def test_what_would_be_taken_for_a_module_of_ours_in_the_working_directory_is_a_warning(tmp_path: Path):
    (tmp_path / "gateway").mkdir()  # no package: Python passes it over
    (tmp_path / "notes.py").touch()
    assert list(machine.working_directory(tmp_path)) == []
    assert list(machine.working_directory(Path(machine.__file__).parents[3])) == []  # the checkout itself
    (tmp_path / "gateway" / "__init__.py").touch()
    (tmp_path / "yaml.py").touch()
    [found] = machine.working_directory(tmp_path)
    assert found.level is Level.warning and "gateway, yaml.py in" in found.message
    (tmp_path / "gateway.py").touch()
    (tmp_path / "gateway" / "__init__.py").unlink()
    [found] = machine.working_directory(tmp_path)
    assert "gateway.py, yaml.py in" in found.message


def test_a_module_that_hides_the_gateway_is_told(examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "gateway.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    code, found = examine("--offline")
    assert (code, bad(found)) == (0, {("machine", "working directory"): "warning"})


def test_too_few_open_files_are_a_warning(examine: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    code, found = examine("--offline", limits={"max_connections": 10_000})
    assert (code, found["machine", "open files"]["level"]) == (0, "warning")
    assert "4,096" in found["machine", "open files"]["advice"]


def test_sizes_are_for_people():
    assert [size(count) for count in (0, 999, 1000, 1_500_000, 2e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 TB",
    ]


def test_a_gateway_that_could_not_use_its_file_is_told(run: Run, gateway: Gateway, tmp_path: Path):
    file = gateway.folder / "gateway.yaml"
    good = file.read_text()
    other = tmp_path / "gateway.yaml"
    other.write_text(good)
    try:
        file.write_text("accounts: []\n")
        until(lambda: gateway.metrics().total("gateway_config_last_reload_successful") == 0)
        code, out, _ = run("doctor", "--offline", "--config", other)
        assert code == 1 and "failed   gateway: file:" in out
    finally:
        file.write_text(good)
        until(lambda: gateway.metrics().total("gateway_config_last_reload_successful") == 1)


@pytest.mark.parametrize(
    ("answer", "level", "word"),
    [
        (Answer(problem="botocore finds no keys", lacking=True), Level.failed, "botocore finds no keys"),
        (Answer(0, "cannot be reached"), Level.failed, "network"),
        (Answer(404, cloud=True), Level.ok, "somebody answers"),
        (Answer(200, cloud=True, counted=HAIKU, outcome=Outcome.SERVED), Level.ok, "counts tokens"),
        (
            Answer(403, cloud=True, counted=HAIKU, outcome=Outcome.UNAUTHORIZED),
            Level.failed,
            "its region",
        ),
        (Answer(403, cloud=True, counted=HAIKU, outcome=Outcome.DENIED), Level.warning, "permission"),
        (Answer(429, cloud=True, counted=HAIKU, outcome=Outcome.LIMITED), Level.warning, "later"),
        (Answer(503, cloud=True, counted=HAIKU, outcome=Outcome.OVERLOADED), Level.warning, "later"),
        (Answer(400, cloud=True, counted=HAIKU, outcome=Outcome.DECLINED), Level.warning, "model_names"),
        (Answer(200, cloud=True, asked=HAIKU, usd=1e-6, outcome=Outcome.SERVED), Level.ok, "cost $0.0000010"),
        (Answer(403, cloud=True, asked=HAIKU, outcome=Outcome.DENIED), Level.failed, "may not use"),
        (Answer(400, cloud=True, asked=HAIKU, outcome=Outcome.DECLINED), Level.warning, "cannot serve"),
    ],
)
def test_what_an_account_on_a_cloud_answers_means(answer: Answer, level: Level, word: str):
    account = Account(id="a", provider="bedrock", region="us-east-1", api_key="sk-1")
    (found,) = accounts.judge(account, answer, load_catalogue())
    assert found.level is level
    assert word in f"{found.message} {found.advice}"


async def test_an_account_on_a_cloud_is_asked_to_count_tokens_which_is_free():
    """A cloud of a few lines: it takes one token, and counts."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0])
        good = b"authorization: Bearer good" in head
        body = b'{"input_tokens":3}' if good else b'{"error":{"code":401,"status":"UNAUTHENTICATED","message":"no"}}'
        status = b"200 OK" if good else b"401 No"
        writer.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    rows = [
        {
            "id": name,
            "provider": "vertex",
            "project": "my-project",
            "region": "eu",
            "base_url": url,
            "api_key": name,
        }
        for name in ("good", "bad")
    ]
    settings = {"admin": {"token": "token-of-the-operator-of-tests"}, "secret": "0" * 40, "keys": [], "accounts": rows}
    async with server:
        found = await accounts.check_accounts(loads(json.dumps(settings), {}))
    assert [(each.about, each.level) for each in found if each.check == "credential"] == [
        ("account good", Level.ok), ("account bad", Level.failed)
    ]  # fmt: skip
    path = b"/v1/projects/my-project/locations/eu/publishers/anthropic/models/count-tokens:rawPredict"
    assert asked == [b"POST %b HTTP/1.1" % path] * 2


@pytest.fixture
def sky(tmp_path: Path) -> Iterator[Simulator]:
    """An account at each cloud."""
    simulator = Simulator(tmp_path, 1, "--clouds", "1")
    yield simulator
    assert simulator.end() == 0


def inferences(sky: Simulator, since: int) -> list[dict[str, Any]]:
    return [each for each in sky.records(since, bodies=True) if each["usage"] is not None]


def test_a_token_is_paid_for_only_where_it_is_wished_and_nothing_free_shows_as_much(examine: Any, sky: Simulator):
    uncounted = bedrock(sky, id="uncounted", models=["claude-opus-4-7"])
    rows = [uncounted, bedrock(sky), vertex(sky), foundry(sky), *accounts_of(sky, 1)]
    since = sky.mark()
    code, found = examine(accounts=rows)
    assert (code, bad(found), inferences(sky, since)) == (0, {}, [])
    assert "--paid" in found["account uncounted", "reachable"]["message"]
    code, found = examine("--paid", accounts=rows)
    assert (code, bad(found)) == (0, {})
    (paid,) = inferences(sky, since)
    assert paid["model"].startswith("claude-opus-4-7") and json.loads(paid["body"])["max_tokens"] == 1
    usage = Usage(input=paid["usage"]["input_tokens"], output=1)
    usd = load_catalogue().bill("claude-opus-4-7", usage).times(1.1).cost / 1e9
    said = found["account uncounted", "credential"]["message"]
    assert usd > 0 and said == f"accepted; claude-opus-4-7 answers (that cost ${usd:.7f})"


def test_a_credential_that_nothing_free_would_prove_is_found_wrong_for_nothing(examine: Any, sky: Simulator):
    wrong = bedrock(sky, models=["claude-opus-4-7"])
    wrong["aws"]["secret_access_key"] = "another-one-entirely"
    since = sky.mark()
    code, found = examine("--paid", accounts=[wrong])
    assert (code, found["account bedrock", "credential"]["level"]) == (1, "failed")
    assert inferences(sky, since) == []


def test_to_ask_accounts_and_nobody_is_wrong_use(run: Run, file: Path):
    code, out, err = run("doctor", "--paid", "--offline", "--config", file)
    assert (code, out) == (2, "") and "choose one" in err


# -- Issuers ----------------------------------------------------------------------------------------------------------


def test_the_keys_of_issuers_are_fetched(examine, tmp_path: Path):
    (tmp_path / "keys.json").write_bytes(key_set(rsa()))
    (tmp_path / "none.json").write_text("{}")
    entry = {"audiences": ["gateway"], "require": {"sub": "a"}}
    good = {**entry, "id": "good", "issuer": "https://a.example", "jwks_file": str(tmp_path / "keys.json")}
    other = {**good, "id": "other", "algorithms": ["RS256", "ES256"]}
    broken = {**good, "id": "broken", "jwks_file": str(tmp_path / "none.json")}
    proxy = "http://me:hidden-word@127.0.0.1:1"
    away = {**entry, "id": "away", "issuer": "https://b.example", "jwks_uri": "https://b.example/jwks", "proxy": proxy}
    code, found = examine(issuers=[good, other, broken, away])
    assert code == 1
    assert {name: found[f"issuer {name}", "keys"]["level"] for name in ("good", "other", "broken", "away")} == {
        "good": "ok", "other": "warning", "broken": "failed", "away": "failed",
    }  # fmt: skip
    said = {name: found[f"issuer {name}", "keys"]["message"] for name in ("good", "other", "broken", "away")}
    assert said["good"] == f"{tmp_path / 'keys.json'} has 1 key"
    assert said["other"] == f"{tmp_path / 'keys.json'} has no key for ES256"
    assert said["broken"].startswith(f"{tmp_path / 'none.json'}: ")
    assert said["away"].startswith("https://b.example/jwks: ")
    assert "hidden-word" not in str(found)
