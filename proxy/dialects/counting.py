"""How tokens are counted from bytes, where no upstream has counted them.

Bytes are exact, cheap and the same for every model. An input is counted twice: `bound`, which no byte-level tokenizer can exceed and which
is held, and `counted`, which is charged when usage never comes; the model's own tokenizer may count that one, where the operator has given
it. Output is counted from what is forwarded, in the same two ways: what a model wrote is measured by its
bytes, or by tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

BYTES_PER_TOKEN = 4
DELTA_BYTES_MAX_OF_ONE_TOKEN = 16
"""Servers send a token at a time, and tokens longer than this are rare; a longer delta holds several."""
AUDIO_BYTES_PER_TEXT_BYTE = 256
"""Base64 of audio counts 1 token per 1,024 characters: PCM at 24 kHz has some 3,200 to a token, compressed audio down to 400."""

MESSAGE_TOKENS_BOUND = 8
MESSAGE_TOKENS_COUNTED = 4
PROMPT_TOKENS_BOUND = 4
REQUEST_TOKENS_BOUND = 16
REPLY_TOKENS_COUNTED = 3
"""What a chat template adds to open the answer."""

CountText = Callable[[str], int]
"""Tokens in a text, by a model's own tokenizer."""

TOKENIZED_BYTES_MAX = 2**15
"""Of one request so much at most is given to a tokenizer, which is some ten milliseconds of work; the rest counts by its bytes."""
TOKENIZER_CALL_BYTES = 64
"""What one call costs beside its text."""

NOT_WRITTEN = frozenset(
    {"id", "type", "role", "index", "status", "format", "call_id", "item_id", "signature", "thought_signature", "encrypted_content"}
)
"""Members of an answer that the server makes up; the model did not write them."""


@dataclass(frozen=True, slots=True)
class MediaRule:
    """The operator's rule for input that no byte count tells: tokens for each image, recording and file, whatever its size."""

    image_tokens: int
    audio_tokens: int
    file_tokens: int
    stored_tokens: int | None = None
    """For all that a request refers to and the upstream keeps; None where such references are refused."""
    tool_use_tokens: int | None = None
    """For what one use of the upstream's own tools may add (a search, a page); None where such tools are refused."""
    count_text: CountText | None = None
    """Tokens in a text, by the model's own tokenizer; None where there is none, and its bytes count."""

    def or_more(self, other: MediaRule) -> MediaRule:
        """The greater of two rules, number by number; what one of them refuses is refused. Of two tokenizers the first counts."""
        return MediaRule(
            max(self.image_tokens, other.image_tokens),
            max(self.audio_tokens, other.audio_tokens),
            max(self.file_tokens, other.file_tokens),
            _both(self.stored_tokens, other.stored_tokens),
            _both(self.tool_use_tokens, other.tool_use_tokens),
            self.count_text or other.count_text,
        )


