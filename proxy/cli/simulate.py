"""`compute-ledger simulate fair-share`: how a scarce server is shared, by the proxy's own rules and by the usual ones.

Exit 1 where the promised bound did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from proxy.errors import SetupError
from proxy.simulation.fair_share import POLICIES, WORKLOADS, Bound, Figures, Record, Server, Workload, figures_of, ideal_service, play
from proxy.simulation.fair_share.chart import chart
from proxy.simulation.fair_share.png import picture

SHOWN = ("first come", "fair share")
"""The policies whose pictures stand side by side."""

FIRST_SHOWN = "on_off_overload"
COLOURS = ("34", "31", "32", "35", "33", "36", "95", "90")
PANEL_CELLS, PANEL_ROWS, LINE_CELLS = 39, 11, 79

Results = dict[str, tuple[Record, Figures]]
"""By policy."""

LEGEND = (
    "Service is counted in tokens: one read counts 1, one written 2. Gaps are per weight.",
    "widest gap: how far two callers' service drifted apart while both had requests waiting, over any stretch of time. The bound is what"
    " fair share promises.",
    "average difference: the published measure (OSDI 2024), tokens a second by which callers are below the best served one or from what"
    " they ask for.",
    "due: what an ideal server would have given, dividing every second by weight among all who want something.",
    "rate limit: each caller may send an equal part of what the server can do; the rest is refused, and seats stay empty.",
    "tokens/s also says who is served: reading is quicker than writing. Seats busy is the work.",
)


def run(args: argparse.Namespace) -> int:
    """Play the workloads under every policy and show what came of it."""
    if args.workload is not None and args.workload not in WORKLOADS:
        raise SetupError(f"there is no workload {args.workload!r}; there are {', '.join(WORKLOADS)}")
    names = [args.workload] if args.workload is not None else list(WORKLOADS)
    results = {name: _play_all(WORKLOADS[name](args.seed)) for name in names}
    shown = args.workload or FIRST_SHOWN
    if args.png is not None:
        panels = {f"{policy}: {shown}".replace("_", " "): results[shown][policy][0].service for policy in SHOWN}
        try:
            args.png.write_bytes(picture(panels))
        except OSError as error:
            raise SetupError(f"{args.png}: {error.strerror}") from error
    if args.json:
        print(json.dumps({"seed": args.seed, "workloads": {name: _as_json(each) for name, each in results.items()}}, indent=2))
    else:
        _print_picture(results[shown], args.seed)
        if args.workload is not None:
            _print_callers(results[shown])
            _print_policies(results[shown])
        else:
            _print_overview(results)
        if args.png is not None:
            print(f"The picture is in {args.png}.")
    return 0 if all(_bound(each).holds for each in results.values()) else 1


def _play_all(workload: Workload) -> Results:
    server = Server()
    records = {name: play(workload, build(workload, server), server) for name, build in POLICIES.items()}
    ideal = ideal_service(records["fair share"])
    return {name: (record, figures_of(record, ideal=ideal)) for name, record in records.items()}


def _bound(results: Results) -> Bound:
    bound = results["fair share"][1].bound
    assert bound is not None, "the pool always promises one"
    return bound


def _as_json(results: Results) -> dict[str, Any]:
    return {
        policy: {**asdict(figures), "service": {name: total[-1] for name, total in record.service.items()}}
        | ({"bound_holds": figures.bound.holds} if figures.bound else {})
        for policy, (record, figures) in results.items()
    }


# --- for people --------------------------------------------------------------------------------------------------------------------


def _paint(text: str, number: int) -> str:
    coloured = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m" if coloured and text.strip() else text


def _say(*paragraphs: str) -> None:
    for paragraph in paragraphs:
        print(textwrap.fill(paragraph, LINE_CELLS, subsequent_indent="  ", break_on_hyphens=False))


def _print_picture(results: Results, seed: int) -> None:
    record = results["fair share"][0]
    workload, seats = record.workload, record.server.seats
    _say(
        f"{workload.name}: {workload.about}",
        f"{seats} seats, {workload.seconds} s, seed {seed}. What each caller was served so far:",
    )
    print()
    top = max(total[-1] for policy in SHOWN for total in results[policy][0].service.values())
    panels = [chart(policy, results[policy][0].service, top=top, cells=PANEL_CELLS, rows=PANEL_ROWS, paint=_paint) for policy in SHOWN]
    for left, right in zip(*panels, strict=True):
        print(f"{left} {right}".rstrip())
    print()


def _print_callers(results: Results) -> None:
    """What each caller asked for and got, and how long it waited, under the two policies of the picture."""
    record = results["fair share"][0]
    ideal = ideal_service(record)
    print(" " * 40 + "".join(f"{policy:>19}" for policy in SHOWN))
    print(f"{'caller':20}{'asked':>10}{'due':>10}" + f"{'served':>10}{'waited':>9}" * 2)
    for number, client in enumerate(record.workload.clients):
        name = f"{client.name}  {client.habit}".ljust(20).replace(client.name, _paint(client.name, number), 1)
        line = f"{name}{record.demand[client.name][-1]:>10,}{ideal[client.name]:>10,.0f}"
        for policy in SHOWN:
            its, figures = results[policy]
            line += f"{its.service[client.name][-1]:>10,}{figures.waits_s[client.name]:>7.1f} s"
        print(line)
    print()


def _print_policies(results: Results) -> None:
    """The table of one workload: a row for each policy."""
    print(f"{'':12}{'widest':>9}{'its':>9}{'average':>9}{'':>9}{'seats':>7}{'worst off, got':>16}{'Jain of':>8}")
    print(f"{'':12}{'gap':>9}{'bound':>9}{'differ.':>9}{'tokens/s':>9}{'busy':>7}{'of asked':>9}{'of due':>7}{'got/due':>8}")
    for policy, (_, figures) in results.items():
        bound = f"{figures.bound.service_gap_bound:,.0f}" if figures.bound is not None else "none"
        print(
            f"{policy:12}{figures.gap:>9,}{bound:>9}{figures.average_difference:>9.1f}{figures.tokens_per_s:>9.0f}"
            f"{figures.busy:>7.0%}{figures.least_of_demand:>9.0%}{figures.least_of_due:>7.0%}{figures.jain:>8.3f}"
        )
    promise = _bound(results)
    print()
    print(f"The bound {'holds' if promise.holds else 'IS BROKEN'}. Of any two callers, while both wait:")
    print(f"  charged, at any moment     {promise.at_once_gap:>8,.0f} apart, of at most {promise.at_once_bound:>8,.0f}")
    print(f"  charged, over any stretch  {promise.charged_gap:>8,.0f} apart, of at most {promise.charged_gap_bound:>8,.0f}")
    print(f"  served, over any stretch   {promise.service_gap:>8,.0f} apart, of at most {promise.service_gap_bound:>8,.0f}")
    print()
    _say(*LEGEND)


def _print_overview(results: Mapping[str, Results]) -> None:
    """All workloads: two tables of a row for each."""
    first, second = (
        "".join(f"{word:>8}" for word in words) for words in (("fair", "first", "taking", "rate"), ("share", "come", "turns", "limit"))
    )
    print(f"{'average difference':22}{first}   {'fair share: widest':>20}")
    print(f"{'(0 is even)':22}{second}   {'gap and its bound':>20}")
    for name, each in results.items():
        promise = _bound(each)
        cells = "".join(f"{figures.average_difference:>8.1f}" for _, figures in each.values())
        print(f"{name:22}{cells}   {promise.service_gap:>8,} {'<=' if promise.holds else '> '} {promise.service_gap_bound:>8,.0f}")
    print()
    print(f"{'the worst off caller':22}{first}   {'seats busy:':>20}")
    print(f"{'got, of its due':22}{second}   {'fair and first come':>20}")
    for name, each in results.items():
        cells = "".join(f"{figures.least_of_due:>8.0%}" for _, figures in each.values())
        print(f"{name:22}{cells}   {each['fair share'][1].busy:>10.1%}{each['first come'][1].busy:>10.1%}")
    print()
    _say(*LEGEND[:-1])
    print()
    held = sum(_bound(each).holds for each in results.values())
    print(f"The bound held in {held} of {len(results)} workloads. One of them in detail: --workload NAME.")
