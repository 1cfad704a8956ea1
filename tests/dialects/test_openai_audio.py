"""Speech and transcripts: what they may cost before the fact, and what they cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Reader, Request
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Refusal
from tests.dialects.test_audio_length import wav
from tests.dialects.test_multipart import HEADERS, body_of, file_part, part
from tests.dialects.test_openai_stream import event

OPENAI = DIALECTS["openai"]
SERVED = Paths([OPENAI])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
TRANSCRIPTS = ("transcriptions", "translations")
TOKENS = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 5,
    "total_tokens": 19,
}


def request_of(operation: str, body: bytes) -> Request:
    return Request(SERVED.find("POST", f"/v1/audio/{operation}").operation, body, headers=HEADERS)


def speech(**members: Any) -> Request:
    return request_of("speech", json.dumps({"model": "m", "input": "h\u00e9llo", "voice": "alloy"} | members).encode())


def transcript(recording: bytes = b"", *, operation: str = "transcriptions", **fields: str) -> Request:
    parts = [part(name, value.encode()) for name, value in ({"model": "m"} | fields).items()]
    return request_of(operation, body_of(*parts, file_part("file", recording or wav(2))))


def parse(request: Request) -> Call:
    return OPENAI.parse_request(request, MEDIA)


def refusal(request: Request) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(request)
    assert refused.value.code == "invalid_request"
    return refused.value


def read(request: Request, *chunks: bytes, media_type: str = "text/event-stream", call: Call | None = None) -> tuple[list[Piece], Reader]:
    reader = OPENAI.read_stream(call or parse(request), media_type)
    assert reader is not None
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def answer(request: Request, document: object) -> Answer:
    return OPENAI.read_answer(parse(request), json.dumps(document).encode(), "application/json")


# --- speech --------------------------------------------------------------------------------------------------------------------------


def test_speech_is_priced_by_its_characters_or_by_tokens() -> None:
    """The characters of the text alone, as people count them; as tokens whatever may be prompt."""
    call = parse(speech(instructions="whisper"))
    assert (call.operation, call.model, call.stream, call.choices, call.output_tokens_max) == ("speech", "m", True, 1, None)
    assert call.units == Usage(character=5)
    assert call.needs == (("character",), ("input", "output"), ("input", "audio_output"))
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + 8 + 6 + 7, 4 + 2 + 2)


@pytest.mark.parametrize("members", [{"input": None}, {"input": ["a"]}, {"model": ""}, {"model": 7}])
def test_speech_of_no_text_or_by_no_model_is_refused(members: dict[str, Any]) -> None:
    """Nothing could be counted."""
    refusal(speech(**members))


@pytest.mark.parametrize(("media_type", "bytes_per_token"), [("audio/mpeg", 768), ("audio/wav", 2_304), ("audio/opus", 288), ("", 288)])
def test_a_recording_passes_as_it_comes_and_counts_by_its_size(media_type: str, bytes_per_token: int) -> None:
    """So that a price by tokens covers it, although no usage comes; there are no words to end it early."""
    pieces, reader = read(speech(), b"\x00" * bytes_per_token, b"\x00", media_type=media_type)
    assert [(len(piece.data), piece.output_tokens) for piece in pieces] == [(bytes_per_token, 1), (1, 1)]
    assert (reader.ended, reader.cut_by_error(Refusal("insufficient_quota", "No."))) == (True, None)


def test_an_answer_in_json_is_no_recording() -> None:
    """It is read as a whole, and an error costs nothing."""
    assert OPENAI.read_stream(parse(speech()), "application/json") is None
    assert answer(speech(), {"error": {"message": "no"}}) == Answer(None, 0)


def test_speech_in_events_counts_what_it_reports() -> None:
    """Tokens as reported, characters from the request; without a report, by the size of the recording."""
    delta = event({"type": "speech.audio.delta", "audio": "A" * 2_048})
    done = event({"type": "speech.audio.done", "usage": {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}})
    pieces, reader = read(speech(), delta, done)
    assert [(piece.output_tokens, piece.last) for piece in pieces] == [(2, False), (0, True)]
    assert pieces[-1].usage == Usage(input=3, output=7, character=5)
    assert (reader.deltas, reader.ended, reader.failed, reader.usage_rejected) == (1, True, False, False)
    assert b"".join(piece.data for piece in pieces) == delta + done


# --- transcripts ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", TRANSCRIPTS)
def test_a_transcript_is_priced_by_its_seconds_or_by_tokens(operation: str) -> None:
    """A WAV says how long it is; its tokens are the operator's rule, or fewer where the length allows no more."""
    call = parse(transcript(operation=operation, prompt="Names: Ann"))
    assert (call.operation, call.model, call.stream, call.output_tokens_max, call.divisible) == (operation, "m", False, 448, False)
    assert call.units == Usage(milliseconds=2_000)
    assert call.needs == (("second",), ("input", "output"), ("audio_input", "output"))
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + 10 + 64, 3 + 64)


