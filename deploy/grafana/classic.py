"""Dashboards as Grafana's classic JSON, schema 42.

Source: the types of the npm package @grafana/schema 13.2. Standard library alone, and nothing of the proxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from deploy.grafana.model import BLUE, GREY, JOB, RED, Bars, Choice, Curve, Dashboard, Figure, Heat, Lines, Lookup, Panel, Row

SCHEMA_VERSION: Final = 42
PLUGIN_VERSION: Final = "13.2.0"
"""What panels are written for. Without it Grafana takes each for one of its oldest, and rewrites what is new already."""
COLUMNS: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
DASHED: Final = {"fill": "dash", "dash": [6, 4]}

Json = dict[str, Any]


def dashboard_json(dashboard: Dashboard) -> Json:
    """The content of a dashboard's file. Dashboards link to each other by their tag."""
    return {
        "uid": dashboard.uid,
        "title": f"compute-ledger: {dashboard.title}",
        "description": dashboard.description,
        "tags": ["compute-ledger"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": dashboard.since, "to": "now"},
        "timezone": "",
        "links": [
            {
                "type": "dashboards",
                "title": "compute-ledger",
                "tags": ["compute-ledger"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "The other dashboards of compute-ledger",
            }
        ],
        "annotations": {"list": [_alerts_annotation()]},
        "templating": {"list": [_datasource(), *(_variable(variable) for variable in (JOB, *dashboard.variables))]},
        "panels": _placed(dashboard.rows),
    }


# --- variables -----------------------------------------------------------------------------------------------------------------------


def _datasource() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1}


def _variable(variable: Choice | Lookup) -> Json:
    if isinstance(variable, Lookup):
        query = f"label_values({variable.metric}, {variable.value})"
        chosen: Json = {"current": {"text": ["All"], "value": ["$__all"]}} if variable.several else {}
        return {
            "name": variable.name,
            "label": variable.label,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": "variable", "qryType": 1},
            "refresh": 2,
            "sort": 1,
            "multi": variable.several,
            "includeAll": variable.several,
            **chosen,
        }
    options = [{"text": text, "value": value, "selected": not n} for n, (text, value) in enumerate(variable.values.items())]
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "custom",
        "query": ", ".join(f"{text} : {value}" for text, value in variable.values.items()),
        "options": options,
        "current": options[0],
        "multi": False,
        "includeAll": False,
    }


def _alerts_annotation() -> Json:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": RED,
        "expr": 'ALERTS{alertname=~"ComputeLedger.*", alertstate="firing", job=~"$job|", severity=~"critical|warning"}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


# --- panels --------------------------------------------------------------------------------------------------------------------------


def _placed(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append({"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _at(0, y, COLUMNS, 1)})
        x, y = 0, y + 1
        height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append({**_panel(panel), "gridPos": _at(x, y, panel.width, panel.height)})
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def _at(x: int, y: int, w: int, h: int) -> Json:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel) -> Json:
    match panel.shape:
        case Lines() as lines:
            drawn = _lines(panel, lines)
        case Figure() as figure:
            drawn = _figure(panel, figure)
        case Bars():
            drawn = _bars(panel)
        case Heat():
            drawn = _heat(panel)
        case Curve() as curve:
            drawn = _curve(panel, curve)
    told = {"title": panel.title, "description": panel.description, "pluginVersion": PLUGIN_VERSION, "datasource": DATASOURCE}
    return told | drawn


def _targets(panel: Panel, *, instant: bool = False, format: Literal["time_series", "table", "heatmap"] = "time_series") -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": format,
            "instant": instant,
            "range": not instant,
        }
        for number, query in enumerate(panel.queries)
    ]


def _field(panel: Panel, custom: Json, *, overrides: Sequence[Json] = (), steps: Sequence[tuple[float | None, str]] = ()) -> Json:
    steps = steps or ((None, BLUE),)
    defaults: Json = {
        "unit": panel.unit,
        "custom": custom,
        "mappings": [],
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]},
    }
    bounds = {"min": panel.least, "max": panel.most, "decimals": panel.decimals}
    defaults |= {name: value for name, value in bounds.items() if value is not None}
    return {"defaults": defaults, "overrides": list(overrides)}


