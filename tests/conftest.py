"""Shared by all tests: under GATEWAY_CI=1 nothing may be skipped unnoticed, and products of parameters are thinned."""

import os
from collections import Counter
from collections.abc import Callable, Generator
from typing import TypeVar

import hypothesis
import pytest

from tests.pairwise import pairwise

# A busy machine may take its time, the first of all examples most of it.
hypothesis.settings.register_profile("patient", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("patient")

# Files of few tests that take long: begun first, so that none of them is still running when all else is done.
LONG = {
    "test_bench", "test_demo", "test_wheel", "test_dockerfile", "test_monitoring", "test_prometheus", "test_members",
    "test_ledger_machine", "test_ledger", "test_two_faults", "test_admin_fuzz", "test_failing_accounts",
    "test_first_hour", "test_clouds", "test_topologies",
}  # fmt: skip

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

STRICT = os.environ.get("GATEWAY_CI") == "1"
# Recorded traffic is not part of the repository; what could not be built where it has to be, .ci/run says.
ALLOWED = ("trace:", *(f"{each} is not installed" for each in os.environ.get("GATEWAY_WITHOUT", "").split()))


def _skip_is_failure(report: Report) -> Report:
    if not STRICT or not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped although GATEWAY_CI=1: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _skip_is_failure((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _skip_is_failure((yield))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run all of the products that are marked `pairwise`")
    parser.addoption("--wire", action="store_true", help="whole journeys over the gateway's own listener alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("whole"):
        _thin(config, items)
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.stem not in LONG, -sizes[item.path]))


def _thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of each product of parameters as many as hold every pair of values."""
    products: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("pairwise") and hasattr(item, "callspec"):
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    spare: set[pytest.Item] = set()
    for product in products.values():
        params = [item.callspec.params for item in product]
        kept = pairwise([frozenset((name, id(value)) for name, value in each.items()) for each in params])
        spare |= set(product) - {product[number] for number in kept}
    items[:] = [item for item in items if item not in spare]
    config.hook.pytest_deselected(items=list(spare))


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.torture)], ids=["in time or not", "in time"])
def within(request: pytest.FixtureRequest) -> Callable[[float, float], None]:
    """`within(took, seconds)`: that it took no longer. The long run looks at it; a busy machine may take its time."""

    def judge(took: float, seconds: float) -> None:
        assert not request.param or took < seconds

    return judge
