"""What one process counts. Counting is a dictionary update, so it may stand on the hot path. Must not know who counts."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

from proxy.domain import PoolState, Usage, counted_in
from proxy.metrics import equality, interventions
from proxy.metrics.definition import Labels, Rows
from proxy.metrics.published import BY_NAME, DEFINITIONS, DIALECTS, OTHER, OUTCOMES, UNIT_KINDS, VERBS

MODEL_LABELS_MAX: Final = 200
REMEMBERED_MODELS_MAX: Final = 4096

Flow = Literal["debited", "granted", "expired", "transferred", "overrun", "adjusted"]
FlagReason = Literal["missing", "absurd", "below_deltas", "above_maximum"]
CutReason = Literal["budget", "ledger", "drain"]
DeficitReason = Literal["budget", "rate", "queue_full", "queue_timeout", "upstream", "client_gone", "other"]
BacklogEvent = Literal["written", "settled", "refused"]

Snapshot = dict[str, list[tuple[Labels, list[float]]]]
"""By metric name: label values and numbers: one for a counter or gauge; each bucket's count, then the sum, for a histogram."""


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
            self._counts["pool_backlog"][(state.name,)] = state.waiting + state.spare_waiting
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

    def audit_figures_are(self, *, open_holds: int, expired_nanocredits: int, left_nanocredits: int | None) -> None:
        """What the audit found of all accounts; what is left is None where nobody has a limit.

        What has expired is known from the balances alone: no process sees every window turn.
        """
        self._set("open_holds", open_holds)
        if left_nanocredits is None:
            self._counts["left_credits"].clear()
        else:
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
