"""The manifests: valid by the schemas of Kubernetes, of one mind with each other, and under the restricted profile."""

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy import kustomize
from tests.deploy.deployed import CONFIGS, DEPLOY, documents, loaded, secret_files

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.35", kubernetes_validate.latest_version())
LABELS = {"app.kubernetes.io/name": "gateway"}


class Cluster(dict[str, Any]):
    """Objects by kind; where there are several, by kind/name."""

    def __init__(self, objects: list[kustomize.Object]) -> None:
        super().__init__({each["kind"]: each for each in objects})
        self.update({f"{each['kind']}/{each['metadata']['name']}": each for each in objects})
        self.objects = objects

    @property
    def workload(self) -> Any:
        return self.get("StatefulSet") or self["Deployment"]

    @property
    def pod(self) -> Any:
        return self.workload["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        [only] = self.pod["containers"]
        return only


@pytest.fixture(scope="module", params=["StatefulSet", "Deployment"])
def folder(request, tmp_path_factory) -> Path:
    """The example as it is, and with its other component."""
    if request.param == "StatefulSet":
        return FOLDER / "example"
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(FOLDER, copy)
    plan = copy / "example/kustomization.yaml"
    text = plan.read_text()
    assert "  # - ../components/deployment\n" in text
    plan.write_text(text.replace("  # - ../", "  - ../"))
    return copy / "example"


@pytest.fixture(scope="module")
def cluster(folder) -> Cluster:
    return Cluster(kustomize.build(folder))


def test_every_file_is_used_by_some_kustomization():
    for path in FOLDER.rglob("kustomization.yaml"):
        [plan] = documents(path)
        named = set(plan.get("resources", []))
        named |= {name for each in plan.get("configMapGenerator", []) for name in each["files"]}
        assert {each.name for each in path.parent.glob("*.yaml")} - {path.name} == {
            name for name in named if not name.startswith("..")
        }


def test_the_objects_are_valid_by_their_schemas(cluster):
    for each in cluster.objects:
        if each["kind"] != "ServiceMonitor":  # an operator's own kind
            for version in VERSIONS:
                kubernetes_validate.validate(each, version, strict=True)


def test_kustomize_itself_makes_the_same_of_them(folder, cluster):
    program = shutil.which("kustomize") or shutil.which("kubectl")
    if program is None:
        return  # then what the tests' own one has made has to do
    command = [program, "build" if program.endswith("kustomize") else "kustomize", folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    made = Cluster(list(yaml.safe_load_all(run.stdout)))
    assert made == dict(cluster)


def test_nothing_names_a_namespace_of_its_own(cluster):
    assert not [each for each in cluster.objects if "namespace" in each["metadata"]]


def test_whatever_selects_pods_selects_the_gateways(cluster):
    spec = cluster.workload["spec"]
    assert spec["template"]["metadata"]["labels"] == LABELS
    assert spec["selector"]["matchLabels"] == LABELS
    assert cluster["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert cluster["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    for name in ("gateway", "gateway-replicas"):
        assert cluster[f"Service/{name}"]["spec"]["selector"] == LABELS
    for spread in cluster.pod["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == LABELS
    target = cluster["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (cluster.workload["kind"], cluster.workload["metadata"]["name"])
    assert "replicas" not in spec  # it would undo what the autoscaler has done, at every apply


def test_ports_are_those_of_the_configuration_and_named_alike_everywhere(cluster, tmp_path):
    config = loaded("kubernetes", tmp_path)
    ports = {each["name"]: each["containerPort"] for each in cluster.container["ports"]}
    assert ports == {
        "http": int(config.listen.rpartition(":")[2]),
        "admin": int(config.admin.listen.rpartition(":")[2]),
    }
    for name in ("gateway", "gateway-replicas"):
        assert all(each["targetPort"] in ports for each in cluster[f"Service/{name}"]["spec"]["ports"])
    assert [each["targetPort"] for each in cluster["Service/gateway"]["spec"]["ports"]] == ["http"]
    probes = [cluster.container[f"{each}Probe"]["httpGet"] for each in ("startup", "liveness", "readiness")]
    assert [each["path"] for each in probes] == ["/readyz", "/healthz", "/readyz"]
    assert {each["port"] for each in probes} == {"http"}
    assert cluster["Service/gateway-replicas"]["spec"]["ports"][0]["name"] == "admin"


def test_the_admin_port_is_for_the_monitoring_namespace_alone(cluster):
    rules = cluster["NetworkPolicy"]["spec"]["ingress"]
    sources = {rule["ports"][0]["port"]: rule["from"] for rule in rules}
    assert sources == {
        "http": [{"namespaceSelector": {}}],
        "admin": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    }
    out = {port["port"] for rule in cluster["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]}
    assert out == {53, 443, 6379}


def test_names_can_be_asked_for_wherever_the_cluster_answers(cluster):
    [places] = [
        rule["to"]
        for rule in cluster["NetworkPolicy"]["spec"]["egress"]
        if {"protocol": "UDP", "port": 53} in rule["ports"]
    ]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}} in places
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in places  # a cache on the node is no pod


def test_traces_can_go_out_where_that_is_wanted():
    text = (FOLDER / "base/networkpolicy.yaml").read_text()
    wanted, count = re.subn(r"(?m)^    # (- to:|  .+)$", r"    \1", text)
    assert count == 5
    policy = yaml.safe_load(wanted)
    kubernetes_validate.validate(policy, VERSIONS[0], strict=True)
    [rule] = [each for each in policy["spec"]["egress"] if each not in yaml.safe_load(text)["spec"]["egress"]]
    assert rule["ports"] == [{"protocol": "TCP", "port": 4318}] and len(rule["to"]) == 1


def test_few_addresses_are_believed_to_speak_for_others(tmp_path):
    networks = [ipaddress.ip_network(each) for each in loaded("kubernetes", tmp_path).trusted_proxies]
    assert networks and sum(each.num_addresses for each in networks) <= 256  # all pods are many more


def test_the_monitor_finds_the_replicas_and_knows_the_token(cluster):
    monitor = cluster["ServiceMonitor"]["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = {name: each for name, each in cluster.items() if name.startswith("Service/")}
    found = [name for name, each in services.items() if wanted <= each["metadata"]["labels"].items()]
    assert found == ["Service/gateway-replicas"]
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] in {each["name"] for each in cluster[found[0]]["spec"]["ports"]}
    credentials = endpoint["authorization"]["credentials"]
    files = secret_files(CONFIGS["kubernetes"].read_text())
    assert credentials["name"] == "gateway-secrets"
    assert f"/run/secrets/gateway/{credentials['key']}" in files


def test_the_pod_is_under_the_restricted_profile_and_writes_to_volumes_alone(cluster):
    pod, container = cluster.pod, cluster.container
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {kind for each in pod["volumes"] for kind in each.keys() - {"name"}}
    assert kinds <= {"configMap", "secret", "emptyDir"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert cluster["ServiceAccount"]["metadata"]["name"] == pod["serviceAccountName"]


def test_what_is_mounted_exists_and_holds_what_the_configuration_reads(cluster, tmp_path):
    config = loaded("kubernetes", tmp_path)
    mounts = {each["name"]: each["mountPath"] for each in cluster.container["volumeMounts"]}
    claims = cluster.workload["spec"].get("volumeClaimTemplates", [])
    assert mounts.keys() == {each["name"] for each in cluster.pod["volumes"]} | {
        each["metadata"]["name"] for each in claims
    }
    assert mounts["data"] == config.data_dir
    assert list(cluster["ConfigMap/gateway-config"]["data"]) == ["gateway.yaml"]
    assert mounts["config"] == "/etc/gateway"  # where the image looks
    told = (FOLDER / "example/kustomization.yaml").read_text()
    for name in secret_files(CONFIGS["kubernetes"].read_text()):
        folder, _, key = name.rpartition("/")
        assert folder == mounts["secrets"]
        assert re.search(rf"--from-literal={key}=", told), key


def test_the_journal_is_on_a_volume_that_outlives_the_pod():
    [claim] = Cluster(kustomize.build(FOLDER / "base"))["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"


def test_a_pod_has_a_cpu_for_every_worker_and_memory_for_what_they_hold(cluster, tmp_path):
    config = loaded("kubernetes", tmp_path)
    resources = cluster.container["resources"]
    assert int(resources["requests"]["cpu"]) >= config.workers
    assert resources["limits"].keys() == {"memory"}
    limit = int(resources["limits"]["memory"].removesuffix("Gi")) * 1024
    assert limit >= config.workers * (config.limits.max_held_mb + 256)


def test_a_pod_that_goes_is_out_of_the_service_before_it_stops_accepting(cluster, tmp_path):
    assert cluster.pod["shareProcessNamespace"]  # a SIGTERM counts from the first moment
    assert "lifecycle" not in cluster.container  # no preStop: the gateway's own delay does it
    assert loaded("kubernetes", tmp_path).timeouts.drain_delay >= 5
    assert cluster["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert cluster["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
