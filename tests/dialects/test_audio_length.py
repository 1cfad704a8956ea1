"""How long a recording lasts at most: exact for plain WAV, generous for all else."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from proxy.dialects.audio_length import milliseconds_bound


def wav(seconds: float, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(int(seconds * rate) * channels * width))
    return file.getvalue()


def mp3(*frames: tuple[int, int]) -> bytes:
    """Frames, each of a head and a size."""
    return b"".join(struct.pack(">I", head) + bytes(size - 4) for head, size in frames)


FRAME, PADDED = (0xFFFB9000, 417), (0xFFFB9200, 418)
"""128 kbit/s at 44.1 kHz: 1,152 samples each."""
SLOW = (0xFFE31800, 72)
"""8 kbit/s at 8 kHz: 576 samples, which is 72 ms."""
ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)


@pytest.mark.parametrize(
    ("recording", "milliseconds"),
    [
        (mp3(*[FRAME] * 100), 2_613),
        (mp3(*[FRAME, PADDED] * 50), 2_613),
        (ID3 + mp3(*[FRAME] * 100), 2_613),
        (mp3(*[SLOW] * 100), 7_200),
        (mp3(FRAME, (0xFFFBE000, 1044), *[FRAME] * 98), 2_613),
        (mp3(*[FRAME] * 100)[:-40], 2_613),
        (mp3(*[FRAME] * 100) + b"TAG" + bytes(125), 2_613 + 128),
        (mp3(*[FRAME] * 10, *[SLOW] * 10), 262 + 720),
    ],
)
def test_the_frames_of_an_mp3_say_how_long_it_lasts(recording: bytes, milliseconds: int) -> None:
    """Each by its own head; what is no frame, or one of another kind, counts at the lowest bit rate."""
    assert bound(recording) == milliseconds


@pytest.mark.parametrize(
    "recording",
    [
        mp3(FRAME),
        mp3(FRAME, *[SLOW] * 10),
        b"x" + mp3(*[FRAME] * 10),
        *(mp3(*[(head, 417)] * 10) for head in (0xFFFB0000, 0xFFFBF000, 0xFFFB9C00, 0xFFFD9000, 0xFFEB9000, 0xFFF19000)),
    ],
)
def test_what_only_looks_like_an_mp3_counts_at_the_lowest_bit_rate(recording: bytes) -> None:
    """One frame, another layer, a bit rate or a sampling rate that there is not, or that is free."""
    assert bound(recording) == len(recording)


FAST_FORM = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 8, 4_000_000_000, 0, 32, 32)
TWO_FORMS = wav(0.1)[:36] + FAST_FORM + wav(0.1)[36:]
"""A decoder goes by the first form, another by the second."""
ACT = wav(0.1)[:12] + FAST_FORM + bytes(220) + b"\x84" + bytes(743)
"""A recorder's file, which decoders know by its zeros and take for G.729."""


def bound(recording: bytes) -> int:
    return milliseconds_bound(memoryview(recording))


@pytest.mark.parametrize(
    ("recording", "milliseconds"),
    [
        (wav(3), 3_000),
        (wav(0.5, rate=44_100, channels=2), 500),
        (wav(0.0001, rate=44_100), 1),
        (wav(2, rate=8_000, width=1), 2_000),
        (wav(0), 0),
    ],
)
def test_wav_says_how_long_it_lasts(recording: bytes, milliseconds: int) -> None:
    """By its rate, channels and width, rounded up."""
    assert bound(recording) == milliseconds


def test_the_length_that_a_wav_claims_is_not_believed() -> None:
    """Some decoders go on to the end of the file, so what follows the samples counts as samples."""
    claimed = bytearray(wav(3))
    claimed[40:44] = struct.pack("<I", 2)
    assert bound(bytes(claimed)) == 3_000


def test_other_chunks_before_the_samples_are_passed_over() -> None:
    """Programs put titles there."""
    plain = wav(1)
    titled = plain[:36] + b"LIST" + struct.pack("<I", 5) + b"title\x00" + plain[36:]
    assert bound(titled) == 1_000


@pytest.mark.parametrize(
    "recording",
    [
        *(b"ID3" + bytes(4_997), wav(0.1)[:20] + b"\x55\x00" + wav(0.1)[22:], b"RIFF" + bytes(40), wav(0.1)[:30], b"OggS" + bytes(96)),
        *(TWO_FORMS, ACT, wav(0.1)[:16] + b"\x0e" + wav(0.1)[17:]),
        *(wav(0.1)[:22] + b"\x00\x00" + wav(0.1)[24:], b"RIFF\x00\x00\x00\x00WAVE" + b"junk\x00\x00\x00\x00" * 200, b""),
    ],
)
def test_any_other_recording_counts_at_the_lowest_bit_rate(recording: bytes) -> None:
    """8 kbit/s: a second for every thousand bytes; so does a WAV that is compressed, torn, without channels, or of two minds."""
    assert bound(recording) == len(recording)
    assert bound(recording) == len(recording)
