"""Every metric of the product: its name, its help and its bounded labels; what a process counts, and the sum over processes.

Each process counts into a `Metrics`; a worker's `snapshot()` goes to the parent, whose `Fleet` adds them up for `render`.
Counting is a dictionary update, so it may stand on the hot path. Label values are names from the configuration or from a closed
list, else `other`; a caller is never one. Must not know who counts, nor how snapshots travel.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy import config
from proxy.domain import USAGE_KINDS, PoolState, Usage, counted_in
from proxy.errors import STATUS_BY_CODE
from proxy.metrics import equality, interventions
from proxy.metrics.definition import Definition, Labels, Rows, credits, histogram

PREFIX: Final = "compute_ledger_"
MODEL_LABELS_MAX: Final = 200
REMEMBERED_MODELS_MAX: Final = 4096
OTHER: Final = "other"

Flow = Literal["debited", "granted", "expired", "transferred", "overrun", "adjusted"]
FlagReason = Literal["missing", "absurd", "below_deltas", "above_maximum"]
CutReason = Literal["budget", "ledger", "drain"]
DeficitReason = Literal["budget", "rate", "queue_full", "queue_timeout", "upstream", "client_gone", "other"]
BacklogEvent = Literal["written", "settled", "refused"]

DIALECTS: Final = frozenset(get_args(config.Dialect)) | {"opaque"}
OUTCOMES: Final = frozenset({"complete", "cut", "client_gone", "upstream_gone", *STATUS_BY_CODE})
"""How a request ends: an exchange's own ends, or the code of the refusal or failure that the caller got."""
VERBS: Final = frozenset(
    {"hold", "debit", "extend", "settle", "void", "expire", "grant", "revoke", "adjust", "transfer", "collect", "forgo", "deliver"}
    | {"set_limits", "audit", "open", "change", "enrol", "write", "record", "cut_journal", "cut_index", "swap", "fold"}
    | {"prove", "begin_proof"}
    | {"pool_enter", "pool_charge", "pool_leave", "pool_beat", "pool_configure", "pool_adapt", "pool_state"}
)
"""The ledger's scripts."""
UNIT_KINDS: Final = ("image", "character", "tool_use", "milliseconds", "bytes")
TOKEN_KINDS: Final = tuple(kind for kind in USAGE_KINDS if kind not in UNIT_KINDS)

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FIRST_BYTE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LEDGER_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Snapshot = dict[str, list[tuple[Labels, list[float]]]]
"""By metric name: label values and numbers: one for a counter or gauge; each bucket's count, then the sum, for a histogram."""


