"""Budgets: what is debited, refused, held and left, and for how long it lasts."""

from __future__ import annotations

from typing import Final

from deploy.grafana.model import BLUE, GREEN, GREY, ORANGE, RED, Dashboard, Figure, Lines, Panel, Query, Row

BUDGET: Final = 'outcome=~"insufficient_quota|request_exceeds_budget|budget_in_flight"'
QUEUE: Final = 'outcome=~"queue_full|queue_timeout|too_many_requests"'
REQUESTS: Final = 'compute_ledger_requests_total{job="$job"}'
DEBITED: Final = 'sum(rate(compute_ledger_credits_total{job="$job", flow="debited"}[1h]))'
FRESHEST: Final = 'and on (instance) bottomk(1, compute_ledger_audit_age_seconds{job="$job"} >= 0)'
"""A proxy that the ledger is away from goes on telling what it knew."""
LEFT: Final = f'max(compute_ledger_left_credits{{job="$job"}} {FRESHEST})'
OVERRUN: Final = 'sum(increase(compute_ledger_credits_total{job="$job", flow="overrun"}[1h]))'


def _part(outcomes: str) -> str:
    """The part of all requests that ended so, 0 where none did."""
    requests = f"sum(rate({REQUESTS}[$__rate_interval]))"
    return f'(sum(rate(compute_ledger_requests_total{{job="$job", {outcomes}}}[$__rate_interval])) or 0 * {requests}) / {requests}'


NOW = Row(
    "Now",
    [
        Panel(
            "Left to spend",
            "Credits that organisations and people of their own can spend now, all together, as of the last audit; units at their worth.",
            [Query(LEFT)],
            Figure(((None, RED), (0.000001, BLUE))),
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "Lasts for",
            "How long that is at the pace of the last hour, if no window turns before.",
            [Query(f"{LEFT} / ({DEBITED} > 0)")],
            Figure(((None, RED), (4 * 3600, ORANGE), (24 * 3600, GREEN))),
            unit="s",
            width=4,
            height=4,
        ),
        Panel(
            "Debited in the last hour",
            "Credits that ended requests cost.",
            [Query(f"3600 * {DEBITED}")],
            Figure(),
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "Refused for want of budget",
            "The part of all requests whose path could not pay.",
            [Query(_part(BUDGET))],
            Figure(((None, GREEN), (0.1, ORANGE), (0.3, RED))),
            unit="percentunit",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "Overrun in the last hour",
            "Credits that were used beyond what could be charged; an upstream's fault, or unseen tokens.",
            [Query(OVERRUN)],
            Figure(((None, GREEN), (0.000001, ORANGE))),
            width=4,
            height=4,
            decimals=4,
        ),
        Panel(
            "Accounts out of balance",
            "Accounts whose journal does not fold to their balances, at the last audit; must be 0.",
            [Query('max(compute_ledger_conservation_errors{job="$job"})')],
            Figure(((None, GREEN), (1, RED))),
            width=4,
            height=4,
        ),
    ],
)
USE = Row(
    "Use",
    [
        Panel(
            "Credits by flow",
            "Credits an hour that are debited, granted, given away, corrected, expired, or used beyond what could be charged.",
            [
                Query(
                    '3600 * sum by (flow) (rate(compute_ledger_credits_total{job="$job", flow!="expired"}[$__rate_interval]))',
                    "{{flow}}",
                ),
                Query(
                    '3600 * max by (flow) (rate(compute_ledger_credits_total{job="$job", flow="expired"}[$__rate_interval]))', "{{flow}}"
                ),
            ],
            Lines({"debited": BLUE, "granted": GREEN, "overrun": RED, "expired": GREY}),
        ),
        Panel(
            "Tokens by kind",
            "Tokens a second that are charged; the kinds do not overlap.",
            [Query('sum by (kind) (rate(compute_ledger_tokens_total{job="$job"}[$__rate_interval]))', "{{kind}}")],
            Lines(stacked=True),
            unit="cps",
        ),
        Panel(
            "Tokens by model",
            "Tokens a second of the ten models that are used most, by their configured names.",
            [Query('topk(10, sum by (model) (rate(compute_ledger_tokens_total{job="$job"}[$__rate_interval])))', "{{model}}")],
            Lines(stacked=True),
            unit="cps",
        ),
        Panel(
            "Left to spend, and in four hours",
            "What is left of all budgets together, and the straight line of the last hour carried on; a window that turns lifts both.",
            [
                Query(LEFT, "left"),
                Query(
                    f'clamp_min(max(predict_linear(compute_ledger_left_credits{{job="$job"}}[1h], 4 * 3600) {FRESHEST}), 0)',
                    "in four hours",
                ),
            ],
            Lines({"left": BLUE, "in four hours": ORANGE}, dashed=("in four hours",)),
            least=0,
        ),
    ],
)
REFUSALS = Row(
    "Refusals",
    [
        Panel(
            "Refused by reason",
            "Requests a second that were refused, by the code that the caller got.",
            [
                Query(f'sum by (outcome) (rate(compute_ledger_requests_total{{job="$job", {outcomes}}}[$__rate_interval]))', "{{outcome}}")
                for outcomes in (BUDGET, QUEUE, 'outcome=~"account_suspended|model_not_.*|invalid_.*|unknown_path|request_too_large"')
            ],
            Lines(stacked=True),
            unit="reqps",
        ),
        Panel(
            "Part of requests refused",
            "Of all requests, those refused for want of budget, and those that found the queue full, waited in vain or came too often.",
            [Query(_part(BUDGET), "budget"), Query(_part(QUEUE), "queue and rates")],
            Lines({"budget": ORANGE, "queue and rates": BLUE}),
            unit="percentunit",
            least=0,
        ),
    ],
)
HOLDS = Row(
    "Holds",
    [
        Panel(
            "Held",
            "Credits that running requests hold and have not spent; 0 when nothing runs.",
            [Query('sum(compute_ledger_held_credits{job="$job"})', "held")],
            Lines({"held": BLUE}),
            width=8,
            least=0,
        ),
        Panel(
            "Open",
            "Requests that run now, those of them that stream, and the holds that were open at the last audit, batches' included.",
            [
                Query('sum(compute_ledger_open_requests{job="$job"})', "requests"),
                Query('sum(compute_ledger_open_streams{job="$job"})', "streams"),
                Query('max(compute_ledger_open_holds{job="$job"})', "holds at the last audit"),
            ],
            width=8,
            least=0,
        ),
        Panel(
            "Cut and expired",
            "Streams a minute that the proxy ended, by why, and holds a minute that timed out since nobody ended them.",
            [
                Query('60 * sum by (reason) (rate(compute_ledger_cut_streams_total{job="$job"}[$__rate_interval]))', "cut: {{reason}}"),
                Query('60 * sum(rate(compute_ledger_expired_holds_total{job="$job"}[$__rate_interval]))', "expired"),
            ],
            Lines({"expired": RED}),
            width=8,
            least=0,
        ),
    ],
)

DASHBOARD: Final = Dashboard(
    uid="compute-ledger-budgets",
    title="Budgets",
    description="What is debited, refused, held and left of all budgets together, and for how long it lasts.",
    rows=[NOW, USE, REFUSALS, HOLDS],
)
