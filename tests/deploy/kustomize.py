"""As much of kustomize as the files of deploy/kubernetes use; anything else is an error.

Where the real one is installed, the tests compare what both make.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.deployed import documents

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images", "configMapGenerator"}


def build(folder: Path, objects: list[Object] | None = None) -> list[Object]:
    """The objects that a folder stands for; a component changes those that came before it."""
    [plan] = documents(folder / "kustomization.yaml")
    assert plan.keys() <= KNOWN, plan.keys() - KNOWN
    found = list(objects or [])
    for name in plan.get("resources", []):
        path = folder / name
        assert path.exists(), f"{folder.name} names {name}, which is not there"
        found += build(path) if path.is_dir() else documents(path)
    for generator in plan.get("configMapGenerator", []):
        found.append(_config_map(folder, **generator))
    for name in plan.get("components", []):
        found = build(folder / name, found)
    for patch in plan.get("patches", []):
        found = [_patched(each, **patch) for each in found]
    for image in plan.get("images", []):
        found = [_imaged(each, **image) for each in found]
    keys = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(keys) == len(set(keys)), keys
    return found


def _config_map(folder: Path, name: str, files: list[str], options: Object) -> Object:
    assert options["disableNameSuffixHash"] is True
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": options["labels"]},
        "data": {each: (folder / each).read_text() for each in files},
    }


def _patched(each: Object, target: Object, patch: str, options: Object | None = None) -> Object:
    if (each["kind"], each["metadata"]["name"]) != (target["kind"], target["name"]):
        return each
    each = copy.deepcopy(each)
    for change in yaml.safe_load(patch):
        *parents, last = change["path"].removeprefix("/").split("/")
        place: Any = each
        for name in parents:
            place = place[name]
        if change["op"] == "remove":
            del place[last]
        elif last == "-":
            place.append(change["value"])
        else:
            assert (last in place) is (change["op"] == "replace"), change
            assert last != "kind" or parents or (options or {})["allowKindChange"]
            place[last] = change["value"]
    return each


def _imaged(each: Object, name: str, newName: str, newTag: str) -> Object:
    each = copy.deepcopy(each)
    pod = each.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("containers", []):
        if container["image"].partition(":")[0] == name:
            container["image"] = f"{newName}:{newTag}"
    return each
