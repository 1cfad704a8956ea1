"""Equality: who gets the compute, never by an index alone. Beside Gini stand utilisation, the least served, and who was denied.

What is told of the whole ledger is told by every proxy on it, so it is the greatest that counts, never the sum.
"""

from __future__ import annotations

from typing import Final

from deploy.grafana.model import BLUE, GREEN, GREY, ORANGE, RED, Bars, Choice, Curve, Dashboard, Figure, Lines, Panel, Query, Row

WINDOW: Final = Choice("window", "Window", {"day": "day", "week": "week", "month": "month", "half-life": "half_life"})
THIS: Final = 'job="$job", window="$window"'
STEPS: Final = "start|grow|ease|stop|deal"
"""What a policy does by itself; all its other acts are on requests."""
SHARES: Final = {"top1": "top 1 %", "top10": "top 10 %", "bottom50": "lower half", "bottom40": "lowest 40 %"}


def _of(name: str, by: str = "", labels: str = "") -> str:
    """A gauge of the chosen window."""
    return f"max by ({by}) (compute_ledger_{name}{{{THIS}{', ' if labels else ''}{labels}}})"


def _gini(bound: str) -> str:
    return _of("gini", labels=f'bound="{bound}"')


def _people(state: str) -> str:
    return _of("accounts", labels=f'state="{state}"')


def _acts(labels: str) -> str:
    return f'60 * sum by (policy, act) (rate(compute_ledger_intervention_acts_total{{job="$job", {labels}}}[$__rate_interval]))'


