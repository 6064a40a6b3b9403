"""What operators are told of a conversation and can make the gateways forget: over the API and the command line."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.rig import (
    ADMIN_TOKEN,
    ALICE,
    ALICE_TOO,
    BOB,
    KEYS,
    MODEL,
    SECRET,
    Answer,
    Gateway,
    Simulator,
    Store,
    accounts_of,
    ask,
    assert_error,
    blunt,
    message,
    parsed,
    until,
)

OTHER = "claude-opus-4-6"
AUTHORIZED = {"authorization": f"Bearer {ADMIN_TOKEN}"}
said: list[str] = []  # the ids that these tests have used: no log may hold one


@pytest.fixture(scope="module")
def gateways(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateways on one store, of two workers and of one."""
    config = {"redis": f"{store.url}/6", "accounts": accounts_of(simulator, 4), "log": {"level": "debug"}}
    started = [
        Gateway(tmp_path_factory.mktemp(f"conversations{workers}"), {**config, "workers": workers}).launch()
        for workers in (2, 1)
    ]
    for gateway in started:
        gateway.ready()
    yield started
    for gateway in started:
        gateway.stop()


@pytest.fixture
def pair(gateways: list[Gateway], sim: Simulator) -> list[Gateway]:
    for gateway in gateways:
        gateway.mend()
    return gateways


@pytest.fixture
def gateway(pair: list[Gateway]) -> Gateway:
    return pair[0]


def new_id(text: str = "") -> str:
    said.append(f"raw-id-{uuid.uuid4().hex}{text}")
    return said[-1]


def header(name: str) -> dict[str, str]:
    return {"X-Conversation-Id": name}


def admin(gateway: Gateway, method: str, path: str) -> Answer:
    return gateway.get(f"/admin/v1/{path}", admin=True, headers=AUTHORIZED, method=method)


def resource(name: str, key_id: str = "alice") -> str:
    return f"conversations/{key_id}/{quote(name, safe='')}"


def show(gateway: Gateway, name: str, key_id: str = "alice", query: str = "") -> dict[str, Any]:
    answer = admin(gateway, "GET", resource(name, key_id) + query)
    assert answer.status == 200, answer.body
    assert name not in answer.body.decode()
    found: dict[str, Any] = answer.json()
    return found


def binding(gateway: Gateway, name: str) -> dict[str, Any]:
    [found] = show(gateway, name)["bindings"]
    return dict(found)


def settled(gateway: Gateway, name: str) -> dict[str, Any]:
    """Its binding, once its last answer is noted."""
    until(lambda: binding(gateway, name)["tokens"] > 0, "the settlement")
    return binding(gateway, name)


def workspace_of(sim: Simulator, account: str) -> str:
    return next(each["workspace"] for each in sim.accounts if each["id"] == account)


def on(account: str, status: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "status", "value": status, "account": account, **fields}


# -- Show -------------------------------------------------------------------------------------------------------------


async def test_a_new_conversation_is_shown_where_it_was_placed(gateway: Gateway, sim: Simulator):
    name = new_id()
    answer = await ask(gateway, message(), header(name))
    assert answer.route == "new"
    found = settled(gateway, name)
    shown = show(gateway, name)
    assert (shown["caller"], shown["team"], shown["kind"]) == ("alice", "research", "header")
    assert shown["conversation"] == gateway.record(answer.request_id)["conversation"]
    assert (found["model"], found["account"], found["closed"]) == (MODEL, answer.account, None)
    assert found["workspace"] == workspace_of(sim, answer.account)
    assert found["home"] == shown["home"]["workspace"]
    at_home = found["why"].startswith("at its home")
    assert at_home == (found["workspace"] == found["home"]) and (at_home or "not at its home" in found["why"])
    assert (found["generation"], found["moves"], found["previous"], found["last_detour"]) == (1, [], None, None)
    assert (found["warm"], found["account_bound"]) == (True, False)
    warm, forgotten = (datetime.fromisoformat(found[name]) for name in ("warm_until", "record_expires"))
    now = datetime.now(UTC)
    assert 240 < (warm - now).total_seconds() < 310
    assert 86_000 < (forgotten - now).total_seconds() < 86_500


