"""The workflow that releases: it names what exists, trusts nobody's tag, and may do only what each job needs."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.deploy.deployed import ROOT

FILE = ROOT / ".github/workflows/release.yml"
WORKFLOW: dict[Any, Any] = yaml.safe_load(FILE.read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is() -> None:
    used = [line for line in FILE.read_text().splitlines() if re.search(r"\buses:", line)]
    assert used and len(used) == sum("uses" in step for step in STEPS)
    for line in used:
        assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_a_job_may_do_what_it_has_to_and_no_more() -> None:
    assert WORKFLOW["permissions"] == {}
    assert {name: set(job["permissions"]) for name, job in JOBS.items()} == {
        "build": {"contents"},
        "pypi": {"contents", "id-token"},
        "image": {"contents", "packages", "id-token"},
        "chart": {"contents", "packages"},
        "release": {"contents"},
    }
    assert [name for name, job in JOBS.items() if job["permissions"]["contents"] == "write"] == ["release"]
    assert JOBS["pypi"]["environment"] == "pypi"
    assert "secrets." not in FILE.read_text()


def test_everything_that_is_published_has_passed_the_checks() -> None:
    assert any(".ci/run" in step.get("run", "") for step in JOBS["build"]["steps"])
    for name, job in JOBS.items():
        needs = [job.get("needs", [])] if isinstance(job.get("needs"), str) else job.get("needs", [])
        assert name == "build" or needs


def test_the_image_is_for_two_processors_and_says_what_is_in_it() -> None:
    [build] = [step["with"] for step in STEPS if "build-push-action" in step.get("uses", "")]
    assert build["platforms"] == "linux/amd64,linux/arm64" and build["sbom"] and build["provenance"] == "mode=max"
    assert (ROOT / build["file"]).is_file()


def test_the_folders_that_it_names_are_there() -> None:
    for path in re.findall(r"\bdeploy/[\w./]+\w", FILE.read_text()):
        assert (ROOT / path).exists(), path
