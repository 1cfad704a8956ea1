"""Writes every dashboard into `dashboards/`: `python -m deploy.grafana.generate`, in the root of the repository.

The JSON is checked in, so that Grafana needs no Python; a test holds the two together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from deploy.grafana.classic import dashboard_json
from deploy.grafana.panels import budgets, equality, fair_share, proxy

DASHBOARDS: Final = (equality.DASHBOARD, budgets.DASHBOARD, fair_share.DASHBOARD, proxy.DASHBOARD)
DIRECTORY: Final = Path(__file__).parent / "dashboards"


def files() -> dict[Path, str]:
    """What every file says, by its path."""
    return {DIRECTORY / f"{each.uid}.json": json.dumps(dashboard_json(each), indent=1) + "\n" for each in DASHBOARDS}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
