"""Prometheus' configuration, rules and their unit tests, and the runbook that goes with them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.core import TyperGroup

from gateway.cli import app
from gateway.telemetry.metric_table import FAILOVERS, MOVES
from tests.deploy.watch import DASHBOARDS, PROMETHEUS, RULES, alerts, dashboard, program, rules
from tests.e2e.rig import ROOT

RUNBOOK = ROOT / "docs" / "runbook.md"
PARTS = ("**What it means.**", "**What users notice.**", "**First looks.**", "**What to do.**", "**Wake somebody**")
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sections() -> dict[str, str]:
    """The runbook's sections by heading."""
    parts = re.split(r"(?m)^## (.+)$", RUNBOOK.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# Prometheus.


def test_the_configuration_is_accepted_with_its_rules(tmp_path: Path):
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    path = tmp_path / "prometheus" / "prometheus.yml"
    (tmp_path / "token").write_text("token")
    text = path.read_text()
    assert "credentials_file: /run/secrets/gateway_metrics_token" in text
    path.write_text(text.replace("/run/secrets/gateway_metrics_token", str(tmp_path / "token")))
    said = promtool("check", "config", path)
    assert f"{len(RULES)} rule files found" in said and "prometheus.yml is valid" in said


def test_what_is_commented_out_stands_where_it_could_stand(tmp_path: Path):
    lines = (PROMETHEUS / "prometheus.yml").read_text().splitlines()
    dns = next(number for number, line in enumerate(lines) if "dns_sd_configs" in line)
    start = next(number for number, line in enumerate(lines) if "# kubernetes_sd_configs" in line)
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("    # "))
    other = [line.replace("    # ", "    ", 1) for line in lines[start:end]]
    config = yaml.safe_load("\n".join([*lines[:dns], *other, *lines[end:]]))
    (job,) = config["scrape_configs"]
    (pods,) = job.pop("kubernetes_sd_configs")  # which Debian's Prometheus is built without
    assert pods["role"] == "pod" and pods["selectors"][0]["role"] == "pod"
    job["authorization"] = {"credentials": "token"}
    config["rule_files"] = []
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_rules_do_in_their_scenarios_what_they_promise():
    promtool("test", "rules", *CASES, cwd=PROMETHEUS / "tests")


def test_each_alert_is_seen_to_fire_and_to_be_silent():
    firing: set[str] = set()
    silent: set[str] = set()
    healthy: set[str] = set()
    for path in CASES:
        for scenario in yaml.safe_load(path.read_text())["tests"]:
            for case in scenario.get("alert_rule_test", ()):
                (firing if case["exp_alerts"] else silent).add(case["alertname"])
                if scenario["name"].endswith("healthy hours"):
                    assert case["exp_alerts"] == []
                    healthy.add(case["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert firing == names == silent == healthy


def test_alerts_say_what_where_and_how_bad():
    uids = {dashboard(path)["uid"] for path in DASHBOARDS}
    for alert in alerts():
        name, notes = alert["alert"], alert["annotations"]
        assert name.startswith("Gateway"), name
        assert alert["for"], name
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert set(notes) == {"summary", "description", "runbook", "dashboard"}, name
        assert notes["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert notes["dashboard"].partition("?")[0].removeprefix("/d/") in uids, name


def test_rules_know_no_installation_and_no_replica_by_name():
    for rule in rules():
        for names in re.findall(r'\b(?:job|instance)(=~?)"([^"]*)"', rule["expr"]):
            assert names == ("=~", "gateway(-.+)?"), rule["expr"]


# The runbook.


def test_each_alert_has_its_section_in_the_runbook_and_none_is_left_over():
    found = sections()
    assert [name for name in found if name.startswith("Gateway")] == [alert["alert"] for alert in alerts()]
    for name, body in found.items():
        if name.startswith("Gateway"):
            places = [body.find(part) for part in PARTS]
            assert -1 not in places and places == sorted(places), name


def test_the_runbook_names_the_severity_that_the_rule_has():
    found = sections()
    for alert in alerts():
        assert found[alert["alert"]].lstrip().startswith(f"*{alert['labels']['severity']}*"), alert["alert"]


def test_the_runbook_explains_every_reason_of_a_failover_or_move():
    reasons = {reason for reason, _ in FAILOVERS.known} | {reason for (reason,) in MOVES.known}
    explained = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (.+?) \|", sections()["GatewayFailoverSpike"])))
    )
    assert reasons - explained == set()


def commands() -> list[list[str]]:
    """What the runbook tells to type, of our own command."""
    text = RUNBOOK.read_text()
    typed = [line for block in re.findall(r"(?s)```sh\n(.*?)```", text) for line in block.splitlines()]
    typed += re.findall(r"`(gateway [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in typed if line.startswith("gateway ")]


def test_the_runbook_names_only_commands_and_options_that_are_there():
    assert len(commands()) > 10
    for words in commands():
        command: Any = typer.main.get_command(app)
        rest = words[1:]
        while isinstance(command, TyperGroup) and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert not isinstance(command, TyperGroup) or command.invoke_without_command, words
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("-")} <= options, words
