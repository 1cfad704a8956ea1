"""Every operation of every dialect that the tables of tests run over; a dialect adds a line."""

from __future__ import annotations

from typing import Final

from tests.support import (
    speech_anthropic,
    speech_cohere,
    speech_gemini,
    speech_natives,
    speech_ollama,
    speech_openai,
    speech_openai_media,
    speech_openai_scoring,
)
from tests.support.speech import Speech

SPEECHES: Final[tuple[Speech, ...]] = (
    *speech_openai.SPEECHES,
    *speech_openai_media.SPEECHES,
    *speech_openai_scoring.SPEECHES,
    *speech_gemini.SPEECHES,
    *speech_anthropic.SPEECHES,
    *speech_ollama.SPEECHES,
    *speech_cohere.SPEECHES,
    *speech_natives.SPEECHES,
)
