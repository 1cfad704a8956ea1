"""Proxy: what it adds to a request, how its upstreams and its ledger answer, and whether its processes live."""

from __future__ import annotations

from typing import Final

from deploy.grafana.model import BLUE, GREEN, ORANGE, RED, Dashboard, Figure, Heat, Lines, Panel, Query, Row

RATE: Final = "[$__rate_interval]"
REQUESTS: Final = f'sum(rate(compute_ledger_requests_total{{job="$job"}}{RATE}))'
FAILED: Final = 'outcome=~"upstream_error|upstream_timeout|upstream_gone|ledger_unavailable|internal_error|draining"'
PERCENTILES: Final = {0.5: "half", 0.95: "one in twenty", 0.99: "one in a hundred"}


def _quantile(quantile: float, name: str, by: str = "le", labels: str = "") -> str:
    chosen = f'job="$job", {labels}' if labels else 'job="$job"'
    return f"histogram_quantile({quantile}, sum by ({by}) (rate(compute_ledger_{name}_bucket{{{chosen}}}{RATE})))"


NOW = Row(
    "Now",
    [
        Panel(
            "Ledger",
            "Whether the ledger answers every process of every proxy.",
            [Query('min(compute_ledger_ledger_up{job="$job"})')],
            Figure(((None, RED), (1, GREEN)), {"0": "down", "1": "up"}),
            width=4,
            height=4,
        ),
        Panel("Requests", "Requests a second that ended.", [Query(REQUESTS)], Figure(), unit="reqps", width=4, height=4),
        Panel(
            "Failed",
            "The part of the requests that an upstream, the ledger or the proxy itself failed.",
            [Query(f'(sum(rate(compute_ledger_requests_total{{job="$job", {FAILED}}}{RATE})) or 0 * {REQUESTS}) / {REQUESTS}')],
            Figure(((None, GREEN), (0.01, ORANGE), (0.05, RED))),
            unit="percentunit",
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "Added latency, one in a hundred",
            "From a request's arrival until it could be sent upstream, waiting for a seat left out; one in a hundred takes longer.",
            [Query(_quantile(0.99, "added_latency_seconds"))],
            Figure(((None, GREEN), (0.25, ORANGE), (1, RED))),
            unit="s",
            width=4,
            height=4,
        ),
        Panel(
            "Running",
            "Requests that run now, and those of them that stream.",
            [
                Query('sum(compute_ledger_open_requests{job="$job"})', "requests"),
                Query('sum(compute_ledger_open_streams{job="$job"})', "streams"),
            ],
            Figure(),
            width=4,
            height=4,
        ),
        Panel(
            "Workers",
            "Processes that accept requests, and the version that runs.",
            [
                Query('sum(compute_ledger_workers{job="$job"})', "workers"),
                Query('count by (version) (compute_ledger_build_info{job="$job"})', "of {{version}}"),
            ],
            Figure(((None, RED), (1, BLUE))),
            width=4,
            height=4,
        ),
    ],
)
REQUESTS_ROW = Row(
    "Requests",
    [
        Panel(
            "By outcome",
            "Requests a second by how they ended: complete, cut by us, gone, or the code of the refusal or failure.",
            [Query(f'sum by (outcome) (rate(compute_ledger_requests_total{{job="$job"}}{RATE}))', "{{outcome}}")],
            Lines({"complete": GREEN, "cut": ORANGE, "insufficient_quota": RED}, stacked=True),
            unit="reqps",
        ),
        Panel(
            "By upstream",
            "Requests a second by the upstream that they were meant for; other, where none was chosen.",
            [Query(f'sum by (pool) (rate(compute_ledger_requests_total{{job="$job"}}{RATE}))', "{{pool}}")],
            Lines(stacked=True),
            unit="reqps",
        ),
    ],
)
LATENCY_ROW = Row(
    "Latency",
    [
        Panel(
            "Added latency",
            "Time from a request's arrival until it could be sent upstream, waiting for a seat left out; so many requests take longer.",
            [Query(_quantile(quantile, "added_latency_seconds"), name) for quantile, name in PERCENTILES.items()],
            Lines(logarithmic=True),
            unit="s",
            width=8,
        ),
        Panel(
            "Added latency, all of it",
            "How many requests could be sent upstream how long after they came.",
            [Query('sum by (le) (increase(compute_ledger_added_latency_seconds_bucket{job="$job"}[$__rate_interval]))', "{{le}}")],
            Heat(),
            unit="s",
            width=8,
        ),
        Panel(
            "Time to first byte",
            "From a request's arrival to its answer's first byte, waiting for a seat included, by upstream; one in twenty takes longer.",
            [Query(_quantile(0.95, "time_to_first_byte_seconds", "pool, le"), "{{pool}}")],
            Lines(logarithmic=True),
            unit="s",
            width=8,
        ),
    ],
)
LEDGER_ROW = Row(
    "Ledger",
    [
        Panel(
            "Time of a ledger call",
            "Time that a request's calls took, repeats included, by verb; one in a hundred takes longer.",
            [Query(_quantile(0.99, "ledger_seconds", "verb, le", 'verb=~"hold|debit|extend|settle|void"'), "{{verb}}")],
            Lines(logarithmic=True),
            unit="s",
            width=8,
        ),
        Panel(
            "Ledger calls",
            "Calls a second by verb; two for a request, and debits while streams run.",
            [Query(f'sum by (verb) (rate(compute_ledger_ledger_seconds_count{{job="$job"}}{RATE}))', "{{verb}}")],
            Lines(stacked=True),
            unit="ops",
            width=8,
        ),
        Panel(
            "Waiting to be settled",
            "Ends of holds that wait in the local journal for the ledger, and requests let through unpaid while it was away.",
            [
                Query('sum(compute_ledger_settle_backlog{job="$job"})', "waiting"),
                Query('sum(increase(compute_ledger_uncounted_requests_total{job="$job"}[$__rate_interval]))', "let through unpaid"),
            ],
            Lines({"waiting": ORANGE, "let through unpaid": RED}),
            width=8,
            least=0,
        ),
    ],
)
UPSTREAMS_ROW = Row(
    "Upstreams",
    [
        Panel(
            "Failed by upstream",
            "Requests a second that an upstream refused, left unanswered or broke off.",
            [
                Query(
                    'sum by (pool, outcome) (rate(compute_ledger_requests_total{job="$job", outcome=~"upstream_.*"}[$__rate_interval]))',
                    "{{pool}}: {{outcome}}",
                )
            ],
            unit="reqps",
            width=8,
            least=0,
        ),
        Panel(
            "Failed over",
            "Requests a second that went on to another upstream, by the one that failed.",
            [Query(f'sum by (pool) (rate(compute_ledger_failovers_total{{job="$job"}}{RATE}))', "{{pool}}")],
            unit="reqps",
            width=8,
            least=0,
        ),
        Panel(
            "Usage that could not be believed",
            "Answers a second whose usage was missing, absurd, less than what was forwarded, or above the request's own maximum.",
            [Query(f'sum by (reason) (rate(compute_ledger_usage_flagged_total{{job="$job"}}{RATE}))', "{{reason}}")],
            unit="reqps",
            width=8,
            least=0,
        ),
    ],
)
PROCESSES_ROW = Row(
    "Processes",
    [
        Panel(
            "Died and started again",
            "Workers, and embedded ledger servers, in the last quarter of an hour.",
            [
                Query('sum(increase(compute_ledger_worker_restarts_total{job="$job"}[15m]))', "workers"),
                Query('sum(increase(compute_ledger_ledger_restarts_total{job="$job"}[15m]))', "ledger"),
            ],
            Lines({"workers": ORANGE, "ledger": RED}, stepped=True),
            least=0,
        ),
        Panel(
            "Configuration in force",
            "1 while every proxy runs on its file's latest; 0 where a changed file was refused.",
            [Query('min(compute_ledger_config_last_reload_successful{job="$job"})', "latest")],
            Lines({"latest": GREEN}, stepped=True),
            width=6,
            least=0,
            most=1,
        ),
        Panel(
            "Age of the last audit",
            "How old the oldest change is that may not have been audited; -1 before the first audit.",
            [Query('min(compute_ledger_audit_age_seconds{job="$job"} >= 0) or max(compute_ledger_audit_age_seconds{job="$job"})', "age")],
            Lines({"age": BLUE}),
            unit="s",
            width=6,
        ),
    ],
)

DASHBOARD: Final = Dashboard(
    uid="compute-ledger-proxy",
    title="Proxy",
    description="What the proxy adds to a request, how upstreams and the ledger answer, and whether its processes live.",
    rows=[NOW, REQUESTS_ROW, LATENCY_ROW, LEDGER_ROW, UPSTREAMS_ROW, PROCESSES_ROW],
)
