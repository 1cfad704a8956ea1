"""What a check of the configuration says of prices."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import config
from proxy.cli.check_prices import price_warnings

NOW_MS = 1_800_000_000_000
LATER = "2099-01-01T00:00:00Z"


def warnings(upstream: dict[str, Any], *rows: dict[str, Any]) -> list[str]:
    document = {
        "upstream": [{"name": "u", "base_url": "http://127.0.0.1:1", **upstream}],
        "price": [{"input": "1", **row} for row in rows],
    }
    return price_warnings(config.validate(document, source="file"), NOW_MS)


@pytest.mark.parametrize(
    ("upstream", "patterns"),
    [
        ({}, ["*"]),
        ({"models": ["a", "b*"]}, ["a", "b*"]),
        ({"models": ["a", "b*"]}, ["a", "b*", "b-small"]),
        ({"models": ["a"], "aliases": {"fast": "a"}}, ["a"]),
        ({"models": ["a"], "aliases": {"fast": "a"}}, ["a", "fast"]),
        ({"models": ["a*"], "default_model": "a-1"}, ["a*"]),
        ({"models": ["a", "b"]}, ["a", "*"]),
    ],
)
def test_prices_that_fit_what_is_served_pass(upstream: dict[str, Any], patterns: list[str]) -> None:
    """Aliases may have rows of their own or those of what they stand for; a prefix may stand in for what has none."""
    assert warnings(upstream, *({"model": pattern} for pattern in patterns)) == []


@pytest.mark.parametrize(
    ("upstream", "rows", "line"),
    [
        ({"models": ["a", "b"]}, [{"model": "a"}], "upstream 'u': 'b' has no price, so it is refused"),
        ({"models": ["a*"]}, [{"model": "a-1"}], "upstream 'u': no price covers all of 'a*'; models without a price are refused"),
        (
            {"models": ["*"], "aliases": {"fast": "a"}},
            [{"model": "b"}, {"model": "*", "effective": LATER}],
            "upstream 'u': the alias 'fast' has no price, nor has 'a', so it is refused",
        ),
        ({"models": ["a*"], "default_model": "b"}, [{"model": "a*"}], "upstream 'u': 'b' has no price, so it is refused"),
        ({"models": ["a"]}, [{"model": "a", "effective": LATER}], "upstream 'u': 'a' has no price, so it is refused"),
        ({"models": ["a"]}, [{"model": "a", "effective": LATER}], "price 'a': takes effect later"),
        ({"models": ["a"]}, [{"model": "a"}, {"model": "b*"}], "price 'b*': no upstream serves such a model"),
        ({"models": ["a"]}, [{"model": "a"}, {"model": "A"}], "price 'A': no upstream serves such a model"),
        (
            {"models": ["a", "b"]},
            [{"model": "a"}, {"model": "b"}, {"model": "*"}],
            "price '*': never used: every model that is served has a row that fits closer",
        ),
        (
            {"models": ["ab*"]},
            [{"model": "a*"}, {"model": "ab*"}],
            "price 'a*': never used: every model that is served has a row that fits closer",
        ),
    ],
)
def test_what_is_not_priced_and_what_prices_nothing_is_told(upstream: dict[str, Any], rows: list[dict[str, Any]], line: str) -> None:
    """Each on a line, with the upstream or the row that it is about."""
    assert line in warnings(upstream, *rows)


def test_a_row_that_hides_another_only_later_does_not_hide_it_yet() -> None:
    """Until then the wider one counts."""
    assert warnings({"models": ["a"]}, {"model": "a", "effective": LATER}, {"model": "*"}) == ["price 'a': takes effect later"]
