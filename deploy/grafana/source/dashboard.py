"""A dashboard as Grafana stores it: rows of panels laid out from left to right, variables, links to its siblings."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.grafana.source.panels import DATASOURCE, Json, Panel

TAG = "gateway"
COLUMNS = 24


@dataclass(frozen=True)
class Row:
    """A heading and what stands under it."""

    title: str
    panels: tuple[Panel, ...]


def link_to(uid: str, title: str, variables: str = "") -> Json:
    """A link from a value to another dashboard, with its time range; `variables` as in a URL."""
    extra = f"&{variables}" if variables else ""
    return {"title": title, "url": f"/d/{uid}?var-job=${{job}}{extra}&${{__url_time_range}}"}


def _variable(name: str, label: str, metric: str, many: bool) -> Json:
    query = f"label_values({metric}, {name})"
    variable: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": many,
        "includeAll": many,
        "options": [],
    }
    if many:
        variable |= {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return variable


# Their labels come with these metrics; `job` is one installation of the gateway.
VARIABLES = {
    "job": _variable("job", "Installation", "gateway_build_info", many=False),
    "instance": _variable("instance", "Replica", 'gateway_build_info{job=~"$job"}', many=True),
    "account": _variable("account", "Account", 'gateway_account_state{job=~"$job"}', many=True),
    "team": _variable("team", "Team", 'gateway_requests_total{job=~"$job"}', many=True),
    "model": _variable("model", "Model", 'gateway_requests_total{job=~"$job"}', many=True),
}


def dashboard(uid: str, title: str, description: str, variables: tuple[str, ...], *rows: Row) -> Json:
    """The JSON of a dashboard; `variables` besides the data source and the installation."""
    panels: list[Json] = []
    y = 0
    for row in rows:
        panels.append({
            "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "id": len(panels) + 1, "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        })  # fmt: skip
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            panels.append({"id": len(panels) + 1, **panel.body, "gridPos": place})
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
    source: Json = {
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "",
        "refresh": 1, "hide": 0, "multi": False, "includeAll": False, "options": [], "current": {},
    }  # fmt: skip
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "version": 1,
        "annotations": {
            "list": [
                {
                    "name": "Firing alerts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "hide": False,
                    "iconColor": "red",
                    "expr": 'ALERTS{alertname=~"Gateway.+", alertstate="firing", job=~"$job|", severity="critical"}',
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{account}} {{team}}",
                    "step": "60s",
                }
            ]
        },
        "links": [
            {
                "type": "dashboards", "tags": [TAG], "title": "Gateway", "icon": "external link", "tooltip": "",
                "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False, "url": "",
            }
        ],
        "templating": {"list": [source, *(VARIABLES[name] for name in ("job", *variables))]},
        "panels": panels,
    }  # fmt: skip
