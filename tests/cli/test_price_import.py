"""The prices that genai-prices knows, as rows: what they cost here is what they cost there."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TimeOfDateConstraint,
)

from proxy import config
from proxy.cli.operator.client import CommandFailed
from proxy.cli.operator.commands import add_operator_commands
from proxy.cli.operator.known_prices import Found, Wanted, find
from proxy.domain import Price, Usage
from proxy.policy.pricing import cost_nanocredits, find_price

Run = Callable[[Sequence[str]], tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `price import` with some arguments; gives the exit code and what it said."""

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        add_operator_commands(parser.add_subparsers(required=True))
        args = parser.parse_args(["price", "import", *arguments])
        code = args.run(args)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def rows_in(text: str) -> list[Price]:
    """The rows of a file, as the proxy reads it."""
    return [row.to_price() for row in config.validate(tomllib.loads(text), source="file").price]


def day_ms(year: int, month: int, day: int) -> int:
    return int(dt.datetime(year, month, day, tzinfo=dt.UTC).timestamp() * 1000)


def theirs(usage: Usage) -> genai_prices.Usage:
    """Our disjoint counts as their totals with details."""
    return genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write + usage.cache_write_1h,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=usage.audio_input,
        cache_audio_read_tokens=0,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning,
        output_audio_tokens=usage.audio_output,
        web_searches=usage.tool_use,
        input_characters=usage.character,
    )


USAGES = [
    Usage(input=1),
    Usage(input=900, cached_input=70, output=300, reasoning=40),
    Usage(input=150_000, cached_input=49_999, output=2_000),
    Usage(input=150_000, cached_input=50_001, output=2_000, reasoning=100),
    Usage(input=10, cache_write=300_000, cache_write_1h=7, output=1),
    Usage(input=600_000, output=8_192),
    Usage(audio_input=1_000, audio_output=500, output=20),
    Usage(character=4_000),
]


def prices(row: Price, usage: Usage) -> bool:
    """Whether a row is for such requests at all; a row for none but these prices what it leaves out at its dearest, the package at 0."""
    needed = {"input": usage.input_tokens, "output": usage.output_tokens, "character": usage.character}
    return all(getattr(row, kind) is not None for kind, count in needed.items() if count)


def test_every_row_costs_what_the_package_says(run: Run) -> None:
    """All makers' models, on the first day of each price, below and beyond the tiers."""
    code, out, _ = run([])
    rows = rows_in(out)
    assert code == 0
    assert len(rows) > 500
    for row in rows:
        name = row.model.removesuffix("*")
        at = dt.datetime.fromtimestamp(row.effective_at_ms / 1000, dt.UTC)
        assert find_price(rows, name, row.effective_at_ms) == row
        for usage in (usage for usage in USAGES if prices(row, usage)):
            due = genai_prices.calc_price(theirs(usage), name, genai_request_timestamp=at).total_price
            assert cost_nanocredits(row, usage) == ceil(due * 10**9), (row, usage)


def test_a_drop_in_price_is_dated(run: Run) -> None:
    """o3 cost five times as much until 10 June 2025."""
    _, out, _ = run(["--model", "o3"])
    rows = rows_in(out)
    usage = Usage(input=1_000_000, output=1_000_000)
    for day, credits in ((9, 50), (10, 10)):
        row = find_price(rows, "o3", day_ms(2025, 6, day))
        assert row is not None
        assert cost_nanocredits(row, usage) == credits * 10**9


def test_tiers_and_caches_come_along(run: Run) -> None:
    """As the file has them, under the model that they are of."""
    _, out, _ = run(["--model", "gemini-2.5-pro", "--credits-per-dollar", "100"])
    assert out.startswith(f"# Prices in credits, at 100 for a dollar, from genai-prices {genai_prices.__version__}.\n")
    assert out.endswith(
        '\n# google: gemini-2.5-pro\n[[price]]\nmodel = "gemini-2.5-pro"\ninput = "125"\noutput = "1000"\ncached_input = "12.5"\n'
        'tool_use = "3.5"\n[[price.tier]]\nabove_input_tokens = 200000\ninput = "250"\noutput = "1500"\ncached_input = "25"\n'
    )


def test_seconds_are_rounded_up_at_the_ninth_place(run: Run) -> None:
    """An hour of sound at 0.36 is 0.0001 a second."""
    _, out, _ = run(["--model", "whisper-1"])
    [row] = rows_in(out)
    assert row.second == 100_000
    assert cost_nanocredits(row, Usage(milliseconds=3_600_000)) == 360_000_000


