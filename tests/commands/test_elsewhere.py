"""Commands for a gateway whose file is not at hand: its address and token instead of a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.e2e.rig import ADMIN_TOKEN, ALICE, Gateway, free_port, message

TOKEN = {"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN}
COMMANDS = [
    ["accounts", "list"],
    ["accounts", "drain", "sim-account-1"],
    ["accounts", "disable", "sim-account-1"],
    ["accounts", "enable", "sim-account-1"],
    ["accounts", "weight", "sim-account-1"],
    ["keys", "list"],
    ["conversations", "flush", "--account", "sim-account-1"],
    ["audit", "--limit", "1"],
]
CONVERSATION = ["conversations", "show", "alice", "nothing-known-of-it"]


@pytest.fixture
def url(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The admin listener's; no configuration is at hand."""
    monkeypatch.chdir(tmp_path)
    return f"http://127.0.0.1:{gateway.admin_port}"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_is_asked_by_its_address(run: Run, url: str, words: list[str]):
    code, out, err = run(*words, "--json", "--url", f"{url}/", env=TOKEN)
    assert (code, err) == (0, "") and json.loads(out) is not None
    if words[1] in ("drain", "disable"):
        assert run("accounts", "enable", "sim-account-1", "--url", url, env=TOKEN)[0] == 0


def test_a_conversation_is_shown_and_forgotten_there(run: Run, gateway: Gateway, url: str):
    headers = {"x-api-key": ALICE, "x-conversation-id": "elsewhere"}
    body = json.dumps(message("Hello")).encode()
    assert gateway.get("/v1/messages", headers=headers, method="POST", body=body).status == 200
    words = ["alice", "elsewhere", "--json", "--url", url]
    code, out, err = run("conversations", "show", *words, env=TOKEN)
    assert (code, err) == (0, "") and json.loads(out)["conversation"]
    code, out, err = run("conversations", "flush", *words, env=TOKEN)
    assert (code, err, json.loads(out)["flushed"]) == (0, "", 1)
    assert run("conversations", "show", *words, env=TOKEN)[0] == 1


def test_keys_are_made_changed_rotated_and_revoked_there(run: Run, url: str, tmp_path: Path):
    (tmp_path / "token").write_text(f"{ADMIN_TOKEN}\n")
    there = ["--json", "--url", url, "--token-file"]
    code, out, err = run("keys", "create", "remote", "--rpm", "5", *there, tmp_path / "token")
    assert (code, err) == (0, "") and json.loads(out)["key"]
    code, out, _ = run("keys", "limit", "remote", "--rpm", "7", *there, tmp_path / "token")
    assert (code, json.loads(out)["limits"]) == (0, {"requests_per_minute": 7})
    # Two questions to the gateway, one token on standard input.
    code, out, _ = run("keys", "rotate", "remote", *there, "-", stdin=ADMIN_TOKEN)
    assert code == 0
    code, out, _ = run("keys", "revoke", json.loads(out)["id"], *there, tmp_path / "token")
    assert (code, json.loads(out)["state"]) == (0, "revoked")


@pytest.mark.parametrize("words", [COMMANDS[0], ["keys", "list"], CONVERSATION, COMMANDS[-1]], ids=" ".join)
def test_a_wrong_address_or_token_is_said_in_one_line(run: Run, url: str, words: list[str], tmp_path: Path):
    code, out, err = run(*words, "--url", url, env={"GATEWAY_ADMIN_TOKEN": "another-token-entirely"})
    assert (code, out) == (1, "") and "another admin.token; give it with --token-file" in err
    code, out, err = run(*words, "--url", url, env={"GATEWAY_ADMIN_TOKEN": ""})
    assert (code, out) == (2, "") and "--url needs" in err and "GATEWAY_ADMIN_TOKEN" in err
    code, out, err = run(*words, "--url", f"http://127.0.0.1:{free_port()}", env=TOKEN)
    assert (code, out) == (1, "") and "no gateway answers at http://127.0.0.1" in err
    code, out, err = run(*words, "--url", "127.0.0.1:8081", env=TOKEN)
    assert (code, out) == (2, "") and "--url must be" in err
    code, out, err = run(*words, "--url", url, "--token-file", tmp_path / "none")
    assert (code, out) == (2, "") and "cannot read" in err
    (tmp_path / "odd").write_text("not a\ntoken")
    code, out, err = run(*words, "--url", url, "--token-file", tmp_path / "odd")
    assert (code, out) == (2, "") and "no token" in err and len(err.splitlines()) == 1
