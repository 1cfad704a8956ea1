"""What a check of the configuration says of levels and units."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import config
from proxy.cli.check_levels import level_warnings

NOW_MS = 1_800_000_000_000
ROW = {"model": "m", "input": "1", "output": "2", "level": "small"}
UNITS = [{"name": "p", "unit": "small"}]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"price": [ROW], "plan": UNITS}, []),
        ({"price": [ROW], "plan": UNITS, "level": [{"name": "small"}]}, []),
        ({"plan": [{"name": "p"}]}, []),
        ({"plan": UNITS}, ["plan 'p': counts in units of 'small', which no price row names"]),
        ({"price": [{**ROW, "effective": "2099-01-01"}], "plan": UNITS}, ["plan 'p': counts in units of 'small', which has no index yet"]),
        ({"level": [{"name": "small"}]}, ["level 'small': no price row names it"]),
        (
            {"price": [{"model": "m", "input": "1", "level": "small"}]},
            ["level 'small': none of its price rows has prices above 0 for its blend"],
        ),
        ({"price": [{**ROW, "input": "0", "output": "0"}]}, ["level 'small': none of its price rows has prices above 0 for its blend"]),
        ({"price": [{"model": "m", "input": "1", "level": "small"}], "level": [{"name": "small", "output_parts": 0}]}, []),
        (
            {"level": [{"name": "small"}], "plan": UNITS},
            ["level 'small': no price row names it", "plan 'p': counts in units of 'small', which has no index yet"],
        ),
        (
            {
                "price": [ROW],
                "plan": [*UNITS, {"name": "c"}, {"name": "s", "unit": "small", "scavenge": True}, {"name": "t", "scavenge": True}],
                "account": [{"id": "fund", "plan": "c"}],
                "commons": {"account": "fund"},
            },
            ["plan 's': counts in small, the commons in credits"],
        ),
    ],
)
def test_what_has_no_index_is_named(document: dict[str, Any], expected: list[str]) -> None:
    """A level that no row prices, and a plan whose accounts would be refused for it."""
    lines = level_warnings(config.validate(document, source="file"), NOW_MS)
    assert len(lines) == len(expected)
    assert [line for line, part in zip(lines, expected, strict=True) if part not in line] == []