# --- a catalogue made up for the purpose -------------------------------------------------------------------------------------------

PLAIN = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(4))


def model(name: str, prices: Any = PLAIN, *clauses: Any) -> ModelInfo:
    return ModelInfo(id=name, match=ClauseOr(or_=list(clauses)) if clauses else ClauseEquals(equals=name), prices=prices)


def dated(*prices: tuple[Any, ModelPrice]) -> list[ConditionalPrice]:
    return [ConditionalPrice(constraint, prices=known) for constraint, known in prices]


@pytest.fixture
def found() -> Iterator[Any]:
    """Reads a made-up catalogue: providers by id, each with its models."""

    def found(catalogue: dict[str, list[ModelInfo]], wanted: Wanted | None = None) -> Found:
        providers = [
            Provider(id=name, name=name, api_pattern=name, model_match=ClauseStartsWith(starts_with=name), models=models)
            for name, models in catalogue.items()
        ]
        set_custom_snapshot(DataSnapshot(providers=providers, from_auto_update=False))
        return find(wanted or Wanted(tuple(catalogue)))

    yield found
    set_custom_snapshot(None)


def names(found: Found) -> list[str]:
    return [known.name for known in found.known]


def test_a_price_that_depends_on_the_time_of_day_is_left_out(found: Any) -> None:
    """A row has one price for the whole day; the wrong one would be silent."""
    by_night = TimeOfDateConstraint(start_time=dt.time(1), end_time=dt.time(5))
    read = found({"a": [model("a-1"), model("a-2", dated((None, PLAIN), (by_night, PLAIN)))]})
    assert names(read) == ["a-1"]
    assert read.notes == ("a a-2: left out: its price depends on the time of day",)


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        (ModelPrice(), "no price is known"),
        (ModelPrice(input_mtok=Decimal(1), input_document_kpages=Decimal(2)), "input_document_kpages is 2, which has no kind here"),
        (
            ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), output_image_mtok=Decimal(30)),
            "output_image_mtok is 30, and such tokens count as output_mtok at 2; --nearest takes it so",
        ),
        (ModelPrice(cache_read_mtok=Decimal(10)), "prices nothing"),
    ],
)
def test_what_a_row_cannot_say_is_left_out_and_told(found: Any, prices: ModelPrice, reason: str) -> None:
    """Never silently, and never below its price."""
    read = found({"a": [model("a-1", prices)]})
    assert names(read) == []
    [note] = read.notes
    assert note.startswith(f"a a-1: left out: {reason}")


def test_what_would_cost_too_much_is_taken_and_told(found: Any) -> None:
    """Tokens without a kind of their own that are cheaper than the kind they count as; tools, of which the dearest counts."""
    prices = ModelPrice(
        input_mtok=Decimal(3), input_image_mtok=Decimal(1), web_searches_kcount=Decimal(10), storage_searches_kcount=Decimal("2.5")
    )
    read = found({"a": [model("a-1", prices)]})
    assert read.known[0].rows[0].tool_use == 10_000_000
    assert read.notes == (
        "a a-1: input_image_mtok is 1, and such tokens count as input_mtok at 3",
        "a a-1: tool_use is the dearest of web_searches_kcount 10, storage_searches_kcount 2.5",
    )


def test_the_nearest_kind_is_taken_where_that_is_asked_for(found: Any) -> None:
    """And still told."""
    prices = ModelPrice(input_mtok=Decimal(1), cache_read_mtok=Decimal("0.1"), cache_audio_read_mtok=Decimal("0.3"))
    read = found({"a": [model("a-1", prices)]}, Wanted(("a",), nearest=True))
    assert names(read) == ["a-1"]
    assert read.notes == ("a a-1: cache_audio_read_mtok is 0.3, and such tokens count as cache_read_mtok at 0.1",)


def test_a_date_that_cannot_be_said_ends_what_was_before_it(found: Any) -> None:
    """Else the earlier price would hold on."""
    pages = ModelPrice(input_mtok=Decimal(1), input_document_kpages=Decimal(2))
    march, may = (StartDateConstraint(start_date=dt.date(2026, month, 1)) for month in (3, 5))
    read = found(
        {"a": [model("a-1", dated((None, PLAIN), (march, pages), (may, PLAIN))), model("a-2", dated((None, PLAIN), (may, pages)))]}
    )
    assert [(known.name, [row.effective_at_ms for row in known.rows]) for known in read.known] == [("a-1", [day_ms(2026, 5, 1)])]


