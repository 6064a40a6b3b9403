"""One simulated upstream, one store and one gateway for all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.rig import Gateway, Simulator, Store, accounts_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(tmp_path_factory.mktemp("simulator"), 3, "--rpm", "100")
    yield simulator
    assert simulator.end() == 0


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("store")).start()
    yield store
    assert store.end() == 0


@pytest.fixture(scope="session")
def gateway(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that runs; its file is `folder/gateway.yaml`."""
    config = {"redis": f"{store.url}/1", "accounts": accounts_of(simulator)}
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), config).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def run() -> Run:
    """Runs `gateway WORDS`; gives exit code, stdout and stderr. A proxy of the environment must not matter."""

    def command(*words: object, env: Mapping[str, str] | None = None, stdin: str = "") -> tuple[int, str, str]:
        runner = CliRunner(env={"HTTP_PROXY": "http://127.0.0.1:9", **(env or {})})
        done = runner.invoke(app, [str(word) for word in words], input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return command


@pytest.fixture
def file(gateway: Gateway) -> Path:
    """The running gateway's configuration file."""
    return gateway.folder / "gateway.yaml"
