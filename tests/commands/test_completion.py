"""What the shells are offered on TAB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = """\
accounts:
  - {id: team-a, api_key: "${NOBODY_SET_THIS}", organization: acme}
  - {id: team-b, api_key: sk-1, organization: globex}
  - {id: "${NAME}", api_key: sk-2}
  - nonsense
keys:
  - {id: alice, key: sk-3, team: research}
  - {id: bob, key: sk-4}
teams: [{id: sales}]
admin: {listen: "127.0.0.1:1", token: never-sent-anywhere-at-all}
redis: redis://127.0.0.1:1
"""


def offered(folder: Path, line: str, shell: str = "bash") -> list[str]:
    words = line.split(" ")
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "_GATEWAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    program = "import sys; sys.argv[0] = 'gateway'; from gateway.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(FILE)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("gateway accounts dr", ["drain"]),
        ("gateway accounts drain ", ["team-a", "team-b"]),
        ("gateway accounts drain --config other.yaml team-", ["team-z"]),
        ("gateway accounts drain --config none.yaml team-", []),
        ("gateway accounts drain --config broken.yaml team-", []),
        ("gateway accounts drain --url http://10.0.0.1:8081 team-", ["team-a", "team-b"]),
        ("gateway audit --u", ["--url"]),
        ("gateway keys revoke --tok", ["--token-file"]),
        ("gateway conversations show a", ["alice"]),
        ("gateway usage --team ", ["research", "sales"]),
        ("gateway usage reconcile --organization g", ["globex"]),
        ("gateway keys rotate ", ["alice", "bob"]),
    ],
)
def test_ids_come_from_the_file(folder: Path, line: str, found: list[str]):
    (folder / "other.yaml").write_text("accounts: [{id: team-z}]\n")
    (folder / "broken.yaml").write_text("accounts: [{id: team-z}\n")
    assert offered(folder, line) == found


def test_every_shell_is_offered_them(folder: Path):
    assert offered(folder, "gateway accounts drain team-a", "fish") == ["team-a"]
    assert '"team-a"' in "".join(offered(folder, "gateway accounts drain team-a", "zsh"))
