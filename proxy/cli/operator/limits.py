"""Limits as they are written on the command line: `5/day`, `100/month@Europe/Berlin`, `10/day:full`, `10/day:capped=20`, `50/ever`."""

from __future__ import annotations

import argparse
import re
from typing import Any

FORM = "CREDITS/WINDOW[@TIME_ZONE][:full|:capped=CREDITS]"
_LIMIT = re.compile(
    r"(?P<credits>[0-9]+(\.[0-9]+)?)/(?P<window>[a-z]+|[0-9]+s)(@(?P<zone>[A-Za-z0-9_+/-]+))?(:(?P<rollover>full|none|capped=(?P<cap>[0-9.]+)))?"
)


def limit(text: str) -> dict[str, Any]:
    """A limit as the API takes it."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not {FORM}, such as 5/day or 100/month@Europe/Berlin:full")
    body: dict[str, Any] = {"credits": match["credits"], "window": match["window"]}
    if match["zone"]:
        body["time_zone"] = match["zone"]
    if match["rollover"]:
        body["rollover"] = match["rollover"].partition("=")[0]
    if match["cap"]:
        body["rollover_max"] = match["cap"]
    return body


def written(state: dict[str, Any]) -> str:
    """A limit of the API as it would be written here."""
    zone = "" if state["time_zone"] == "UTC" or state["window"] == "ever" or state["window"].endswith("s") else f"@{state['time_zone']}"
    rollover = {"none": "", "full": ":full", "capped": f":capped={state['rollover_max']}"}[state["rollover"]]
    return f"{state['credits']}/{state['window']}{zone}{rollover}"


def label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