async def test_both_gateways_and_both_keys_of_a_caller_see_one_conversation(pair: list[Gateway], sim: Simulator):
    name = new_id()
    first = await ask(pair[0], message(), header(name))
    second = await ask(pair[1], message(), header(name), key=ALICE_TOO)
    assert (second.route, second.account) == ("bound", first.account)
    for gateway in pair:
        assert settled(gateway, name)["account"] == first.account
        assert_error(admin(gateway, "GET", resource(name, "carol")), 404, "not_found_error")


async def test_a_moved_conversation_says_when_and_why(gateway: Gateway, sim: Simulator):
    name = new_id()
    home = (await ask(gateway, message(), header(name))).account
    before = settled(gateway, name)
    moved = await ask(gateway, message(), header(name), fault=on(home, 429, retry_after=30))
    assert moved.route == "moved"
    found = settled(gateway, name)
    assert (found["workspace"], found["account"]) == (workspace_of(sim, moved.account), moved.account)
    assert found["why"].startswith(f"moved from {before['workspace']} ")
    assert f" ago because {before['workspace']} was at its rate limit" in found["why"]
    assert found["generation"] == 2 and found["home"] == before["home"]
    assert found["previous"]["workspace"] == before["workspace"]
    [move] = found["moves"]
    assert (move["from"], move["to"], move["reason"]) == (before["workspace"], found["workspace"], "limited")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(move["at"])).total_seconds()) < 60


async def test_a_detour_is_shown_and_the_binding_stays(gateway: Gateway, sim: Simulator):
    name = new_id()
    home = (await ask(gateway, message(), header(name))).account
    before = settled(gateway, name)
    away = await ask(gateway, message(), header(name), fault=on(home, 500))
    assert away.route == "detour"
    until(lambda: binding(gateway, name)["last_detour"], "the settlement")
    found = binding(gateway, name)
    assert found["last_detour"]["workspace"] == workspace_of(sim, away.account)
    assert found["last_detour"]["warm_until"] > before["warm_until"]
    for same in ("workspace", "account", "generation", "why", "moves", "previous"):
        assert found[same] == before[same]


async def test_each_model_has_its_binding(gateway: Gateway, sim: Simulator):
    name = new_id()
    accounts = {}
    for model in (MODEL, OTHER):
        accounts[model] = (await ask(gateway, message(model=model), header(name))).account
    bindings = show(gateway, name)["bindings"]
    assert {each["model"]: each["account"] for each in bindings} == accounts


async def test_an_account_that_is_closed_is_shown_as_closed(gateway: Gateway, sim: Simulator):
    name = new_id()
    account = (await ask(gateway, message(), header(name))).account
    settled(gateway, name)
    where, headers = f"/admin/v1/accounts/{account}", AUTHORIZED
    for state, closed in (("disabled", "disabled"), ("draining", None), ("active", None)):
        body = json.dumps({"state": state}).encode()
        assert gateway.get(where, admin=True, headers=headers, method="PATCH", body=body).status == 200
        found = binding(gateway, name)
        assert (found["account"], found["closed"]) == (None if closed else account, closed)


@pytest.mark.parametrize("text", ["/a/../b", "//", " with spaces ", "?q=1&r#f", "%41", ".", "ü ß 日本 🙂", "!*'();:@"])
async def test_any_id_can_be_looked_up_and_flushed(text: str, gateway: Gateway):
    name = new_id(text)
    data = json.dumps(message()).encode()
    head = f"host: gateway.test\r\nconnection: close\r\nx-api-key: {ALICE}\r\ncontent-length: {len(data)}\r\n"
    head = f"POST /v1/messages HTTP/1.1\r\n{head}X-Conversation-Id: {name}\r\n\r\n"
    answer = parsed(blunt(gateway.port, head.encode() + data))
    assert (answer.status, answer.route) == (200, "new")
    assert settled(gateway, name)["account"] == answer.account
    assert admin(gateway, "DELETE", resource(name)).json()["flushed"] == 1
    assert_error(admin(gateway, "GET", resource(name)), 404, "not_found_error")


