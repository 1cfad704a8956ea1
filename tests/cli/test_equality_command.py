"""`compute-ledger equality`: what it prints, in how many columns, and how it counts anew."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.cli.curve import lorenz_lines
from proxy.ledger import Store
from tests.cli.test_operator import Command, command
from tests.server.admin.bench import CREDIT, Health, listen, open_store
from tests.support.known_use import KnownUse, Person
from tests.support.ledger_server import LedgerServer

__all__ = ["command"]


@pytest.fixture
def use() -> KnownUse:
    people = [Person(f"p{n}", n**3 * CREDIT // 1000, groups={"plan": "paid" if n % 3 else "free"}, denied=n == 0) for n in range(100)]
    return KnownUse([*people, *(Person(f"i{n}", 0, groups={"plan": "idle"}) for n in range(5))], {"queue_timeout": 7 * CREDIT}, 0.25, 0.5)


@pytest.fixture
async def address(ledger_server: LedgerServer, use: KnownUse) -> AsyncIterator[str]:
    store: Store
    async with open_store(ledger_server) as store, listen(store, Health(use=use)) as base:
        yield base


async def test_equality_is_shown_to_people(command: Command, use: KnownUse) -> None:
    """Figures, the curve, groups; never wider than 80 columns."""
    shown = await command("equality --window week --group plan")
    assert use.asked == [("week", "plan")]
    assert max(map(len, shown.out.splitlines())) <= 80
    rows = shown.table
    assert rows[0][0].startswith("week: use per weight from 2024-10-04 00:00Z")
    assert ["people", "105: 99 active, 5 idle, 1 denied all they asked for"] in rows
    assert ["least served", "25.0 % of what it asked for"] in rows
    assert ["queue_timeout", "7"] in rows
    assert any(row[:1] == ["gini"] and row[1].startswith("0.6") for row in rows)
    assert "100 % of people" in shown.out
    assert ["PLAN", "PEOPLE", "OF_PEOPLE", "OF_USE", "GINI"] in rows
    assert any(row[:3] == ["paid", "66", "62.9 %"] for row in rows)
    assert "2 not shown: too few people, or too much of one" in shown.out


async def test_scripts_get_the_answer_itself(command: Command) -> None:
    """Unasked it is the day, undivided."""
    told = (await command("equality --json")).json
    assert (told["window"], told["group"], told["accounts"]) == ("day", None, 105)


async def test_nothing_used_is_said(command: Command, use: KnownUse) -> None:
    """There is no curve of nothing."""
    use.people = [Person(f"p{n}", 0) for n in range(30)]
    shown = await command("equality")
    assert "nobody has used anything yet" in shown.out
    assert "gini" not in shown.out


async def test_a_recount_tells_its_drift(command: Command, use: KnownUse) -> None:
    """And changes nothing else."""
    shown = await command("equality recount")
    assert use.recounts == 1
    assert shown.out.startswith("counted 105 accounts anew in 0.0 s")
    assert ["half_life", "1", "0.000000005", "0.1000%"] in shown.table


async def test_an_unknown_group_is_refused_in_one_line(command: Command) -> None:
    """With what there is to ask for."""
    refused = await command("equality --group shoes", code=1)
    assert refused.err.strip() == "compute-ledger: ?group: must be one of plan, organisation, country"


def test_the_curve_runs_from_nothing_to_everything() -> None:
    """In ASCII: the line of equal use from corner to corner, and the curve below it."""
    assert lorenz_lines([(0.5, 0.0), (1.0, 1.0)], cells=31, rows=5, plain=True) == [
        " 100 % |                           ..**",
        "       |                   ......****",
        "  50 % |            .......  ****",
        "       |    ........     ****",
        "     0 |*****************",
        "       +-------------------------------",
        "        0             50 %        100 % of people",
    ]


def test_the_curve_of_equal_use_is_the_line_itself() -> None:
    """In ASCII no dot of the line is left of it; in braille it climbs a dot at a time."""
    assert not any("." in line for line in lorenz_lines([(0.5, 0.5), (1.0, 1.0)], plain=True))
    braille = lorenz_lines([(0.5, 0.5), (1.0, 1.0)], cells=4, rows=2)
    assert [line[8:] for line in braille[:2]] == ["\u2800\u2800\u2860\u280a", "\u2860\u280a\u2800\u2800"]
