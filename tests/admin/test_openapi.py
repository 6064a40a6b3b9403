"""The document of the admin API says what its routes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import meta

from gateway.admin import schemas
from gateway.admin.access import OPERATE, Access
from gateway.admin.desks.keys import CREATE, ROTATE
from gateway.admin.openapi import document
from gateway.config.rules import Rule
from gateway.config.schema import CallerLimits
from tests.admin.admin_kit import NOW, config_of, routes_of

CONFIG = config_of()
ROUTES = routes_of(Access(lambda: CONFIG, lambda: NOW))
DOCUMENT = document(ROUTES)


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {(m.upper(), path): each for path, rows in DOCUMENT["paths"].items() for m, each in rows.items()}


def test_every_route_of_the_api_is_in_it_and_no_other():
    documented = {(route.method, route.path.replace("...", "")) for route in ROUTES if route.api}
    assert set(operations()) == documented
    assert {path for _, path in documented if not path.startswith("/admin/v1/")} == {"/healthz", "/readyz", "/metrics"}
    assert len({each["operationId"] for each in operations().values()}) == len(documented)


def test_it_says_which_role_each_needs():
    for route in ROUTES:
        if route.api:
            operation = operations()[route.method, route.path.replace("...", "")]
            assert bool(operation["security"]) == ("401" in operation["responses"]) == (route.role != "")
            assert operation.get("x-role", "") == route.role
            assert ("403" in operation["responses"]) == (route.role == OPERATE)


def test_every_parameter_of_a_path_is_described():
    for (_, path), operation in operations().items():
        described = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
        assert [f"{{{name}}}" for name in described] == [part for part in path.split("/") if part.startswith("{")]


def test_every_schema_is_one():
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "schema" in value:
                meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **value["schema"]})
            for each in value.values():
                walk(each)

    walk(DOCUMENT["paths"])
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(("schema", "rules"), [(schemas.KEY_CREATE, CREATE), (schemas.KEY_ROTATE, ROTATE)])
def test_a_body_is_described_as_it_is_read(schema: dict[str, Any], rules: dict[str, Rule]):
    assert set(schema["properties"]) == set(rules)
    assert set(schema["properties"].get("limits", {}).get("properties", {})) in (
        set(),
        set(CallerLimits.__struct_fields__),
    )


def test_the_page_about_it_has_every_route_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): (row[1], row[2], row[3].strip(" |")) for row in rows}
    assert told == {
        f"{method} {path}": (
            each["summary"],
            each.get("x-role", "") or "nobody need be known",
            ", ".join(f"`{one['name']}`" for one in each.get("parameters", []) if one["in"] == "query"),
        )
        for (method, path), each in operations().items()
    }
