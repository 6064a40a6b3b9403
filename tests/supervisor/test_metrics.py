"""The supervisor's own metrics, beside those of its workers."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin.desks.levels import Levels
from gateway.config.file import loads
from gateway.core.routing.broadcast import Report, Seen, encode
from gateway.core.routing.document import PoolDocument
from gateway.supervisor.metrics import Exposition, Gauges, Whole
from gateway.supervisor.pool.account_states import AccountStates
from gateway.worker.accounts import entry_of

MODEL = "claude-haiku-4-5"


class Workers:
    """What they tell."""

    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self):
        return iter(self.families)


def degraded(**modes: float) -> Metric:
    family = GaugeMetricFamily("gateway_degraded", "", labels=("mode",))
    for mode, value in modes.items():
        family.add_metric((mode,), value)
    return family


def values(metrics) -> dict[tuple[str, ...], float]:
    found = {}
    for metric in metrics:
        for sample in metric.samples:
            place = (sample.name, *sample.labels.values())
            assert place not in found
            found[place] = sample.value
    return found


def test_the_workers_are_counted_that_are_in_a_mode_and_those_that_are_missing():
    other = GaugeMetricFamily("gateway_other", "", value=5)
    whole = Whole(cast(Any, Workers(degraded(store=2.0, journal=1.0), other)), {"store": 1, "workers": 0})
    families = list(whole.collect())
    assert [family.name for family in families] == ["gateway_other", "gateway_degraded"]
    assert values(families[1:]) == {
        ("gateway_degraded", "store"): 2.0,
        ("gateway_degraded", "journal"): 1.0,
        ("gateway_degraded", "workers"): 0.0,
    }


def test_before_any_worker_has_told_of_modes_the_supervisors_are_there():
    whole = Whole(cast(Any, Workers()), {"store": 0, "workers": 2})
    assert values(whole.collect()) == {("gateway_degraded", "store"): 0.0, ("gateway_degraded", "workers"): 2.0}


async def test_the_workers_are_added_up_beside_the_loop_and_what_the_loop_changes_is_read_by_it():
    here = threading.get_ident()
    threads: dict[str, int] = {}

    def noted(name: str, value: Any) -> Any:
        threads[name] = threading.get_ident()
        return value

    class Own:
        def collect(self):
            return noted("own", iter([GaugeMetricFamily("gateway_own", "", value=7)]))

    class Told(Workers):
        def collect(self):
            return noted("workers", super().collect())

    async def refresh() -> None:
        workers.families = (degraded(store=2.0), GaugeMetricFamily("gateway_other", "", value=5))

    workers = Told()
    exposition = Exposition(
        cast(Any, workers), cast(Any, Own()), lambda: noted("modes", {"store": 1, "workers": 0}), refresh
    )
    text = await exposition.encoded(lambda collector: noted("encoding", generate_latest(collector)))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found == {
        ("gateway_own",): 7.0, ("gateway_other",): 5.0,
        ("gateway_degraded", "store"): 2.0, ("gateway_degraded", "workers"): 0.0,
    }  # fmt: skip
    assert threads["own"] == threads["modes"] == here
    assert here not in (threads["workers"], threads["encoding"])


@pytest.fixture
async def account_states():
    config = loads(
        "secret: 0123456789abcdef0123456789abcdef\nadmin: {token: token-of-the-operator}\n"
        "keys: [{id: k, key: sk-0123456789abcdef0123456789abcdef}]\n"
        "accounts:\n"
        "  - {id: a, api_key: sk-ant-one, workspace: w}\n"
        "  - {id: b, api_key: sk-ant-two, workspace: w}\n"
        "  - {id: c, api_key: sk-ant-three, workspace: v, provider: bedrock, region: us-east-1}\n",
        {},
    )
    made = AccountStates(config, lambda data: None)
    made.apply(PoolDocument(1, tuple(sorted(map(entry_of, config.accounts)))))
    yield made
    await made.aclose()


def gauges(account_states: AccountStates, bindings: dict[str, int] | None) -> Gauges:
    levels = Levels(cast(Any, None), list, list, lambda: 0.0)
    return Gauges(account_states, lambda: {"a": 3, "gone": 1}, lambda: bindings, levels)


async def test_accounts_of_the_pool_and_no_others_have_requests_and_bindings(account_states):
    found = values(gauges(account_states, {"w": 7, "elsewhere": 9}).collect())
    assert {place[1:]: value for place, value in found.items() if place[0] == "gateway_account_in_flight"} == {
        ("a",): 3, ("b",): 0, ("c",): 0,
    }  # fmt: skip
    assert {place[1:]: value for place, value in found.items() if place[0] == "gateway_account_bindings"} == {
        ("a",): 7, ("b",): 7, ("c",): 0,
    }  # fmt: skip
    assert not [
        place for place in values(gauges(account_states, None).collect()) if place[0] == "gateway_account_bindings"
    ]


async def test_states_say_whose_an_account_is(account_states):
    found = values(gauges(account_states, {}).collect())
    states = {place[1:3] for place in found if place[0] == "gateway_account_state"}
    assert states == {("a", "anthropic"), ("b", "anthropic"), ("c", "bedrock")}
    assert found["gateway_account_state", "c", "bedrock", "available"] == 1.0


async def test_limits_say_what_is_left_and_when_all_is_back(account_states):
    organization = account_states.router.ring.accounts["a"].organization
    classes = [MODEL, "a-models-name-of-a-clients-own-invention"]
    for name in classes:
        limit_class = account_states.router.classify(name)
        seen = Seen(organization, limit_class, 0.0, 0, {"requests": (60.0, 15.0, 0.0)})
        account_states.heard(encode(Report("p", {}, [seen])))
    found = values(gauges(account_states, None).collect())
    ratios = {place[1:]: value for place, value in found.items() if "remaining_ratio" in place[0]}
    resets = {place[1:]: value for place, value in found.items() if "reset_timestamp" in place[0]}
    place = ("a", account_states.router.classify(MODEL), "requests")
    assert ratios.keys() == resets.keys()
    assert {labels[1] for labels in ratios} == {place[1]}  # nothing that a client has made up
    assert 0.25 <= ratios[place] < 1.0
    assert time.time() < resets[place] < time.time() + 60
    (family,) = (each for each in gauges(account_states, None).collect() if "reset_timestamp" in each.name)
    assert "over replicas" in family.documentation.lower()


async def test_all_gauges_say_how_replicas_are_put_together(account_states):
    for family in gauges(account_states, {}).collect():
        assert "over replicas take " in family.documentation.lower()
