"""The dashboards as files: complete, laid out, and what their sources make."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import yaml

from deploy.grafana.source.__main__ import DASHBOARDS as SOURCES
from deploy.grafana.source.__main__ import text
from deploy.grafana.source.panels import STATE_COLOURS
from deploy.grafana.source.queries import STATE_CODES
from gateway.supervisor.pool.diagnosis import STATES
from tests.deploy.watch import DASHBOARDS, GRAFANA, dashboard, panels
from tests.e2e.rig import ROOT

UIDS = {
    "overview": "gateway-overview",
    "accounts": "gateway-accounts",
    "cache": "gateway-cache",
    "teams": "gateway-teams",
    "internals": "gateway-internals",
}
UNITS = {"short", "s", "percentunit", "reqps", "ops", "currencyUSD", "si:tok", "si:tok/s"}
EACH = pytest.mark.parametrize("name", UIDS)


def load(name: str) -> dict[str, Any]:
    return dashboard(GRAFANA / "dashboards" / f"{name}.json")


def test_the_files_are_what_their_sources_make():
    assert {path.stem for path in DASHBOARDS} == set(SOURCES)
    stale = [path.name for path in DASHBOARDS if path.read_text() != text(SOURCES[path.stem])]
    assert not stale, f"{stale}: python -m deploy.grafana.source"


def test_dashboards_know_every_state_of_an_account():
    assert {*STATES} == {*STATE_CODES} == {*STATE_COLOURS}
    assert max(STATE_CODES, key=lambda state: STATE_CODES[state]) == "out"


def test_dashboards_keep_their_addresses():
    assert {path.stem: dashboard(path)["uid"] for path in DASHBOARDS} == UIDS


@EACH
def test_every_panel_says_what_it_shows_and_in_which_unit(name: str):
    found = load(name)
    assert found["title"] and found["description"].endswith(".")
    titles = Counter(panel["title"] for panel in panels(found))
    assert [title for title, number in titles.items() if number > 1] == []
    for panel in panels(found):
        assert panel["title"], panel
        assert len(panel["description"]) > 10 and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@EACH
def test_every_panel_has_a_place_of_its_own(name: str):
    found = load(name)["panels"]
    ids = [panel["id"] for panel in found]
    assert len(set(ids)) == len(ids)
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["w"] > 0 and place["h"] > 0 and place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(found, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        )  # fmt: skip
        assert apart, (one["title"], other["title"])


@EACH
def test_every_query_goes_to_the_chosen_source_and_installation(name: str):
    found = load(name)
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    assert next(iter(variables)) == "datasource" and variables["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for variable in list(variables.values())[1:]:
        assert variable["datasource"] == source, variable["name"]
    used = set()
    for panel in panels(found):
        assert panel["datasource"] == source, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source, panel["title"]
            assert 'job=~"$job' in target["expr"], panel["title"]
            assert not re.search(r"(rate|increase)\([^[]*\[(?!\$__rate_interval\]|\$__range\])", target["expr"])
            used |= set(re.findall(r"\$([a-z]+)", target["expr"]))
    assert used == set(variables) - {"datasource"}


@EACH
def test_links_lead_to_dashboards_that_are_there(name: str):
    found = load(name)
    targets = {path.stem: dashboard(path) for path in DASHBOARDS}
    by_uid = {each["uid"]: each for each in targets.values()}
    (siblings,) = found["links"]
    assert siblings["type"] == "dashboards" and set(siblings["tags"]) <= set(found["tags"])
    assert siblings["keepTime"] and siblings["includeVars"]
    for url in re.findall(r'"url": "(/d/[^"]+)"', text(found)):
        uid, _, query = url.removeprefix("/d/").partition("?")
        variables = {variable["name"] for variable in by_uid[uid]["templating"]["list"]}
        assert set(re.findall(r"var-([a-z]+)=", query)) <= variables, url


def test_grafana_finds_the_dashboards_where_compose_mounts_them():
    provisioning = GRAFANA / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gateway.yml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
