"""How long an MP3 lasts: all its frames, each as long as its head says (ISO 11172-3, 13818-3, and MPEG 2.5 for the lowest rates).

Counted are the frames that follow one another from the first on, of one kind, as decoders look for them; what comes after them is not.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FRAMES_MAX = 100_000
"""Some 43 minutes, and some 50 ms of work."""
FRAMES_MIN = 2
"""One alone may be chance; decoders look for a second one, too."""

_HEAD = struct.Struct(">I")
_SAME = 0xFFE00000 | 3 << 19 | 3 << 17 | 3 << 10
"""Of a head what all frames have in common: the sync word, the version, the layer, the sampling rate."""
_LAYER_3 = 1
_MPEG_1 = 3
_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES = {_MPEG_1: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_TAG = struct.Struct(">3s2xB4B")


class Framed(NamedTuple):
    """So long do so many of a recording's bytes last."""

    milliseconds: int
    size: int


def read_frames(recording: memoryview) -> Framed:
    """The frames that a recording begins with, a tag (ID3v2) in front of them included; nothing where it is no plain MP3."""
    try:
        position = _tag_size(recording)
        (first,) = _HEAD.unpack_from(recording, position)
    except struct.error:
        return Framed(0, 0)
    version, rate_index = first >> 19 & 3, first >> 10 & 3
    if first >> 21 != 0x7FF or first >> 17 & 3 != _LAYER_3 or version not in _RATES or rate_index == 3:
        return Framed(0, 0)
    rate = _RATES[version][rate_index]
    samples = 1152 if version == _MPEG_1 else 576
    kbits = _KBITS if version == _MPEG_1 else _KBITS_LOW
    sizes = [samples // 8 * 1000 * kbits[bits >> 3] // rate + (bits & 1) if kbits[bits >> 3] else 0 for bits in range(128)]
    """By the bits of a head that say the bit rate, the sampling rate (the same in all) and the padding."""
    frames, end = 0, len(recording) - _HEAD.size
    while position <= end and frames < FRAMES_MAX:
        (head,) = _HEAD.unpack_from(recording, position)
        size = sizes[head >> 9 & 127]
        if head & _SAME != first & _SAME or not size:
            break
        frames += 1
        position += size
    return Framed(-(-frames * samples * 1000 // rate), min(position, len(recording))) if frames >= FRAMES_MIN else Framed(0, 0)


def _tag_size(recording: memoryview) -> int:
    """Of the tag that most files begin with. Raises struct.error where there is not even room for one."""
    name, flags, *digits = _TAG.unpack_from(recording)
    if name != b"ID3" or max(digits) > 127:
        return 0
    size = 0
    for digit in digits:
        size = size << 7 | digit
    return _TAG.size + size + (_TAG.size if flags & 0x10 else 0)
