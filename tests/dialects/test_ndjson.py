"""The splitter of lines: the same lines for any chunking, and never a byte lost, added or delayed for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.ndjson import Line, LineSplitter


def split(*chunks: bytes, line_max_bytes: int = 2**20) -> list[Line]:
    splitter = LineSplitter(line_max_bytes)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.close()


@pytest.mark.parametrize(
    ("stream", "documents"),
    [
        pytest.param(b"{}\n[]\n", [b"{}", b"[]"], id="line feeds"),
        pytest.param(b"{}\r\n[]\r\n", [b"{}", b"[]"], id="carriage returns with line feeds"),
        pytest.param(b'{"a":"\\r"}\r{}\n', [b'{"a":"\\r"}\r{}'], id="a carriage return alone ends nothing"),
        pytest.param(b" \t{} \n", [b"{}"], id="white space around"),
        pytest.param(b"\n \r\n{}\n", [None, None, b"{}"], id="blank lines"),
        pytest.param(b"{}\n{", [b"{}", b"{"], id="an end without a line feed"),
        pytest.param(b"\xc3\xa9\x00\xff\n", [b"\xc3\xa9\x00\xff"], id="any bytes"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_streams_are_split_into_their_lines(stream: bytes, documents: list[bytes | None]) -> None:
    """The lines are the same at once, byte by byte, and cut anywhere in two."""
    whole = split(stream)
    assert [line.data for line in whole] == documents
    assert b"".join(line.raw for line in whole) == stream
    assert [line.whole for line in whole] == [line.raw.endswith(b"\n") for line in whole]
    for place in range(len(stream)):
        assert split(stream[:place], stream[place:]) == whole
    assert split(*(stream[place : place + 1] for place in range(len(stream)))) == whole


@given(
    st.lists(st.sampled_from([b"{}", b'{"a":1}', b"", b"\r", b"x" * 30, b"\n", b"\n"]), max_size=24).map(b"".join),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from([1, 7, 30, 2**20]),
)
def test_any_chunking_gives_the_same_lines(stream: bytes, cuts: list[int], line_max_bytes: int) -> None:
    """Also where lines are longer than what is buffered."""
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    lines = split(*chunks, line_max_bytes=line_max_bytes)
    assert lines == split(stream, line_max_bytes=line_max_bytes)
    assert b"".join(line.raw for line in lines) == stream
    assert all(len(line.raw) <= line_max_bytes for line in lines)


def test_a_line_too_long_passes_in_opaque_parts() -> None:
    """No more than the bound is ever kept back; the line after it is read again."""
    splitter = LineSplitter(8)
    assert splitter.feed(b"x" * 8) == []
    parts = splitter.feed(b"y" * 20 + b"\n{}\n")
    assert [(line.raw, line.opaque) for line in parts] == [
        (b"x" * 8, True),
        (b"y" * 8, True),
        (b"y" * 8, True),
        (b"yyyy\n", True),
        (b"{}\n", False),
    ]
    assert [line.data for line in parts] == [None, None, None, None, b"{}"]
