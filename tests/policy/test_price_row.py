"""Rows of the price book as the configuration file says them."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.domain import Price, Tier
from proxy.policy.price_row import KINDS, row_to_add, row_toml
from proxy.policy.pricing import TOKEN_KINDS

AMOUNTS = st.none() | st.integers(0, 2**53 - 10**9)
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable() and "*" not in name)
MOMENTS_MS = st.integers(0, 10**13) | st.integers(0, 30_000).map(lambda day: day * 86_400_000)


@st.composite
def priced_rows(draw: st.DrawFn) -> Price:
    bounds = sorted(draw(st.sets(st.integers(1, 10**8), max_size=3)))
    tiers = [Tier(bound, **{**{kind: draw(AMOUNTS) for kind in TOKEN_KINDS}, "reasoning": 7}) for bound in bounds]
    return Price(
        draw(NAMES) + draw(st.sampled_from(["", "*"])),
        draw(MOMENTS_MS),
        request=draw(st.integers(1, 10**12)),
        batch_percent=draw(st.none() | st.integers(1, 100)),
        level=draw(st.none() | st.just("small")),
        tiers=tuple(tiers),
        **{kind: draw(AMOUNTS) for kind in KINDS},
    )


@given(priced_rows())
def test_a_row_written_down_is_read_back_as_it_was(price: Price) -> None:
    """Every kind, date, tier and odd name."""
    [row] = config.validate(tomllib.loads(row_toml(price)), source="file").price
    assert row.to_price() == price


def test_a_row_is_written_as_people_write_it() -> None:
    """Decimals without trailing zeros, a plain date, tiers below their row."""
    price = Price("gpt-5*", 1_749_513_600_000, input=1_250_000_000, output=10_000_000_000, tiers=(Tier(272_000, input=2_500_000_000),))
    assert row_toml(price) == (
        '[[price]]\nmodel = "gpt-5*"\neffective = 2025-06-10\ninput = "1.25"\noutput = "10"\n'
        '[[price.tier]]\nabove_input_tokens = 272000\ninput = "2.5"'
    )


@pytest.mark.parametrize(
    ("model", "needs", "row"),
    [
        ("tiny", (("input", "output"),), '[[price]]\nmodel = "tiny"\ninput = "..."\noutput = "..."'),
        ("dall-e-3", (("image",), ("input", "output")), '[[price]]\nmodel = "dall-e-3"\nimage = "..."'),
        ("x", (), '[[price]]\nmodel = "x"\nrequest = "..."'),
        ('a"b\\c\n\x7f', (("input",),), '[[price]]\nmodel = "a\\"b\\\\c\\n\\u007f"\ninput = "..."'),
    ],
)
def test_the_row_to_add_names_the_model_and_all_that_it_must_price(model: str, needs: tuple[tuple[str, ...], ...], row: str) -> None:
    """The first way to price it; whatever name a caller made up, it is good TOML and stays one name."""
    assert row_to_add(model, needs) == row
    assert tomllib.loads(row)["price"][0]["model"] == model


def test_the_row_to_add_for_batches_says_what_they_cost() -> None:
    """In percent, as the large providers have it."""
    assert row_to_add("tiny", (("input",),), in_batch=True) == '[[price]]\nmodel = "tiny"\ninput = "..."\nbatch_percent = 50'
