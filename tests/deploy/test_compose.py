"""docker-compose.yml: accepted with every profile, self-contained, and closed to whoever is not on this machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import yaml

import gateway
from tests.deploy.deployed import CONFIGS, DEPLOY, ROOT, documents, loaded, said, variables
from tests.deploy.watch import alerts
from tests.e2e import rig
from tests.e2e.rig import WAIT_SECONDS, Program, free_port, message, until

FILE = ROOT / "docker-compose.yml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
PROFILES = {
    "": {"gateway", "valkey"},
    "monitoring": {"prometheus", "alertmanager", "grafana"},
    "demo": {"demo", "simulator"},
}


@pytest.fixture(scope="module")
def compose() -> str:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    return program


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_accepts_the_file_with_every_profile(compose, profile, tmp_path):
    shutil.copy(FILE, tmp_path)  # away from a developer's .env
    options = ["--profile", profile] if profile else []
    run = subprocess.run(
        [compose, *options, "config"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    found = yaml.safe_load(run.stdout)["services"]
    started = {name for name, each in found.items() if {profile} & set(each.get("profiles", [""]))}
    assert started == PROFILES[profile]


def test_what_is_mounted_is_there():
    sources = [each.split(":")[0] for service in SERVICES.values() for each in service.get("volumes", [])]
    folders = [each for each in sources if each.startswith(".")]
    volumes = {each for each in sources if not each.startswith(".")}
    assert folders and all((ROOT / each).exists() for each in folders), folders
    assert volumes == set(yaml.safe_load(FILE.read_text())["volumes"])


def test_only_the_api_is_open_to_others():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert (
                port == "8080:8080" if name == "gateway" and not port.startswith("127.") else port[:10] == "127.0.0.1:"
            )


def test_the_gateways_write_to_their_data_alone_and_hear_of_their_end(tmp_path):
    for name, config in (("gateway", "compose"), ("demo", "demo")):
        service = SERVICES[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["init"]  # a SIGTERM counts from the first moment
        [writable] = [each for each in service["volumes"] if not each.endswith(":ro")]
        assert writable.split(":")[1] == loaded(config, tmp_path).data_dir


def test_images_are_pinned_and_ours_is_of_this_version():
    for service in SERVICES.values():
        name, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(-\w+)?", tag), service["image"]
        if name == "conversation-gateway":
            assert tag == gateway.__version__


def test_every_variable_that_a_configuration_needs_is_passed_on_and_explained():
    explained = set(re.findall(r"^([A-Z_]+)=$", (DEPLOY / "compose/env.example").read_text(), re.MULTILINE))
    needed = variables("\n".join(line.partition("#")[0] for line in CONFIGS["compose"].read_text().splitlines()))
    assert set(SERVICES["gateway"]["environment"]) == needed
    assert needed <= explained
    assert not variables(CONFIGS["demo"].read_text())


def test_prometheus_finds_the_gateways_with_the_token_that_they_know(tmp_path):
    [prometheus] = documents(DEPLOY / "prometheus/prometheus.yml")
    [job] = prometheus["scrape_configs"]
    service = SERVICES["prometheus"]
    path = Path(job["authorization"]["credentials_file"])
    copy = tmp_path / path.name
    script = [each.replace(str(path), str(copy)).replace("$$", "$") for each in service["entrypoint"]]
    run = subprocess.run(
        [*script, "cat", copy], env={"GATEWAY_METRICS_TOKEN": "a-token"}, capture_output=True, text=True
    )
    assert run.stdout == "a-token", run.stderr
    default = re.fullmatch(r"\$\{GATEWAY_METRICS_TOKEN:-(.+)\}", service["environment"]["GATEWAY_METRICS_TOKEN"])
    assert default is not None and f"${{GATEWAY_METRICS_TOKEN:-{default[1]}}}" in CONFIGS["demo"].read_text()
    [names] = [each["names"] for each in job["dns_sd_configs"]]
    assert names == SERVICES["demo"]["networks"]["default"]["aliases"] == ["gateway"]


def test_prometheus_tells_the_alertmanager():
    [prometheus] = documents(DEPLOY / "prometheus/prometheus.yml")
    [targets] = [each["targets"] for each in prometheus["alerting"]["alertmanagers"][0]["static_configs"]]
    assert targets == ["alertmanager:9093"] and "127.0.0.1:9093:9093" in SERVICES["alertmanager"]["ports"]
    mounted = dict(each.split(":")[:2] for each in SERVICES["alertmanager"]["volumes"])
    [file] = [each.partition("=")[2] for each in SERVICES["alertmanager"]["command"] if "config.file" in each]
    assert (
        mounted["./deploy/alertmanager"] == str(Path(file).parent)
        and (DEPLOY / "alertmanager" / Path(file).name).exists()
    )


def test_every_severity_has_somebody_to_tell():
    if shutil.which("amtool") is None:
        pytest.skip("amtool is not installed")
    file = DEPLOY / "alertmanager/alertmanager.yml"

    def told(*words: str) -> str:
        command = (
            ["amtool", *words[:2], f"--config.file={file}", *words[2:]] if words[0] == "config" else ["amtool", *words]
        )
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout.strip()

    assert "SUCCESS" in told("check-config", str(file))
    severities = {rule["labels"]["severity"]: rule["alert"] for rule in alerts()}
    receivers = {"critical": "wake-somebody", "warning": "today", "info": "owner"}
    assert severities.keys() == receivers.keys()
    for severity, alert in severities.items():
        assert told("config", "routes", "test", f"severity={severity}", f"alertname={alert}") == receivers[severity]


def test_the_store_takes_nobody_without_its_password(tmp_path):
    server = shutil.which("valkey-server") or shutil.which("redis-server")
    if server is None:
        pytest.skip("neither valkey-server nor redis-server is installed")
    service = SERVICES["valkey"]
    assert service["cap_drop"] == ["ALL"] and service["user"] == "999:1000" and "ports" not in service
    (tmp_path / "valkey-server").symlink_to(server)
    port = free_port()
    words = [
        each.replace("/tmp/", f"{tmp_path}/").replace("$$", "$")
        for each in (*service["entrypoint"], *service["command"])
    ]
    path = f"{tmp_path}:{os.environ['PATH']}"
    unset = subprocess.run(words, env={"PATH": path}, capture_output=True, text=True, timeout=60)
    assert unset.returncode != 0 and "VALKEY_PASSWORD" in unset.stderr
    store = subprocess.Popen(
        [*words, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)],
        env={"PATH": path, "VALKEY_PASSWORD": "a-password"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def answers(url: str) -> str:
            with redis.Redis.from_url(url) as client:
                try:
                    return str(client.ping())
                except redis.AuthenticationError as error:
                    return str(error)
                except redis.ConnectionError:
                    return ""

        url = loaded("compose", tmp_path).redis.replace("valkey:6379", f"127.0.0.1:{port}")
        assert re.fullmatch(r"redis://:[\w-]+@127\.0\.0\.1:\d+/0", url)
        until(lambda: answers(f"redis://127.0.0.1:{port}"), "the store")
        assert "authenticated" in answers(f"redis://127.0.0.1:{port}")
        assert answers(re.sub(":[^:@]+@", ":a-password@", url)) == "True"
        assert "a-password" not in Path(f"/proc/{store.pid}/cmdline").read_text()
    finally:
        store.terminate()
        store.wait(WAIT_SECONDS)


def test_the_demo_answers_with_what_its_files_say(tmp_path):
    upstream, port, admin = free_port(), free_port(), free_port()
    [command] = [SERVICES["simulator"]["command"]]
    folder = DEPLOY / "compose/demo"
    simulator, demo = Program(tmp_path, "simulator"), Program(tmp_path, "demo")
    words = {"--listen=0.0.0.0:9100": f"--listen=127.0.0.1:{upstream}", "--ttft=0.3": "--ttft=0"}
    assert words.keys() <= set(command)
    text = CONFIGS["demo"].read_text()
    for old, new in (
        ("http://simulator:9100", f"http://127.0.0.1:{upstream}"),
        ("0.0.0.0:8080", f"127.0.0.1:{port}"),
        ("0.0.0.0:8081", f"127.0.0.1:{admin}"),
        ("/var/lib/gateway", str(tmp_path / "data")),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "gateway.yaml").write_text(f"{text}timeouts: {{drain_delay: 0}}\n")
    program = [sys.executable, "-m", "gateway"]
    try:
        simulator.run([*program, *(words.get(each, each).replace("/etc/gateway", str(folder)) for each in command)])
        demo.run([*program, "serve", "--config", tmp_path / "gateway.yaml"])
        until(lambda: b" 200 " in said(port), "the demo")
        until(lambda: said(upstream), "the simulator")
        head = {"connection": "close"}
        answer = rig.parsed(rig.blunt(port, rig.request(message(), head, key="sk-demo-key-of-nobody")))
        assert answer.status == 200, answer.body
        assert answer.account in {"sim-1", "sim-2", "sim-3"}
    finally:
        for each in (demo, simulator):
            if each.alive():
                each.end(seconds=WAIT_SECONDS)
