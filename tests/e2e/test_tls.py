"""Encrypted and local ways to upstreams and stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.e2e.rig import Gateway, Simulator, Store, accounts_of, ask, assert_error, conversation, message

Launch = Callable[..., Gateway]
PASSWORD = "canary-of-a-password"


class Authority:
    """A test CA, and a certificate of its making for this machine."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.chain = folder / "chain.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(self.ca)
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.chain, append=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """An upstream that speaks TLS alone."""
    options: tuple[str | Path, ...] = ("--tls-cert", authority.chain, "--tls-key", authority.key)
    simulator = Simulator(tmp_path_factory.mktemp("secured"), 3, *options, ca_file=authority.ca)
    yield simulator
    assert simulator.end() == 0


async def test_upstreams_and_stores_are_reached_by_tls_and_only_if_they_are_whom_they_say(
    authority: Authority, secured: Simulator, launch: Launch, tmp_path: Path
):
    others = Authority(tmp_path)
    store = Store(
        tmp_path / "store", "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no",
        "--tls-cert-file", str(authority.chain), "--tls-key-file", str(authority.key),
        "--tls-ca-cert-file", str(authority.ca), "--requirepass", PASSWORD,
        url=f"rediss://:{PASSWORD}@localhost:{{port}}/0?ssl_ca_certs={authority.ca}",
    ).start()  # fmt: skip
    try:
        right, quick, wrong = accounts_of(secured, 3)
        accounts = [
            {**right, "ca_file": str(authority.ca), "models": ["claude-haiku-*"]},
            {**quick, "ca_file": str(authority.ca), "models": ["claude-sonnet-*"], "http2": True},
            {**wrong, "ca_file": str(others.ca), "models": ["claude-opus-*"]},
        ]
        gateway = launch(redis=store.url, accounts=accounts)
        assert gateway.get("/readyz").json()["store"] == "connected"
        for model, account in (("claude-haiku-4-5", right), ("claude-sonnet-5", quick)):
            name = conversation()
            for stream, route in ((False, "new"), (True, "bound")):
                answer = await ask(gateway, message(model=model, stream=stream), name)
                assert (answer.status, answer.account, answer.route) == (200, account["id"], route)
                assert answer.ended
        since = secured.mark()
        assert_error(await ask(gateway, message(model="claude-opus-5-5")), 529, "overloaded_error")
        assert secured.records(since) == []
        with store.client() as client:
            assert client.exists("{pool}:document")
        assert PASSWORD not in gateway.text()
    finally:
        assert store.end() == 0


async def test_a_store_is_reached_by_its_unix_socket(tight: Gateway):
    assert tight.config["redis"].startswith("unix://")
    assert tight.get("/readyz").json()["store"] == "connected"
    name = conversation()
    assert [(await ask(tight, message(), name)).route for _ in range(2)] == ["new", "bound"]
