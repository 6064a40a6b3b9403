"""A real Prometheus over two installations of the gateway: one with traffic and trouble of all kinds, one that is well
until it is hurt. Every query of dashboards, rules and runbook finds data, and alerts fire for whom they should."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.traffic import CALLERS, TEAMS, Traffic, key_of, mixed, plain
from tests.deploy.watch import (
    DASHBOARDS,
    OF_PROMETHEUS,
    Prometheus,
    alerts,
    dashboard,
    hurried,
    metrics_in,
    never_empty,
    panels,
    program,
    rules,
)
from tests.e2e import rig
from tests.e2e.rig import ADMIN_TOKEN, ROOT, Gateway, Program, Simulator, Store, accounts_of, ask, message, until

BUSY, HURT = "gateway", "gateway-hurt"
DATA_SECONDS = 40.0  # a scrape a second, ten of them for a rate: generous on a loaded machine
OF_TIME = {"GatewayOverheadHigh", "GatewayEventLoopLag", "GatewayTimeToFirstTokenSlow"}  # a loaded machine is no fault
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


@dataclass
class World:
    busy: Gateway
    hurt: Gateway
    store: Store
    simulator: Simulator
    prometheus: Prometheus


def ended(it: Program) -> None:
    """Whatever still runs ends."""
    if it.alive():
        it.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Runs for the whole module; `hurt` is not hurt before the last tests."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    limits = ("--rpm", "100000", "--itpm", "100000000", "--otpm", "50000000")
    with ExitStack() as after:
        simulator = Simulator(folder / "simulator", 5, *limits)
        after.callback(simulator.end)
        store = Store(folder / "store").start()
        after.callback(ended, store)
        accounts = accounts_of(simulator, 4, max_concurrency=4)
        accounts[3]["api_key"] = "sk-ant-" + "wrong" * 10
        config = {"keys": CALLERS, "teams": TEAMS, "admin": None}
        gateways = {}
        for job, own in (
            (BUSY, {"accounts": accounts, "workers": 2}),
            (HURT, {"accounts": accounts_of(simulator, 5)[4:], "redis": store.url}),
        ):
            admin = {"listen": f"127.0.0.1:{rig.free_port()}", "token": ADMIN_TOKEN}
            gateways[job] = Gateway(folder / job, {**config, **own, "admin": admin}).launch()
            after.callback(ended, gateways[job])
        prometheus = Prometheus(folder / "prometheus", gateways)
        for gateway in gateways.values():
            gateway.ready()
        prometheus.start()
        after.callback(prometheus.end)
        traffic = Traffic(gateways[BUSY], mixed, 0.2)
        after.callback(traffic.stop)
        yield World(gateways[BUSY], gateways[HURT], store, simulator, prometheus)


@pytest.fixture(scope="module")
def calm(world: World) -> Iterator[Traffic]:
    """Traffic of the other installation, as long as it is well."""
    traffic = Traffic(world.hurt, plain, 0.05)
    yield traffic
    traffic.stop()


@pytest.fixture(scope="module")
def names(world: World) -> set[str]:
    """Every metric that the gateway declares, as queries name them."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {name + ending for name, kind in world.busy.metrics().families.items() for ending in endings[kind]}


def without_data(world: World, queries: dict[str, str]) -> dict[str, str]:
    """Those of the queries that have found nothing for a long while."""
    missing = dict(queries)

    def none_left() -> bool:
        for name, expr in list(missing.items()):
            if world.prometheus.query(expr):
                del missing[name]
        return not missing

    try:
        until(none_left, seconds=DATA_SECONDS)
    except AssertionError:
        return missing
    return {}


# What is scraped.


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_for_metrics_that_there_are(names: set[str], path: Path):
    asked = {
        name for panel in panels(dashboard(path)) for target in panel["targets"] for name in metrics_in(target["expr"])
    }
    assert asked, path
    assert asked - names - RECORDED - OF_PROMETHEUS == set()


def test_rules_and_runbook_ask_for_metrics_that_there_are(names: set[str]):
    asked = {name for rule in rules() for name in metrics_in(rule["expr"])}
    asked |= {name for expr in runbook_queries() for name in metrics_in(expr)}
    assert asked - names - RECORDED - OF_PROMETHEUS == set()


def test_every_metric_of_the_gateway_is_on_a_dashboard(world: World):
    shown = "".join(path.read_text() for path in DASHBOARDS)
    assert [name for name in world.busy.metrics().families if name not in shown] == []


# Every query finds data.


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something(world: World, calm: Traffic, path: Path):
    queries = {
        f"{panel['title']} {target['refId']}": hurried(target["expr"])
        for panel in panels(dashboard(path))
        for target in panel["targets"]
    }
    assert without_data(world, queries) == {}


PROVOKED = (
    'gateway_requests_total{code="429", team="support"}',
    'gateway_throttled_total{scope="caller", reason="requests_per_minute"}',
    'gateway_failovers_total{reason="overloaded"}',
    'gateway_stream_interruptions_total{cause="upstream"}',
    'gateway_stream_interruptions_total{cause="client"}',
    'gateway_prompt_cache_requests_total{result="hit"}',
    'gateway_cache_savings_usd_total{team="research"}',
    'gateway_queue_wait_seconds_count{result="served"}',
    'gateway_upstream_requests_total{code="401"}',
    'gateway_store_operation_duration_seconds_count{op="admit"}',
)