async def test_a_session_of_claude_code_is_found_by_its_id(gateway: Gateway):
    session, agent = new_id(), new_id()
    main = await ask(gateway, message(), {"x-claude-code-session-id": session})
    helper = await ask(gateway, message(), {"x-claude-code-session-id": session, "x-claude-code-agent-id": agent})
    shown = show(gateway, session)
    assert shown["kind"] == "session"
    assert show(gateway, session, query="?kind=session")["conversation"] == shown["conversation"]
    assert shown["conversation"] == gateway.record(main.request_id)["conversation"]
    other = show(gateway, session, query=f"?kind=session&agent={agent}")
    assert other["conversation"] == gateway.record(helper.request_id)["conversation"] != shown["conversation"]
    assert_error(admin(gateway, "GET", resource(session) + "?kind=header"), 404, "not_found_error")


async def test_what_cannot_be_shown_is_an_error_as_all_others(gateway: Gateway):
    name = new_id()
    await ask(gateway, message(), header(name), key=BOB)
    assert show(gateway, name, "bob")["team"] is None
    for path, status, kind in (
        (resource(name), 404, "not_found_error"),
        (resource(name, "nobody"), 404, "not_found_error"),
        ("conversations/alice", 404, "not_found_error"),
        ("conversations/alice/", 404, "not_found_error"),
        ("conversations/alice/a%0Ab", 400, "invalid_request_error"),
        ("conversations/alice/" + "x" * 8193, 400, "invalid_request_error"),
        (resource(name, "bob") + "?kind=prefix", 400, "invalid_request_error"),
    ):
        for method in ("GET", "DELETE"):
            words = assert_error(admin(gateway, method, path), status, kind)
            assert name not in words
    answer = gateway.get(f"/admin/v1/{resource(name, 'bob')}", admin=True)
    assert_error(answer, 401, "authentication_error")


# -- Flush ------------------------------------------------------------------------------------------------------------


async def test_the_next_request_after_a_flush_is_as_if_it_were_the_first(pair: list[Gateway]):
    name = new_id()
    for model in (MODEL, OTHER):
        assert (await ask(pair[0], message(model=model), header(name))).route == "new"
    assert len(until(lambda: _all_settled(pair[0], name), "the settlements")) == 2
    answer = admin(pair[0], "DELETE", resource(name))
    assert answer.status == 200
    flushed = answer.json()
    assert (flushed["flushed"], flushed["caller"], flushed["kind"]) == (2, "alice", "header")
    assert_error(admin(pair[0], "DELETE", resource(name)), 404, "not_found_error")
    for model in (MODEL, OTHER):
        assert (await ask(pair[0], message(model=model), header(name))).route == "new"
        assert (await ask(pair[0], message(model=model), header(name))).route == "bound"