def test_since_keeps_what_was_in_force_that_day(found: Any) -> None:
    """Of a longer history, the last row before the date and all that follow."""
    march, may, july = (StartDateConstraint(start_date=dt.date(2026, month, 1)) for month in (3, 5, 7))
    other = ModelPrice(input_mtok=Decimal(2))
    history = dated((None, PLAIN), (march, other), (may, PLAIN), (july, other))
    for since, months in ((dt.date(2026, 5, 1), (5, 7)), (dt.date(2026, 4, 30), (3, 5, 7)), (dt.date(2026, 12, 1), (7,))):
        [known] = found({"a": [model("a-1", history)]}, Wanted(("a",), since=since)).known
        assert [row.effective_at_ms for row in known.rows] == [day_ms(2026, month, 1) for month in months]


def test_a_prefix_that_would_price_another_model_is_left_out(found: Any) -> None:
    """Where the other one has no row: here because its price is not known."""
    wide = model("a", PLAIN, ClauseStartsWith(starts_with="a-"))
    assert names(found({"a": [model("a-2"), wide]})) == ["a-*", "a-2"]
    read = found({"a": [model("a-2", ModelPrice()), wide]})
    assert names(read) == []
    assert read.notes[-1] == "a: a a-*: left out: it would price a-2 too, which is another model"


def test_a_model_asked_for_by_its_name_is_found_by_whatever_rule_it_has(found: Any) -> None:
    """Under the name asked for; a rule that is no pattern here is told where all are wanted."""
    snapshots = model("a-1", PLAIN, ClauseEquals(equals="a-1"), ClauseRegex(regex=r"^a-1-\d{8}$"))
    read = found({"a": [snapshots]})
    assert names(read) == ["a-1"]
    assert read.notes == ("a a-1: only its plain names have rows; ask for others with --model",)
    read = found({"a": [snapshots]}, Wanted(("a",), models=("a-1-20260101", "a-1-x")))
    assert names(read) == ["a-1-20260101"]
    assert read.notes == ("a-1-x: left out: no price is known",)


def test_of_several_providers_the_first_that_knows_a_model_counts(found: Any) -> None:
    """Without a provider, the maker: here the one whose name the model's begins with."""
    dear = ModelPrice(input_mtok=Decimal(9))
    catalogue = {"b": [model("a-1", dear), model("b-1")], "a": [model("a-1"), model("a-2")]}
    assert {known.name: known.rows[0].input for known in found(catalogue, Wanted(("b", "a"))).known} == {
        "a-1": 9_000_000_000, "a-2": 1_000_000_000, "b-1": 1_000_000_000,
    }  # fmt: skip
    assert {known.name: known.rows[0].input for known in found(catalogue, Wanted()).known} == dict.fromkeys(
        ("a-1", "a-2", "b-1"), 1_000_000_000
    )
    with pytest.raises(CommandFailed, match="there is no provider 'c'; there are a, b"):
        found(catalogue, Wanted(("c",)))


# --- the command -------------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_once(run: Run, tmp_path: Path) -> None:
    """What stands there is not overwritten unasked."""
    file = tmp_path / "prices.toml"
    assert run(["--model", "o3", "--file", str(file)])[:2] == (0, f"2 rows written to {file}\n")
    written = file.read_text()
    assert len(rows_in(written)) == 2
    code, _, said = run(["--model", "o3", "--since", "2026-01-01", "--file", str(file)])
    assert (code, said.splitlines()[-1]) == (1, f"compute-ledger: {file} is there already; --force overwrites it")
    assert file.read_text() == written
    assert run(["--model", "o3", "--since", "2026-01-01", "--file", str(file), "--force"])[:2] == (0, f"1 row written to {file}\n")


def test_the_extra_is_named_where_it_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the command line needs no such package."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert run([]) == (
        1,
        "",
        "compute-ledger: price import needs the package genai-prices, of the extra [prices]: pip install 'compute-ledger[prices]'\n",
    )


@pytest.mark.parametrize(
    "arguments", [["--since", "soon"], ["--credits-per-dollar", "0"], ["--credits-per-dollar", "nan"], ["--apply", "--file", "x"]]
)
def test_odd_arguments_are_refused(run: Run, arguments: list[str]) -> None:
    """Before anything is read."""
    with pytest.raises(SystemExit):
        run(arguments)
