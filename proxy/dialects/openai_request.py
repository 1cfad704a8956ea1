"""OpenAI requests: what they ask for, what they may cost, and the body to forward instead.

Refuses what cannot be read, and what costs in ways that the price book does not know or that the request hides. The rest is the
upstream's to judge. Fields: github.com/openai/openai-openapi; `n_predict` and `n_cmpl` are llama.cpp's, which obeys them over OpenAI's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.openai_input import add_input, not_priced, objects, wrong
from proxy.dialects.protocol import MODEL_NAME_LENGTH_MAX, Changes, Operation, Request
from proxy.domain import Call
from proxy.errors import Refusal

CHOICES_MAX = 128
PROMPTS_MAX = 2048
OUTPUT_TOKENS_MAX = 100_000_000

_CHAT_MAXIMA = ("max_completion_tokens", "max_tokens", "n_predict")
_MAXIMA: Mapping[str, tuple[str, ...]] = {
    "chat": _CHAT_MAXIMA,
    "completions": _CHAT_MAXIMA,
    "responses": ("max_output_tokens",),
    "embeddings": (),
}
_CHOICE_COUNTS = ("n", "best_of", "n_cmpl")
_WITHOUT_MAX_TOKENS = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9]|gpt-[12]\d)")
"""OpenAI's reasoning models answer 400 to `max_tokens`; nearly all other servers know no other name."""

_EXTRA_COST = "it has a cost of its own"
_HIDDEN_INPUT = "it adds input that cannot be seen here"
_OTHER_MODEL = "another model than the one priced may answer"
_REFUSED_EVERYWHERE = {
    "web_search_options": _EXTRA_COST,
    "search_parameters": _EXTRA_COST,
    "enable_search": _EXTRA_COST,
    "plugins": _EXTRA_COST,
    "moderation": _EXTRA_COST,
    "models": _OTHER_MODEL,
    "fallbacks": _OTHER_MODEL,
    "chat_template": _HIDDEN_INPUT,
}
_REFUSED_IN_RESPONSES = {
    "previous_response_id": _HIDDEN_INPUT,
    "conversation": _HIDDEN_INPUT,
    "prompt": _HIDDEN_INPUT,
    "context_management": _EXTRA_COST,
    "background": "its answer comes after the request has ended",
}
_NEEDS = (("input", "output"),)
_NEEDS_INPUT = (("input",),)
_STANDARD_TIERS = (None, "auto", "default")
_TOOL_TYPES = ("function", "custom")


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation
    document = read_object(request.body)
    model = _model(document)
    _check_bounded(operation, document)
    count = InputCount()
    prompts = add_input(count, operation.name, document, media)
    if prompts > PROMPTS_MAX:
        raise Refusal("invalid_request", f"{prompts} prompts are more than {PROMPTS_MAX}.", hint="Send them in several requests.")
    stream = operation.output == "tokens" and _flag(document, "stream")
    return Call(
        operation=operation.name,
        model=model,
        stream=stream,
        choices=prompts * max(_whole(document, name, CHOICES_MAX) or 1 for name in _CHOICE_COUNTS),
        output_tokens_max=_output_tokens_max(operation, document),
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        wants_usage=_asks_for_usage(document) and stream,
        needs=_NEEDS if operation.output == "tokens" else _NEEDS_INPUT,
    )


def rewrite(call: Call, body: bytes, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    output_tokens_max = changes.output_tokens_max
    add_usage = call.stream and not call.wants_usage and call.operation in ("chat", "completions")
    lower = output_tokens_max is not None and (call.output_tokens_max is None or call.output_tokens_max > output_tokens_max)
    if not add_usage and not lower and changes.model is None:
        return None
    members = members_of(body)
    edits: dict[str, bytes] = {}
    if output_tokens_max is not None and lower:
        named = ((name, bytes(members.get(name, b"null"))) for name in _MAXIMA[call.operation])
        above = [name for name, value in named if value != b"null" and int(value) > output_tokens_max]
        edits = dict.fromkeys(above or _own_maximum(call), b"%d" % output_tokens_max)
    if add_usage:
        options = bytes(members.get("stream_options", b"null"))
        edits["stream_options"] = edit_members(b"{}" if options == b"null" else options, {"include_usage": b"true"})
    if changes.model is not None:
        edits["model"] = encode(changes.model)
    return edit_members(body, edits) if edits else None


def _own_maximum(call: Call) -> tuple[str, ...]:
    """The maximum to add where the request names none."""
    if call.operation == "chat":
        return ("max_completion_tokens" if _WITHOUT_MAX_TOKENS.match(call.model) else "max_tokens",)
    return ("max_tokens",) if call.operation == "completions" else _MAXIMA[call.operation]


def _model(document: Mapping[str, Any]) -> str:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "a model's name")
    if len(model) > MODEL_NAME_LENGTH_MAX or not model.isprintable():
        raise wrong("model", f"of at most {MODEL_NAME_LENGTH_MAX} printable characters")
    return model


def _check_bounded(operation: Operation, document: Mapping[str, Any]) -> None:
    """Refuse what would cost more than the request lets us see."""
    refused = _REFUSED_EVERYWHERE if operation.name != "responses" else _REFUSED_EVERYWHERE | _REFUSED_IN_RESPONSES
    for name in refused.keys() & document.keys():
        if document[name] is not None and document[name] is not False:
            raise not_priced(f"{name!r} cannot be used: {refused[name]}.")
    if document.get("service_tier") not in _STANDARD_TIERS:
        raise not_priced("A 'service_tier' other than auto or default cannot be used: it has prices of its own.")
    for tool in objects(document, "tools"):
        if tool.get("type", "function") not in _TOOL_TYPES:
            raise not_priced("Only tools of type function or custom can be used: the others have a cost of their own.")


def _output_tokens_max(operation: Operation, document: Mapping[str, Any]) -> int | None:
    if operation.output == "none":
        return 0
    maxima = [_whole(document, name, OUTPUT_TOKENS_MAX) for name in _MAXIMA[operation.name]]
    return max((maximum for maximum in maxima if maximum is not None), default=None)


def _asks_for_usage(document: Mapping[str, Any]) -> bool:
    options = document.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong("stream_options", "an object")
    return _flag(options, "include_usage")


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, "true or false")
    return bool(value)


def _whole(document: Mapping[str, Any], name: str, maximum: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise wrong(name, f"a whole number from 1 to {maximum}")
    return value
