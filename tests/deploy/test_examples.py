"""Every configuration to copy is accepted as it stands, and what goes in front of a gateway lets streams pass."""

import re
import ssl
from collections.abc import Iterator

import httpx
import pytest
import trustme
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config.schema import catalogue_of, config_warnings
from tests.deploy.deployed import CONFIGS, DEPLOY, furnished, loaded
from tests.e2e import rig
from tests.e2e.rig import ALICE, WAIT_SECONDS, Gateway, Simulator, free_port, message


def conf(name: str) -> str:
    return (DEPLOY / "examples" / name).read_text()


def seconds(text: str, directive: str) -> float:
    found = re.search(rf"^\s*{directive} (\d+)s", text, re.MULTILINE)
    assert found is not None, directive
    return float(found[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_to_copy_is_accepted_without_a_word(name, tmp_path):
    path, environ = furnished(CONFIGS[name], tmp_path)
    run = CliRunner().invoke(app, ["config", "check", "--config", str(path)], env=environ)
    assert run.exit_code == 0, run.output
    assert ": ok — " in run.stdout
    said = run.stderr.splitlines()
    # Only those that hold the demo's made-up upstream, and those whose keys are made at run time, are warned about.
    assert all("unencrypted" in line if name == "demo" else "keys is empty" in line for line in said), said


def test_every_configuration_of_deploy_is_checked_here():
    named = set(CONFIGS.values())
    found = {path for path in DEPLOY.rglob("*.yaml") if re.search(r"^accounts:", path.read_text(), re.MULTILINE)}
    assert found - {DEPLOY / "compose/demo/world.yaml"} == named


def test_the_company_names_models_that_exist(tmp_path):
    config = loaded("company", tmp_path)
    catalogue = catalogue_of(config)
    assert config.models.aliases
    for name in config.models.aliases.values():
        assert catalogue.find(name) is not None, name
    assert not config_warnings(config)


def test_the_front_outwaits_the_gateway_and_takes_whatever_it_takes(tmp_path):
    config = loaded("company", tmp_path)
    nginx, caddy = conf("nginx.conf"), conf("Caddyfile")
    assert seconds(nginx, "proxy_read_timeout") > config.timeouts.total
    assert seconds(caddy, "response_header_timeout") > config.timeouts.total
    assert seconds(nginx, "    keepalive_timeout") < config.timeouts.client_idle
    assert seconds(caddy, "keepalive") < config.timeouts.client_idle
    for text, pattern in ((nginx, r"client_max_body_size (\d+)m;"), (caddy, r"max_size (\d+)MB")):
        size = re.search(pattern, text)
        assert size is not None and int(size[1]) >= config.limits.max_file_mb
    # Those who look at /readyz see that a gateway goes before it takes nothing new any more.
    assert seconds(caddy, "health_interval") + seconds(caddy, "health_timeout") < config.timeouts.drain_delay
    for text in (nginx, caddy):
        assert config.listen in text


@pytest.fixture(scope="module")
def front(tmp_path_factory) -> Iterator[tuple[Simulator, httpx.Client]]:
    """nginx by the example, before a gateway before a simulator: the simulator, and a client of nginx."""
    folder = tmp_path_factory.mktemp("front")
    simulator = Simulator(folder, 1)
    config = {"accounts": rig.accounts_of(simulator), "keys": rig.CALLERS}
    gateway = Gateway(folder, config).start()
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("llm.acme.example", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(folder / "chain.pem"), append=True)
    text = conf("nginx.conf")
    for old, new in (
        ("127.0.0.1:8080", f"127.0.0.1:{gateway.port}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/llm.acme.example.pem", str(folder / "chain.pem")),
        ("/etc/ssl/private/llm.acme.example.key", str(folder / "key.pem")),
    ):
        assert old in text
        text = text.replace(old, new)
    try:
        trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with (
            rig.nginx(folder, port, text),
            httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=WAIT_SECONDS) as client,
        ):
            yield simulator, client
    finally:
        gateway.stop()
        simulator.end()


def test_a_request_passes_the_front_as_it_was_sent(front):
    simulator, client = front
    mark = simulator.mark()
    body = message("a long story " * 20_000)
    answer = client.post("/v1/messages", json=body, headers={"x-api-key": ALICE})
    assert answer.status_code == 200 and answer.json()["type"] == "message"
    assert answer.headers["x-gateway-attempts"] == "1"
    [record] = simulator.finished(mark)
    assert record["status"] == 200


def test_events_pass_the_front_while_their_stream_goes_on(front):
    _, client = front
    headers = {"x-api-key": ALICE, "x-sim-fault": "stall=4"}
    body = message("Hello there", stream=True)
    with client.stream("POST", "/v1/messages", json=body, headers=headers) as answer:
        seen = b""
        for piece in answer.iter_raw():  # four events, then nothing: whoever gathers them has nothing to give yet
            seen += piece
            if seen.count(b"\n\n") == 4:
                break
    assert seen.startswith(b"event: message_start\n")
