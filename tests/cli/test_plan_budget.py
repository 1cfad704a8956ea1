"""`compute-ledger plan-budget`: by a file's prices and by the running proxy's, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.cli.operator.client import TOKEN_VARIABLE, URL_VARIABLE
from proxy.domain import Level, Price
from proxy.ledger import Store
from tests.server.admin.bench import CREDIT, SECRETS, Health, listen, open_store
from tests.support.ledger_server import LedgerServer

ROWS = """
[[price]]
model = "a"
input = "0.15"
output = "0.75"
level = "small"
"""
AHEAD = """
[[price]]
model = "b"
effective = 2999-01-01
input = "0.001"
output = "0.001"
level = "small"
"""
LINE = ["plan-budget", "--level", "small", "--people", "1000"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(ROWS)
    return file


def test_it_says_what_people_with_units_cost_in_years_to_come(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tenth a year later, in a table that fits a narrow terminal."""
    assert main([*LINE, "--units", "2", "--pool", "600", "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    cells = [line.split() for line in shown.splitlines() if line.strip().startswith(("now", "in "))]
    assert [line[:5] for line in cells if line[0] == "now"] == [
        ["now", "0.3", "600", "85,913", "price"],
        ["now", "0.3", "2", "2,000,000", "price"],
    ]
    assert [line[3:5] for line in cells if line[0] == "in"] == [
        *(["0.03", "60"], ["0.003", "6"], ["0.0003", "0.6"]),
        *(["0.03", "20"], ["0.003", "200"], ["0.0003", "2,000"]),
    ]


def test_scripts_get_exact_figures(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As decimal strings; what was not asked for is null."""
    assert main([*LINE, "--units", "0.5", "--config", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["level"], document["people"], document["units_a_day_each"], document["pool_credits_a_day"]) == (
        "small",
        1000,
        "0.5",
        None,
    )
    assert [(line["months"], line["index"], line["credits_a_day"]) for line in document["outlook"]] == [
        *((0, "0.3", "150"), (12, "0.03", "15"), (24, "0.003", "1.5"), (36, "0.0003", "0.15")),
    ]
    assert {line["units_a_day_each_from_pool"] for line in document["outlook"]} == {None}


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--units", "1", "--level", "other"], 1, "there is no level 'other'; there are: small"),
        *(
            (["--units", text], 2, "--units: must be an amount above 0")
            for text in ("0", "0.000", "-1", "nan", "1,000", "", "1.0000000001")
        ),
        (["--pool", "1e3"], 2, "--pool: must be an amount above 0"),
        ([], 2, "give --units, --pool, or both"),
        (["--units", "1", "--people", "0"], 2, "must be a number from 1"),
    ],
)
def test_what_makes_no_plan_is_refused(file: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, told: str) -> None:
    """In one line."""
    try:
        ended = main([*LINE, *options, "--config", str(file)])
    except SystemExit as exit:
        ended = int(exit.code or 0)
    assert ended == code
    assert told in capsys.readouterr().err


def add(file: Path, settings: str) -> None:
    file.write_text(file.read_text() + settings)


def planned(file: Path, capsys: pytest.CaptureFixture[str], settings: str, *options: str) -> str:
    """What is told of a file with these settings beside its rows, the lines of each sentence joined."""
    add(file, settings)
    assert main([*LINE, *options, "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    return "\n".join(part if "  " in part else " ".join(part.split("\n")) for part in shown.split("\n\n"))


def test_until_the_last_known_price_the_known_ones_hold(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row dated far ahead leaves nothing to the schedule."""
    shown = planned(file, capsys, AHEAD, "--units", "2")
    assert [line.split()[-4:] for line in shown.splitlines() if line.strip().startswith(("now", "in "))] == [
        ["0.3", "600", "219,000", "price"],
    ] * 4
    assert (
        "Up to the last price that is known the index is the price's; later it is taken to fall by a factor of 10 in 365.25 days" in shown
    )


def test_a_level_that_is_not_taken_to_fall_has_no_schedule(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last price goes on."""
    shown = planned(file, capsys, '[[level]]\nname = "small"\ndeflation = 1\n', "--units", "2")
    assert "later it is taken to stay as it is." in shown
    assert shown.count("last price\n") + shown.endswith("last price") == 3
    assert "schedule" not in shown


def test_where_the_schedule_stops_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a factor as people write it."""
    shown = planned(file, capsys, '[[level]]\nname = "small"\ndeflation = 1_000_000\n', "--units", "2")
    assert "by a factor of 1,000,000 in 365.25 days" in shown
    assert "In the 365 days that begin in 12 months the index comes to the least there is, 0.000000001, and falls no further." in shown


def test_one_is_told_as_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Person, unit and credit."""
    shown = planned(file, capsys, "", "--people", "1", "--units", "1", "--pool", "1")
    assert "1 person with 1 unit a day, in credits:" in shown
    assert "A pool of 1 credit a day buys 1 person:" in shown


def test_a_level_whose_rows_cost_nothing_has_no_index(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are there, and it is told what they lack."""
    file.write_text('[[price]]\nmodel = "a"\ninput = "0"\noutput = "0"\nlevel = "small"\n')
    assert main([*LINE, "--units", "1", "--config", str(file)]) == 1
    assert "no price row names it with prices above 0 for its blend" in capsys.readouterr().err


@pytest.fixture
async def running(ledger_server: LedgerServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    async with open_store(ledger_server) as store, listen(store, Health()) as address:
        monkeypatch.setenv(URL_VARIABLE, address)
        monkeypatch.setenv(TOKEN_VARIABLE, SECRETS["viewer"])
        yield store


async def test_without_a_file_the_running_proxy_is_asked(running: Store, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its levels with their settings; the figures are the same as from a file with the same rows."""
    rows = (
        Price("a", 0, input=150_000_000, output=750_000_000, level="small"),
        Price("b", 32_472_144_000_000, input=CREDIT // 1000, output=CREDIT // 1000, level="small"),
    )
    add(file, AHEAD)
    running.directory.configure(file_prices=rows, default_plan="everyone", file_levels=(Level("small"),))
    line = [*LINE, "--units", "2", "--json"]
    assert await asyncio.to_thread(main, line) == 0
    asked = json.loads(capsys.readouterr().out)
    assert main([*line, "--config", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == asked
    assert await asyncio.to_thread(main, ["plan-budget", "--level", "none", "--people", "1", "--units", "1"]) == 1
    assert "there is no level 'none'" in capsys.readouterr().err
