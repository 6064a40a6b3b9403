"""A real Prometheus over the gateways of a test, by the configuration, rules and dashboards of deploy/, in a hurry."""

from __future__ import annotations

import http.client
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.e2e.rig import ADMIN_TOKEN, ROOT, START_SECONDS, Gateway, Program, free_port, until

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling"}

Sample = tuple[dict[str, str], float]


def program(name: str) -> str:
    """Where it is; skips where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found


def rules() -> list[dict[str, Any]]:
    """All rules of all files."""
    files = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All but the headings."""
    yield from (panel for panel in of["panels"] if panel["type"] != "row")


def metrics_in(expr: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without|group_left) \([^)]*\)", " ", bare)
    words = set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*(?!\w*\s*\()", bare))
    return words - {"or", "and", "by", "on", "offset", "bool", "unless", "d"}


def hurried(expr: str) -> str:
    """An expression of a dashboard or rule for a Prometheus that is seconds old: variables match everything, and
    yesterday is a moment ago."""
    for name, short in (("$__rate_interval", "10s"), ("$__range", "20s"), ("offset 1d", "offset 2s")):
        expr = expr.replace(name, short)
    return re.sub(r"\$\{?[a-z]+\}?", ".*", expr)


def never_empty(expr: str) -> str:
    """An alert's expression that says 0 or 1 instead of nothing or something: it shows that its sides find each
    other."""
    return re.sub(r" (==|<|>) (?!bool)", r" \1 bool ", expr)


class Prometheus(Program):
    """Scrapes these gateways each second, one job each. Alerts fire after a second of what they wait for."""

    def __init__(self, folder: Path, jobs: Mapping[str, Gateway]) -> None:
        super().__init__(folder, "prometheus")
        self.port = free_port()
        token = folder / "token"
        token.write_text(ADMIN_TOKEN)
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (job,) = config["scrape_configs"]
        job["authorization"]["credentials_file"] = str(token)
        del job["dns_sd_configs"], config["alerting"]
        config["scrape_configs"] = [
            {**job, "job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{gateway.admin_port}"]}]}
            for name, gateway in jobs.items()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules").mkdir()
        for path in RULES:
            text = re.sub(r"(?m)^( +for:) .*$", r"\1 1s", path.read_text())
            (folder / "rules" / path.name).write_text(text)

    def start(self) -> Prometheus:
        self.run([
            program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ])  # fmt: skip
        until(self._ready, "Prometheus' start", START_SECONDS)
        return self

    def _ready(self) -> bool:
        assert self.alive(), self.err.read_text()
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def api(self, path: str, **query: str) -> Any:
        """The data of an answer; what Prometheus refuses fails with its words."""
        status, body = self._get(f"/api/v1/{path}?{urlencode(query)}")
        answer = json.loads(body)
        assert status == 200 and answer["status"] == "success", f"{query}: {answer.get('error')}"
        return answer["data"]

    def query(self, expr: str) -> list[Sample]:
        """The samples of now; those that are no number are left out."""
        found = self.api("query", query=expr)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        samples = [(each["metric"], float(each["value"][1])) for each in found["result"]]
        return [(labels, value) for labels, value in samples if value == value]

    def firing(self, job: str) -> dict[str, dict[str, Any]]:
        """The alerts that fire for a job, by name."""
        return {
            alert["labels"]["alertname"]: alert
            for alert in self.api("alerts")["alerts"]
            if alert["state"] == "firing" and alert["labels"].get("job") == job
        }
