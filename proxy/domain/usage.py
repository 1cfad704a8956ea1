"""What a request uses and what that costs: usage by kind, rows of the price book, what a dialect read from a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Literal

from proxy.domain.amounts import CREDITS, NANOCREDITS_PER_CREDIT
from proxy.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Disjoint counts by kind: `input` leaves out cached and audio input, `output` leaves out reasoning and audio output."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image: int = 0
    character: int = 0
    tool_use: int = 0
    """Uses of the upstream's own tools: a web search, a run of code."""
    milliseconds: int = 0
    """Of audio, or of the upstream's time; priced by the second."""
    bytes: int = 0
    """Priced by the megabyte, of 10^6."""

    @property
    def input_tokens(self) -> int:
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def output_tokens(self) -> int:
        return self.output + self.reasoning + self.audio_output


USAGE_KINDS: tuple[str, ...] = tuple(f.name for f in fields(Usage))

NO_USAGE = Usage()

counts_of: Callable[[Usage], tuple[int, ...]] = attrgetter(*USAGE_KINDS)
"""All counts, in the order of USAGE_KINDS."""


def counted_in(usage: Usage) -> list[tuple[str, int]]:
    """The kinds that there is something of, and how much."""
    return [counted for counted in zip(USAGE_KINDS, counts_of(usage), strict=False) if counted[1]]


@dataclass(frozen=True, slots=True)
class Tier:
    """Other rates for requests whose input is longer than so many tokens.

    A kind that is None costs what it does in the row itself; one that both leave out falls back within the tier.
    """

    above_input_tokens: int
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """One dated, immutable row of the price book: nanocredits per million tokens by kind, or per piece for the units.

    A kind that is None falls back: cached_input, cache_write, audio_input to `input`, cache_write_1h to `cache_write`; reasoning,
    audio_output to `output`. A request is refused, never free, unless the row prices one of the sets of kinds that it needs.
    """

    model: str
    effective_at_ms: int
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None
    image: int | None = None
    character: int | None = None
    tool_use: int | None = None
    request: int = 0
    second: int | None = None
    megabyte: int | None = None
    batch_percent: int | None = None
    """What a request of a batch costs of all these rates, in percent; None where the model is not served in batches."""
    level: str | None = None
    tiers: tuple[Tier, ...] = ()
    """By `above_input_tokens`, rising; the last one that a request exceeds counts for all of it."""
    source: Literal["file", "api"] = "file"
    unit: str = CREDITS
    """What the rates count. Rows of the book are in credits; those derived from them may be in units of a level."""
    worth_nanocredits: int = NANOCREDITS_PER_CREDIT
    """What one such unit is worth: the level's index when the row was derived."""
    raised_percent: int = 100
    """What an intervention has made of the rates; the work that they stand for is the same."""


@dataclass(frozen=True, slots=True)
class Level:
    """A named class of capability; its models are those whose price rows name it.

    A unit of it is a million blended tokens at its index: `input_parts` of input to `output_parts` of output.
    """

    name: str
    input_parts: int = 3
    output_parts: int = 1
    may_rise: bool = False
    """Whether its index follows prices up as well; else it keeps the least value that it ever had."""
    deflation: float = 10.0
    """By what factor the index is taken to fall in a year of 365.25 days after the last price that is known; 1: not at all."""
    rises_at_ms: int | None = None
    """From then on, once, the index is what the rows in force say then, also where that is higher; what it was before no longer counts."""


Measure = Literal["output", "bytes"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a dialect read from a request: all that admission and metering need to know of it."""

    operation: str
    """The dialect's own name of the endpoint: `chat`, `completions`, `responses`, `embeddings`, `models`."""
    model: str
    """As the caller names it; empty where the API has no place for it, so that the upstream's own model is meant."""
    stream: bool
    choices: int
    """How many answers are generated and paid for: `n`, or `best_of` where that is larger."""
    output_tokens_max: int | None
    """Per choice, the largest of the maxima the request names; None where it names none; 0 where the operation has no output."""
    input_tokens_bound: int
    """No fewer than the upstream will count, media by the operator's rule."""
    input_tokens_counted: int
    """What is charged for input when usage never comes."""
    wants_usage: bool = False
    """Whether the client itself asked for the usage chunk of a stream."""
    wants_continuous_usage: bool = False
    """Whether the client itself asked for usage in every chunk of a stream."""
    hides_continuous_usage: bool = False
    """Whether usage in every chunk was asked for in the client's place, and so is taken out again."""
    units: Usage = NO_USAGE
    """What is priced by the piece beside the tokens, at most: images, characters, uses of tools. Charged so where usage never comes."""
    needs: Sequence[Sequence[str]] = (("input", "output"),)
    """Sets of the price row's kinds; the row must price every kind of one of them. A row that prices the request itself always does."""
    measure: Measure = "output"
    """What a stream's pieces are counted in as they are forwarded."""
    divisible: bool = True
    """Whether a maximum in the request can make its output shorter; else all of it is held, or it is refused."""
    unseen_tokens: int = 0
    """Output, over all choices, that the model may compute without sending it: held beside what is forwarded."""
    reports_usage: bool = True
    """Whether the API reports usage at all; where it never does, counting is the rule and nothing to be flagged."""
    timed: bool = False
    """Whether the upstream's time is paid for as well."""
    shows_writing: bool = True
    """Whether an answer shows what was written and no more, so that its length is a floor under what may be reported of it."""
    count_text: Callable[[str], int] | None = None
    """Tokens in a text, by the model's own tokenizer, where the operator has given it: what was written counts so if usage never comes."""
