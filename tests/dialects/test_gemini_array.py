"""The splitter of a JSON array that is written while its elements come: bytes in, frames out, in bounded memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.json_array import ArraySplitter
from proxy.dialects.sse import Frame

VALUES = st.recursive(
    st.none() | st.integers() | st.text('a"\\{}[], \n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\{}[]', max_size=3), inner, max_size=3),
    max_leaves=8,
)


def split(*chunks: bytes, frame_max_bytes: int = 1_000) -> list[Frame]:
    splitter = ArraySplitter(frame_max_bytes)
    frames = [frame for chunk in chunks for frame in splitter.feed(chunk)]
    return [*frames, *splitter.close()]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b'[{"a":1}]', [(b'[{"a":1}', b'{"a":1}'), (b"]", None)]),
        (
            b'[{"a":1}\n,\r\n{"b":"]}\\""}\n]\n',
            [(b'[{"a":1}', b'{"a":1}'), (b'\n,\r\n{"b":"]}\\""}', b'{"b":"]}\\""}'), (b"\n]", None), (b"\n", None)],
        ),
        (b" [ ] ", [(b" [ ]", None), (b" ", None)]),
        (b"[[{}],[]]", [(b"[[{}]", b"[{}]"), (b",[]", b"[]"), (b"]", None)]),
        (b'{"a":[{}]}', [(b'{"a":[{}]}', b'{"a":[{}]}')]),
        (b"[{}] and more", [(b"[{}", b"{}"), (b"]", None), (b" and more", None)]),
        (b" \n", [(b" \n", None)]),
        (b"", []),
    ],
)
def test_an_array_is_split_between_its_elements(stream: bytes, frames: list[tuple[bytes, bytes | None]]) -> None:
    """What stands between two elements belongs to the second of them, and brackets in texts are no brackets."""
    assert [(frame.raw, frame.data) for frame in split(stream)] == frames
    assert all(frame.whole for frame in split(stream))


@pytest.mark.parametrize("stream", [b'[{"a', b"[{}\n,", b'[{}, "x', b"["])
def test_half_an_element_is_not_whole(stream: bytes) -> None:
    """Whoever reads it knows that the stream broke there."""
    assert not split(stream)[-1].whole


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=4), st.lists(st.integers(0, 999)), st.integers(1, 60))
def test_any_chunking_gives_the_same_frames(values: list[Any], cuts: list[int], frame_max_bytes: int) -> None:
    """Also of elements that are too long to keep; together the frames are the stream, and the elements are what was written."""
    stream = b"[" + b",\r\n".join(json.dumps(value).encode() for value in values) + b"]\n"
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    frames = split(*chunks, frame_max_bytes=frame_max_bytes)
    assert frames == split(stream, frame_max_bytes=frame_max_bytes)
    assert b"".join(frame.raw for frame in frames) == stream
    assert max(len(frame.raw) for frame in frames) <= frame_max_bytes
    if frame_max_bytes >= len(stream):
        assert [json.loads(frame.data) for frame in frames if frame.data] == values


def test_what_follows_an_element_too_long_to_keep_is_read_again() -> None:
    """Only the long one is opaque, in parts."""
    frames = split(b'[{"a":"' + b"x" * 40 + b'"},{"b":1}]', frame_max_bytes=20)
    assert [(len(frame.raw), frame.opaque) for frame in frames] == [(20, True), (20, True), (9, True), (8, False), (1, False)]
    assert frames[3].data == b'{"b":1}'