def _all_settled(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    bindings: list[dict[str, Any]] = show(gateway, name)["bindings"]
    return bindings if all(each["tokens"] for each in bindings) else []


async def test_other_gateways_forget_a_flushed_conversation_too(pair: list[Gateway]):
    name = new_id()
    for gateway in pair:
        await ask(gateway, message(), header(name))
    settled(pair[0], name)
    # The broadcast takes its moment to the other gateway, whose own memory would bring the binding back.
    for _ in range(20):
        admin(pair[0], "DELETE", resource(name))
        await asyncio.sleep(0.05)
        if (await ask(pair[1], message(), header(name))).route == "new":
            return
    raise AssertionError("the other gateway remembers it")


async def test_an_accounts_bindings_are_flushed_and_no_other(pair: list[Gateway], sim: Simulator):
    gateway = pair[0]
    names = [new_id() for _ in range(16)]
    homes = {name: (await ask(gateway, message(), header(name))).account for name in names}
    for name in names:
        settled(gateway, name)
    account = homes[names[0]]
    workspace = workspace_of(sim, account)
    answer = admin(gateway, "DELETE", f"accounts/{account}/bindings")
    assert answer.status == 200
    flushed = answer.json()
    assert (flushed["account"], flushed["workspace"]) == (account, workspace)
    assert account in flushed["accounts"]
    there = [name for name in names if workspace_of(sim, homes[name]) == workspace]
    assert flushed["flushed"] >= len(there) >= 1
    for name in names:
        assert (await ask(gateway, message(), header(name))).route == ("new" if name in there else "bound")
    assert_error(admin(gateway, "DELETE", "accounts/nobody/bindings"), 404, "not_found_error")


# -- The command line -------------------------------------------------------------------------------------------------


def command(*words: str | Path) -> tuple[int, str, str]:
    env = {"HTTP_PROXY": "http://127.0.0.1:9", "TERM": "dumb"}
    done = CliRunner(env=env).invoke(app, ["conversations", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


async def test_the_command_explains_a_conversation_in_words(gateway: Gateway, sim: Simulator):
    file, name = gateway.folder / "gateway.yaml", new_id("/ä b")
    sent = header(name)
    home = (await ask(gateway, message(), sent)).account
    settled(gateway, name)
    moved = await ask(gateway, message(), sent, fault=on(home, 429, retry_after=30))
    found = settled(gateway, name)
    code, out, err = command("show", "alice", name, "--config", file)
    assert (code, err) == (0, "")
    assert "of alice (team research), known by its header" in out
    assert f"{MODEL}: bound to workspace {found['workspace']}" in out
    assert f"moved from {workspace_of(sim, home)}" in out and "was at its rate limit" in out
    assert f"served by account {moved.account}" in out and "cache: warm" in out
    assert "limited" in out and name not in out
    code, out, err = command("show", "alice", name, "--kind", "header", "--json", "--config", file)
    assert (code, err, json.loads(out)["bindings"][0]["account"]) == (0, "", moved.account)
    code, out, err = command("flush", "alice", name, "--config", file)
    assert (code, err) == (0, "") and out.startswith("forgotten: 1 binding of conversation ")
    assert (await ask(gateway, message(), sent)).route == "new"
    code, out, err = command("flush", "alice", name, "--json", "--config", file)
    assert (code, err, json.loads(out)["flushed"]) == (0, "", 1)
    code, out, err = command("flush", "--account", home, "--config", file)
    assert (code, err) == (0, "") and f"of workspace {workspace_of(sim, home)}" in out


def test_what_the_command_cannot_do_is_said_in_one_line(gateway: Gateway, tmp_path: Path):
    file, name = gateway.folder / "gateway.yaml", new_id()
    for words, code, part in (
        (["show", "alice", name], 1, "Nothing is remembered"),
        (["show", "nobody", name], 1, "no key of this id"),
        (["show", "alice", ""], 2, "must not be empty"),
        (["show", "alice", "x" * 8193], 2, "at most 8192 bytes"),
        (["show", "alice", name, "--agent", "a"], 2, "agent needs kind=session"),
        (["flush", "alice", name], 1, "Nothing is remembered"),
        (["flush", "--account", "nobody"], 1, "no account of the id nobody"),
        (["flush"], 2, "give KEY_ID and CONVERSATION_ID, or --account"),
        (["flush", "alice"], 2, "give KEY_ID and CONVERSATION_ID, or --account"),
        (["flush", "alice", name, "--account", "a"], 2, "or --account alone"),
    ):
        found, out, err = command(*words, "--config", file)
        assert (found, out) == (code, ""), err
        assert part in err and len(err.splitlines()) == 1 and name not in err
    assert command("show", "alice", name, "--config", tmp_path / "none.yaml")[0] == 2


def test_no_log_holds_an_id_or_a_key(pair: list[Gateway], sim: Simulator):
    """The last of this file: the ids of all tests before it are looked for."""
    secrets = [*said, *KEYS, SECRET, ADMIN_TOKEN, *(account["api_key"] for account in sim.accounts)]
    for gateway in pair:
        text = gateway.text() + gateway.err.read_text()
        assert gateway.lines()
        for secret in secrets:
            for form in (secret, quote(secret, safe=""), quote(secret)):
                assert form not in text
    assert pair[0].line("conversation flushed")
    assert pair[0].line("bindings flushed")
