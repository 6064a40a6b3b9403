"""Every command, found by walking the real tree of them: what they promise alike."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config.file import load
from gateway.config.schema import config_warnings
from tests.e2e.rig import free_port, until

ROOT = Path(__file__).parents[1]
DESIGNED = [
    "serve", "config check", "config show", "config schema", "accounts list", "accounts drain", "accounts enable",
    "accounts disable", "accounts weight", "keys create", "keys list", "keys revoke", "callers delete",
    "conversations show", "conversations flush", "usage", "simulate", "demo", "replay", "bench", "doctor", "top",
    "audit",
]  # fmt: skip
# What prints no data of its own: the log is that of the gateway, and the records go to a file.
NO_JSON = {"serve", "usage export", "import litellm", "import env"}  # what imports write is a file
# What the running gateway is asked, with arguments that make sense.
ONLINE: dict[str, list[str]] = {
    "accounts list": [], "accounts drain": ["a"], "accounts enable": ["a"], "accounts disable": ["a"],
    "accounts weight": ["a", "2"], "keys create": ["x"], "keys list": [], "keys revoke": ["k"], "keys rotate": ["k"],
    "keys limit": ["x", "--rpm", "5"], "callers delete": ["x"], "callers list": [], "callers show": ["x"],
    "callers create": ["x"], "callers set": ["x", "--team", "t"], "callers suspend": ["x"], "callers resume": ["x"],
    "callers boost": ["x", "--usd", "5", "--for", "1h", "--reason", "launch"],
    "teams list": [], "teams show": ["t"], "teams create": ["t"], "teams set": ["t", "--week", "5"],
    "teams delete": ["t"], "teams boost": ["t", "--usd", "5", "--for", "1h", "--reason", "launch"], "teams boosts": [],
    "teams end-boost": ["b"],
    "conversations show": ["alice", "c"], "conversations flush": ["alice", "c"], "usage": [],
    "usage export": ["--out", "records.jsonl"], "audit": [], "top": ["--once"],
}  # fmt: skip
WITH_FILE = {*ONLINE, "serve", "config check", "config show", "doctor"}
SECRETS = re.compile(r"token|secret|password|api.?key|^--key$|credential")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    inner = getattr(command, "commands", {})
    if path and (not inner or command.invoke_without_command):
        yield " ".join(path), command
    for name, each in inner.items():
        yield from commands(each, (*path, name))


ROOT_COMMAND = typer.main.get_command(app)
ALL = dict(commands(ROOT_COMMAND))
each_command = pytest.mark.parametrize("name", ALL)


def options(name: str) -> list[Any]:
    return [each for each in ALL[name].params if each.param_type_name == "option"]


def invoke(*words: str, **env: str) -> tuple[int, str, str]:
    done = CliRunner(env=env).invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_every_designed_command_is_there():
    assert set(DESIGNED) <= set(ALL)


@each_command
def test_help_says_what_it_does_and_what_each_option_means(name: str):
    code, out, err = invoke(*name.split(), "--help")
    assert (code, err) == (0, "") and "Usage: " in out
    text = ALL[name].help
    assert text and text[0].isupper() and text.endswith((".", "quits.", "failed.")), text
    for each in ALL[name].params:
        if each.name != "help" and not getattr(each, "hidden", False):
            assert each.help and each.help.endswith("."), (name, each.name, each.help)
            assert each.help[0].isupper() or not each.help[0].isalpha(), (name, each.name)


@pytest.mark.parametrize("name", ["", "keys", *ALL])
def test_h_is_help(name: str):
    code, out, err = invoke(*name.split(), "-h")
    assert (code, err) == (0, "")
    assert out == invoke(*name.split(), "--help")[1] and "--help" in out and "-h" in out


@each_command
def test_wrong_use_is_2_and_said_on_stderr(name: str):
    code, out, err = invoke(*name.split(), "--no-such-option")
    assert (code, out) == (2, "") and "no-such-option" in err


@each_command
def test_what_prints_data_prints_json_too(name: str):
    assert ("--json" in [flag for each in options(name) for flag in each.opts]) == (name not in NO_JSON)


@each_command
def test_no_secret_is_an_argument(name: str):
    """All on a machine see the arguments of a process. A file, the environment or standard input holds secrets."""
    for each in options(name):
        for flag in each.opts:
            if SECRETS.search(flag) and not each.is_flag:
                allowed = flag.endswith("-file") or each.metavar in ("KEY_ID", "ID") or name == "simulate"
                assert allowed or re.search(r"tokens", flag), (name, flag)


@each_command
def test_the_configuration_is_named_alike(name: str):
    named = [each for each in options(name) if "--config" in each.opts]
    assert bool(named) == (name in WITH_FILE or name in ("simulate", "usage reconcile"))
    if named and name != "simulate":
        assert named[0].opts == ["--config", "-c"] and named[0].metavar == "FILE"


@pytest.mark.parametrize("name", sorted(WITH_FILE))
def test_a_missing_configuration_is_2(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = invoke(*name.split(), *ONLINE.get(name, []), "--config", "none.yaml")
    assert (code, out) == (2, "") and "none.yaml: no such file" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", sorted(ONLINE))
def test_no_gateway_is_1_and_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    admin = {"listen": f"127.0.0.1:{free_port()}", "token": "token-of-nobody-here"}
    given = {"admin": admin, "secret": "s" * 32, "accounts": [{"id": "a", "api_key": "sk-1"}]}
    Path("gateway.yaml").write_text(json.dumps(given))
    code, out, err = invoke(*name.split(), *ONLINE[name])
    assert (code, out) == (1, "") and "no gateway answers" in err and len(err.splitlines()) == 1
    assert "token-of-nobody-here" not in err


def test_a_password_in_the_url_of_the_bench_is_refused_as_an_argument():
    code, out, err = invoke("bench", "--redis", "redis://:hunter2-secret@127.0.0.1:1")
    assert (code, out) == (2, "") and "GATEWAY_BENCH_REDIS" in err and "hunter2" not in err


def test_the_completion_of_each_shell_is_shown():
    for shell in ("bash", "zsh", "fish"):
        program = "import sys; sys.argv[0] = 'gateway'; from gateway.cli import main; main()"
        env = {"PATH": os.environ["PATH"], "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program, "--show-completion", shell],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "_GATEWAY_COMPLETE=complete_" + shell in done.stdout, done.stderr


def test_no_color_is_obeyed():
    code = "import sys; sys.stdout.isatty = lambda: True; from gateway.commands.terminal import console, plain_table; "
    code += "c = console(); t = plain_table('a'); t.add_row('x'); c._force_terminal = True; "
    code += "from rich.text import Text; c.print(t, Text('red', 'red'))"
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
    plain = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**env, "NO_COLOR": "1"}, capture_output=True)
    assert plain.returncode == 0 and b"\x1b[31m" not in plain.stdout
    painted = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert b"\x1b[31m" in painted.stdout


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in ONLINE}))
def test_commands_that_ask_do_not_wait_for_what_the_gateway_imports(name: str):
    code = f"import sys, gateway.cli; gateway.cli._Commands()[{name!r}]; "
    code += "print({'uvicorn', 'starlette', 'httpx'} & sys.modules.keys() or '')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_start_does_not_load_the_telemetry_that_redis_py_would_load():
    code = "import importlib.util, sys, gateway.cli, gateway.supervisor.run; assert 'redis' in sys.modules; "
    code += "print(importlib.util.find_spec('opentelemetry') is not None, 'opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"  # it is there, and can be imported still


def test_the_example_of_the_readme_is_a_configuration(tmp_path: Path):
    text = (ROOT / "README.md").read_text()
    example = re.search(r"`gateway.yaml`:\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "team-b").write_text("sk-b\n")
    (tmp_path / "gateway.yaml").write_text(example[1].replace("/run/secrets/team-b", str(tmp_path / "team-b")))
    names = {
        "GATEWAY_ADMIN_TOKEN": "t" * 20,
        "GATEWAY_SECRET": "s" * 32,
        "ANTHROPIC_API_KEY_A": "sk-a",
        "ALICE_KEY": "sk-c",
    }
    assert config_warnings(load(tmp_path / "gateway.yaml", names)) == []


def test_a_stop_is_heard_while_the_program_is_still_starting():
    command = [sys.executable, "-m", "gateway", "serve", "--demo"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: handles_sigterm(started.pid), "its handler")
        os.kill(started.pid, signal.SIGTERM)
        assert started.wait(timeout=30) in (0, 143)
    finally:
        started.kill()
        started.wait()


def handles_sigterm(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


NUMBERS = [
    (name, parameter)
    for name, command in ALL.items()
    for parameter in command.params
    if parameter.type.name in ("float", "float range")
]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids=[f"{name} {each.name}" for name, each in NUMBERS])
def test_what_is_not_a_number_is_none(name: str, parameter: Any, value: str):
    given = ["--", value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    words = [*name.split(), *({"accounts weight": ["a"]}.get(name, [])), *given]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert f"{value} is not a number" in result.output or "is not in the range" in result.output


def test_all_commands_with_numbers_are_tried():
    assert len(NUMBERS) >= 14, NUMBERS
