"""What reads texts and gives back numbers: moderations, rerankers, scores, classes, pooled vectors. Only input is paid.

OpenAI has moderations alone; the rest is as vLLM, Jina and those after them have it, whose clients need not name the model. A reranker
reads its query again with every document. Tokens that are merely counted are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects import openai_usage
from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, read_object
from proxy.dialects.members import model_name, wrong
from proxy.dialects.openai_input import NOT_PROMPT, add_content, add_messages, add_prompts
from proxy.dialects.openai_request import check_bounded
from proxy.dialects.protocol import Changes, Reader, Request
from proxy.domain import Answer, Call

MODERATION_MODEL = "omni-moderation-latest"
"""OpenAI's own, where a request names none."""
_PAIRS = {
    "rerank": (("query", "documents"),),
    "score": (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")),
}
_NEEDS = (("input",),)


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation
    document = read_object(request.body)
    check_bounded(operation.name, document)
    model = MODERATION_MODEL if operation.name == "moderations" else ""
    if document.get("model") is not None:
        model = model_name(document)
    count = InputCount(media)
    if operation.free:
        return _call(operation.name, model, count)
    counted = _add_main(count, operation.name, document, media)
    for name, value in document.items():
        if name not in counted and name not in NOT_PROMPT:
            count.add_plain(value)
    return _call(operation.name, model, count)


def rewrite(call: Call, request: Request, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    return None if changes.model is None else edit_members(request.body, {"model": encode(changes.model)})


def read_stream(call: Call, media_type: str) -> Reader | None:
    """None: numbers come as a whole."""
    return None


def read_answer(call: Call, body: bytes, media_type: str) -> Answer:
    """What a whole answer used, where it says so."""
    return openai_usage.read_answer(call, body, has_output=False)


def _call(operation: str, model: str, count: InputCount) -> Call:
    return Call(
        operation=operation,
        model=model,
        stream=False,
        choices=1,
        output_tokens_max=0,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        needs=_NEEDS,
    )


def _add_main(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> Sequence[str]:
    """Count the texts themselves; the members that they were in."""
    if operation in _PAIRS:
        return _add_pairs(count, operation, document, media)
    if document.get("messages") is not None:
        add_messages(count, document, media)
        return ("messages",)
    if operation == "moderations":
        add_content(count, document.get("input"), media)
    elif "input" in document:
        add_prompts(count, document["input"], "input")
    return ("input",)


def _add_pairs(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> Sequence[str]:
    """Count every pair that is there, for which of them is read is the upstream's affair."""
    given = [names for names in _PAIRS[operation] if all(document.get(name) is not None for name in names)]
    if not given:
        raise wrong(_PAIRS[operation][0][0], f"there, and {_PAIRS[operation][0][1]!r} with it")
    for one, other in given:
        _add_pair(count, _listed(document[one]), _listed(document[other]), media)
    return [name for names in given for name in names]


def _add_pair(count: InputCount, lefts: Sequence[object], rights: Sequence[object], media: MediaRule) -> None:
    for left in lefts:
        _add_times(count, left, len(rights) if len(lefts) == 1 else 1, media)
    for right in rights:
        _add_times(count, right, len(lefts) if len(rights) == 1 else 1, media)
    for _ in range(max(len(lefts), len(rights))):
        count.open_message()


def _listed(value: object) -> Sequence[object]:
    listed = value.get("content") if isinstance(value, dict) and len(value) == 1 else value  # several parts of media under one name
    return listed if isinstance(listed, list) else [value]


def _add_times(count: InputCount, value: object, times: int, media: MediaRule) -> None:
    """Count a text, or what stands for one, so many times."""
    bound, counted = count.bound, count.counted
    if isinstance(value, dict) and "type" not in value:
        count.add_plain(value)
    elif isinstance(value, (str, list, dict)):
        add_content(count, [value] if isinstance(value, dict) else value, media)
    else:
        raise wrong("documents", "texts or parts of media")
    count.bound += (times - 1) * (count.bound - bound)
    count.counted += (times - 1) * (count.counted - counted)
