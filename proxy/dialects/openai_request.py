"""OpenAI requests: what they ask for, what they may cost, and the body to forward instead.

Refuses what cannot be read, and what costs in ways that the price book does not know or that the request hides. The rest is the
upstream's to judge. Fields: github.com/openai/openai-openapi; `n_predict` and `n_cmpl` are llama.cpp's, which obeys them over OpenAI's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, objects, whole, wrong
from proxy.dialects.openai_hosted import CLIENT_TOOLS, add_hosted, is_hosted
from proxy.dialects.openai_input import add_input
from proxy.dialects.protocol import Changes, Operation, Request
from proxy.domain import NO_USAGE, Call, Usage
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
    **dict.fromkeys(("models", "preset", "user_config"), _OTHER_MODEL),
    **dict.fromkeys(("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"), _OTHER_MODEL),
    **dict.fromkeys(("chat_template", "session_params"), _HIDDEN_INPUT),
}
_REFUSED_IN_RESPONSES = {
    "context_management": _EXTRA_COST,
    "background": "its answer comes after the request has ended",
    "n_predict": "it would be obeyed over 'max_output_tokens'",  # by llama.cpp, which makes a chat of it, with all other members
}
_SPELT_SO = frozenset(
    {
        *("model", "messages", "input", "prompt", "suffix", "instructions", "tools", "stream", "stream_options", "service_tier"),
        *("max_output_tokens", "max_tool_calls", *_CHAT_MAXIMA, *_CHOICE_COUNTS, *_REFUSED_EVERYWHERE, *_REFUSED_IN_RESPONSES),
        *("query", "documents"),
    }
)
"""Names that decide what a request costs."""
_NEEDS = (("input", "output"),)
_NEEDS_TOOL_USE = (("input", "output", "tool_use"),)
_NEEDS_INPUT = (("input",),)
_STANDARD_TIERS = (None, "auto", "default", "on_demand")
"""The last is Groq's name for it."""
_TOOL_TYPES = ("function", "custom")


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation
    document = read_object(request.body)
    model = model_name(document)
    check_bounded(operation.name, document)
    count = InputCount(media)
    prompts = add_input(count, operation.name, document, media)
    tool_uses = add_hosted(count, document, media) if operation.name == "responses" else 0
    if prompts > PROMPTS_MAX:
        raise Refusal("invalid_request", f"{prompts} prompts are more than {PROMPTS_MAX}.", hint="Send them in several requests.")
    stream = operation.output == "tokens" and flag(document, "stream")
    wants_usage = _asks_for(document, "include_usage")
    return Call(
        operation=operation.name,
        model=model,
        stream=stream,
        choices=prompts * (_greatest(document, _CHOICE_COUNTS, CHOICES_MAX) or 1),
        output_tokens_max=_output_tokens_max(operation, document),
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        wants_usage=wants_usage and stream,
        wants_continuous_usage=_asks_for(document, "continuous_usage_stats") and wants_usage and stream,
        units=Usage(tool_use=tool_uses) if tool_uses else NO_USAGE,
        needs=(_NEEDS_TOOL_USE if tool_uses else _NEEDS) if operation.output == "tokens" else _NEEDS_INPUT,
        shows_writing=not document.get("echo"),
    )


def rewrite(call: Call, request: Request, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    body = request.body
    output_tokens_max = changes.output_tokens_max
    lower = output_tokens_max is not None and (call.output_tokens_max is None or call.output_tokens_max > output_tokens_max)
    options = _usage_options(call, changes)
    if not options and not lower and changes.model is None:
        return None
    members = members_of(body)
    edits: dict[str, bytes] = {}
    if output_tokens_max is not None and lower:
        named = ((name, bytes(members.get(name, b"null"))) for name in _MAXIMA[call.operation])
        above = [name for name, value in named if value != b"null" and int(value) > output_tokens_max]
        edits = dict.fromkeys(above or _own_maximum(call.operation, changes.model or call.model), b"%d" % output_tokens_max)
    if options:
        asked = bytes(members.get("stream_options", b"null"))
        edits["stream_options"] = edit_members(b"{}" if asked == b"null" else asked, dict.fromkeys(options, b"true"))
    if changes.model is not None:
        edits["model"] = encode(changes.model)
    return edit_members(body, edits) if edits else None


def _usage_options(call: Call, changes: Changes) -> Sequence[str]:
    """The options to add so that usage comes in a stream; in every chunk only of a single answer, for vLLM reports each by itself."""
    if not call.stream or call.operation not in ("chat", "completions"):
        return ()
    continuous = changes.continuous_usage and call.choices == 1 and not call.wants_continuous_usage
    return (*(() if call.wants_usage else ("include_usage",)), *(("continuous_usage_stats",) if continuous else ()))


def _own_maximum(operation: str, model: str) -> tuple[str, ...]:
    """The maximum to add where the request names none."""
    if operation == "chat":
        return ("max_completion_tokens" if _WITHOUT_MAX_TOKENS.match(model) else "max_tokens",)
    return ("max_tokens",) if operation == "completions" else _MAXIMA[operation]


def check_bounded(operation: str, document: Mapping[str, Any]) -> None:
    """See that a request costs no more than it lets us see. Raises Refusal: invalid_request."""
    check_spelling(document, _SPELT_SO)
    refused = _REFUSED_EVERYWHERE if operation != "responses" else _REFUSED_EVERYWHERE | _REFUSED_IN_RESPONSES
    for name in refused.keys() & document.keys():
        if document[name] not in (None, False, []):
            raise not_priced(f"{name!r} cannot be used: {refused[name]}.")
    settings = document.get("chat_template_kwargs")
    if isinstance(settings, dict) and settings.get("chat_template") is not None:
        raise not_priced(f"'chat_template' cannot be used: {_HIDDEN_INPUT}.")
    if document.get("service_tier") not in _STANDARD_TIERS:
        raise not_priced("A 'service_tier' other than auto or default cannot be used: it has prices of its own.")
    for tool in objects(document, "tools"):
        kind = tool.get("type", "function")
        if kind not in _TOOL_TYPES and not (operation == "responses" and (kind in CLIENT_TOOLS or is_hosted(tool))):
            raise not_priced("Only tools of type function or custom can be used: the others have a cost of their own.")


def _output_tokens_max(operation: Operation, document: Mapping[str, Any]) -> int | None:
    if operation.output == "none":
        return 0
    return _greatest(document, _MAXIMA[operation.name], OUTPUT_TOKENS_MAX)


def _greatest(document: Mapping[str, Any], names: Sequence[str], maximum: int) -> int | None:
    """The greatest of some whole numbers; None where none of them is there. Raises Refusal: invalid_request."""
    greatest: int | None = None
    for name in names:
        if name in document:
            value = whole(document, name, maximum)
            if value is not None and (greatest is None or value > greatest):
                greatest = value
    return greatest


def _asks_for(document: Mapping[str, Any], option: str) -> bool:
    options = document.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong("stream_options", "an object")
    return flag(options, option)