def test_the_operators_rule_bounds_the_tokens_of_a_long_recording() -> None:
    """No recording counts more tokens than that; its seconds count all the same, and what can be said in them."""
    call = parse(transcript(b"ID3" + bytes(99_997)))
    assert (call.units.milliseconds, call.input_tokens_bound, call.output_tokens_max) == (100_000, 16 + 2_000, 4 * 448)
    assert parse(transcript(max_completion_tokens="9")).output_tokens_max == 9


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (request_of("transcriptions", body_of(part("model", b"m"))), "file"),
        (request_of("transcriptions", body_of(part("model", b"m"), part("file", b"text"))), "file"),
        (request_of("transcriptions", body_of(part("model", b"m"), file_part("file", b"1"), file_part("other", b"2"))), "file"),
        (request_of("transcriptions", body_of(part("model", b"m"), file_part("file[]", b"1"), file_part("file[]", b"2"))), "file"),
        (request_of("transcriptions", body_of(file_part("file", b"1"))), "model"),
        (request_of("transcriptions", body_of(file_part("model", b"m"), file_part("file", b"1"))), "file"),
        (transcript(n="2"), "n"),
        (transcript(stream="perhaps"), "stream"),
        (transcript(max_completion_tokens="0"), "max_completion_tokens"),
        (Request(transcript().operation, b"{}", headers={"Content-Type": "application/json"}), "Content-Type"),
    ],
)
def test_a_transcript_of_what_cannot_be_told_is_refused(request_: Request, reason: str) -> None:
    """One file, one model, one answer."""
    assert reason in refusal(request_).message


def test_the_form_is_forwarded_as_it_came() -> None:
    """Unless the model is an alias, or usage is to be asked for of an upstream that can be asked; a maximum is lowered where one is."""
    request = transcript(stream="true", max_completion_tokens="9")
    assert OPENAI.rewrite(parse(request), request, Changes(output_tokens_max=9)) is None
    assert OPENAI.rewrite(parse(transcript()), transcript(), Changes(output_tokens_max=9, continuous_usage=True)) is None
    body = OPENAI.rewrite(parse(request), request, Changes(output_tokens_max=7, model="real", continuous_usage=True))
    assert body is not None
    lowered = request.body.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nreal\r\n").replace(b"\r\n\r\n9\r\n", b"\r\n\r\n7\r\n")
    added = part("stream_include_usage", b"true") + part("stream_continuous_usage_stats", b"true")
    assert body == lowered.replace(b"--b0undary--", added + b"--b0undary--")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"text": "x" * 41, "usage": TOKENS}, Answer(Usage(input=4, audio_input=10, output=5, milliseconds=1_000), 11)),
        ({"text": "x" * 41, "usage": {"type": "duration", "seconds": 2}}, Answer(Usage(input=64, output=11, milliseconds=2_000), 11)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 8.47}}, Answer(Usage(input=64, output=1, milliseconds=8_470), 1)),
        ({"text": "hi", "duration": 1.9995, "segments": []}, Answer(Usage(input=64, output=1, milliseconds=2_000), 1)),
        ({"text": "hi", "duration": "1.9"}, Answer(None, 1)),
        ({"text": "hi"}, Answer(None, 1)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": -1}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": True}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 1e9}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": {"type": "duration", "seconds": float("nan")}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": {"type": "duration"}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": TOKENS | {"output_tokens": -1}}, Answer(None, 1, usage_rejected=True)),
        ({"text": "hi", "usage": "much"}, Answer(None, 1, usage_rejected=True)),
        ({"error": {"message": "no"}}, Answer(None, 0)),
    ],
)
def test_a_whole_transcript_is_read(document: object, expected: Answer) -> None:
    """Tokens or seconds as reported, and of the other what the request says; absurd reports are rejected."""
    assert answer(transcript(), document) == expected


