"""One number for the end: whatever stops a gateway waits as long as its configuration may need."""

import configparser
import re

import pytest
import yaml

from gateway.config.schema import Timeouts
from gateway.store import embedded
from gateway.worker import process as worker
from tests.deploy.deployed import CLOSING, CONFIGS, DEPLOY, ROOT, loaded, stop_seconds

_LISTENERS = 3 + 1  # the admin listener's last answers, and results that are still being metered


def waits() -> dict[str, tuple[str, int]]:
    """Who waits: the configuration that it runs, and its seconds."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(DEPLOY / "systemd/gateway.service")
    documented = re.search(r"--stop-timeout (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert documented is not None
    return {
        "compose": ("compose", int(compose["gateway"]["stop_grace_period"].removesuffix("s"))),
        "demo": ("demo", int(compose["demo"]["stop_grace_period"].removesuffix("s"))),
        "systemd": ("small", int(unit["Service"]["TimeoutStopSec"])),
        "docker": ("compose", int(documented[1])),
    }


@pytest.mark.parametrize("who", waits())
def test_whoever_stops_a_gateway_waits_as_long_as_its_drain_and_closing_take(who, tmp_path):
    name, seconds = waits()[who]
    assert seconds == stop_seconds(loaded(name, tmp_path))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_deployed_configurations_drain_as_long_as_the_default(name, tmp_path):
    found = loaded(name, tmp_path).timeouts
    assert (found.drain, found.drain_delay) == (Timeouts().drain, Timeouts().drain_delay)


def test_the_closing_time_covers_what_a_gateway_allows_itself():
    assert worker._CUT_WAIT + _LISTENERS + embedded.STOP_SECONDS <= CLOSING
