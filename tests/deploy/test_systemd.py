"""The systemd unit: it can be loaded, keeps the service in, and runs what the example configuration expects."""

import re
import shutil
import subprocess

import pytest

from tests.deploy.deployed import CONFIGS, DEPLOY, loaded, secret_files

UNIT = DEPLOY / "systemd/gateway.service"
SECTIONS = {"Unit", "Service", "Install"}


def settings() -> list[tuple[str, str, str]]:
    """(section, name, value), in order; lists are given line by line."""
    found, section = [], ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals and re.fullmatch("[A-Z][A-Za-z]+", name), line
            found.append((section, name, value))
    return found


def values(name: str) -> list[str]:
    return [value for _, given, value in settings() if given == name]


def test_the_unit_has_the_sections_of_a_service_and_names_no_setting_twice_by_mistake():
    assert {section for section, _, _ in settings()} == SECTIONS
    lists = {"LoadCredential", "SystemCallFilter"}
    single = [name for _, name, _ in settings() if name not in lists]
    assert len(single) == len(set(single))


def test_a_stop_is_the_supervisors_to_carry_out():
    # SIGTERM to all of them would end the embedded store at the beginning of the drain.
    assert values("KillMode") == ["mixed"]
    assert values("Restart") == ["on-failure"]


def test_every_secret_of_its_configuration_is_handed_over(tmp_path):
    wanted = secret_files(CONFIGS["small"].read_text())
    given = [f"/run/credentials/gateway.service/{each.partition(':')[0]}" for each in values("LoadCredential")]
    assert sorted(set(wanted)) == sorted(given)


def test_the_state_directory_is_the_data_dir_and_the_only_place_to_write(tmp_path):
    assert [f"/var/lib/{name}" for name in values("StateDirectory")] == [loaded("small", tmp_path).data_dir]
    assert values("ProtectSystem") == ["strict"]
    assert not values("ReadWritePaths")


def test_every_worker_may_have_all_its_connections(tmp_path):
    [limit] = values("LimitNOFILE")
    assert int(limit) > 2 * loaded("small", tmp_path).limits.max_connections


@pytest.fixture
def analyze():
    program = shutil.which("systemd-analyze")
    # Its own checks come on top of those above, where it is there; no machine has to have it.
    return program


def test_systemd_finds_nothing_to_say_but_that_the_program_is_not_installed(analyze, tmp_path):
    if analyze is None:
        return
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", shutil.which("true") or "/bin/true"))
    run = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert unit.name not in run.stderr, run.stderr


def test_systemd_calls_the_service_well_kept_in(analyze):
    if analyze is None:
        return
    run = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=15", UNIT], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout[-2000:]
