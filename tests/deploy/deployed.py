"""The files of deploy/ as their programs see them: configurations whose secrets exist, and how long a stop takes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import uuid
from pathlib import Path

import yaml

from gateway.config.file import load
from gateway.config.schema import Config
from tests.e2e.rig import blunt

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIGS = {
    "small": DEPLOY / "examples/small.yaml",
    "company": DEPLOY / "examples/company.yaml",
    "compose": DEPLOY / "compose/gateway.yaml",
    "demo": DEPLOY / "compose/demo/gateway.yaml",
}
CLOSING = 30  # seconds that a gateway has, beyond its drain, to close the books; no less than it allows itself

_FILE = re.compile(r"\$\{file:(/run/[^}]+)\}")
_NAME = re.compile(r"\$\{([A-Z_0-9]+)\}")


def secret_files(text: str) -> list[str]:
    """The files that a configuration asks for."""
    return _FILE.findall(text)


def variables(text: str) -> set[str]:
    """The environment variables that a configuration cannot do without."""
    return set(_NAME.findall(text))


def furnished(source: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of a configuration in `folder`, where all its secrets exist, and the environment it asks for."""
    text, environ = example_of(source.read_text(), folder)
    copy = folder / source.name
    copy.write_text(text)
    return copy, environ


def example_of(text: str, folder: Path) -> tuple[str, dict[str, str]]:
    """A configuration whose secrets are files in `folder`, and the environment it asks for."""
    for name in secret_files(text):
        path = folder / name.removeprefix("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_value(path.name.lower())}\n")
    moved = _FILE.sub(lambda found: f"${{file:{folder}{found[1]}}}", text)
    return moved, {name: _value(name.lower()) for name in variables(text)}


def loaded(name: str, folder: Path) -> Config:
    path, environ = furnished(CONFIGS[name], folder)
    return load(path, environ)


def _value(name: str) -> str:
    if "redis" in name:
        return "redis://127.0.0.1:6379/0"
    if "sha256" in name:
        return hashlib.sha256(name.encode()).hexdigest()
    return f"{name}-{uuid.uuid4().hex}"


def stop_seconds(config: Config) -> int:
    """How long whoever stops a gateway has to wait before it kills."""
    return math.ceil(config.timeouts.drain_delay + config.timeouts.drain) + CLOSING


def documents(path: Path) -> list[dict]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def said(port: int, request: bytes = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") -> bytes:
    """What whoever listens there answers, b"" where nobody does."""
    with contextlib.suppress(OSError):
        return blunt(port, request)
    return b""
