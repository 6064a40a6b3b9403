"""Tables: one row a thing with numbers of several queries, or one row a series with its labels."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.grafana.source.panels import Json, Panel, Query, Steps, panel, state_mappings, thresholds


@dataclass(frozen=True)
class Column:
    """A column of a table: its query, and how its values look. `links` lead on from a cell."""

    name: str
    expr: str
    unit: str
    steps: Steps | None = None
    states: bool = False


def table(
    title: str,
    description: str,
    label: str,
    heading: str,
    *columns: Column,
    links: tuple[Json, ...] = (),
    sort: str = "",
    width: int = 24,
    height: int = 9,
) -> Panel:
    """One row a value of `label`; columns are instant queries `by (label)`."""
    overrides: list[Json] = []
    for column in columns:
        properties: list[Json] = [{"id": "unit", "value": column.unit}]
        if column.steps:
            properties += [
                {"id": "thresholds", "value": thresholds(column.steps)},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        if column.states:
            properties += [
                {"id": "mappings", "value": state_mappings()},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        overrides.append({"matcher": {"id": "byName", "options": column.name}, "properties": properties})
    if links:
        overrides.append(
            {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "links", "value": list(links)}]}
        )
    names = {f"Value #{chr(ord('A') + number)}": column.name for number, column in enumerate(columns)}
    if len(columns) == 1:
        names = {"Value": columns[0].name}
    organize: Json = {
        "excludeByName": {"Time": True},
        "indexByName": {label: 0, **{name: number for number, name in enumerate(names, 1)}},
        "renameByName": {label: heading, **names},
    }
    return panel(
        "table", title, description, tuple(Query(column.expr) for column in columns),
        {"unit": "short", "color": {"mode": "thresholds"}, "custom": {"align": "auto", "filterable": True}},
        {"cellHeight": "sm", "showHeader": True, "sortBy": [{"displayName": sort, "desc": True}] if sort else []},
        width, height, form="table", instant=True, overrides=overrides,
        transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
    )  # fmt: skip


def listing(
    title: str,
    description: str,
    query: Query,
    *labels: str,
    links: tuple[Json, ...] = (),
    width: int = 12,
    height: int = 8,
) -> Panel:
    """One row a series, its labels as columns."""
    organize: Json = {
        "includeByName": dict.fromkeys(labels, True),
        "indexByName": {label: number for number, label in enumerate(labels)},
    }
    overrides: list[Json] = []
    if links:
        overrides.append(
            {"matcher": {"id": "byName", "options": labels[0]}, "properties": [{"id": "links", "value": list(links)}]}
        )
    return panel(
        "table", title, description, (query,),
        {"unit": "short", "noValue": "none", "custom": {"align": "auto", "filterable": True}},
        {"cellHeight": "sm", "showHeader": True, "sortBy": []},
        width, height, form="table", instant=True, overrides=overrides,
        transformations=[{"id": "organize", "options": organize}],
    )  # fmt: skip
