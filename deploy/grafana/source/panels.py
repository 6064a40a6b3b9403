"""Panels as Grafana stores them (schema 39, Grafana 11 and newer). A panel has no place yet: `dashboard` gives it one.

Each function makes one kind of panel: title, description, unit (Grafana's name for it), queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deploy.grafana.source.queries import STATE_CODES

Json = dict[str, object]
Steps = tuple[tuple[float | None, str], ...]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GOOD, FAIR, POOR, BAD, CALM, OFF = "green", "yellow", "orange", "red", "blue", "gray"
STATE_COLOURS = {"available": GOOD, "limited": FAIR, "draining": CALM, "disabled": OFF, "failing": POOR, "out": BAD}
PLAIN: Steps = ((None, CALM),)


def rising(fair: float, bad: float) -> Steps:
    """Thresholds of what had better be small."""
    return ((None, GOOD), (fair, FAIR), (bad, BAD))


def falling(bad: float, fair: float) -> Steps:
    """Thresholds of what had better be large: bad below the first, fair below the second."""
    return ((None, BAD), (bad, FAIR), (fair, GOOD))


@dataclass(frozen=True)
class Query:
    """One expression; `legend` in Grafana's form, `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """`body` is the panel without id and place; `width` of 24 columns, `height` in Grafana's rows."""

    body: Json
    width: int
    height: int


def panel(
    kind: str,
    title: str,
    description: str,
    queries: tuple[Query, ...],
    defaults: Json,
    options: Json,
    width: int,
    height: int,
    form: Literal["time_series", "table", "heatmap"] = "time_series",
    instant: bool = False,
    **more: object,
) -> Panel:
    """Any kind of panel; `more` goes into it as it is."""
    targets = [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "format": form,
            "instant": instant,
            "legendFormat": query.legend or "__auto",
            "range": not instant,
            "refId": chr(ord("A") + number),
        }
        for number, query in enumerate(queries)
    ]
    body: Json = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": options,
        "targets": targets,
        **more,
    }
    return Panel(body, width, height)


def thresholds(steps: Steps) -> Json:
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for value, colour in steps]}


def state_mappings() -> list[Json]:
    """Words and colours for the numbers of `queries.account_states`."""
    options = {
        str(code): {"text": state, "color": STATE_COLOURS[state], "index": code} for state, code in STATE_CODES.items()
    }
    return [{"type": "value", "options": options}]


def timeseries(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    whole: bool = False,
    steps: Steps | None = None,
    links: tuple[Json, ...] = (),
    width: int = 12,
    height: int = 8,
) -> Panel:
    """Lines over time. `whole` ends the axis at 1, for shares; the last of `steps` is drawn as a line."""
    custom: Json = {
        "drawStyle": "line",
        "fillOpacity": 30 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults: Json = {"unit": unit, "min": 0, "color": {"mode": "palette-classic"}, "custom": custom}
    if whole:
        defaults["max"] = 1
    if steps:
        defaults["thresholds"] = thresholds(steps)
    if links:
        defaults["links"] = list(links)
    options: Json = {
        "legend": {
            "calcs": ["mean", "max", "lastNotNull"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "sortBy": "Max",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, description, queries, defaults, options, width, height)


def stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps = PLAIN,
    decimals: int | None = None,
    words: dict[str, tuple[str, str]] | None = None,
    width: int = 4,
    height: int = 4,
) -> Panel:
    """The latest value, large, with its course behind it. `words` maps values to text and colour."""
    defaults: Json = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds(steps)}
    if decimals is not None:
        defaults["decimals"] = decimals
    if words:
        options_of = {
            value: {"text": text, "color": colour, "index": number}
            for number, (value, (text, colour)) in enumerate(words.items())
        }
        defaults["mappings"] = [{"type": "value", "options": options_of}]
    options: Json = {
        "colorMode": "value",
        "graphMode": "none" if words else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
        "wideLayout": True,
    }
    return panel("stat", title, description, queries, defaults, options, width, height)


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps,
    top: float | None = None,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """One horizontal bar a series, with its latest value; `top` is the value of a full bar."""
    defaults: Json = {"unit": unit, "min": 0, "color": {"mode": "thresholds"}, "thresholds": thresholds(steps)}
    if top is not None:
        defaults["max"] = top
    options: Json = {
        "displayMode": "gradient",
        "minVizHeight": 14,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    return panel("bargauge", title, description, queries, defaults, options, width, height, instant=True)


def heatmap(title: str, description: str, unit: str, query: Query, width: int = 12, height: int = 8) -> Panel:
    """The buckets of a histogram over time."""
    options: Json = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "scheme": "Oranges", "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    return panel(
        "heatmap", title, description, (query,), {"unit": unit}, options, width, height, form="heatmap"
    )  # fmt: skip


def account_timeline(title: str, description: str, query: Query, width: int = 12, height: int = 8) -> Panel:
    """A band an account, coloured by its state."""
    defaults: Json = {
        "unit": "short",
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 75, "lineWidth": 0},
        "mappings": state_mappings(),
        "thresholds": thresholds(((None, OFF),)),
    }
    options: Json = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, description, (query,), defaults, options, width, height)