@pytest.mark.parametrize("body", [b"plain words", b"1\n00:00:00,000 --> 00:00:01,000\nwords\n", b"\xff\xfe"])
def test_subtitles_count_by_their_bytes(body: bytes) -> None:
    """They report nothing, so the bound of their seconds is charged."""
    assert OPENAI.read_answer(parse(transcript()), body, "text/plain") == Answer(None, -(-len(body) // 4))


def test_a_streamed_transcript_counts_its_deltas_and_ends_with_its_usage() -> None:
    """A segment repeats its deltas; the last event repeats all of them."""
    chunks = [
        event({"type": "transcript.text.delta", "delta": "one "}),
        event({"type": "transcript.text.delta", "delta": "two"}),
        event({"type": "transcript.text.segment", "text": "one two"}),
        event({"type": "transcript.text.done", "text": "one two", "usage": TOKENS}),
    ]
    pieces, reader = read(transcript(stream="true"), *chunks)
    assert [(piece.output_tokens, piece.last) for piece in pieces] == [(1, False), (1, False), (0, False), (0, True)]
    assert pieces[-1].usage == Usage(input=4, audio_input=10, output=5, milliseconds=1_000)
    assert (reader.deltas, reader.ended, reader.usage_rejected) == (2, True, False)


def test_what_only_segments_or_the_end_say_is_counted() -> None:
    """Nothing is forwarded uncounted because no delta said it."""
    segment = event({"type": "transcript.text.segment", "text": "x" * 40})
    done = event({"type": "transcript.text.done", "text": "x" * 48, "usage": {"type": "tokens", "input_tokens": 1}})
    pieces, reader = read(transcript(stream="true"), segment, done)
    assert [(piece.output_tokens, piece.usage) for piece in pieces] == [(10, None), (2, None)]
    assert reader.usage_rejected


def test_an_error_and_an_unknown_event_in_a_stream() -> None:
    """An error ends it as failed; what nobody knows counts by its bytes."""
    pieces, reader = read(transcript(stream="true"), event({"type": "new", "x": "y" * 80}), event({"type": "error", "error": {}}))
    assert [piece.output_tokens for piece in pieces] == [-(-len(json.dumps({"type": "new", "x": "y" * 80})) // 4), 0]
    assert (reader.failed, reader.ended) == (True, False)


def test_a_transcript_in_chunks_is_read_like_a_chat() -> None:
    """vLLM sends it so; usage that was asked for in the client's place is taken out."""
    request = transcript(stream="true")
    chunk = event({"object": "transcription.chunk", "choices": [{"delta": {"content": "one "}}]})
    last = event({"object": "transcription.chunk", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
    pieces, reader = read(request, chunk, last, b"data: [DONE]\n\n")
    assert [(piece.data, piece.output_tokens) for piece in pieces] == [(chunk, 1), (b"", 0), (b"data: [DONE]\n\n", 0)]
    assert pieces[1].usage == Usage(input=9, output=3, milliseconds=2_000)
    assert (reader.ended, reader.deltas) == (True, 1)


def test_a_cut_transcript_ends_in_an_error_event() -> None:
    """There is no end by length that a client would know."""
    reader = OPENAI.read_stream(parse(transcript(stream="true")), "text/event-stream")
    assert reader is not None
    assert reader.cut_by_length(Usage()) is None
    assert b"insufficient_quota" in (reader.cut_by_error(Refusal("insufficient_quota", "No.")) or b"")
