"""Every metric of the product: its name, its help, its labels, and which values those may have."""

from __future__ import annotations

from typing import Final, get_args

from proxy import config
from proxy.errors import STATUS_BY_CODE
from proxy.metrics import equality, interventions
from proxy.metrics.definition import Definition, credits, histogram

OTHER: Final = "other"

DIALECTS: Final = frozenset(get_args(config.Dialect)) | {"opaque"}
OUTCOMES: Final = frozenset({"complete", "cut", "client_gone", "upstream_gone", *STATUS_BY_CODE})
"""How a request ends: an exchange's own ends, or the code of the refusal or failure that the caller got."""
VERBS: Final = frozenset(
    {"hold", "debit", "extend", "settle", "void", "expire", "grant", "revoke", "adjust", "transfer", "collect", "forgo", "deliver"}
    | {"set_limits", "audit", "open", "change", "enrol", "write", "record", "cut_journal", "cut_index", "swap", "fold"}
    | {"prove", "begin_proof", "publish", "set_mode"}
    | {"pool_enter", "pool_charge", "pool_leave", "pool_beat", "pool_configure", "pool_adapt", "pool_state"}
)
"""The ledger's scripts."""
UNIT_KINDS: Final = ("image", "character", "tool_use", "milliseconds", "bytes")

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FIRST_BYTE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LEDGER_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

DEFINITIONS: Final = (
    Definition("requests_total", "counter", "Requests by how they ended.", ("pool", "dialect", "model", "outcome")),
    Definition("tokens_total", "counter", "Tokens charged, by kind; the kinds are disjoint.", ("model", "kind")),
    Definition("units_total", "counter", "Images, characters, uses of tools, milliseconds and bytes charged.", ("model", "kind")),
    credits("credits_total", "counter", "Credits moved, by flow.", ("flow",)),
    credits("held_credits", "gauge", "Credits that running requests hold and have not spent."),
    histogram("added_latency_seconds", "Time from a request's arrival until it was sent upstream.", LATENCY_BUCKETS_S),
    histogram("queue_seconds", "Time that a request waited for a seat.", FIRST_BYTE_BUCKETS_S, ("pool",)),
    Definition("pool_seats", "gauge", "Seats of a pool by state: `used`, `free`.", ("pool", "state")),
    Definition("pool_backlog", "gauge", "Requests that wait for a seat, those that take only spare ones too.", ("pool",)),
    credits("fair_lag_credits", "gauge", "By how much, in credits per weight, the caller that waits and got least is behind.", ("pool",)),
    credits("demand_credits_total", "counter", "Work that was asked for: as served, else as estimated.", ("pool",)),
    credits("served_credits_total", "counter", "Work that was served.", ("pool",)),
    credits("deficit_credits_total", "counter", "Work that was asked for and not served, as estimated.", ("pool", "reason")),
    Definition("failovers_total", "counter", "Requests that went on to another upstream, by the one that failed.", ("pool",)),
    histogram("time_to_first_byte_seconds", "Time from arrival to the answer's first byte.", FIRST_BYTE_BUCKETS_S, ("pool",)),
    Definition("writes_refused_total", "counter", "Changes by self-service that were beyond a person's rate."),
    Definition("open_requests", "gauge", "Requests running now."),
    Definition("open_streams", "gauge", "Streamed answers running now."),
    Definition("cut_streams_total", "counter", "Streams ended by the proxy before the model ended them.", ("reason",)),
    Definition("usage_flagged_total", "counter", "Answers whose reported usage could not be taken as it was.", ("reason",)),
    Definition("uncounted_requests_total", "counter", 'Requests let through unpaid in an outage (on_failure = "allow").'),
    credits("uncounted_credits_total", "counter", 'Credits let through unpaid in an outage (on_failure = "allow").'),
    Definition("seats_given_alone_total", "counter", 'Seats that a worker gave by itself in an outage (on_failure = "allow").', ("pool",)),
    Definition("settle_backlog", "gauge", "Ends of holds that wait in the local journal for the ledger."),
    Definition("settle_backlog_records_total", "counter", "Ends of holds that went through the local journal.", ("event",)),
    Definition("expired_holds_total", "counter", "Holds that timed out and were charged as last recorded."),
    Definition("conservation_errors", "gauge", "Accounts whose books did not balance when they were last audited; must be 0."),
    Definition("open_holds", "gauge", "Holds that were open when their accounts were last audited."),
    credits(
        "left_credits",
        "gauge",
        "Credits (units at their worth) that accounts without a parent could spend when last audited; the unlimited left out.",
    ),
    Definition("audit_age_seconds", "gauge", "Age of the oldest change that may not have been audited; -1 before the first audit."),
    Definition("audit_oldest_visit_seconds", "gauge", "Age of the oldest visit of an account by the audit; -1 before all were visited."),
    Definition("audit_waiting_trees", "gauge", "Trees of accounts with changes that the audit has not looked at yet."),
    Definition("ledger_up", "gauge", "1 while the ledger answers every process.", across="min"),
    histogram("ledger_seconds", "Time a ledger call took, repeats included.", LEDGER_BUCKETS_S, ("verb",)),
    Definition("ledger_restarts_total", "counter", "Times the embedded ledger was started again after it died."),
    Definition("config_last_reload_successful", "gauge", "1 while the configuration in force is the file's latest."),
    Definition("config_reloads_total", "counter", "Reloads of the configuration file.", ("result",)),
    Definition("workers", "gauge", "Worker processes that accept requests."),
    Definition("worker_restarts_total", "counter", "Workers that died and were replaced."),
    Definition("build_info", "gauge", "Always 1; the version stands in the label.", ("version",)),
    *equality.DEFINITIONS,
    *interventions.DEFINITIONS,
)
BY_NAME: Final = {definition.name: definition for definition in DEFINITIONS}
