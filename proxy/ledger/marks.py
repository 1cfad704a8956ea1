"""Marks: what decides where a person is counted, in a short text that stands with its uses.

A mark names the weight, the plan and the values of the labels that form groups; the organisation is the person's root. Where a mark has
changed, the person's next use, or its next enrolment, moves it over. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from proxy.ledger import records

LABEL_CHARS_MAX: Final = 64
"""Of a label's value, as the name of a group."""


@dataclass(frozen=True, slots=True)
class Era:
    """How persons are counted now: the same for every process, but for the moment in which it changes."""

    generation: int = 1
    half_life_days: int = 7
    labels: tuple[str, ...] = ()
    """Names of the labels that form groups."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """Read from its text, and written."""

    weight: int
    plan: str
    labels: dict[str, str] = {}


_decoder = msgspec.json.Decoder(Mark)


def mark_of(weight: int, plan: str, labels: Mapping[str, str], era: Era) -> bytes:
    """The mark of an account with these settings."""
    grouping = {name: labels.get(name, "")[:LABEL_CHARS_MAX] for name in era.labels}
    return records.encode(Mark(weight, plan, grouping))


@lru_cache(maxsize=10_000)
def read_mark(text: bytes) -> Mark:
    return _decoder.decode(text)


def groups_of(mark: Mark, organisation: str) -> dict[str, str]:
    """The group of each dimension that a person is counted in; the empty name where it has none."""
    return {"plan": mark.plan, "organisation": organisation, **{f"label:{name}": value for name, value in mark.labels.items()}}
