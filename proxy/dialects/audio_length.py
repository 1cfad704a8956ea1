"""How long a recording lasts at most, before anyone has listened to it.

Plain WAV says so exactly, for by what it claims it is decoded, and so do the frames of an MP3. All else is taken for MP3's lowest bit rate:
what the head of a compressed file claims need not be true of the rest.
"""

from __future__ import annotations

import struct

from proxy.dialects.mp3_length import read_frames

LOWEST_BYTES_PER_S = 1_000
"""8 kbit/s."""
_RIFF = struct.Struct("<4sI4s")
_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_CHUNKS_MAX = 64
_ACT_HEAD = bytes(256 - 44) + b"\x84"
"""What a recorder's ACT file has in place of samples from byte 44 on; it looks like WAV, and is decoded otherwise (ffmpeg, act.c)."""
_BITS_BY_FORMAT = {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}
"""PCM, floating point, A-law and mu-law."""


def milliseconds_bound(recording: memoryview) -> int:
    """No less than the recording lasts, rounded up; what follows the samples of a WAV counts as samples."""
    try:
        bits_per_s, samples = _read_wav(recording)
    except (struct.error, ValueError):
        framed = read_frames(recording)
        return framed.milliseconds + -(-(len(recording) - framed.size) * 1000 // LOWEST_BYTES_PER_S)
    return -(-samples * 8 * 1000 // bits_per_s)


def _read_wav(recording: memoryview) -> tuple[int, int]:
    """Bits per second, and the bytes from the first sample on. Raises struct.error or ValueError where it is no plain WAV."""
    riff, _, wave = _RIFF.unpack_from(recording)
    if (riff, wave) != (b"RIFF", b"WAVE") or recording[44:257] == _ACT_HEAD:
        raise ValueError("no WAV")
    position = _RIFF.size
    bits_per_s = 0
    for _ in range(_CHUNKS_MAX):
        name, size = _CHUNK.unpack_from(recording, position)
        position += _CHUNK.size
        if name == b"data" and bits_per_s:
            return bits_per_s, len(recording) - position
        if name == b"fmt ":
            if bits_per_s or size < _FORMAT.size:
                raise ValueError("a form that could be read in two ways")
            code, channels, rate, _, _, bits = _FORMAT.unpack_from(recording, position)
            if bits not in _BITS_BY_FORMAT.get(code, ()):
                raise ValueError("no plain samples")
            bits_per_s = channels * rate * bits
        position += size + size % 2
    raise ValueError("no samples")
