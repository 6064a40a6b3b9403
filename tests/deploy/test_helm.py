"""The chart: what the real helm makes of twenty value sets is valid, of one mind, restricted, and holds no secret."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

import gateway
from gateway.cli import app
from gateway.config.file import loads
from gateway.config.schema import Config
from gateway.supervisor.reload import RELOADABLE
from tests.deploy.deployed import DEPLOY, example_of, secret_files, stop_seconds, variables
from tests.deploy.helm_values import REFUSED, SETS

CHART = DEPLOY / "helm"
VERSIONS = ("1.35", kubernetes_validate.latest_version())
OPERATORS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}  # kinds of others, without schemas here
Object = dict[str, Any]


@cache
def helm() -> str:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed")
    return program


def ran(*words: str | Path, values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm(), *words, "--kube-version", VERSIONS[0], "--values", file]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    )


class Release:
    """What a value set makes: objects by kind/name, and those of helm's own test."""

    def __init__(self, values: dict[str, Any], folder: Path, name: str = "gateway") -> None:
        made = ran("template", name, CHART, "--namespace", "claude", values=values, folder=folder)
        assert made.returncode == 0, made.stderr
        self.values = values
        self.objects: list[Object] = [each for each in yaml.safe_load_all(made.stdout) if each]
        self.all = {f"{each['kind']}/{each['metadata']['name']}": each for each in self.objects}
        assert len(self.all) == len(self.objects), "two objects of one name"

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    @property
    def workload(self) -> Object:
        [only] = self.of("StatefulSet") + self.of("Deployment")
        return only

    @property
    def pod(self) -> Any:
        return self.workload["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        return self.pod["containers"][0]

    @property
    def text(self) -> str:
        """gateway.yaml; "" where it is somebody else's."""
        name = next(each["configMap"]["name"] for each in self.pod["volumes"] if each["name"] == "config")
        found = self.all.get(f"ConfigMap/{name}")
        return "" if found is None else str(found["data"]["gateway.yaml"])

    def config(self, folder: Path) -> Config:
        """As the gateway reads it, where all its secrets exist."""
        return loads(*example_of(self.text, folder))


@pytest.fixture(scope="module", params=SETS)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return Release(SETS[request.param], tmp_path_factory.mktemp("helm"))


def default(folder: Path, **values: Any) -> Release:
    return Release(values, folder)


def test_there_are_twenty_value_sets() -> None:
    assert len(SETS) >= 20


@pytest.mark.parametrize("name", SETS)
def test_lint_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    said = ran("lint", "--strict", CHART, values=SETS[name], folder=tmp_path)
    assert said.returncode == 0 and "[WARNING]" not in said.stdout, said.stdout + said.stderr


def test_the_objects_are_valid_by_their_schemas(release: Release) -> None:
    for each in release.objects:
        if each["kind"] not in OPERATORS:
            for version in VERSIONS:
                kubernetes_validate.validate(each, version, strict=True)


def test_no_object_is_a_secret_and_none_names_a_namespace(release: Release) -> None:
    assert not release.of("Secret")
    assert not [each for each in release.objects if "namespace" in each["metadata"]]


def test_the_configuration_is_accepted_and_its_secrets_are_keys_of_the_secret(release: Release, tmp_path: Path) -> None:
    if not release.text:
        assert release.values["existingConfigMap"]
        return
    config = release.config(tmp_path)
    ports = {each["name"]: each["containerPort"] for each in release.container["ports"]}
    assert ports == {
        "http": int(config.listen.rpartition(":")[2]),
        "admin": int(config.admin.listen.rpartition(":")[2]),
    }
    mounts = {each["name"]: each["mountPath"] for each in release.container["volumeMounts"]}
    assert mounts["data"] == config.data_dir and mounts["config"] == "/etc/gateway"
    assert {str(Path(each).parent) for each in secret_files(release.text)} <= {mounts["secrets"]}
    assert bool(variables(release.text)) <= bool(release.container.get("envFrom"))
    assert release.pod["terminationGracePeriodSeconds"] == stop_seconds(config)


def test_whatever_is_mounted_exists(release: Release) -> None:
    claims = [each["metadata"]["name"] for each in release.workload["spec"].get("volumeClaimTemplates", [])]
    there = {each["name"] for each in release.pod["volumes"]} | set(claims)
    assert {each["name"] for each in release.container["volumeMounts"]} == there
    assert (claims == ["data"]) is (release.workload["kind"] == "StatefulSet")


def test_whatever_selects_pods_selects_the_releases_alone(release: Release) -> None:
    spec = release.workload["spec"]
    wanted = spec["selector"]["matchLabels"]
    assert wanted.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert wanted.items() <= spec["template"]["metadata"]["labels"].items()
    selectors = [each["spec"]["selector"] for each in release.of("Service")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in release.of("PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in release.of("NetworkPolicy")]
    assert all(each == wanted for each in selectors) and len(selectors) >= 2
    for each in release.of("HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (release.workload["kind"], release.workload["metadata"]["name"])
    assert ("replicas" in spec) is not bool(release.of("HorizontalPodAutoscaler"))
    [tested] = release.of("Pod")
    assert not wanted.items() <= tested["metadata"]["labels"].items()  # no client is sent to the test


def test_the_pods_are_under_the_restricted_profile(release: Release) -> None:
    [tested] = release.of("Pod")
    for pod in (release.pod, tested["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert release.pod["shareProcessNamespace"]  # a SIGTERM counts from the first moment
    assert "lifecycle" not in release.container  # no preStop: the gateway's own delay does it


def test_probes_ask_for_what_they_mean(release: Release) -> None:
    probes = [release.container[f"{each}Probe"]["httpGet"] for each in ("startup", "liveness", "readiness")]
    assert [each["path"] for each in probes] == ["/readyz", "/healthz", "/readyz"]
    assert {each["port"] for each in probes} == {"http"}
    [tested] = release.of("Pod")
    [service] = [each for each in release.of("Service") if each["spec"].get("clusterIP") != "None"]
    port = service["spec"]["ports"][0]["port"]
    assert tested["spec"]["containers"][0]["args"][1] == f"http://{service['metadata']['name']}:{port}/readyz"
    assert tested["metadata"]["annotations"]["helm.sh/hook"] == "test"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    values, reason = REFUSED[name]
    made = ran("template", "gateway", CHART, values=values, folder=tmp_path)
    assert made.returncode != 0 and reason in made.stderr, made.stderr


def test_an_upgrade_from_any_set_to_any_other_changes_no_secret(tmp_path: Path) -> None:
    """The Secret is the one of the values alone: no template makes it, so it stays whatever else changes."""
    for values in SETS.values():
        release = Release(values, tmp_path)
        [secrets] = [each["secret"] for each in release.pod["volumes"] if each["name"] == "secrets"]
        own = f"{release.workload['metadata']['name']}-secrets"
        assert secrets["secretName"] == values.get("existingSecret", own)
        assert not release.of("Secret")
    templates = "".join(path.read_text() for path in CHART.rglob("templates/**/*") if path.is_file())
    assert not re.search(r"\b(rand\w+|genPrivateKey|genCA|genSelfSignedCert|lookup|htpasswd)\b", templates)


def test_two_releases_do_not_meet(tmp_path: Path) -> None:
    one, two = Release({}, tmp_path, "gateway"), Release({}, tmp_path, "research")
    assert not one.all.keys() & two.all.keys()
    assert "StatefulSet/research-gateway" in two.all


def test_pods_roll_for_what_needs_a_restart_and_for_nothing_else(tmp_path: Path) -> None:
    def checksum(**config: Any) -> str:
        annotations = default(tmp_path, config=config).workload["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    as_it_is = checksum()
    account = {"id": "b", "api_key": "${B}"}
    assert checksum(accounts=[account], teams=[{"id": "t"}], models={"aliases": {"x": "claude-opus-5"}}) == as_it_is
    assert checksum(issuers=[{"id": "i", "issuer": "https://i.example", "audiences": ["gateway"]}]) == as_it_is
    assert checksum(workers=3) != as_it_is
    [names] = re.findall(r"omit \$config (.+) }}", (CHART / "templates/_helpers.tpl").read_text())
    for name in re.findall(r'"(\w+)"', names):
        assert any(each == name or each.startswith(f"{name}.") for each in RELOADABLE), name


def test_the_chart_is_of_this_version_and_lives_where_the_project_does() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == gateway.__version__
    assert f":{gateway.__version__}\n" in chart["annotations"]["artifacthub.io/images"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["image"]["repository"] == chart["home"].replace("https://github.com/", "ghcr.io/")
    assert (
        f"oci://{'/'.join(values['image']['repository'].split('/')[:2])}/charts/" in (CHART / "README.md").read_text()
    )


def test_a_pod_has_a_cpu_for_every_worker_and_memory_for_what_they_hold(tmp_path: Path) -> None:
    release = default(tmp_path)
    config, resources = release.config(tmp_path), release.container["resources"]
    assert int(resources["requests"]["cpu"]) >= config.workers
    assert resources["limits"].keys() == {"memory"}
    limit = int(resources["limits"]["memory"].removesuffix("Gi")) * 1024
    assert limit >= config.workers * (config.limits.max_held_mb + 256)


def test_the_network_is_open_for_what_is_needed_alone(tmp_path: Path) -> None:
    [policy] = default(tmp_path).of("NetworkPolicy")
    assert {rule["ports"][0]["port"]: rule["from"] for rule in policy["spec"]["ingress"]} == {
        "http": [{"namespaceSelector": {}}],
        "admin": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == {53, 443, 6379}
    [names] = [rule["to"] for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule["ports"]]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names  # a cache on the node is no pod


def test_prometheus_finds_the_replicas_with_the_token_and_gets_every_rule(tmp_path: Path) -> None:
    release = Release(SETS["monitoring"], tmp_path)
    [monitor] = release.of("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = [each for each in release.of("Service") if wanted <= each["metadata"]["labels"].items()]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["name"] == "gateway-secrets"
    assert f"/run/secrets/gateway/{credentials['key']}" in secret_files(release.text)
    assert {"targetLabel": "job", "replacement": "gateway-eu"} in endpoint["relabelings"]
    files = [yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml"))]
    assert [each["spec"] for each in release.of("PrometheusRule")] == files
    assert all(each["metadata"]["labels"]["release"] == "prometheus" for each in release.of("PrometheusRule"))


def test_grafanas_sidecar_gets_every_dashboard(tmp_path: Path) -> None:
    dashboards = Release(SETS["monitoring"], tmp_path).all["ConfigMap/gateway-dashboards"]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    there = {f"gateway-{path.name}": json.loads(path.read_text()) for path in (DEPLOY / "grafana/dashboards").iterdir()}
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == there
    assert len(json.dumps(dashboards)) < 1_000_000  # what etcd takes


@pytest.mark.parametrize(
    "page", [CHART / "README.md", DEPLOY.parent / "docs/first-hour.md"], ids=lambda page: page.name
)
def test_examples_stand_as_they_are(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    [block] = re.findall(r"```yaml\n(config:.+?)```", text, re.DOTALL)
    release = Release(yaml.safe_load(block), tmp_path)
    assert len(release.config(tmp_path).accounts) == 2
    for name in secret_files(release.text):
        assert f"--from-literal={Path(name).name}=" in text
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert release.of(kind)


def test_what_was_taken_over_from_litellm_is_a_value(tmp_path: Path) -> None:
    litellm = Path(__file__).parents[1] / "commands/litellm"
    words = ["import", "litellm", litellm / "config.yaml", "--teams", litellm / "teams.csv", "--output", "-"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    environment = [{"secretRef": {"name": "gateway-env"}}]
    release = default(tmp_path, config=yaml.safe_load(done.stdout), extraEnvFrom=environment)
    assert "ANTHROPIC_ENTERPRISE_KEY" in variables(release.text)
    assert secret_files(release.text) == ["/run/secrets/gateway/metrics-token"]


def test_the_notes_say_how_to_make_the_secret_and_the_first_key(tmp_path: Path) -> None:
    # Of a chart that is not installed helm shows no notes: here they are one of its objects.
    copy = tmp_path / "chart"
    shutil.copytree(CHART, copy)
    (copy / "templates/NOTES.txt").rename(copy / "notes.txt")
    (copy / "templates/notes.yaml").write_text('kind: Notes\ntext: {{ tpl (.Files.Get "notes.txt") . | toJson }}\n')
    words = ("template", "gateway", copy, "--namespace", "claude", "--show-only", "templates/notes.yaml")
    made = ran(*words, values=SETS["own-secret-and-keys"], folder=tmp_path)
    assert made.returncode == 0, made.stderr
    notes = yaml.safe_load(made.stdout)["text"]
    assert "create secret generic vault-gateway" in notes and "http://gateway.claude:80" in notes
    for key in ("HMAC", "ADMIN", "SCRAPE", "REDIS"):
        assert f"--from-literal={key}=" in notes
    assert "statefulset/gateway -- gateway keys create alice" in notes


def test_it_can_be_packaged_with_all_that_it_links_to(tmp_path: Path) -> None:
    command: list[str | Path] = [helm(), "package", CHART, "--destination", tmp_path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    [package] = tmp_path.glob("*.tgz")
    listed = subprocess.run(["tar", "-tzf", package], check=True, capture_output=True, text=True).stdout
    assert package.name == f"conversation-gateway-{gateway.__version__}.tgz"
    for name in ("values.schema.json", "files/dashboards/overview.json", "files/rules/alerts.yml"):
        assert f"conversation-gateway/{name}" in listed
