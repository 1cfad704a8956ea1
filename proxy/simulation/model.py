"""What the simulated model does with a request: which words it says, how many, and what it bills. Pure.

Input is billed as ceil(UTF-8 bytes / 4) for each text of the prompt, 4 more for each message and 3 for the request; output as one
token for each word. Every answer has the model's own length, unless the request's maximum ends it earlier.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Operation = Literal["chat", "completions", "responses", "embeddings"]

MAXIMA: Final = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "embeddings": (),
}
ANSWER_TOKENS_MAX: Final = 1_000_000
CHOICES_MAX: Final = 128
STORY: Final = (
    "A share of compute is small but it is yours. You may use it today, keep it for a hard question, or give it to a friend who "
    "needs more. What nobody uses goes back to everyone. When the machine is busy each waits a fair turn, and when it is free "
    "nobody waits at all. Count what you spend, word by word, and there is always enough left to ask why."
)
WORDS: Final = tuple(STORY.split())


class Unreadable(Exception):
    """The request is not one that this endpoint understands; the message says why."""


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model and how fast it is."""

    name: str
    tokens_per_s: float = 0.0
    """Of each request; 0 is as fast as the machine can."""
    first_token_s: float = 0.0
    seats: int = 64
    """Requests that it serves at a time; others wait."""
    answer_tokens: int = 64
    """How long an answer is, unless the request's maximum is less."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, read."""

    operation: Operation
    model: str
    stream: bool
    include_usage: bool
    choices: int
    tokens: int | None
    """The maximum that the request names, for each choice."""
    input_tokens: int
    inputs: tuple[str, ...]
    """The texts to embed; empty for other operations."""
    base64: bool
    seed: int


def read(operation: Operation, document: object) -> Ask:
    """Read a request's parsed body. Raises Unreadable."""
    if not isinstance(document, dict):
        raise Unreadable("the body is not a JSON object")
    model = document.get("model")
    if not isinstance(model, str):
        raise Unreadable("model must be a string")
    texts, messages = _prompt(operation, document)
    options = document.get("stream_options")
    return Ask(
        operation=operation,
        model=model,
        stream=document.get("stream") is True and operation != "embeddings",
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        choices=_count(document, "n", CHOICES_MAX) or 1,
        tokens=_maximum(operation, document),
        input_tokens=sum(-(-len(text.encode()) // 4) for text in texts) + 4 * messages + 3,
        inputs=tuple(texts) if operation == "embeddings" else (),
        base64=document.get("encoding_format") == "base64",
        seed=zlib.crc32("\n".join(texts).encode()),
    )


def words(seed: int, choice: int, count: int) -> Iterator[str]:
    """`count` words, each with its space, the same for the same seed and choice; none is longer than 16 bytes."""
    start = seed + 7 * choice
    return (f"{WORDS[(start + position) % len(WORDS)]} " for position in range(count))


def embedding(text: str) -> list[float]:
    """Eight numbers between -1 and 1 that stand for a text."""
    return [zlib.crc32(f"{position}:{text}".encode()) / 2**31 - 1 for position in range(8)]


def _maximum(operation: Operation, document: Mapping[str, Any]) -> int | None:
    maxima = (_count(document, name, ANSWER_TOKENS_MAX) for name in MAXIMA[operation])
    return next((maximum for maximum in maxima if maximum is not None), None)


def _count(document: Mapping[str, Any], name: str, largest: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= largest:
        raise Unreadable(f"{name} must be a whole number from 1 to {largest}")
    return value


def _prompt(operation: Operation, document: Mapping[str, Any]) -> tuple[list[str], int]:
    """The texts of the prompt, and in how many messages."""
    if operation == "chat":
        messages = document.get("messages")
        if not isinstance(messages, list):
            raise Unreadable("messages must be a list")
        return list(_texts(messages)), len(messages)
    if operation == "responses":
        given = document.get("input", [])
        return [*_texts(document.get("instructions")), *_texts(given)], len(given) if isinstance(given, list) else 1
    texts = list(_texts(document.get("prompt" if operation == "completions" else "input")))
    return texts, 0


def _texts(value: object) -> Iterator[str]:
    """Every prompt text in a message, a list of messages, a content part, or a plain string."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from _texts(value.get("content"))
        yield from _texts(value.get("text"))