DEFINITIONS: Final = (
    Definition("requests_total", "counter", "Requests by how they ended.", ("pool", "dialect", "model", "outcome")),
    Definition("tokens_total", "counter", "Tokens charged, by kind; the kinds are disjoint.", ("model", "kind")),
    Definition("units_total", "counter", "Images, characters, uses of tools, milliseconds and bytes charged.", ("model", "kind")),
    credits("credits_total", "counter", "Credits moved, by flow.", ("flow",)),
    credits("held_credits", "gauge", "Credits that running requests hold and have not spent."),
    histogram("added_latency_seconds", "Time from a request's arrival until it was sent upstream.", LATENCY_BUCKETS_S),
    histogram("queue_seconds", "Time that a request waited for a seat.", FIRST_BYTE_BUCKETS_S, ("pool",)),
    Definition("pool_seats", "gauge", "Seats of a pool by state: `used`, `free`.", ("pool", "state")),
    Definition("pool_backlog", "gauge", "Requests that wait for a seat.", ("pool",)),
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
    credits("left_credits", "gauge", "Credits that accounts without a parent could spend when last audited; the unlimited left out."),
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


class Metrics:
    """What one process counts. Not thread-safe: one event loop counts into it."""

    def __init__(self, *, pools: Collection[str] = (), models: Collection[str] = ()) -> None:
        self._counts: dict[str, defaultdict[Labels, float]] = {d.name: defaultdict(float) for d in DEFINITIONS if d.kind != "histogram"}
        self._histograms: dict[str, dict[Labels, list[float]]] = {d.name: {} for d in DEFINITIONS if d.kind == "histogram"}
        self._requests = self._counts["requests_total"]
        self._tokens = self._counts["tokens_total"]
        self._units = self._counts["units_total"]
        self._pools: frozenset[str] = frozenset()
        self._exact: frozenset[str] = frozenset()
        self._prefixes: tuple[str, ...] = ()
        self._model_labels: dict[str, str] = {}
        self.configured(pools=pools, models=models)
        for gauge in ("open_requests", "open_streams", "held_credits", "settle_backlog"):
            self._set(gauge, 0)

    def configured(self, *, pools: Collection[str], models: Collection[str]) -> None:
        """Take new names for the labels: upstream names, and the model patterns of upstreams and prices (the first 200)."""
        self._pools = frozenset(pools)
        patterns = sorted(set(models))[:MODEL_LABELS_MAX]
        self._exact = frozenset(p for p in patterns if not p.endswith("*"))
        self._prefixes = tuple(sorted((p[:-1] for p in patterns if p.endswith("*") and p != "*"), key=len, reverse=True))
        self._model_labels.clear()

    # --- the exchange ----------------------------------------------------------------------------------------------------------

    def request_started(self) -> None:
        self._counts["open_requests"][()] += 1

    def request_finished(self, *, pool: str, dialect: str, model: str, outcome: str) -> None:
        """A request that `request_started` counted has ended; `outcome` is one of OUTCOMES. Empty names where none was chosen."""
        self._counts["open_requests"][()] -= 1
        pool = pool if pool in self._pools else OTHER
        dialect = dialect if dialect in DIALECTS else OTHER
        self._requests[pool, dialect, self.model_label(model), outcome if outcome in OUTCOMES else OTHER] += 1

    def latency_added(self, seconds: float) -> None:
        """Time from a request's arrival until it was sent upstream, its body's own transfer left out."""
        self._observe("added_latency_seconds", (), seconds)

    def first_byte(self, *, pool: str, seconds: float) -> None:
        """Time from a request's arrival to the first byte of the answer."""
        self._observe("time_to_first_byte_seconds", (pool if pool in self._pools else OTHER,), seconds)

    def queued(self, *, pool: str, seconds: float) -> None:
        """Time from asking for a seat to having it."""
        self._observe("queue_seconds", (pool,), seconds)

    def pools_are(self, states: Iterable[PoolState]) -> None:
        """How all pools stand, all processes together, so one of them tells it. Of pools that are not among these nothing is shown."""
        for gauge in ("pool_seats", "pool_backlog", "fair_lag_credits"):
            self._counts[gauge].clear()
        for state in states:
            self._counts["pool_seats"][(state.name, "used")] = state.used
            self._counts["pool_seats"][(state.name, "free")] = max(0, state.seats - state.used)
            self._counts["pool_backlog"][(state.name,)] = state.waiting
            self._counts["fair_lag_credits"][(state.name,)] = state.lag_nanocredits

    def served(self, *, pool: str, amount_nanocredits: int) -> None:
        """Work that was asked for, and done."""
        self._counts["demand_credits_total"][(pool,)] += amount_nanocredits
        self._counts["served_credits_total"][(pool,)] += amount_nanocredits

    def not_served(self, *, pool: str, reason: DeficitReason, amount_nanocredits: int) -> None:
        """Work that was asked for and not done."""
        self._counts["demand_credits_total"][(pool,)] += amount_nanocredits
        self._counts["deficit_credits_total"][(pool, reason)] += amount_nanocredits

    def failed_over(self, *, pool: str) -> None:
        """Another upstream is asked instead of this one."""
        self._counts["failovers_total"][(pool,)] += 1

    def usage_charged(self, *, model: str, usage: Usage) -> None:
        label = self.model_label(model)
        for kind, count in counted_in(usage):
            (self._units if kind in UNIT_KINDS else self._tokens)[label, kind] += count

    def usage_flagged(self, reason: FlagReason) -> None:
        """Reported usage was missing, absurd, fewer tokens than deltas, or more than the request's own maximum."""
        self._counts["usage_flagged_total"][(reason,)] += 1

    def stream_opened(self) -> None:
        self._counts["open_streams"][()] += 1

    def stream_closed(self) -> None:
        self._counts["open_streams"][()] -= 1

    def stream_cut(self, reason: CutReason) -> None:
        """The proxy ended a stream: the budget was used up, the ledger was away for too long, or the proxy shuts down."""
        self._counts["cut_streams_total"][(reason,)] += 1

    def write_refused(self) -> None:
        """Somebody changed more by self-service than may be changed a minute."""
        self._counts["writes_refused_total"][()] += 1

    # --- the ledger ------------------------------------------------------------------------------------------------------------

    def credits_moved(self, flow: Flow, amount_nanocredits: int) -> None:
        """Amounts as they are booked; `debited` once, when a hold ends. An adjustment counts by its size, whatever its sign.

        What requests cost is told in credits, whatever the account counts in; what people and operators move, in the account's unit.
        """
        self._counts["credits_total"][(flow,)] += abs(amount_nanocredits)

    def held_changed(self, amount_nanocredits: int) -> None:
        """Credits newly held (positive), spent or returned (negative)."""
        self._counts["held_credits"][()] += amount_nanocredits

    def ledger_called(self, verb: str, seconds: float) -> None:
        self._observe("ledger_seconds", (verb if verb in VERBS else OTHER,), seconds)

    def ledger_is_up(self, up: bool) -> None:
        self._set("ledger_up", float(up))

    def ledger_restarted(self) -> None:
        self._counts["ledger_restarts_total"][()] += 1

    def holds_expired(self, count: int) -> None:
        self._counts["expired_holds_total"][()] += count

    def passed_uncounted(self, amount_nanocredits: int) -> None:
        """A request was let through unpaid because the ledger is away."""
        self._counts["uncounted_requests_total"][()] += 1
        self._counts["uncounted_credits_total"][()] += amount_nanocredits

    def seated_alone(self, *, pool: str) -> None:
        """A worker gave a seat by itself because the ledger is away."""
        self._counts["seats_given_alone_total"][(pool,)] += 1

    def backlog_changed(self, waiting: int, event: BacklogEvent | None) -> None:
        """How many ends of holds wait in the local journal, and what became of one of them, if anything did."""
        self._set("settle_backlog", waiting)
        if event is not None:
            self._counts["settle_backlog_records_total"][(event,)] += 1

    def audited(self, *, broken: int, waiting: int) -> None:
        """How the audit stands: accounts that did not balance when last visited, and trees that have changed since."""
        self._set("conservation_errors", broken)
        self._set("audit_waiting_trees", waiting)

    def audit_figures_are(self, *, open_holds: int, expired_nanocredits: int, left_nanocredits: int) -> None:
        """What the audit found of all accounts. What has expired is known from the balances alone: no process sees every window turn."""
        self._set("open_holds", open_holds)
        self._set("left_credits", left_nanocredits)
        self._counts["credits_total"][("expired",)] = expired_nanocredits

    def equality_is(self, rows: Mapping[str, Rows]) -> None:
        """How equal use is, as `equality.rows_of` tells it: what it does not name any more is shown no more."""
        for definition in equality.DEFINITIONS:
            counts = self._counts[definition.name]
            counts.clear()
            counts.update(rows.get(definition.name, {}))

    def equality_age_is(self, seconds: float) -> None:
        self._set("equality_age_seconds", seconds)

    def interventions_are(self, rows: Mapping[str, Rows]) -> None:
        """How interventions stand, all processes together, so one of them tells it, as `interventions.rows_of` does."""
        for name, values in rows.items():
            self._counts[name].clear()
            self._counts[name].update(values)

    def intervened(self, policy: str, act: str) -> None:
        """A policy took a step, or did something to one caller."""
        self._counts[interventions.ACTS.name][policy, act] += 1

    # --- the process -----------------------------------------------------------------------------------------------------------

    def audit_age_is(self, seconds: float, *, oldest_visit_s: float) -> None:
        """-1 where nothing, or not everything, was visited yet."""
        self._set("audit_age_seconds", seconds)
        self._set("audit_oldest_visit_seconds", oldest_visit_s)

    def config_reloaded(self, *, successful: bool) -> None:
        self._set("config_last_reload_successful", float(successful))
        self._counts["config_reloads_total"][("applied" if successful else "refused",)] += 1

    def workers_are(self, count: int) -> None:
        self._set("workers", count)

    def worker_restarted(self) -> None:
        self._counts["worker_restarts_total"][()] += 1

    def version_is(self, version: str) -> None:
        self._counts["build_info"][(version,)] = 1.0

    # --- labels and numbers ----------------------------------------------------------------------------------------------------

    def model_label(self, model: str) -> str:
        """The configured name or pattern that a model's name falls under; `other` where none does, or only `*`."""
        label = self._model_labels.get(model)
        if label is None:
            label = model if model in self._exact else next((p + "*" for p in self._prefixes if model.startswith(p)), OTHER)
            if len(self._model_labels) >= REMEMBERED_MODELS_MAX:  # names come from callers: what is remembered stays bounded
                self._model_labels.clear()
            self._model_labels[model] = label
        return label

    def snapshot(self) -> Snapshot:
        """All numbers as they are now, ready for JSON."""
        taken: Snapshot = {name: [(labels, [value]) for labels, value in counts.items()] for name, counts in self._counts.items()}
        for name, rows in self._histograms.items():
            taken[name] = [(labels, list(numbers)) for labels, numbers in rows.items()]
        return taken

    def _set(self, name: str, value: float) -> None:
        self._counts[name][()] = value

    def _observe(self, name: str, labels: Labels, value: float) -> None:
        rows, buckets = self._histograms[name], BY_NAME[name].buckets
        numbers = rows.get(labels)
        if numbers is None:
            numbers = rows[labels] = [0.0] * (len(buckets) + 2)  # one per bucket, one beyond the last, the sum
        numbers[bisect_left(buckets, value)] += 1
        numbers[-1] += value


class Fleet:
    """The numbers of every process: the parent's own, the living workers' last snapshots, and what ended workers had counted."""

    def __init__(self, own: Metrics) -> None:
        self._own = own
        self._living: dict[str, Snapshot] = {}
        self._ended: Snapshot = {}

    def reported(self, process: str, snapshot: Snapshot) -> None:
        """Take a living process's newest snapshot; it replaces the one before."""
        self._living[process] = snapshot

    def ended(self, process: str) -> None:
        """Keep an ended process's counters, so that no sum ever falls, and drop its gauges."""
        last = self._living.pop(process, {})
        counters = {name: rows for name, rows in last.items() if BY_NAME[name].kind != "gauge"}
        self._ended = _sum((self._ended, counters))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """All that `render` needs; none of it changes later, so it may be rendered in a thread."""
        return (self._own.snapshot(), *self._living.values(), self._ended)


def render(snapshots: Collection[Snapshot], accept: str = "") -> tuple[bytes, str]:
    """The page for Prometheus in the format that the scrape's Accept header prefers, and its content type."""
    registry = CollectorRegistry()
    registry.register(_Page(_sum(snapshots)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _sum(snapshots: Iterable[Snapshot]) -> Snapshot:
    merged: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
    for snapshot in snapshots:
        for name, rows in snapshot.items():
            add = min if BY_NAME[name].across == "min" else operator.add
            into = merged[name]
            for values, numbers in rows:
                labels = tuple(values)  # JSON made a list of it
                before = into.get(labels)
                into[labels] = numbers if before is None else [add(a, b) for a, b in zip(before, numbers, strict=True)]
    return {name: list(rows.items()) for name, rows in merged.items()}


class _Page(Collector):
    def __init__(self, totals: Snapshot) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        for definition in DEFINITIONS:
            yield _family(definition, self._totals.get(definition.name, []))


def _family(definition: Definition, rows: list[tuple[Labels, list[float]]]) -> Metric:
    name, labels = PREFIX + definition.name, definition.labels
    if definition.kind == "histogram":
        histogram = HistogramMetricFamily(name, definition.help, labels=labels)
        for values, numbers in rows:
            histogram.add_metric(values, _cumulative(definition.buckets, numbers[:-1]), numbers[-1])
        return histogram
    family = (CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily)(name, definition.help, labels=labels)
    if not rows and not labels and definition.kind == "counter":
        rows = [((), [0.0])]  # an alert on a counter needs the zero that it rises from
    for values, numbers in rows:
        family.add_metric(values, numbers[0] / definition.unit)
    return family


def _cumulative(buckets: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    bounds = (*(str(bound) for bound in buckets), "+Inf")
    return list(zip(bounds, accumulate(counts), strict=True))
