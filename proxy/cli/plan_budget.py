"""`compute-ledger plan-budget`: what so many people with so many units of a level a day cost, now and in years to come, and the reverse.

By the price rows of a configuration file, or by those of the running proxy, and by the level's schedule where no price is known.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from proxy.app.settings import Source
from proxy.cli.operator.client import CommandFailed, client_from_environment, segment
from proxy.cli.operator.tables import table
from proxy.config import milliseconds
from proxy.domain import NANOCREDITS_PER_CREDIT, Level, credits_from_nanocredits, nanocredits_from_credits
from proxy.errors import SetupError
from proxy.policy.levels import LEAST_INDEX_NANOCREDITS, YEAR_DAYS, Levels, Step
from proxy.policy.outlook import Outlook, look_ahead

MONTHS = (0, 12, 24, 36)
LINE_CELLS = 80
DIGITS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Known:
    """A level, and all that is known of its index."""

    level: Level
    steps: Sequence[Step]


def run(args: argparse.Namespace) -> int:
    """Show the plan. Raises SetupError."""
    known = _of_file(args) if args.config is not None else _of_proxy(args.level)
    now_ms = round(time.time() * 1000)
    if not known.steps:
        raise SetupError(f"the level {args.level!r} has no index: no price row names it with prices above 0 for its blend")
    outlooks = [
        look_ahead(
            *(known.level, known.steps),
            as_of_ms=now_ms,
            months=months,
            people=args.people,
            units_nanounits=_nano(args.units),
            pool_nanocredits=_nano(args.pool),
        )
        for months in MONTHS
    ]
    if args.json:
        print(json.dumps(_document(known, outlooks, args), indent=2))
    else:
        print("\n".join(_lines(known, outlooks, args)))
    return 0


def _nano(text: str | None) -> int | None:
    return None if text is None else int(Decimal(text).scaleb(9))


# --- what is known -----------------------------------------------------------------------------------------------------------------


def _of_file(args: argparse.Namespace) -> Known:
    settings = Source(args.config, overrides={}).read().config
    levels = Levels([row.to_price() for row in settings.price], [row.to_level() for row in settings.level])
    level = levels.by_name.get(args.level)
    if level is None:
        there = ", ".join(levels.by_name) or "none"
        raise SetupError(f"{args.config}: there is no level {args.level!r}; there are: {there}")
    return Known(level, levels.steps[level.name])


def _of_proxy(name: str) -> Known:
    try:
        document = client_from_environment().call("GET", f"/levels/{segment(name)}")
    except CommandFailed as error:
        raise SetupError(str(error)) from error
    settings = {key: document[key] for key in ("name", "input_parts", "output_parts", "may_rise", "deflation")}
    return Known(Level(**settings), tuple(map(_step, document["steps"])))


def _step(step: dict[str, Any]) -> Step:
    at_ms = milliseconds(dt.datetime.fromisoformat(step["at"]))
    return Step(at_ms, nanocredits_from_credits(step["index"]), step["model"])


# --- how it is shown ---------------------------------------------------------------------------------------------------------------


def _document(known: Known, outlooks: Sequence[Outlook], args: argparse.Namespace) -> dict[str, Any]:
    level = known.level
    return {
        "level": level.name,
        "input_parts": level.input_parts,
        "output_parts": level.output_parts,
        "deflation": level.deflation,
        "people": args.people,
        "units_a_day_each": args.units,
        "pool_credits_a_day": args.pool,
        "outlook": [
            {
                "months": outlook.months,
                "day": f"{_moment(outlook.at_ms):%Y-%m-%d}",
                "index": _exact(outlook.index_nanocredits),
                "index_at_its_least": outlook.is_least,
                "known_until": None if outlook.known_at_ms is None else f"{_moment(outlook.known_at_ms):%Y-%m-%d}",
                "credits_a_day": _exact(outlook.day_nanocredits),
                "credits_in_365_days": _exact(outlook.year_nanocredits),
                "units_a_day_each_from_pool": _exact(outlook.each_nanounits),
            }
            for outlook in outlooks
        ],
    }


def _lines(known: Known, outlooks: Sequence[Outlook], args: argparse.Namespace) -> list[str]:
    level = known.level
    blend = f"{level.input_parts} parts input to {level.output_parts} of output"
    falls = "stay as it is"
    if level.deflation > 1:
        falls = f"fall by a factor of {level.deflation:,.10g} in {YEAR_DAYS} days, which are 12 months here"
    people = f"{args.people:,} people" if args.people > 1 else "1 person"
    each = " each" if args.people > 1 else ""
    lines = [
        *_filled(f"A unit of level {level.name} is a million tokens, {blend}, and costs its index."),
        *_filled(f"Up to the last price that is known the index is the price's; later it is taken to {falls}."),
    ]
    if args.units is not None:
        lines += ["", f"{people} with {_counted(args.units, 'unit')} a day{each}, in credits:"]
        amounts = [(_shown(outlook.day_nanocredits), _shown(outlook.year_nanocredits)) for outlook in outlooks]
        lines.append(_table("A_DAY# 365_DAYS_FROM_THEN#", outlooks, amounts, may_fall=level.deflation > 1))
    if args.pool is not None:
        lines += ["", f"A pool of {_counted(args.pool, 'credit')} a day buys {'each of ' if each else ''}{people}:"]
        bought = [(_shown(outlook.each_nanounits), _tokens(outlook.each_nanounits)) for outlook in outlooks]
        lines.append(_table("UNITS_A_DAY# TOKENS_A_DAY#", outlooks, bought, may_fall=level.deflation > 1))
    if least := [outlook for outlook in outlooks if outlook.is_least]:
        index = credits_from_nanocredits(LEAST_INDEX_NANOCREDITS)
        told = f"In the 365 days that begin {_when(least[0])} the index comes to the least there is, {index}, and falls no further."
        lines += ["", *_filled(told)]
    return lines


def _table(titles: str, outlooks: Sequence[Outlook], amounts: Sequence[tuple[str, ...]], *, may_fall: bool) -> str:
    rows = [
        (_when(outlook), _shown(outlook.index_nanocredits), *cells, _by(outlook, may_fall=may_fall))
        for outlook, cells in zip(outlooks, amounts, strict=True)
    ]
    return table(f"WHEN INDEX# {titles} BY", rows, indent="  ")


def _when(outlook: Outlook) -> str:
    return f"in {outlook.months} months" if outlook.months else "now"


def _by(outlook: Outlook, *, may_fall: bool) -> str:
    """Whether the index is a price's, or the schedule's since when."""
    if outlook.known_at_ms is None:
        return "no price yet"
    if outlook.known_at_ms >= outlook.at_ms:
        return "price"
    return f"schedule from {_moment(outlook.known_at_ms):%Y-%m-%d}" if may_fall else "last price"


def _counted(text: str, what: str) -> str:
    return f"{text} {what}" if Decimal(text) == 1 else f"{text} {what}s"


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CELLS)


def _moment(at_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)


def _exact(amount: int | None) -> str | None:
    return None if amount is None else credits_from_nanocredits(amount)


def _shown(amount: int | None) -> str:
    """An amount to as many digits as a plan deserves; its whole part in full."""
    return "-" if amount is None else _rounded(Decimal(amount) / NANOCREDITS_PER_CREDIT)


def _rounded(value: Decimal) -> str:
    places = max(0, DIGITS_SHOWN - 1 - value.adjusted()) if value else 0
    rounded = value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    return f"{rounded:,f}".rstrip("0").rstrip(".") if places else f"{rounded:,f}"


def _tokens(nanounits: int | None) -> str:
    """A unit is a million."""
    return "-" if nanounits is None else f"{nanounits // 1000:,}"
