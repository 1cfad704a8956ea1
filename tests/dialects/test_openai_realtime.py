"""Conversations of the realtime API: what several answers at once, and models that only listen, are charged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import MediaRule
from proxy.dialects.openai_realtime import ANSWERS_MAX, Conversation
from proxy.domain import Usage
from proxy.errors import Refusal

MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)


def conversation(**options: Any) -> Conversation:
    """One in which the client has said 40 bytes."""
    made = Conversation(MEDIA, **options)
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 40}]}
    hear(made, type="conversation.item.create", item=item)
    return made


def hear(talk: Conversation, **event: Any) -> None:
    talk.hear(json.dumps(event))


def answer(talk: Conversation, kind: str, **members: Any) -> None:
    talk.answer(json.dumps({"type": kind, **members}), {"type": kind, **members})


def created(talk: Conversation, name: str) -> None:
    answer(talk, "response.created", response={"id": name})


def delta(talk: Conversation, name: str, text: str = "word") -> None:
    answer(talk, "response.output_text.delta", response_id=name, delta=text)


def done(talk: Conversation, name: str, inputs: int, outputs: int) -> None:
    answer(talk, "response.done", response={"id": name, "usage": {"input_tokens": inputs, "output_tokens": outputs}})


def test_an_image_counts_whatever_stands_beside_it() -> None:
    """By the operator's rule, as everywhere."""
    talk = conversation()
    before = talk.usage_ahead(asking=True).input
    part = {"type": "input_image", "image_url": "data:image/png;base64,A", "audio": ""}
    hear(talk, type="conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
    assert talk.usage_ahead(asking=True).input >= before + MEDIA.image_tokens


def test_an_answer_that_outlives_another_is_still_paid() -> None:
    """Whoever leaves before the longer of two answers has ended pays for what was heard of it, before the other ended and after."""
    talk = conversation()
    unheard = talk.usage_now()
    created(talk, "long")
    created(talk, "short")
    delta(talk, "long")
    delta(talk, "short")
    done(talk, "short", 30, 1)
    delta(talk, "long")
    assert unheard == Usage()
    assert (talk.usage_now().output, talk.usage_now().input) == (1 + 2, 30 + 11)
    done(talk, "long", 30, 5)
    assert talk.usage_now() == Usage(input=60, output=6)


def test_answers_at_once_are_all_held() -> None:
    """Each reads all that was said before it."""
    talk = conversation()
    alone = talk.usage_ahead(asking=True)
    for number in range(3):
        created(talk, str(number))
    assert talk.usage_ahead(asking=False) == Usage(input=3 * alone.input, output=3)
    for number in range(3):
        done(talk, str(number), 20, 1)
    assert talk.usage_ahead(asking=False) == Usage(input=60, output=3)
    assert talk.usage_ahead(asking=True).input >= 60 + 20 + 3


def test_deltas_without_an_id_belong_to_the_latest_answer() -> None:
    """Servers that never have two at once leave ids out."""
    talk = conversation()
    created(talk, "one")
    answer(talk, "response.output_text.delta", delta="word")
    answer(talk, "response.done", response={"usage": {"input_tokens": 9, "output_tokens": 2}})
    assert talk.usage_now() == Usage(input=9, output=2)


def test_what_nobody_announced_is_paid() -> None:
    """Words are words, whether or not an event said that they would come."""
    talk = conversation()
    delta(talk, "late")
    assert talk.usage_now() == Usage(input=10, output=1)


@pytest.mark.parametrize(("reported", "usage"), [({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)), (None, (10, 2)), ({}, (10, 2))])
def test_transcripts_of_a_model_that_only_listens_are_paid(reported: Any, usage: tuple[int, int]) -> None:
    """vLLM announces none, and reports their usage in its own words or not at all."""
    talk = conversation()
    for _ in range(2):
        answer(talk, "transcription.delta", delta="word")
    assert talk.usage_ahead(asking=False).output == 3
    answer(talk, "transcription.done", text="wordword", usage=reported)
    assert (talk.usage_now().input, talk.usage_now().output) == usage


def test_transcripts_of_what_was_heard_are_no_answer() -> None:
    """They come with usage of their own."""
    talk = conversation()
    answer(talk, "conversation.item.input_audio_transcription.delta", delta="word")
    assert talk.usage_now() == Usage()


def test_more_answers_than_are_told_apart_are_still_counted() -> None:
    """What is remembered of them is bounded."""
    talk = conversation()
    for number in range(2 * ANSWERS_MAX):
        created(talk, str(number))
        delta(talk, str(number))
    assert talk.usage_now().output == 2 * ANSWERS_MAX


@pytest.mark.parametrize(
    "event",
    [
        {"type": "session.update", "session": {"type": "realtime", "model": "dear"}},
        {"type": "session.update", "model": "dear"},
        {"type": "response.create", "response": {"model": "dear"}},
        {"type": "session.update", "model": ["cheap"]},
    ],
)
def test_another_model_than_the_one_that_is_priced_is_refused(event: dict[str, Any]) -> None:
    """The address names the model and so its price; an event may repeat it, and no more."""
    with pytest.raises(Refusal, match="Another model"):
        hear(conversation(models=("cheap", "own-name")), **event)
    for model in ("cheap", "own-name"):
        hear(conversation(models=("cheap", "own-name")), **{**event, "model": model, "session": {"model": model}, "response": None})
