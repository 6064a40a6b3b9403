"""Writes `../dashboards/*.json`: `python -m deploy.grafana.source`, after every change of a module beside this one.

Grafana needs only what is written; a test compares the two.
"""

import json
from pathlib import Path

from deploy.grafana.source import accounts, cache, internals, overview, teams
from deploy.grafana.source.panels import Json

FOLDER = Path(__file__).parents[1] / "dashboards"
DASHBOARDS: dict[str, Json] = {
    "overview": overview.JSON,
    "accounts": accounts.JSON,
    "cache": cache.JSON,
    "teams": teams.JSON,
    "internals": internals.JSON,
}


def text(dashboard: Json) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard, indent=2) + "\n"


if __name__ == "__main__":
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(text(dashboard))
