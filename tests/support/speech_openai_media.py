"""OpenAI's operations on recordings and images, with the charges for each.

What is certain beforehand is charged whatever the upstream reports: a character costs 41 nanocredits, an image 23, a second 31.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from tests.support import openai_answers as answers
from tests.support.speech import GENERATED, HELLO, MISSING, Asked, Charge, Json, Speech
from tests.support.speech_openai import absurd_usages, refusal_code

_BOUNDARY: Final = "b0undary"
FORM: Final = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
TWO_SECONDS: Final = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 50, 100, 2, 16, b"data", 200) + bytes(200)
"""A WAV of 50 samples to the second."""
_ONE_ABSURD: Final = {"negative": absurd_usages(b"input_tokens", b"output_tokens")["negative"]}
"""For operations that are read like another one that has them all."""
_ERROR = {"type": "error", "code": "overloaded", "message": "busy"}


def form(path: str, file: str, content: bytes, **fields: str) -> Asked:
    """A request with one file, as clients send it."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()
    ]
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{file}"; filename="a"\r\n\r\n'.encode()
    return Asked(path, b"".join((*parts, head, content, f"\r\n--{_BOUNDARY}--\r\n".encode())), FORM)


def usage(inputs: int, outputs: int, **details: Json) -> Json:
    """As speech, transcripts and images report it."""
    return {"type": "tokens", "input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs, **details}


def _typed(kind: str, **members: Any) -> bytes:
    return answers.event({"type": kind, **members})


def _ended(kind: str, reported: object, **members: Any) -> bytes:
    return answers.event(answers.with_usage({"type": kind, **members}, reported))


def _more(charges: Mapping[str, Charge], nanocredits: int, *, streamed_alone: bool = False) -> Mapping[str, Charge]:
    """The same charges with what is certain added."""
    return {
        kind: Charge((streamed or 0) + nanocredits, None if streamed_alone else (whole or 0) + nanocredits)
        for kind, (streamed, whole) in charges.items()
    }


_openai = partial(
    Speech,
    dialect="openai",
    error=answers.error("no"),
    error_event=answers.event(_ERROR),
    refusal_code=refusal_code,
    bill=usage,
    absurd=absurd_usages(b"input_tokens", b"output_tokens"),
)

# --- speech ------------------------------------------------------------------------------------------------------------------


def _spoken(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


SPEECH = _openai(
    name="openai-speech",
    ask=lambda model, stream: Asked("/v1/audio/speech", {"model": model, "input": HELLO, "voice": "alloy", "stream_format": "sse"}),
    events=lambda words, reported: [
        *(_typed("speech.audio.delta", audio=_spoken(word)) for word in words),
        _ended("speech.audio.done", reported),
    ],
    second_word=_spoken("two ").encode(),
    charges=_more({**GENERATED, MISSING: Charge(39, None)}, 205, streamed_alone=True),  # (4 + 2) x 3 + 3 x 7; 5 x 41
    input_nanocredits=223,  # (4 + 2) x 3 + 5 x 41
    held_nanocredits=292,  # (5 + 8 + 16) x 3 + 5 x 41
)

# --- transcripts -------------------------------------------------------------------------------------------------------------


def _ask_transcript(path: str) -> Callable[[str, bool], Asked]:
    return lambda model, stream: form(path, "file", TWO_SECONDS, model=model, **({"stream": "true"} if stream else {}))


_transcript = partial(
    _openai,
    events=lambda words, reported: [
        *(_typed("transcript.text.delta", delta=word) for word in words),
        _ended("transcript.text.done", reported, text="".join(words)),
    ],
    whole=lambda text, reported: answers.with_usage({"text": text}, reported),
    input_nanocredits=254,  # 2 x 32 x 3 + 2 x 31
    held_nanocredits=302,  # (2 x 32 + 16) x 3 + 2 x 31
)
TRANSCRIPTIONS = _transcript(
    name="openai-transcriptions",
    ask=_ask_transcript("/v1/audio/transcriptions"),
    usages={
        "details": usage(12, 5, input_token_details={"audio_tokens": 10, "text_tokens": 2}),
        "duration": {"type": "duration", "seconds": 1},
    },
    charges={
        **_more(GENERATED, 62),  # 2 x 31
        "details": Charge(102, 102),  # 12 x 3 + 5 x 7 + 10 audio tokens, a second, x 31
        "duration": Charge(244, 251),  # 64 x 3 + 31 + 3 x 7; as a whole + 4 x 7
        MISSING: Charge(275, 282),  # 254 + 3 x 7; as a whole + 4 x 7
    },
)
TRANSLATIONS = _transcript(
    name="openai-translations",
    ask=_ask_transcript("/v1/audio/translations"),
    events=None,
    absurd=_ONE_ABSURD,
    charges={kind: Charge(None, whole) for kind, (_, whole) in _more({**GENERATED, MISSING: Charge(None, 220)}, 62).items()},
)

# --- images ------------------------------------------------------------------------------------------------------------------


def _drawn(words: Sequence[str], reported: object) -> list[bytes]:
    """A partial image for each word, and the image."""
    partial_images = [_typed("image_generation.partial_image", b64_json=word) for word in words]
    return [*partial_images, _ended("image_generation.completed", reported, b64_json="".join(words))]


_image = partial(
    _openai,
    whole=lambda text, reported: answers.with_usage({"created": 1, "data": [{"b64_json": text}]}, reported),
    word_nanocredits=15_260,  # 2,180 tokens: a third of (6,240 + 300)
    word_held_nanocredits=23_980,
)
_DRAWN: Final[Mapping[str, Charge]] = {
    "present": Charge(94, 94),  # 12 x 3 + 5 x 7 + 23
    "none used": Charge(23, 43_703),  # 23; a whole image without tokens cannot be believed: + 6,240 x 7
    "below words": Charge(66, 66),  # 12 x 3 + 1 x 7 + 23
}
IMAGES = _image(
    name="openai-images",
    ask=lambda model, stream: Asked(
        "/v1/images/generations",
        {"model": model, "prompt": HELLO, "user": "ann", **({"stream": True, "partial_images": 3} if stream else {})},
    ),
    events=_drawn,
    charges={**_DRAWN, MISSING: Charge(45_809, 43_709)},  # 2 x 3 + 23 + (6,240 + 300) x 7; as a whole 6,240 x 7
    input_nanocredits=29,  # 2 x 3 + 23
    held_nanocredits=86,  # (5 + 16) x 3 + 23
)
_DRAWN_AFTER: Final = {kind: Charge(None, whole) for kind, (_, whole) in _DRAWN.items()}
EDITS = _image(
    name="openai-edits",
    ask=lambda model, stream: form("/v1/images/edits", "image", b"PNG", model=model, prompt=HELLO),
    absurd=_ONE_ABSURD,
    charges={**_DRAWN_AFTER, MISSING: Charge(None, 68_285)},  # (2 + 8,192) x 3 + 23 + 6,240 x 7
    input_nanocredits=24_605,  # (2 + 8,192) x 3 + 23
    held_nanocredits=24_662,  # (5 + 8,192 + 16) x 3 + 23
)
VARIATIONS = _image(
    name="openai-variations",
    ask=lambda model, stream: form("/v1/images/variations", "image", b"PNG", model=model),
    absurd=_ONE_ABSURD,
    charges={**_DRAWN_AFTER, MISSING: Charge(None, 68_279)},  # 8,192 x 3 + 23 + 6,240 x 7
    input_nanocredits=24_599,  # 8,192 x 3 + 23
    held_nanocredits=24_647,  # (8,192 + 16) x 3 + 23
)

SPEECHES = (SPEECH, TRANSCRIPTIONS, TRANSLATIONS, IMAGES, EDITS, VARIATIONS)
