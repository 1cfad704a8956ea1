"""Streams of nothing but bytes: they pass as they are, and count the same however they come."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.bytes_reader import BytesReader
from proxy.domain import Usage
from proxy.errors import Refusal
from tests.dialects.test_openai_stream import call_of

CALL = call_of("speech")


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(1, 30))
def test_chunks_pass_unchanged_and_count_by_their_sum(chunks: list[bytes], bytes_per_token: int) -> None:
    """As many tokens as the bytes make, rounded up once; by bytes where that is the measure."""
    for call, each in ((CALL, bytes_per_token), (replace(CALL, measure="bytes"), 1)):
        reader = BytesReader(call, bytes_per_token=bytes_per_token)
        pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
        assert [piece.data for piece in pieces] == chunks
        assert sum(piece.output_tokens for piece in pieces) == -(-len(b"".join(chunks)) // each)


def test_such_a_stream_ends_with_its_bytes_and_has_no_words() -> None:
    """It is whole when the upstream closes it, and can only be broken off."""
    reader = BytesReader(CALL)
    reader.feed(b"x")
    assert not reader.ended
    assert (*reader.close(), reader.ended, reader.failed) == (True, False)
    assert reader.cut_by_error(Refusal("insufficient_quota", "No.")) is reader.cut_by_length(Usage()) is None
