"""One store for all journeys of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.driver import Rig
from tests.journeys.journey import Journey


@pytest.fixture(scope="session", params=["wire", "asgi"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Plays journeys: over the gateway's own listener, and over uvicorn's."""
    try:
        made = Rig(tmp_path_factory.mktemp("journeys") / "data", request.param == "asgi")
    except LookupError as error:
        pytest.skip(str(error))
    yield made
    made.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another server than the gateway's own bounds otherwise; with --wire, all that is over another."""
    left_out = {item for item in items if isinstance(item, pytest.Function) and _is_left_out(config, item)}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def _is_left_out(config: pytest.Config, item: pytest.Function) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if params.get("rig") != "asgi":
        return False
    return bool(config.getoption("wire")) or any(isinstance(each, Journey) and each.wire for each in params.values())
