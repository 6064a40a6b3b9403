"""A Dockerfile taken apart, and its very commands run in a folder that stands for the image's root.

No container engine is needed: paths of the image get the folder before them, cache mounts are the machine's own caches,
and of the base image a plain virtual environment is there. Nothing else differs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.deploy.deployed import ROOT

_OURS = re.compile(r"(?<![\w.-])/(?:build|opt/gateway|var/lib/gateway|etc/gateway)\b")


class Line(NamedTuple):
    word: str
    rest: str


def parse(path: Path) -> list[list[Line]]:
    """The instructions of each stage, continued lines joined; those before the first FROM belong to none."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    stages: list[list[Line]] = []
    for line in text.replace("\\\n", "").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stages.append([])
        if word and stages:
            stages[-1].append(Line(word, rest.strip()))
    return stages


class Image:
    """`path` is the root of the image, `environ` what its processes find in their environment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ: dict[str, str] = {}
        self.folder = path
        self.spoken: dict[str, str] = {}  # the last of each instruction

    def __repr__(self) -> str:
        return f"<Image {self.path}, {sorted(self.spoken)}>"

    def inside(self, text: str) -> str:
        """The text, its paths of the image below our root."""
        return _OURS.sub(lambda found: f"{self.path}{found[0]}", text)

    def build(self, stage: list[Line], environ: dict[str, str]) -> None:
        """Do what the instructions of one stage say."""
        self.environ, self.folder, self.spoken = environ, self.path, {}
        for line in stage:
            self.spoken[line.word] = line.rest
            if line.word == "ENV":
                for pair in shlex.split(line.rest):
                    name, _, value = pair.partition("=")
                    self.environ[name] = self.inside(value)
            elif line.word == "WORKDIR":
                self.folder = Path(self.inside(line.rest))
                self.folder.mkdir(parents=True, exist_ok=True)
            elif line.word == "RUN":
                self.run(["/bin/sh", "-c", self.inside(re.sub(r"^(--mount=type=cache,\S+ )+", "", line.rest))])
            elif line.word == "COPY":
                self._copy(line.rest.split())

    def run(self, command: list[str]) -> str:
        run = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, f"{command[-1]}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
        return run.stdout

    def words(self, word: str) -> list[str]:
        """The words of an instruction in its JSON form."""
        found = self.spoken[word]
        words: list[str] = json.loads(found[found.index("[") :])
        return [self.inside(each) for each in words]

    def _copy(self, words: list[str]) -> None:
        options = [each for each in words if each.startswith("--")]
        *sources, target = [each for each in words if not each.startswith("--")]
        from_stage = any(each.startswith("--from=") for each in options)
        for name in sources:
            assert from_stage or name in context(), f"{name} is kept from the builder by .dockerignore"
            source = Path(self.inside(name)) if from_stage else ROOT / name
            place = self.folder / self.inside(target)
            if not source.is_dir():
                place = place / source.name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)
            elif source != place:
                shutil.copytree(
                    source, place, ignore=shutil.ignore_patterns("__pycache__", "*.py[cod]"), dirs_exist_ok=True
                )


def context() -> set[str]:
    """What .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def base(folder: Path) -> dict[str, str]:
    """The environment of a plain Python with pip, as a base image has it; indexes and caches are the machine's."""
    python, uv = folder / "python", Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, python], check=True, timeout=120)
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_", "SSL_", "HTTP")) or name.lower().endswith("_proxy") or name == "HOME"
    }
    return {**kept, "PATH": f"{python}/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
