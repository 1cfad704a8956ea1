"""Every operation of every dialect that the tables of tests run over; a dialect adds a line."""

from __future__ import annotations

from typing import Final

from tests.support import speech_openai
from tests.support.speech import Speech

SPEECHES: Final[tuple[Speech, ...]] = (*speech_openai.SPEECHES,)
