"""Counting, bounded labels, and sums over processes that come and go."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.domain import PoolState, Usage
from proxy.ledger import scripts
from proxy.metrics import Fleet, Metrics, Snapshot, render
from proxy.metrics.counting import MODEL_LABELS_MAX, REMEMBERED_MODELS_MAX
from proxy.metrics.published import DEFINITIONS, VERBS


def page(fleet: Fleet) -> dict[str, float]:
    """What a scrape reads, by sample: `name{label=value,...}`."""
    text, _ = render(fleet.snapshots())
    samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def over_the_wire(counted: Metrics) -> Snapshot:
    return json.loads(json.dumps(counted.snapshot()))


def finish(counted: Metrics, *, model: str = "gpt-4o", pool: str = "local", outcome: str = "complete") -> None:
    counted.request_started()
    counted.request_finished(pool=pool, dialect="openai", model=model, outcome=outcome)


def test_requests_are_counted_by_how_they_ended() -> None:
    """Each outcome has its own series, and a request that ended is no longer open."""
    counted = Metrics(pools=["local"], models=["gpt-4o"])
    finish(counted)
    finish(counted, outcome="insufficient_quota")
    counted.request_started()
    samples = page(Fleet(counted))
    labels = "dialect=openai,model=gpt-4o,outcome={},pool=local"
    assert samples["compute_ledger_requests_total{" + labels.format("complete") + "}"] == 1
    assert samples["compute_ledger_requests_total{" + labels.format("insufficient_quota") + "}"] == 1
    assert samples["compute_ledger_open_requests"] == 1


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-*"),
        ("gpt-5", "gpt-*"),
        ("claude", "other"),
        ("gpt-4o-*", "gpt-4o-*"),
        ("", "other"),
        ("claude\ud800", "other"),
    ],
)
def test_a_model_counts_under_its_configured_name(model: str, label: str) -> None:
    """The exact name, else the longest pattern, else `other`: what callers write never becomes a label."""
    counted = Metrics(models=["*", "gpt-*", "gpt-4o-*", "gpt-4o"])
    assert counted.model_label(model) == label
    assert counted.model_label(model) == label


def test_labels_stay_bounded_whatever_callers_send() -> None:
    """Ten thousand made-up models, pools, dialects and outcomes make one series, and are not all remembered."""
    counted = Metrics(pools=["local"], models=["gpt-4o"])
    for n in range(10_000):
        counted.request_started()
        counted.request_finished(pool=f"p{n}", dialect=f"d{n}", model=f"m{n}", outcome=f"o{n}")
        counted.ledger_called(f"v{n}", 0.1)
    assert counted.snapshot()["requests_total"] == [(("other",) * 4, [10_000])]
    assert len(counted.snapshot()["ledger_seconds"]) == 1
    assert len(counted._model_labels) <= REMEMBERED_MODELS_MAX


def test_every_script_of_the_ledger_has_a_label_of_its_own() -> None:
    """So that none hides among `other`."""
    assert {*scripts.VERBS, *scripts.POOL_VERBS, *scripts.STANDALONE} == VERBS


def test_a_lone_surrogate_does_not_break_the_page() -> None:
    """A model name that UTF-8 cannot write leaves the page readable."""
    counted = Metrics(pools=["local"], models=["gpt-4o"])
    finish(counted, model="gpt\ud800")
    assert page(Fleet(counted))["compute_ledger_requests_total{dialect=openai,model=other,outcome=complete,pool=local}"] == 1


def test_configured_models_beyond_the_cap_count_as_other() -> None:
    """A price book of thousands of rows does not make thousands of series."""
    counted = Metrics(models=[f"m{n:05}" for n in range(5000)])
    assert len({counted.model_label(f"m{n:05}") for n in range(5000)}) == MODEL_LABELS_MAX + 1


def test_new_names_apply_after_a_reload() -> None:
    """A model that was `other` counts under its own name once it is configured."""
    counted = Metrics(models=["gpt-4o"])
    assert counted.model_label("llama") == "other"
    counted.configured(pools=[], models=["llama"])
    assert counted.model_label("llama") == "llama"
    assert counted.model_label("gpt-4o") == "other"


def test_tokens_are_counted_by_disjoint_kinds_and_units_apart() -> None:
    """Kinds that were not used make no series; images and seconds are not tokens."""
    counted = Metrics(models=["gpt-4o"])
    counted.usage_charged(model="gpt-4o", usage=Usage(input=10, cached_input=2, output=5, image=3))
    samples = page(Fleet(counted))
    tokens = {name: value for name, value in samples.items() if name.startswith("compute_ledger_tokens_total")}
    assert tokens == {
        "compute_ledger_tokens_total{kind=input,model=gpt-4o}": 10,
        "compute_ledger_tokens_total{kind=cached_input,model=gpt-4o}": 2,
        "compute_ledger_tokens_total{kind=output,model=gpt-4o}": 5,
    }
    assert samples["compute_ledger_units_total{kind=image,model=gpt-4o}"] == 3


def test_credits_stay_exact_through_many_small_debits() -> None:
    """A million debits of one nanocredit are a thousandth of a credit, and a hold that ended leaves exactly nothing."""
    counted = Metrics()
    for _ in range(1_000_000):
        counted.credits_moved("debited", 1)
    counted.held_changed(7_000_000_001)
    counted.held_changed(-3)
    counted.held_changed(-6_999_999_998)
    samples = page(Fleet(counted))
    assert samples["compute_ledger_credits_total{flow=debited}"] == 0.001
    assert samples["compute_ledger_held_credits"] == 0


def test_a_histogram_is_cumulative() -> None:
    """A bucket holds what is no larger than its bound, bounds included."""
    counted = Metrics(pools=["local"])
    for seconds in (0.0005, 0.0006, 99.0):
        counted.latency_added(seconds)
    samples = page(Fleet(counted))
    name = "compute_ledger_added_latency_seconds"
    assert samples[name + "_bucket{le=0.0005}"] == 1
    assert samples[name + "_bucket{le=0.001}"] == 2
    assert samples[name + "_bucket{le=2.5}"] == 2
    assert samples[name + "_bucket{le=+Inf}"] == samples[name + "_count"] == 3
    assert samples[name + "_sum"] == pytest.approx(99.0011)


def test_numbers_of_several_processes_are_summed() -> None:
    """Counters, histograms and gauges of the parent and two workers add up, after a trip through JSON."""
    parent, first, second = Metrics(), Metrics(pools=["local"], models=["gpt-4o"]), Metrics(pools=["local"], models=["gpt-4o"])
    fleet = Fleet(parent)
    for counted in (first, second, second):
        finish(counted)
        counted.first_byte(pool="local", seconds=0.2)
        counted.stream_opened()
    parent.worker_restarted()
    fleet.reported("1", over_the_wire(first))
    fleet.reported("2", over_the_wire(second))
    samples = page(fleet)
    assert samples["compute_ledger_requests_total{dialect=openai,model=gpt-4o,outcome=complete,pool=local}"] == 3
    assert samples["compute_ledger_time_to_first_byte_seconds_count{pool=local}"] == 3
    assert samples["compute_ledger_open_streams"] == 3
    assert samples["compute_ledger_worker_restarts_total"] == 1


def test_a_dead_workers_counters_stay_and_its_gauges_go() -> None:
    """Counters never fall when a worker dies and another takes its place; what it had open is gone with it."""
    fleet = Fleet(Metrics())
    requests = "compute_ledger_requests_total{dialect=openai,model=gpt-4o,outcome=complete,pool=local}"
    for life in range(3):
        counted = Metrics(pools=["local"], models=["gpt-4o"])
        finish(counted)
        counted.stream_opened()
        fleet.reported(str(life), over_the_wire(counted))
        assert page(fleet)[requests] == life + 1
        fleet.ended(str(life))
        assert page(fleet)[requests] == life + 1
    assert page(fleet)["compute_ledger_open_streams"] == 0


def test_the_ledger_is_up_only_where_every_process_reaches_it() -> None:
    """One worker without a ledger makes the whole read 0; its death ends that."""
    parent, worker = Metrics(), Metrics()
    parent.ledger_is_up(True)
    worker.ledger_is_up(False)
    fleet = Fleet(parent)
    fleet.reported("1", over_the_wire(worker))
    assert page(fleet)["compute_ledger_ledger_up"] == 0
    fleet.ended("1")
    assert page(fleet)["compute_ledger_ledger_up"] == 1


def test_the_page_comes_in_the_format_that_the_scrape_asks_for() -> None:
    """OpenMetrics where it is asked for, with its end marker; else the classic text."""
    snapshots = Fleet(Metrics()).snapshots()
    text, content_type = render(snapshots)
    assert content_type.startswith("text/plain")
    assert b"# EOF" not in text
    text, content_type = render(snapshots, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_every_definition_is_well_formed() -> None:
    """Counters end in _total and others do not; no label could name a caller; buckets ascend."""
    for definition in DEFINITIONS:
        assert definition.name.endswith("_total") == (definition.kind == "counter"), definition.name
        assert not {"account", "caller", "key", "user", "api_key"} & set(definition.labels), definition.name
        assert bool(definition.buckets) == (definition.kind == "histogram"), definition.name
        assert list(definition.buckets) == sorted(set(definition.buckets)), definition.name
        assert definition.help.endswith("."), definition.name


def test_pools_that_are_gone_are_told_no_more() -> None:
    """What was told last is the whole of it; seats that were taken away from a full pool are not free below none.

    Who waits is told with those that may take only spare seats, for so wait the ones that a cap puts last.
    """
    counted = Metrics()
    gone = PoolState("gone", 2, 1, 0, 0, 0, 0, False)
    counted.pools_are([gone])
    counted.pools_are([PoolState("local", 2, 3, 5, 2, 1_500_000_000, 0, False, spare_waiting=4)])
    told = {name: value for name, value in page(Fleet(counted)).items() if "pool_" in name or "lag" in name}
    assert told == {
        "compute_ledger_pool_seats{pool=local,state=used}": 3,
        "compute_ledger_pool_seats{pool=local,state=free}": 0,
        "compute_ledger_pool_backlog{pool=local}": 9,
        "compute_ledger_fair_lag_credits{pool=local}": 1.5,
    }
