"""What an answer of the Gemini dialect used: which reports are believed, what they mean, and what counts where there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS
from proxy.dialects.gemini_usage import read_report, usage_members
from proxy.domain import Answer, Call, Usage

GEMINI = DIALECTS["gemini"]
HELLO = {"content": {"parts": [{"text": "x" * 41}], "role": "model"}, "finishReason": "STOP"}


def call_of(operation: str = "generate_content") -> Call:
    return Call(
        operation=operation,
        model="m",
        stream=False,
        choices=1,
        output_tokens_max=None if operation == "generate_content" else 0,
        input_tokens_bound=100,
        input_tokens_counted=10,
    )


def answer(document: Any, operation: str = "generate_content") -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return GEMINI.read_answer(call_of(operation), body, "application/json")


def details(**tokens: int) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": count} for modality, count in tokens.items()]


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        ({"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 17}, Usage(input=12, output=5)),
        ({"promptTokenCount": 0, "candidatesTokenCount": 0}, Usage()),
        (
            {
                "promptTokenCount": 12,
                "candidatesTokenCount": 5,
                "cachedContentTokenCount": 4,
                "thoughtsTokenCount": 7,
                "totalTokenCount": 24,
            },
            Usage(input=8, cached_input=4, output=5, reasoning=7),
        ),
        ({"promptTokenCount": 12, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 5}, Usage(input=15, output=5)),
        ({"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 20}, Usage(input=12, output=5, reasoning=3)),
        ({"promptTokenCount": 12, "totalTokenCount": 20}, Usage(input=12, output=8)),
        ({"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 1}, Usage(input=12, output=5)),
        (
            {
                "promptTokenCount": 100,
                "promptTokensDetails": details(TEXT=10, AUDIO=70, IMAGE=20),
                "cachedContentTokenCount": 50,
                "cacheTokensDetails": details(AUDIO=40, TEXT=10),
                "candidatesTokenCount": 30,
                "candidatesTokensDetails": details(AUDIO=25, TEXT=5),
            },
            Usage(input=20, cached_input=50, audio_input=30, output=5, audio_output=25),
        ),
        (
            {
                "promptTokenCount": 9,
                "promptTokensDetails": [{"modality": 4, "tokenCount": 9}, {"modality": "TEXT"}],
                "candidatesTokenCount": 1,
            },
            Usage(audio_input=9, output=1),
        ),
        (
            {"promptTokenCount": 9, "promptTokensDetails": details(AUDIO=8), "cachedContentTokenCount": 6, "candidatesTokenCount": 1},
            Usage(cached_input=6, audio_input=3, output=1),
        ),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 1_295, "candidatesTokensDetails": details(IMAGE=1_290)},
            Usage(input=9, output=1_295),
        ),
        ({"promptTokenCount": 9, "candidatesTokenCount": 1, "trafficType": "ON_DEMAND", "newCount": -1}, Usage(input=9, output=1)),
    ],
)
def test_a_report_is_read_into_disjoint_kinds(report: dict[str, Any], usage: Usage) -> None:
    """The prompt holds what was cached, the answer leaves out the thoughts, sound is told apart."""
    read = read_report(report)
    assert read is not None
    assert (read.usage, read.counts_output) == (usage, True)


@pytest.mark.parametrize("report", [{}, {"trafficType": "ON_DEMAND"}, {"promptTokenCount": None}])
def test_a_report_without_counts_is_none(report: dict[str, Any]) -> None:
    """Early chunks have one, so it is not absurd, only missing."""
    assert read_report(report) is None


@pytest.mark.parametrize(
    "report",
    [
        17,
        [12, 5],
        "12",
        {"candidatesTokenCount": 5},
        {"promptTokenCount": -1},
        {"promptTokenCount": 12.0},
        {"promptTokenCount": "12"},
        {"promptTokenCount": True},
        {"promptTokenCount": 12, "candidatesTokenCount": 100_000_001},
        {"promptTokenCount": 12, "thoughtsTokenCount": -1},
        {"promptTokenCount": 12, "totalTokenCount": 1.5},
        {"promptTokenCount": 12, "toolUsePromptTokenCount": "1"},
        {"promptTokenCount": 12, "cachedContentTokenCount": 13},
        {"promptTokenCount": 12, "promptTokensDetails": details(AUDIO=13)},
        {"promptTokenCount": 12, "promptTokensDetails": details(TEXT=13)},
        {"promptTokenCount": 12, "promptTokensDetails": details(AUDIO=-1)},
        {"promptTokenCount": 12, "promptTokensDetails": {"AUDIO": 1}},
        {"promptTokenCount": 12, "promptTokensDetails": ["AUDIO"]},
        {"promptTokenCount": 12, "candidatesTokenCount": 5, "candidatesTokensDetails": details(AUDIO=6)},
        {"promptTokenCount": 12, "cachedContentTokenCount": 5, "cacheTokensDetails": details(AUDIO=5)},
    ],
)
def test_absurd_usage_is_not_believed(report: Any) -> None:
    """One odd member spoils all of it; what was written is counted instead, and it is flagged."""
    with pytest.raises(ValueError):  # noqa: PT011 - which member it is does not matter
        read_report(report)
    assert answer({"candidates": [HELLO], "usageMetadata": report}) == Answer(None, 11, usage_rejected=True)


def test_usage_is_reported_as_it_is_read() -> None:
    """What we write into a stream that we end, we would read in the same way."""
    usage = Usage(input=8, cached_input=4, output=5, reasoning=7)
    read = read_report(usage_members(usage))
    assert read is not None
    assert read.usage == usage


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"candidates": [HELLO], "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5}},
            Answer(Usage(input=12, output=5), 11),
        ),
        ({"candidates": [HELLO], "usageMetadata": {"promptTokenCount": 12}}, Answer(Usage(input=12, output=11), 11)),
        ({"candidates": [HELLO]}, Answer(None, 11)),
        ({"candidates": [HELLO], "usageMetadata": {"trafficType": "ON_DEMAND"}}, Answer(None, 11)),
        ({"candidates": [HELLO, {"finishReason": "SAFETY"}]}, Answer(None, 12)),
        (
            {"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": {"promptTokenCount": 12, "thoughtsTokenCount": 90}},
            Answer(Usage(input=12, reasoning=90), 1),
        ),
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 12}}, Answer(Usage(input=12), 0)),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, Answer(None, 0)),
        ({"error": {"code": 400}}, Answer(None, 0)),
        (b"x" * 40, Answer(None, 10)),
        ({"output": "x" * 28}, Answer(None, 11)),
        ([{"candidates": []}], Answer(None, 5)),
    ],
)
def test_a_whole_answer_is_read(document: Any, expected: Answer) -> None:
    """Usage where it is reported, what the model wrote where it is not; a count that is left out is not 0 where something was written."""
    assert answer(document) == expected


@pytest.mark.parametrize("operation", ["embed_content", "batch_embed_contents"])
def test_embeddings_use_input_alone(operation: str) -> None:
    """As reported, or not at all."""
    embedding = {"embedding": {"values": [0.5] * 100}}
    assert answer({**embedding, "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 9}}, operation) == Answer(Usage(input=7), 0)
    assert answer(embedding, operation) == Answer(None, 0)
    assert answer(b"x" * 40, operation) == Answer(None, 0)