def _override(legend: str, **properties: Any) -> Json:
    return {
        "matcher": {"id": "byName", "options": legend},
        "properties": [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()],
    }


def _fixed(colour: str) -> Json:
    return {"mode": "fixed", "fixedColor": colour}


def _lines(panel: Panel, lines: Lines) -> Json:
    custom: Json = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if lines.stepped else "linear",
        "lineWidth": 2,
        "fillOpacity": 40 if lines.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if lines.stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if lines.logarithmic else {"type": "linear"},
    }
    overrides = [_override(name, color=_fixed(colour)) for name, colour in lines.colours.items()]
    overrides += [_override(name, custom__lineStyle=DASHED) for name in lines.dashed]
    if lines.filled_between:
        low, high = lines.filled_between
        overrides.append(_override(high, custom__fillBelowTo=low, custom__fillOpacity=25))
    field = _field(panel, custom, overrides=overrides)
    field["defaults"]["color"] = {"mode": "palette-classic"}
    return {
        "type": "timeseries",
        "targets": _targets(panel),
        "fieldConfig": field,
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _figure(panel: Panel, figure: Figure) -> Json:
    field = _field(panel, {}, steps=figure.colours)
    field["defaults"]["color"] = {"mode": "thresholds"}
    if figure.names:
        field["defaults"]["mappings"] = [{"type": "value", "options": {value: {"text": text} for value, text in figure.names.items()}}]
    return {
        "type": "stat",
        "targets": _targets(panel, instant=True),  # of a range the last value would be shown for hours after all is gone
        "fieldConfig": field,
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        },
    }


def _bars(panel: Panel) -> Json:
    field = _field(panel, {})
    field["defaults"]["color"] = {"mode": "palette-classic"}
    return {
        "type": "bargauge",
        "targets": _targets(panel, instant=True),
        "fieldConfig": field,
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        },
    }


def _heat(panel: Panel) -> Json:
    return {
        "type": "heatmap",
        "targets": _targets(panel, format="heatmap"),
        "fieldConfig": {"defaults": {"custom": {"scaleDistribution": {"type": "linear"}}}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Blues", "steps": 64, "reverse": False, "exponent": 0.5, "fill": "dark-blue"},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
            "yAxis": {"unit": panel.unit, "axisPlacement": "left", "reverse": False},
        },
    }


def _curve(panel: Panel, curve: Curve) -> Json:
    custom = {"show": "points+lines", "pointSize": {"fixed": 5}, "lineWidth": 2, "fillOpacity": 30}
    curved = _override(curve.y, color=_fixed(BLUE))
    straight = _override(curve.straight, color=_fixed(GREY), custom__show="lines", custom__lineStyle=DASHED)
    field = _field(panel, custom, overrides=[curved, straight])
    to_number = {"conversions": [{"targetField": curve.label, "destinationType": "number"}], "fields": {}}
    same = {"left": {"matcher": {"id": "byName", "options": curve.label}}, "operator": "*", "right": {"fixed": "1"}}
    return {
        "type": "xychart",
        "targets": _targets(panel, instant=True, format="table"),
        "fieldConfig": field,
        "transformations": [
            {"id": "convertFieldType", "options": to_number},
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": curve.label}]}},
            {"id": "calculateField", "options": {"mode": "binary", "alias": curve.straight, "binary": same, "replaceFields": False}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {curve.label: curve.x, "Value": curve.y}}},
        ],
        "options": {
            "mapping": "manual",
            "series": [
                {
                    "name": {"fixed": name},
                    "frame": {"matcher": {"id": "byIndex", "options": 0}},
                    "x": {"matcher": {"id": "byName", "options": curve.x}},
                    "y": {"matcher": {"id": "byName", "options": name}},
                }
                for name in (curve.y, curve.straight)
            ],
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }
