"""Commands for a gateway whose file is not at hand: its address and token instead of a configuration."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Stranger(BaseHTTPRequestHandler):
    """Something else that answers: JSON that is no gateway's."""

    said: tuple[bytes, ...] = ()
    encoding = "identity"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-encoding", self.encoding)
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in self.said:
                self.wfile.write(piece)

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("said", "encoding"),
    [((each,), "identity") for each in (b"{}", b"[]", b"null", b"5", b'{"data":[null]}', b"[" * 200_000, b"")]
    + [((b"no gzip",), "gzip")],
)
def test_what_is_no_gateway_is_told_in_one_line(run: Run, said: tuple[bytes, ...], encoding: str):
    answers = type("Answers", (Stranger,), {"said": said, "encoding": encoding})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        for words in (
            *COMMANDS,
            CONVERSATION,
            ["usage"],
            ["teams", "list"],
            ["callers", "list"],
            ["keys", "create", "x"],
        ):
            code, out, err = run(*words, "--url", url, env=TOKEN)
            assert (code, out) == (1, "")
            assert err == f"gateway: what answers at {url} is not the admin listener of a gateway\n"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["http://u:a-password@127.0.0.1:1", "http://127.0.0.1:1\x01", "http://\x01x"])
def test_an_address_that_no_command_line_should_hold_is_refused_and_not_repeated(run: Run, url: str):
    code, out, err = run("accounts", "list", "--url", url, env=TOKEN)
    assert (code, out) == (2, "") and "a-password" not in err and "--url must be that of an admin listener" in err


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
