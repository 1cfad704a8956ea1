"""How the network groups the bytes of a stream decides nothing: for every stream of every dialect, at every byte.

Straight through the readers. The streams are those of the conformance table, in `tests/support/speech_*.py`, and those in
`recorded_streams`; what each of them holds is said there and in the tests of each dialect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from proxy.dialects import DIALECTS, MediaRule, Paths, Reader, Request
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Call, Piece, Usage
from proxy.errors import Refusal
from tests.dialects.recorded_streams import RECORDINGS
from tests.support.speech import MISSING, Speech
from tests.support.speeches import SPEECHES

MEDIA = MediaRule(image_tokens=1, audio_tokens=1, file_tokens=1, stored_tokens=1)
NEAR_A_LINE_END = (-2, -1, 0, 1, 2)
CUT = Refusal("insufficient_quota", "The budget has ended.")


@dataclass(frozen=True)
class Stream:
    """The bytes of a stream, and how to read them."""

    name: str
    data: bytes
    reader: Callable[[], Reader]
    pieces_are_chunks: bool = False
    """Whether its output is measured in bytes, so that what arrives together is one piece."""


def read(stream: Stream, *chunks: bytes) -> tuple[Sequence[Piece], Reader]:
    reader = stream.reader()
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def outcome(stream: Stream, *chunks: bytes) -> tuple[object, ...]:
    """All that a reader finds: what is forwarded, and what it is charged by."""
    pieces, reader = read(stream, *chunks)
    usage = next((piece.usage for piece in reversed(pieces) if piece.usage is not None), None)
    forwarded = b"".join(piece.data for piece in pieces)
    counted = sum(piece.output_tokens for piece in pieces)
    seen = (reader.deltas, reader.ended, reader.failed, reader.usage_rejected)
    return forwarded, counted, usage, seen, () if stream.pieces_are_chunks else tuple(pieces)


# --- which streams ---------------------------------------------------------------------------------------------------------


def call_of(speech: Speech) -> Call:
    """What the dialect reads in the request of this speech."""
    asked = speech.asked(stream=True)
    path, _, query = asked.path.partition("?")
    found = Paths([DIALECTS[speech.dialect]]).find("POST", path)
    body = asked.body if isinstance(asked.body, bytes) else msgspec.json.encode(asked.body)
    parameters = dict(pair.split("=", 1) for pair in query.split("&") if pair)
    request = Request(found.operation, body, model=found.model, query=parameters, headers=asked.headers)
    return DIALECTS[speech.dialect].parse_request(request, MEDIA)


def stream_of(speech: Speech, kind: str, *, line_end: bytes = b"\n") -> Stream:
    call = call_of(speech)

    def reader() -> Reader:
        found = DIALECTS[speech.dialect].read_stream(call, speech.media_type)
        assert found is not None
        return found

    data = b"".join(speech.stream(kind)).replace(b"\n", line_end)
    ends = "" if line_end == b"\n" else "-crlf"
    return Stream(f"{speech.name}-{kind}{ends}", data, reader, pieces_are_chunks=call.measure == "bytes")


def streams_spoken() -> Iterator[Stream]:
    """Each with a usage that is believed and with one that is not; event streams also with the other line ends."""
    for speech in SPEECHES:
        if speech.events is not None:
            yield stream_of(speech, "details" if "details" in speech.usages else "present")
            yield stream_of(speech, next(iter(speech.absurd)))
            if speech.media_type == EVENT_STREAM:
                yield stream_of(speech, "present", line_end=b"\r\n")


def streams_recorded() -> Iterator[Stream]:
    for recording in RECORDINGS:
        call = Call(recording.operation, "m", True, recording.choices, None, 100, 10, wants_usage=False)

        def reader(call: Call = call) -> Reader:
            found = DIALECTS["openai"].read_stream(call, EVENT_STREAM)
            assert found is not None
            return found

        yield Stream(f"recorded: {recording.name}", recording.stream, reader)


STREAMS = [pytest.param(stream, id=stream.name) for stream in (*streams_spoken(), *streams_recorded())]
SPOKEN = [pytest.param(speech, id=speech.name) for speech in SPEECHES if speech.events is not None]


# --- what must not depend on them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS)
def test_every_split_changes_nothing(stream: Stream) -> None:
    """Cut in two at any byte, or sent a byte at a time, a stream has the same bytes, counts, usage and end."""
    data = stream.data
    whole = outcome(stream, data)
    assert outcome(stream, *(data[place : place + 1] for place in range(len(data)))) == whole
    for place in range(1, len(data)):
        assert outcome(stream, data[:place], data[place:]) == whole, place


@pytest.mark.parametrize("speech", SPOKEN)
def test_every_pair_of_splits_changes_nothing(speech: Speech) -> None:
    """Cut in three, at any two bytes around the ends of lines, where all that tells events apart is."""
    stream = stream_of(speech, MISSING)
    data = stream.data
    whole = outcome(stream, data)
    line_ends = [place for place, byte in enumerate(data) if byte in b"\r\n"] or range(0, len(data), 4)
    places = sorted({end + near for end in line_ends for near in NEAR_A_LINE_END if 0 < end + near < len(data)})
    for first, second in itertools.combinations(places, 2):
        assert outcome(stream, data[:first], data[first:second], data[second:]) == whole, (first, second)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_breaks_anywhere_is_a_beginning(stream: Stream) -> None:
    """Of a stream that breaks off, no more than its beginning is forwarded, none of it counts more than the whole, and it has not ended."""
    whole, reader_of_whole = read(stream, stream.data)
    forwarded = b"".join(piece.data for piece in whole)
    counted = sum(piece.output_tokens for piece in whole)
    for place in range(len(stream.data)):
        pieces, reader = read(stream, stream.data[:place])
        assert forwarded.startswith(b"".join(piece.data for piece in pieces)), place
        assert sum(piece.output_tokens for piece in pieces) <= counted, place
        assert reader.deltas <= reader_of_whole.deltas, place
        assert not reader.ended or any(piece.last for piece in pieces) or not any(piece.last for piece in whole), place


@pytest.mark.parametrize("speech", SPOKEN)
def test_a_cut_after_any_event_can_be_read(speech: Speech) -> None:
    """What is put in place of the rest, after any event, reads as an error or as the end that a length limit makes, with its usage."""
    stream = stream_of(speech, "present")
    events = speech.stream("present")
    charged = Usage(input=9, output=2)
    for place in range(len(events)):
        reader = stream.reader()
        pieces = [piece for event in events[:place] for piece in reader.feed(event)]
        if reader.ended or any(piece.last for piece in pieces):
            break
        forwarded = b"".join(piece.data for piece in pieces)
        unsent = [piece for event in events[place:] for piece in reader.feed(event)]
        error, length = reader.cut_by_error(CUT, unsent=unsent), reader.cut_by_length(charged, unsent=unsent)
        assert (error is None) == (speech.error_cut is None)
        assert (length is None) == (speech.length_cut is None)
        if error is not None:
            assert read(stream, forwarded + error)[1].failed, place
        if length is not None:
            ended, reader_of_end = read(stream, forwarded + length)
            assert reader_of_end.ended or not speech.end_marked, place
            assert not reader_of_end.failed, place
            assert b"".join(piece.data for piece in ended) == forwarded + length or not call_of(speech).wants_usage, place
