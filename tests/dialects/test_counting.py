"""A request's input as it is counted: by its bytes, or by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.counting import TOKENIZED_BYTES_MAX, InputCount, MediaRule, size_bytes

BY_BYTES = MediaRule(10, 20, 30)


def by(count_text: Callable[[str], int]) -> MediaRule:
    return MediaRule(10, 20, 30, count_text=count_text)


def counted(media: MediaRule, *texts: str) -> int:
    count = InputCount(media)
    for text in texts:
        count.add_text(text)
    return count.counted


def test_four_bytes_are_a_token_where_there_is_no_tokenizer() -> None:
    """Rounded up for each text."""
    assert counted(BY_BYTES, "", "a", "abcde", "äöü") == 0 + 1 + 2 + 2


def test_the_tokenizer_counts_texts_and_structures() -> None:
    """A structure by its compact JSON."""
    count = InputCount(by(lambda text: text.count("o")))
    count.add_text("foo boo")
    count.add_json({"o": "o"})
    count.add_plain("o")
    assert count.counted == 4 + 2 + 1


@given(st.lists(st.text(max_size=40)), st.integers(0, 200))
def test_the_count_never_exceeds_the_bound_and_no_text_is_free(texts: list[str], says: int) -> None:
    """Whatever a tokenizer says."""
    count = InputCount(by(lambda _: says))
    for text in texts:
        before = count.counted
        count.add_text(text)
        assert min(1, size_bytes(text)) <= count.counted - before <= size_bytes(text)
    assert count.counted <= count.bound


@pytest.mark.parametrize("texts", [["x" * 1000] * 100, ["x"] * 10_000, ["x" * (TOKENIZED_BYTES_MAX + 1)]])
def test_a_tokenizer_is_given_a_bounded_amount_of_work(texts: list[str]) -> None:
    """A huge prompt, or one in a thousand parts, keeps nobody waiting; what is beyond counts by its bytes."""
    seen: list[str] = []

    def count_text(text: str) -> int:
        seen.append(text)
        return len(text)

    total = counted(by(count_text), *texts)
    assert sum(map(len, seen)) <= TOKENIZED_BYTES_MAX
    assert len(seen) <= 1_000
    left = texts[len(seen) :]
    assert total == sum(map(len, seen)) + sum(-(-len(text) // 4) for text in left)


def test_of_two_rules_with_tokenizers_the_first_counts() -> None:
    """And the only one, where there is one."""
    one, other = by(lambda _: 1), by(lambda _: 2)
    assert one.or_more(other).count_text is one.count_text
    assert BY_BYTES.or_more(other).count_text is other.count_text
    assert BY_BYTES.or_more(BY_BYTES).count_text is None
