"""One store for all journeys of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.driver import Rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Plays journeys."""
    try:
        made = Rig(tmp_path_factory.mktemp("journeys") / "data")
    except LookupError as error:
        pytest.skip(str(error))
    yield made
    made.close()