def test_what_the_traffic_does_is_counted(world: World, calm: Traffic):
    assert without_data(world, {expr: f'{expr[:-1]}, job="{BUSY}"}} > 0' for expr in PROVOKED}) == {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_legends_columns_and_variables_name_labels_that_series_have(world: World, calm: Traffic, path: Path):
    found = dashboard(path)
    for panel in panels(found):
        for target in panel["targets"]:
            labels = (
                set(re.findall(r"{{(\w+)}}", target["legendFormat"])) if "vector(0)" not in target["expr"] else set()
            )
            having = {name for series, _ in world.prometheus.query(hurried(target["expr"])) for name in series}
            assert labels <= having, panel["title"]
    for annotation in found["annotations"]["list"]:
        world.prometheus.query(hurried(annotation["expr"]))  # may be empty, but is understood
    for variable in found["templating"]["list"][1:]:
        of = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert of is not None
        metric, label = of.groups()
        values = world.prometheus.api(f"label/{label}/values", **{"match[]": hurried(metric)})
        assert values, variable["name"]


def test_every_rule_finds_what_it_compares(world: World, calm: Traffic):
    queries = {rule.get("record") or rule["alert"]: never_empty(hurried(rule["expr"])) for rule in rules()}
    assert without_data(world, queries) == {}


def runbook_queries() -> list[str]:
    blocks = re.findall(r"(?s)```promql\n(.*?)```", (ROOT / "docs" / "runbook.md").read_text())
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def test_every_query_of_the_runbook_finds_what_it_compares(world: World, calm: Traffic):
    assert len(runbook_queries()) > 10
    assert without_data(world, {expr: never_empty(hurried(expr)) for expr in runbook_queries()}) == {}


def test_the_scrape_is_as_prometheus_wants_it(world: World):
    answer = world.busy.get("/metrics", admin=True, headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    done = subprocess.run([program("promtool"), "check", "metrics"], input=answer.body, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


# Alerts fire.


def fires(world: World, job: str, *wanted: str) -> dict[str, dict[str, Any]]:
    """The firing alerts of a job, once these are among them."""

    def all_of_them() -> dict[str, dict[str, Any]]:
        firing = world.prometheus.firing(job)
        return firing if set(wanted) <= set(firing) else {}

    found: dict[str, dict[str, Any]] = until(all_of_them, f"{wanted} of {job}", DATA_SECONDS)
    return found


def test_the_account_whose_key_is_refused_is_reported_by_name(world: World):
    account = world.busy.config["accounts"][3]["id"]
    alert = fires(world, BUSY, "GatewayAccountOut")["GatewayAccountOut"]
    assert alert["labels"] == {
        "alertname": "GatewayAccountOut", "job": BUSY, "account": account, "severity": "warning",
    }  # fmt: skip
    assert alert["annotations"]["summary"] == f"Account {account} is out"


def test_nothing_fires_for_an_installation_that_is_well(world: World, calm: Traffic):
    until(lambda: world.prometheus.query(f'job:gateway_cache_hit:ratio_rate1h{{job="{HURT}"}}'), "its rules")
    assert set(world.prometheus.firing(HURT)) - OF_TIME == set()


def test_trouble_is_reported_of_the_installation_that_has_it_and_of_no_other(world: World, calm: Traffic):
    before = set(world.prometheus.firing(BUSY))
    calm.stop()
    (account,) = world.hurt.config["accounts"]
    world.simulator.fault("status", 401, account=account["id"])
    (world.hurt.folder / "gateway.yaml").write_text("listen: nonsense\n")
    assert asyncio.run(ask(world.hurt, message(), key=key_of("bob"))).status == 529
    store = world.store.end()
    assert store == 0
    found = fires(
        world, HURT, "GatewayAccountOut", "GatewayNoAccountAvailable", "GatewayStoreDegraded",
        "GatewayConfigReloadFailed",
    )  # fmt: skip
    assert found["GatewayAccountOut"]["labels"]["account"] == account["id"]
    assert found["GatewayNoAccountAvailable"]["labels"]["severity"] == "critical"
    assert world.prometheus.query(f'sum(ALERTS{{job="{HURT}", alertstate="firing"}})')[0][1] >= 4
    mine = set(world.prometheus.firing(BUSY)) - before
    assert not mine & {"GatewayNoAccountAvailable", "GatewayStoreDegraded", "GatewayConfigReloadFailed"}


def test_a_gateway_that_is_gone_is_down(world: World, calm: Traffic):
    calm.stop()
    if world.hurt.alive():
        world.hurt.end()
    found = fires(world, HURT, "GatewayDown", "GatewayTargetDown")
    assert found["GatewayDown"]["labels"]["severity"] == "critical"
    assert "GatewayDown" not in world.prometheus.firing(BUSY)


def test_alerts_that_fire_are_those_that_there_are(world: World):
    seen = {labels["alertname"] for labels, _ in world.prometheus.query("ALERTS")}
    assert seen <= {alert["alert"] for alert in alerts()}
