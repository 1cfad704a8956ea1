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
