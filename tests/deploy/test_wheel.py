"""The wheel alone, in a bare environment: what somebody has who has only heard the distribution's name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gateway
from tests.deploy.deployed import ROOT
from tests.e2e import rig
from tests.e2e.rig import START_SECONDS, WAIT_SECONDS, message, until

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build: list[str | Path] = [
        Path(sys.executable).with_name("hatchling"),
        "build",
        "--target",
        "wheel",
        "--directory",
        folder,
    ]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("*.whl")
    return wheel


class Bare:
    """An environment with the wheel and what it needs by default, and a folder to be in. On PATH is nothing else: no
    redis-server, no valkey-server."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "home"
        self.folder.mkdir()
        # A module of the same name in whatever folder somebody is in takes nobody's place.
        (self.folder / "gateway.py").write_text("raise SystemExit('the wrong one')\n")
        python = folder / "python"
        uv: list[Any] = [UV, "--quiet", "--no-config"]
        subprocess.run([*uv, "venv", "--python", sys.executable, python], check=True, timeout=120)
        install: list[Any] = [
            "pip",
            "install",
            "--python",
            python / "bin/python",
            "--constraint",
            ROOT / "requirements.lock",
        ]
        subprocess.run([*uv, *install, wheel], check=True, timeout=240)
        self.programs = python / "bin"
        temporary = folder / "t"
        temporary.mkdir()
        self.environ = {"PATH": str(self.programs), "HOME": str(self.folder), "TMPDIR": str(temporary)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        program, *rest = words
        return subprocess.Popen(
            [self.programs / program, *rest], cwd=self.folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str) -> str:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=START_SECONDS * 3)
        assert process.returncode == 0, err
        return out


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare"), wheel)


def test_nothing_in_it_is_compiled_and_every_file_is_there(wheel: Path) -> None:
    assert wheel.name == f"conversation_gateway-{gateway.__version__}-py3-none-any.whl"
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("gateway/")}
    tracked = subprocess.run(["git", "ls-files", "gateway"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert packed >= {name for name in tracked if (ROOT / name).exists()}
    assert not [name for name in packed if name.endswith((".so", ".pyc", ".pyd"))]
    assert wheel.stat().st_size < 2_000_000


@pytest.mark.parametrize("program", ["gateway", "conversation-gateway"])
def test_it_is_called_by_its_name_and_by_the_distributions(bare: Bare, program: str) -> None:
    assert bare.run(program, "--version") == f"gateway {gateway.__version__}\n"


@pytest.fixture
def serving(bare: Bare) -> Iterator[str]:
    """What `serve --demo` has printed until it serves."""
    with bare.start("conversation-gateway", "serve", "--demo") as process:
        assert process.stdout is not None and process.stderr is not None
        text = ""
        for line in process.stdout:
            text += line
            if "nothing is kept" in line:
                break
        try:
            yield text or process.stderr.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
        finally:
            process.kill()


def test_the_demo_serves_with_a_store_of_its_own(serving: str) -> None:
    found = {name: re.search(rf"^{name} +(\S+)$", serving, re.MULTILINE) for name in ("Base URL", "Key", "Dashboard")}
    assert all(found.values()), serving
    url, key, dashboard = (match[1] for match in found.values() if match)
    port = int(url.rpartition(":")[2])
    until(lambda: b" 200 " in rig.blunt(port, b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"), "it")
    answer = rig.parsed(rig.blunt(port, rig.request(message(), {"connection": "close"}, key=key)))
    assert answer.status == 200 and answer.route == "new", answer.body
    with urllib.request.urlopen(f"{dashboard.rstrip('/')}/login", timeout=WAIT_SECONDS) as page:
        assert b"<title>" in page.read()


def test_the_demo_compares_without_anything_more(bare: Bare) -> None:
    found = msgspec.json.decode(bare.run("gateway", "demo", "--conversations", "4", "--json"))
    assert found["affinity"]["cache_read_share"] > found["random"]["cache_read_share"]


def test_uvx_needs_the_distributions_name_alone(wheel: Path, tmp_path: Path) -> None:
    words: list[str | Path] = [
        "tool",
        "run",
        "--from",
        wheel,
        "--constraints",
        ROOT / "requirements.lock",
        "conversation-gateway",
    ]
    run = subprocess.run(
        [UV, "--quiet", "--no-config", *words, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "UV_PYTHON": sys.executable},
    )  # fmt: skip
    assert run.stdout == f"gateway {gateway.__version__}\n", run.stderr


def test_all_is_every_extra_that_is_not_for_developers() -> None:
    extras = PROJECT["optional-dependencies"]
    [everything] = extras["all"]
    named = re.fullmatch(r"conversation-gateway\[(.+)\]", everything)
    assert named and set(named[1].split(",")) == extras.keys() - {"all", "dev"}


def test_one_place_says_where_the_project_lives() -> None:
    home = PROJECT["urls"]["Repository"]
    owner, _, name = home.removeprefix("https://github.com/").partition("/")
    readme = (ROOT / "README.md").read_text()
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert images
    for link in images:  # they are shown on PyPI too
        path = link.removeprefix(f"https://raw.githubusercontent.com/{owner}/{name}/main/")
        assert path != link and (ROOT / path).is_file(), link
    assert set(re.findall(r"ghcr\.io/([\w-]+/[\w-]+)", readme)) <= {f"{owner}/{name}", f"{owner}/charts"}
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
