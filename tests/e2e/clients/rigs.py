"""Rigs: what it takes to drive the gateway with clients that are not in the tests' own environment.

A rig is prepared once, under `.cache/rigs` of the checkout, and keyed by its lock files. Where a tool or a package is
missing and cannot be had, the test is skipped and says so. `python -m tests.e2e.clients.rigs` prepares all of them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "rigs"
GO_PROGRAMS = ("sdk", "sdk1", "seed", "federation")
PREPARE_SECONDS = 600
RUN_SECONDS = 120

_unavailable: dict[str, str] = {}


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def python() -> Path:
    """An interpreter with the last release of the Python SDK's previous generation."""
    requirements = HERE / "python" / "previous.txt"

    def install(folder: Path) -> None:
        _prepare([sys.executable, "-m", "venv", "--without-pip", "."], folder)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        pip = [sys.executable, "-m", "pip", "--python", "bin/python"]
        _prepare([*pip, "install", *options, "-r", str(requirements)], folder)

    return _cached("python", [requirements], install, sys.version + sys.base_prefix) / "bin" / "python"


def node() -> Path:
    """A folder with `node_modules` and the programs beside their lock file."""
    need("node")
    npm = need("npm")

    def install(folder: Path) -> None:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / "node" / name, folder)
        # No install scripts: Claude Code's only moves a binary that is run in place here.
        _prepare([npm, "ci", "--ignore-scripts", "--fetch-retries=1"], folder)

    folder = _cached("node", [HERE / "node" / "package-lock.json"], install)
    for program in (HERE / "node").glob("*.mjs"):
        shutil.copy(program, folder)
    return folder


def claude() -> Path:
    """The `claude` program of this platform."""
    found = sorted((node() / "node_modules" / "@anthropic-ai").glob("claude-code-*/claude"))
    if not found:
        pytest.skip("Claude Code ships no program for this platform")
    return found[0]


def go(program: str) -> Path:
    """The built program of that name: `sdk` is the journey with major version 2, `sdk1` the same with version 1."""
    compiler = need("go")

    def build(folder: Path) -> None:
        source = folder / "source"
        shutil.copytree(HERE / "go", source)
        shutil.copytree(source / "sdk", source / "sdk1")
        for path in (source / "sdk1").iterdir():
            path.write_text(path.read_text().replace("/anthropic-sdk-go/v2", "/anthropic-sdk-go"))
        _prepare([compiler, "build", "-ldflags=-s -w", "-o", "..", *(f"./{name}" for name in GO_PROGRAMS)], source)

    return _cached("go", sorted((HERE / "go").rglob("*.*")), build) / program


def run(
    command: Sequence[str | Path],
    base_url: str,
    api_key: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Standard output of a client told by environment where the gateway is; `AssertionError` if the client fails."""
    own = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "BASE_URL": base_url, "API_KEY": api_key, **(env or {})}
    done = subprocess.run(
        command, env=own, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=RUN_SECONDS
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _cached(name: str, inputs: Sequence[Path], build: Callable[[Path], None], more: str = "") -> Path:
    if name in _unavailable:
        pytest.skip(_unavailable[name])
    content = b"".join(path.read_bytes() for path in inputs) + more.encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder = CACHE / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as draft:  # renamed when complete: a second run may be at it too
        fresh = Path(draft) / name
        fresh.mkdir()
        try:
            build(fresh)
        except (OSError, subprocess.SubprocessError) as problem:
            _unavailable[name] = f"the {name} rig cannot be prepared: {problem}"
            pytest.skip(_unavailable[name])
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _prepare(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=PREPARE_SECONDS)
    if done.returncode:
        raise subprocess.SubprocessError(f"{Path(command[0]).name} {command[1]}: {' '.join(done.stderr.split())[:300]}")


def main() -> None:
    try:
        print(python(), claude(), *map(go, GO_PROGRAMS), sep="\n")
    except pytest.skip.Exception as reason:
        sys.exit(f"rigs: {reason.msg}")


if __name__ == "__main__":
    main()
