"""Where usage never comes and the model's own tokenizer is at hand, what the model wrote counts by it, in every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS
from proxy.domain import Call

TEXT = "one twofold threefold fourfold fivefold"
"""Five words of 39 bytes: ten tokens by their bytes."""
ENCODED = "A" * 4096
"""Sound, in base64: four tokens, however it is counted."""


def count_words(text: str) -> int:
    return len(text.split())


def call(operation: str, *, stream: bool, count_text: Any = count_words) -> Call:
    return Call(
        *(operation, "m", stream, 1, 1000, 10, 5),
        count_text=count_text,
    )


WHOLE: dict[tuple[str, str], Any] = {
    ("openai", "chat"): {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}]},
    ("openai", "completions"): {"choices": [{"index": 0, "text": TEXT}]},
    ("openai", "responses"): {"output": [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}]},
    ("anthropic", "messages"): {"type": "message", "content": [{"type": "text", "text": TEXT}]},
    ("gemini", "generate_content"): {"candidates": [{"content": {"parts": [{"text": TEXT}]}}]},
    ("ollama", "chat"): {"message": {"role": "assistant", "content": TEXT}, "done": True},
    ("ollama", "generate"): {"response": TEXT, "done": True},
    ("cohere", "chat"): {"message": {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}},
    ("vllm", "chat"): {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}]},
    ("llamacpp", "completion"): {"content": TEXT},
    ("tgi", "generate"): {"generated_text": TEXT},
    ("sglang", "generate"): {"text": TEXT},
    ("kserve", "generate"): {"text_output": TEXT},
}

STREAMED: dict[tuple[str, str, str], bytes] = {
    ("openai", "chat", "text/event-stream"): b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n',
    ("openai", "completions", "text/event-stream"): b'data: {"choices": [{"index": 0, "text": "%b"}]}\n\n',
    ("openai", "responses", "text/event-stream"): b'data: {"type": "response.output_text.delta", "delta": "%b"}\n\n',
    ("anthropic", "messages", "text/event-stream"): (
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "%b"}}\n\n'
    ),
    ("gemini", "stream_generate_content", "text/event-stream"): b'data: {"candidates": [{"content": {"parts": [{"text": "%b"}]}}]}\n\n',
    ("ollama", "chat", "application/x-ndjson"): b'{"message": {"role": "assistant", "content": "%b"}, "done": false}\n',
    ("cohere", "chat", "text/event-stream"): (
        b'data: {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "%b"}}}}\n\n'
    ),
    ("kserve", "generate", "text/event-stream"): b'data: {"text_output": "%b"}\n\n',
}


@pytest.mark.parametrize(("dialect", "operation"), WHOLE)
def test_a_whole_answer_counts_by_the_tokenizer(dialect: str, operation: str) -> None:
    """Five words are five tokens, where ten would be counted by bytes."""
    body = json.dumps(WHOLE[dialect, operation]).encode()
    by_words = DIALECTS[dialect].read_answer(call(operation, stream=False), body, "application/json")
    by_bytes = DIALECTS[dialect].read_answer(call(operation, stream=False, count_text=None), body, "application/json")
    assert (by_words.usage, by_words.output_tokens_counted) == (None, 5)
    assert by_bytes.output_tokens_counted == 10


@pytest.mark.parametrize(("dialect", "operation", "media_type"), STREAMED)
def test_a_long_delta_counts_by_the_tokenizer(dialect: str, operation: str, media_type: str) -> None:
    """A delta that is too long for one token counts by its words; a short one is one token, and costs no look into the tokenizer."""
    asked: list[str] = []

    def count(text: str) -> int:
        asked.append(text)
        return count_words(text)

    reader = DIALECTS[dialect].read_stream(call(operation, stream=True, count_text=count), media_type)
    assert reader is not None
    written = STREAMED[dialect, operation, media_type]
    assert sum(piece.output_tokens for piece in reader.feed(written % b"a b c")) == 1
    assert asked == []
    assert sum(piece.output_tokens for piece in reader.feed(written % TEXT.encode())) == 5
    assert reader.deltas == 2


def test_a_reported_usage_is_not_counted_again() -> None:
    """Where usage came nobody asks the tokenizer, which would be work for nothing."""

    def count(text: str) -> int:
        raise AssertionError("nobody needs to know")

    body = json.dumps({**WHOLE["openai", "chat"], "usage": {"prompt_tokens": 3, "completion_tokens": 7}}).encode()
    answer = DIALECTS["openai"].read_answer(call("chat", stream=False, count_text=count), body, "application/json")
    assert answer.usage is not None
    assert (answer.usage.input, answer.usage.output) == (3, 7)


@pytest.mark.parametrize("count_text", [lambda text: 0, lambda text: 10**9])
def test_no_tokenizer_makes_something_nothing_or_more_than_its_bytes(count_text: Any) -> None:
    """Whatever it says, an answer of 39 bytes has at least one token and at most 39."""
    body = json.dumps(WHOLE["openai", "chat"]).encode()
    counted = (
        DIALECTS["openai"].read_answer(call("chat", stream=False, count_text=count_text), body, "application/json").output_tokens_counted
    )
    assert counted in (1, len(TEXT))


def test_sound_counts_by_its_length_either_way() -> None:
    """No tokenizer is asked about sound."""
    body = json.dumps({"choices": [{"index": 0, "message": {"audio": {"transcript": "", "data": ENCODED}}}]}).encode()
    for count_text in (None, count_words):
        answer = DIALECTS["openai"].read_answer(call("chat", stream=False, count_text=count_text), body, "application/json")
        assert answer.output_tokens_counted == 4
