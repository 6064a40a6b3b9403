"""Transport tests run on both event loops; `serve` starts scripted origins for them."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import trustme
import uvloop

from tests.upstream.origin import Script, Server, identity

BOTH: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
ON_BOTH = ("test_transport_contract.py", "test_http1.py", "test_httpx_transport.py", "test_httpx_farewell.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return BOTH if item.path.name in ON_BOTH else {"asyncio": BOTH["asyncio"]}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Server]]:
    servers: list[Server] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # origins and the client's loop are threads that wait for each other

    def start(script: Script, **options) -> Server:
        servers.append(Server(script, **options))
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()
    sys.setswitchinterval(interval)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext | None:
    """How a server speaks: plainly, or with a certificate for localhost."""
    return identity(authority, "localhost") if request.param == "tls" else None