NOW = Row(
    "Now: the chosen window so far",
    [
        Panel(
            "Gini of use per weight",
            "0 where everyone has the same, near 1 where one has all; the true figure lies between the two.",
            [Query(_gini("low"), "at least"), Query(_gini("high"), "at most")],
            Figure(((None, GREEN), (0.5, ORANGE), (0.7, RED))),
            width=6,
            height=4,
            decimals=3,
        ),
        Panel(
            "Utilisation",
            "Seat-time taken of the seat-time there was; an equal share of an idle machine is no success.",
            [Query(_of("utilisation"))],
            Figure(((None, ORANGE), (0.3, BLUE))),
            unit="percentunit",
            width=3,
            height=4,
            decimals=1,
        ),
        Panel(
            "Least served",
            "The smallest part of what somebody asked for that was served to them.",
            [Query(_of("least_served_ratio"))],
            Figure(((None, RED), (0.5, ORANGE), (0.9, GREEN))),
            unit="percentunit",
            width=3,
            height=4,
            decimals=1,
        ),
        Panel(
            "Denied everything",
            "The part of the entitled people who asked and got nothing at all.",
            [Query(f"{_people('denied')} / {_people('entitled')}")],
            Figure(((None, GREEN), (0.01, ORANGE), (0.05, RED))),
            unit="percentunit",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "Entitled and active",
            "Everyone who has an entitlement, and those of them who have used anything.",
            [Query(_people("entitled"), "entitled"), Query(_people("active"), "active")],
            Figure(),
            width=4,
            height=4,
        ),
        Panel(
            "Served of what was asked for",
            "Served work by asked-for work, both in credits.",
            [Query(f"{_of('window_served_credits')} / ({_of('window_demand_credits')} > 0)")],
            Figure(((None, RED), (0.5, ORANGE), (0.9, GREEN))),
            unit="percentunit",
            width=4,
            height=4,
            decimals=1,
        ),
    ],
)
WHO = Row(
    "Who gets the compute",
    [
        Panel(
            "Lorenz curve",
            "The part of all use that the lowest part of the people has; the further below the straight line, the less equal.",
            [Query(_of("lorenz", "population"))],
            Curve(label="population", x="part of the people", y="part of the use", straight="all the same"),
            unit="percentunit",
            width=8,
            height=10,
            least=0,
            most=1,
        ),
        Panel(
            "Shares",
            "The part of all use that the people with the most and the least have.",
            [Query(_of("usage_share", labels=f'group="{group}"'), name) for group, name in SHARES.items()],
            Bars(),
            unit="percentunit",
            width=8,
            height=10,
            least=0,
            most=1,
        ),
        Panel(
            "Without any use",
            "Parts of the entitled people who used nothing: by choice, for they did not ask, and by denial.",
            [
                Query(f"{_people('denied')} / {_people('entitled')}", "denied"),
                Query(f"{_people('idle')} / {_people('entitled')}", "did not ask"),
            ],
            Lines({"denied": RED, "did not ask": GREY}, stacked=True),
            unit="percentunit",
            width=8,
            height=10,
            least=0,
            most=1,
        ),
    ],
)
COURSE = Row(
    "In the course of time",
    [
        Panel(
            "Gini, certified",
            "The true index lies within the band.",
            [Query(_gini("low"), "at least"), Query(_gini("high"), "at most")],
            Lines({"at least": BLUE, "at most": BLUE}, filled_between=("at least", "at most")),
            least=0,
            most=1,
        ),
        Panel(
            "Shares of the most and the least",
            "The part of all use that the people with the most and the least have.",
            [Query(_of("usage_share", labels=f'group="{group}"'), name) for group, name in SHARES.items()],
            Lines({"top 1 %": RED, "top 10 %": ORANGE, "lower half": BLUE, "lowest 40 %": GREEN}),
            unit="percentunit",
            least=0,
            most=1,
        ),
        Panel(
            "Other indices",
            "Jain (1 where all have the same), Atkinson at one half, and Theil: inside plans and between them, which add up.",
            [
                Query(_of("jain"), "Jain"),
                Query(_of("atkinson"), "Atkinson"),
                Query(_of("theil", labels='part="within"'), "Theil within plans"),
                Query(_of("theil", labels='part="between"'), "Theil between plans"),
            ],
            Lines({"Jain": GREEN, "Atkinson": ORANGE, "Theil within plans": BLUE, "Theil between plans": RED}),
            least=0,
        ),
        Panel(
            "Gini by window",
            "The middle of the band, for each window; the half-life forgets slowly and never begins anew.",
            [Query('avg by (window) (max by (window, bound) (compute_ledger_gini{job="$job"}))', "{{window}}")],
            least=0,
            most=1,
        ),
    ],
)
SCARCITY = Row(
    "Scarcity",
    [
        Panel(
            "Asked for and served in the window",
            "Credits since the window began: what was asked for, what was served, and what was not.",
            [
                Query(_of("window_demand_credits"), "asked for"),
                Query(_of("window_served_credits"), "served"),
                Query(_of("window_deficit_credits"), "not served"),
            ],
            Lines({"asked for": GREY, "served": BLUE, "not served": RED}, dashed=("asked for",)),
            least=0,
        ),
        Panel(
            "Utilisation and the least served",
            "A limiter that wastes compute lowers Gini too: then utilisation falls. One that starves somebody shows in the least served.",
            [Query(_of("utilisation"), "utilisation"), Query(_of("least_served_ratio"), "least served")],
            Lines({"utilisation": BLUE, "least served": ORANGE}),
            unit="percentunit",
            least=0,
            most=1,
        ),
    ],
)
PLANS = Row(
    "By plan; those with too few people, or where one has more than half, are not told",
    [
        Panel(
            "Share of the use",
            "The part of all use that each plan's people have.",
            [Query(_of("group_use_share", "plan"), "{{plan}}")],
            Bars(),
            unit="percentunit",
            width=8,
            least=0,
            most=1,
        ),
        Panel(
            "Share of the people",
            "The part of all entitled people that each plan's are.",
            [Query(_of("group_people_share", "plan"), "{{plan}}")],
            Bars(),
            unit="percentunit",
            width=8,
            least=0,
            most=1,
        ),
        Panel(
            "Gini inside plans",
            "The middle of each plan's own band.",
            [Query(f"avg by (plan) ({_of('group_gini', 'plan, bound')})", "{{plan}}")],
            width=8,
            least=0,
            most=1,
        ),
    ],
)
INTERVENTIONS = Row(
    "Interventions",
    [
        Panel(
            "In force",
            "Policies that act on callers now, and those that would if they were on; nothing is in force unless somebody goes without.",
            [
                Query('sum(max by (policy) (compute_ledger_intervention_active{job="$job"}))', "in force"),
                Query('sum(max by (policy) (compute_ledger_intervention_proposed{job="$job"}))', "would be"),
            ],
            Figure(((None, GREEN), (1, ORANGE))),
            width=6,
        ),
        Panel(
            "Strength",
            "How far each policy goes, or would go if it were on: 0 at rest, 1 at its full strength.",
            [Query('max by (policy) (compute_ledger_intervention_strength{job="$job"})', "{{policy}}")],
            Lines(stepped=True),
            unit="percentunit",
            width=9,
            least=0,
            most=1,
        ),
        Panel(
            "Steps of the policies",
            "How many a minute each policy takes: it starts, grows, eases and stops, and deals out credits.",
            [Query(_acts(f'act=~"{STEPS}"'), "{{policy}}: {{act}}")],
            Lines(stepped=True),
            width=9,
            least=0,
        ),
        Panel(
            "Acts on requests",
            "A minute: requests that a policy applied to, or would apply to if it were on; what the floor topped up and the tithe gave.",
            [Query(_acts(f'act!~"{STEPS}"'), "{{policy}}: {{act}}")],
            width=24,
            least=0,
        ),
    ],
)
MEASURING = Row(
    "How well it is measured",
    [
        Panel(
            "Age of the figures",
            "How long ago they were taken from the ledger; -1 before the first time.",
            [
                Query(
                    'min(compute_ledger_equality_age_seconds{job="$job"} >= 0) or max(compute_ledger_equality_age_seconds{job="$job"})',
                    "age",
                )
            ],
            Lines({"age": BLUE}),
            unit="s",
            width=8,
        ),
        Panel(
            "People who count",
            "Everyone in the figures, with or without use.",
            [Query('max(compute_ledger_equality_people{job="$job"})', "people")],
            Lines({"people": BLUE}, stepped=True),
            width=8,
            least=0,
        ),
        Panel(
            "Drift at the last recount",
            "By how much of all use a recount corrected a window; it appears after the first.",
            [Query('max(compute_ledger_equality_drift{job="$job"})', "drift")],
            Lines({"drift": ORANGE}, stepped=True),
            unit="percentunit",
            width=8,
            least=0,
        ),
    ],
)

DASHBOARD: Final = Dashboard(
    uid="compute-ledger-equality",
    title="Equality",
    description="Who gets the compute: the Lorenz curve and the indices, with scarcity, the denied and the plans beside them.",
    rows=[NOW, WHO, COURSE, SCARCITY, PLANS, INTERVENTIONS, MEASURING],
    variables=[WINDOW],
)
