"""Fair share: the seats of scarce upstreams, who waits for them, and what was asked for and not served."""

from __future__ import annotations

from typing import Final

from deploy.grafana.model import BLUE, GREEN, GREY, ORANGE, POOL, RED, Dashboard, Figure, Heat, Lines, Panel, Query, Row

# How the pools stand is told by every proxy on the ledger, of all of them together: so the greatest, not the sum.
SEATS: Final = 'max by (pool, state) (compute_ledger_pool_seats{job="$job", pool=~"$pool"})'
FREE: Final = 'max by (pool) (compute_ledger_pool_seats{job="$job", pool=~"$pool", state="free"})'
USED: Final = 'sum(max by (pool) (compute_ledger_pool_seats{job="$job", pool=~"$pool", state="used"}))'
BACKLOG: Final = 'max by (pool) (compute_ledger_pool_backlog{job="$job", pool=~"$pool"})'
LAG: Final = 'max by (pool) (compute_ledger_fair_lag_credits{job="$job", pool=~"$pool"})'
DEMAND: Final = 'sum(rate(compute_ledger_demand_credits_total{job="$job", pool=~"$pool"}[$__rate_interval]))'
SERVED: Final = 'sum(rate(compute_ledger_served_credits_total{job="$job", pool=~"$pool"}[$__rate_interval]))'
DEFICIT: Final = 'rate(compute_ledger_deficit_credits_total{job="$job", pool=~"$pool"}[$__rate_interval])'
REFUSED: Final = 'rate(compute_ledger_deficit_credits_total{job="$job", pool=~"$pool", reason="budget"}[$__rate_interval])'
QUEUE_BUCKETS: Final = 'rate(compute_ledger_queue_seconds_bucket{job="$job", pool=~"$pool"}[$__rate_interval])'


def _waited(quantile: float, by: str = "le") -> str:
    return f"histogram_quantile({quantile}, sum by ({by}) ({QUEUE_BUCKETS}))"


NOW = Row(
    "Now",
    [
        Panel(
            "Seats taken",
            "The part of all seats that is taken.",
            [Query(f"{USED} / sum({SEATS})")],
            Figure(((None, BLUE), (1, ORANGE))),
            unit="percentunit",
            width=4,
            height=4,
        ),
        Panel(
            "Waiting",
            "Requests that wait for a seat, those that take only spare ones too.",
            [Query(f"sum({BACKLOG})")],
            Figure(((None, GREEN), (1, BLUE))),
            width=4,
            height=4,
        ),
        Panel(
            "Served of what was asked for",
            "Served work by asked-for work, both in credits.",
            [Query(f"{SERVED} / ({DEMAND} > 0)")],
            Figure(((None, RED), (0.5, ORANGE), (0.9, GREEN))),
            unit="percentunit",
            width=4,
            height=4,
        ),
        Panel(
            "Wait of one in twenty",
            "Of the requests that needed a seat, five in a hundred waited longer than this.",
            [Query(_waited(0.95))],
            Figure(((None, GREEN), (10, ORANGE), (30, RED))),
            unit="s",
            width=4,
            height=4,
            decimals=2,
        ),
        Panel(
            "Furthest behind",
            "By how many credits per weight the caller who waits and got least is behind the others.",
            [Query(f"max({LAG})")],
            Figure(),
            width=4,
            height=4,
            decimals=3,
        ),
        Panel(
            "Refused beside free seats",
            "Credits an hour that were refused for want of budget in pools with a free seat: compute that budgets withhold.",
            [
                Query(f"3600 * sum(sum by (pool) ({REFUSED}) and on (pool) {FREE} > 0) or vector(0)"),
            ],
            Figure(((None, GREEN), (0.000001, ORANGE))),
            width=4,
            height=4,
            decimals=1,
        ),
    ],
)
SEATS_ROW = Row(
    "Seats",
    [
        Panel(
            "Seats, taken and free",
            "Seats of the chosen pools by state; with automatic seats their number moves.",
            [
                Query(USED, "taken"),
                Query(f"sum({FREE})", "free"),
            ],
            Lines({"taken": BLUE, "free": GREEN}, stacked=True, stepped=True),
            least=0,
        ),
        Panel(
            "Waiting by pool",
            "Requests that wait for a seat; while anyone waits no seat may stay free.",
            [Query(BACKLOG, "{{pool}}")],
            least=0,
        ),
    ],
)
DEMAND_ROW = Row(
    "Demand",
    [
        Panel(
            "Asked for and served",
            "Work in credits an hour: what was asked for (as served, else as estimated), and what was served.",
            [Query(f"3600 * {DEMAND}", "asked for"), Query(f"3600 * {SERVED}", "served")],
            Lines({"asked for": GREY, "served": BLUE}, dashed=("asked for",)),
            least=0,
        ),
        Panel(
            "Deficit by reason",
            "Work in credits an hour that was asked for and not served, by why.",
            [Query(f"3600 * sum by (reason) ({DEFICIT})", "{{reason}}")],
            Lines(stacked=True),
            least=0,
        ),
    ],
)
WAITING_ROW = Row(
    "Waiting",
    [
        Panel(
            "Waiting time",
            "How many requests waited how long for their seat.",
            [Query(f"sum by (le) ({QUEUE_BUCKETS.replace('rate(', 'increase(')})", "{{le}}")],
            Heat(),
            unit="s",
        ),
        Panel(
            "Waiting time by pool",
            "The wait that one request in twenty exceeds.",
            [Query(_waited(0.95, "pool, le"), "{{pool}}")],
            unit="s",
            least=0,
        ),
        Panel(
            "Lag by pool",
            "By how many credits per weight the caller who waits and got least is behind; it stays under the bound of the manual.",
            [Query(LAG, "{{pool}}")],
            least=0,
        ),
        Panel(
            "Idle and deficit at once",
            "The part of the seats that is free, and the part of the work that was not served; both high at once is waste.",
            [Query(f"1 - {USED} / sum({SEATS})", "free seats"), Query(f"1 - {SERVED} / ({DEMAND} > 0)", "not served")],
            Lines({"free seats": GREEN, "not served": RED}),
            unit="percentunit",
            least=0,
            most=1,
        ),
    ],
)

DASHBOARD: Final = Dashboard(
    uid="compute-ledger-fair-share",
    title="Fair share",
    description="The seats of scarce upstreams, who waits for them, and what was asked for and not served.",
    rows=[NOW, SEATS_ROW, DEMAND_ROW, WAITING_ROW],
    variables=[POOL],
)
