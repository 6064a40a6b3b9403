"""Processes that the end-to-end tests share: one simulated upstream, one store, and gateways that nobody breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import ADMIN_TOKEN, Gateway, Simulator, Store, accounts_of, free_port


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(tmp_path_factory.mktemp("simulator"))
    yield simulator
    assert simulator.end() == 0


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with two doors: `url`, and the unix socket in its folder."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder, "--port", "{port}", "--bind", "127.0.0.1", "--unixsocket", str(folder / "store.sock")).start()
    yield store
    assert store.end() == 0


@pytest.fixture(scope="session")
def shared_gateway(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway of whoever does not need one of his own. It says all it can say in its log."""
    config = {
        "redis": f"{store.url}/1",
        "accounts": accounts_of(simulator, 4),
        "timeouts": {"ping": 1},
        "log": {"level": "debug"},
    }
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), config).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Gateway:
    """The shared gateway, without anything that earlier tests have taught it of its accounts."""
    shared_gateway.mend()
    return shared_gateway


@pytest.fixture(scope="session")
def shared_tight(simulator: Simulator, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with little patience and little room; its metrics are open."""
    config = {
        "redis": f"unix://{store.folder}/store.sock?db=2",
        "admin": {"listen": f"127.0.0.1:{free_port()}", "token": ADMIN_TOKEN, "metrics_open": True},
        "accounts": accounts_of(simulator, 4),
        "timeouts": {"idle": 1, "client_head": 1, "client_body": 1, "client_idle": 1},
        "limits": {"max_body_mb": 1, "max_connections": 20},
    }
    gateway = Gateway(tmp_path_factory.mktemp("tight"), config).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def tight(shared_tight: Gateway) -> Gateway:
    """The other shared gateway, likewise."""
    shared_tight.mend()
    return shared_tight


@pytest.fixture(scope="session")
def gateway_url(shared_gateway: Gateway) -> Gateway:
    """What client programs are told: `base_url` and `api_key`."""
    return shared_gateway


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways of a test's own; those that still run at its end must stop in good order."""
    started: list[Gateway] = []

    def start(wait: bool = True, prefix: tuple[str, ...] = (), **config: Any) -> Gateway:
        gateway = Gateway(tmp_path / f"gateway{len(started)}", config)
        gateway.prefix = prefix
        started.append(gateway)
        return gateway.start() if wait else gateway.launch()

    yield start
    failures = []
    for gateway in started:
        if gateway.alive():
            try:
                gateway.stop()
            except AssertionError as error:
                failures.append(error)
    if failures:
        raise failures[0]


@pytest.fixture
def sim(simulator: Simulator) -> Iterator[Simulator]:
    """The shared simulator, without faults that another test has set."""
    simulator.clear()
    yield simulator
    simulator.clear()