def _both(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


class InputCount:
    """Adds up a request's input, as a bound and as a fair count, which never exceeds it."""

    __slots__ = ("_count_text", "_tokenized_bytes_left", "bound", "counted")

    def __init__(self, media: MediaRule | None = None) -> None:
        self.bound = REQUEST_TOKENS_BOUND
        self.counted = 0
        self._count_text = None if media is None else media.count_text
        self._tokenized_bytes_left = TOKENIZED_BYTES_MAX

    def add_text(self, text: str) -> None:
        size = size_bytes(text)
        self.bound += size
        self.counted += tokens_in(size) if self._count_text is None else self._tokenized(text, size)

    def add_json(self, value: object) -> None:
        """Structured input (tools, schemas, tool calls) by its compact JSON, as templates write it into the prompt."""
        written = msgspec.json.encode(value)
        size = len(written)
        self.bound += size
        self.counted += tokens_in(size) if self._count_text is None else self._tokenized(written.decode(), size)

    def add_plain(self, value: object) -> None:
        """A member that may become prompt text: strings as they are, structures by their JSON; numbers and flags count nothing."""
        if isinstance(value, str):
            self.add_text(value)
        elif isinstance(value, (dict, list)) and value:
            self.add_json(value)

    def add_tokens(self, tokens: int) -> None:
        """Input that is known, or ruled, to be so many tokens: token ids, media."""
        self.bound += tokens
        self.counted += tokens

    def open_message(self) -> None:
        self.bound += MESSAGE_TOKENS_BOUND
        self.counted += MESSAGE_TOKENS_COUNTED

    def open_prompt(self) -> None:
        self.bound += PROMPT_TOKENS_BOUND

    def open_reply(self) -> None:
        self.counted += REPLY_TOKENS_COUNTED

    def _tokenized(self, text: str, size: int) -> int:
        """What the tokenizer says, never more than the bound and never nothing for something."""
        if self._count_text is None or not 0 < size <= self._tokenized_bytes_left:
            return tokens_in(size)
        self._tokenized_bytes_left -= size + TOKENIZER_CALL_BYTES
        return min(size, max(1, self._count_text(text)))


def size_bytes(text: str) -> int:
    """The length of a text in UTF-8; half a surrogate pair, which only answers can hold, counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_in(size: int) -> int:
    """Tokens in so many bytes of whole text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


class Measure(Protocol):
    """How much there is of what a model wrote."""

    def text(self, text: str) -> int: ...

    def sound(self, encoded: str) -> int:
        """Of sound, in base64."""
        ...

    def tokens(self, count: int) -> int:
        """Of what is known to be so many tokens."""
        ...


class _Bytes:
    """By the bytes of text that would make as many tokens."""

    def text(self, text: str) -> int:
        return size_bytes(text)

    def sound(self, encoded: str) -> int:
        return -(-size_bytes(encoded) // AUDIO_BYTES_PER_TEXT_BYTE)

    def tokens(self, count: int) -> int:
        return count * BYTES_PER_TOKEN


BYTES: Measure = _Bytes()


@dataclass(frozen=True, slots=True)
class _Tokens:
    """By tokens, text by the model's own tokenizer."""

    count_text: CountText

    def text(self, text: str) -> int:
        return self.count_text(text) if text else 0

    def sound(self, encoded: str) -> int:
        return tokens_in(BYTES.sound(encoded))

    def tokens(self, count: int) -> int:
        return count


Written = TypeVar("Written")
Measured = Callable[[Written, Measure], int]
"""How much a model wrote in something, by a measure."""


def tokens_of(written: Written, measured: Measured[Written], count_text: CountText | None) -> int:
    """Tokens in what a model wrote, as a whole: by its bytes, rounded up, or by its tokenizer where that is at hand."""
    size = measured(written, BYTES)
    return tokens_in(size) if count_text is None else _tokens_by(count_text, written, measured, size)


def tokens_of_delta(written: Written, measured: Measured[Written], count_text: CountText | None) -> int:
    """The same for one delta: none, one, or, where it is too long for one, as many as are in it."""
    size = measured(written, BYTES)
    if count_text is None or size <= DELTA_BYTES_MAX_OF_ONE_TOKEN:
        return tokens_in_delta(size)
    return _tokens_by(count_text, written, measured, size)


def _tokens_by(count_text: CountText, written: Written, measured: Measured[Written], size: int) -> int:
    """What the tokenizer says, never nothing for something, and never more than there are bytes."""
    if not 0 < size <= TOKENIZED_BYTES_MAX:
        return tokens_in(size)
    return min(size, max(1, measured(written, _Tokens(count_text))))


def tokens_in_delta(size: int) -> int:
    """Tokens in one delta of so many bytes: none, one, or as many as its bytes make."""
    if size <= DELTA_BYTES_MAX_OF_ONE_TOKEN:
        return 1 if size else 0
    return tokens_in(size)


def measure(value: object, by: Measure = BYTES) -> int:
    """How much a model wrote in a value: its strings at any depth, without ids and types."""
    size = 0
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            size += by.text(current)
        elif isinstance(current, list):
            pending.extend(current)
        elif isinstance(current, Mapping):
            pending.extend(inner for name, inner in current.items() if name not in NOT_WRITTEN)
    return size
