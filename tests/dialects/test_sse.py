"""The event stream splitter: the same frames for any chunking, and never a byte lost, added or delayed for good."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.sse import Frame, FrameSplitter, event_of


def split(*chunks: bytes, frame_max_bytes: int = 2**20) -> list[Frame]:
    splitter = FrameSplitter(frame_max_bytes)
    return [frame for chunk in chunks for frame in splitter.feed(chunk)] + splitter.close()


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[place : place + 1] for place in range(len(stream))]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: a\n\n", [(b"a", None)], id="line feeds"),
        pytest.param(b"data: a\r\n\r\n", [(b"a", None)], id="carriage returns with line feeds"),
        pytest.param(b"data: a\r\r", [(b"a", None)], id="carriage returns"),
        pytest.param(b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", [(b"a", None), (b"b", None), (b"c", None)], id="mixed"),
        pytest.param(b"data:a\n\ndata:  b\n\n", [(b"a", None), (b" b", None)], id="one space belongs to the colon"),
        pytest.param(b"data: a\ndata: b\n\n", [(b"a\nb", None)], id="several lines of data"),
        pytest.param(b"data\n\ndata:\n\n", [(b"", None), (b"", None)], id="empty data"),
        pytest.param(b"data: a: b\n\n", [(b"a: b", None)], id="a colon in the data"),
        pytest.param(b"event: e\ndata: a\n\n", [(b"a", "e")], id="a named event"),
        pytest.param(b"event: e\r\ndata: a\r\nid: 7\r\nretry: 5\r\n\r\n", [(b"a", "e")], id="other fields"),
        pytest.param(b": note\n\ndata: a\n\n", [(None, None), (b"a", None)], id="a comment"),
        pytest.param(b": note\ndata: a\n\n", [(b"a", None)], id="a comment in an event"),
        pytest.param(b"database: a\nData: b\n data: c\n\n", [(None, None)], id="names that are not data"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [(b"a", None), (None, None)], id="only one byte order mark"),
        pytest.param(b"\n\n\ndata: a\n\n\n", [(None, None)] * 3 + [(b"a", None), (None, None)], id="stray blank lines"),
        pytest.param(b"data: a", [(b"a", None)], id="an end without a line end"),
        pytest.param(b"data: a\n", [(b"a", None)], id="an end without a blank line"),
        pytest.param(b"data: a\n\ndata: b\r", [(b"a", None), (b"b", None)], id="an end in a carriage return"),
        pytest.param(b"data: \xc3\xa9\x00\xff\n\n", [(b"\xc3\xa9\x00\xff", None)], id="any bytes"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_streams_are_split_into_their_events(stream: bytes, events: list[tuple[bytes | None, str | None]]) -> None:
    """The events are those of the specification, at once, byte by byte, and cut anywhere in two."""
    whole = split(stream)
    assert [(frame.data, frame.event) for frame in whole] == events
    assert b"".join(frame.raw for frame in whole) == stream
    assert split(*bytewise(stream)) == whole
    for place in range(len(stream)):
        assert split(stream[:place], stream[place:]) == whole


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"event: e", b": c", b"", b"id: 1", b"z", b"\xef\xbb\xbfdata: q", b"data: long" * 9]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=24).map(lambda lines: b"".join(line + end for line, end in lines))


def chunked(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([7, 20, 2**20]))
@example(b"data: x\r\n\r\n", [10], 2**20)
@example(b"\r\n\r\n\r\n", [1, 3, 5], 2**20)
@example(b"data: abcdefgh\n\n\n\n", [9], 7)
def test_chunking_changes_nothing(stream: bytes, cuts: list[int], frame_max_bytes: int) -> None:
    """Frames, their data and their bytes are the same for any chunks, also where events are longer than the buffer."""
    whole = split(stream, frame_max_bytes=frame_max_bytes)
    assert split(*chunked(stream, cuts), frame_max_bytes=frame_max_bytes) == whole
    assert split(*bytewise(stream), frame_max_bytes=frame_max_bytes) == whole
    assert b"".join(frame.raw for frame in whole) == stream
    assert all(len(frame.raw) <= frame_max_bytes for frame in whole)
    assert all(frame.whole for frame in whole[:-1])


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=5))
def test_any_bytes_pass_unchanged(stream: bytes, cuts: list[int]) -> None:
    """What is no event stream at all comes out as it went in."""
    assert b"".join(frame.raw for frame in split(*chunked(stream, cuts))) == stream


def test_an_event_longer_than_the_buffer_comes_out_opaque_in_parts() -> None:
    """The buffer is bounded, the bytes go on, the next event is read again."""
    stream = b"data: " + b"x" * 250 + b"\n\ndata: next\n\n"
    frames = split(stream, frame_max_bytes=100)
    assert [(len(frame.raw), frame.opaque, frame.data) for frame in frames] == [
        (100, True, None),
        (100, True, None),
        (58, True, None),
        (12, False, b"next"),
    ]


def test_an_endless_line_is_never_buffered_beyond_the_bound() -> None:
    """However much comes without a blank line, little is kept."""
    splitter = FrameSplitter(1000)
    for _ in range(500):
        splitter.feed(b"x" * 64)
        assert len(splitter._buffer) <= 1000 + 64


def test_a_whole_event_comes_out_with_its_last_byte() -> None:
    """Nothing is held back but a carriage return that a line feed may follow."""
    splitter = FrameSplitter()
    assert [frame.data for frame in splitter.feed(b"data: a\n\n")] == [b"a"]
    assert [frame.data for frame in splitter.feed(b"data: b\r\n\r\n")] == [b"b"]
    assert splitter.feed(b"data: c\r\r") == []
    assert [frame.data for frame in splitter.feed(b"data: d\r\r")] == [b"c"]
    assert [frame.data for frame in splitter.close()] == [b"d"]


def test_what_an_ended_stream_leaves_unfinished_is_marked() -> None:
    """Whoever adds an event of its own then knows to begin with a blank line."""
    assert [frame.whole for frame in split(b"data: a\n\ndata: b\n")] == [True, False]


@pytest.mark.parametrize("name", ["", "response.failed"])
def test_an_event_of_our_own_reads_back(name: str) -> None:
    """What we write is one event, whatever the strings in it hold, half surrogate pairs too."""
    (frame,) = split(event_of({"text": "a\n\nb\r \ud83d é"}, name=name))
    assert frame.data == b'{"text":"a\\n\\nb\\r \\ud83d \\u00e9"}'
    assert frame.event == (name or None)
