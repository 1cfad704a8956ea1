"""Usage as upstreams report it: which counts can be believed, and how the reports of one stream follow one another.

What all dialects share; the names of the counts are a dialect's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.domain import Usage

USAGE_TOKENS_MAX = 100_000_000


def count_of(members: Mapping[str, Any], name: str) -> int | None:
    """A count, None where it is absent or null. Raises ValueError where it is negative, above USAGE_TOKENS_MAX or no integer."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= USAGE_TOKENS_MAX:  # by type, for a bool is no count
        raise ValueError(name)
    return value


def cumulative(before: Usage | None, now: Usage) -> Usage:
    """The greater of two reports of one stream, input and output each on its own: counts of one answer never fall."""
    if before is None:
        return now
    if now.input_tokens < before.input_tokens:
        now = replace(
            now,
            input=before.input,
            cached_input=before.cached_input,
            cache_write=before.cache_write,
            cache_write_1h=before.cache_write_1h,
            audio_input=before.audio_input,
        )
    if now.output_tokens < before.output_tokens:
        now = replace(now, output=before.output, reasoning=before.reasoning, audio_output=before.audio_output)
    return now
