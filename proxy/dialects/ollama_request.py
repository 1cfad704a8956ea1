"""Ollama's requests: what they ask for, what they may cost, and the body to forward instead.

Ollama reads the names of members in any case (Go does), so a known name that is spelt otherwise is refused: it would count twice there
and once here. Members: github.com/ollama/ollama, docs/api.md and api/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, objects, wrong
from proxy.dialects.protocol import Changes, Request
from proxy.domain import Call
from proxy.errors import Refusal

INPUTS_MAX = 2048
OUTPUT_TOKENS_MAX = 100_000_000

_NOT_PROMPT = frozenset(
    {
        *("model", "name", "stream", "options", "keep_alive", "think", "raw", "truncate", "shift", "dimensions", "verbose"),
        *("logprobs", "top_logprobs", "template", "width", "height", "steps", "role", "tool_call_id"),
    }
)
"""Members, of requests and of messages, whose strings never become prompt text."""
_COUNTED_APART = frozenset({"messages", "images", "context", "input"})
_TEXTS = ("prompt", "system", "suffix")
_SPELT_SO = _NOT_PROMPT | _COUNTED_APART | {*_TEXTS, "format", "tools", "content", "thinking", "tool_calls", "tool_name"}

_DRAWS = "what drawing costs is not known here"
_REFUSED = {
    "template": "it may repeat the prompt any number of times",
    "width": _DRAWS,
    "height": _DRAWS,
    "steps": _DRAWS,
}

_NEEDS_INPUT = (("input",),)
_NEEDS = (("input", "output"),)


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation
    if operation.method == "GET":
        return _free(operation.name, "")
    document = read_object(request.body)
    check_spelling(document, _SPELT_SO)
    if operation.free:
        return _free(operation.name, model_name(document if document.get("model") else {"model": document.get("name")}))
    for name, why in _REFUSED.items():
        if document.get(name):
            raise not_priced(f"{name!r} cannot be used: {why}.")
    count = InputCount(media)
    _add_input(count, operation.name, document, media)
    generates = operation.output == "tokens"
    return Call(
        operation=operation.name,
        model=model_name(document),
        stream=generates and _streams(document),
        choices=1,
        output_tokens_max=_output_tokens_max(document) if generates else 0,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        needs=_NEEDS if generates else _NEEDS_INPUT,
        reports_usage=operation.name != "embeddings",
    )


def rewrite(call: Call, body: bytes, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    edits: dict[str, bytes] = {}
    most = changes.output_tokens_max
    if most is not None and (call.output_tokens_max is None or call.output_tokens_max > most):
        options = bytes(members_of(body).get("options", b"null"))
        edits["options"] = edit_members(b"{}" if options == b"null" else options, {"num_predict": b"%d" % most})
    if changes.model is not None:
        edits["model"] = encode(changes.model)
    return edit_members(body, edits) if edits else None


def _free(operation: str, model: str) -> Call:
    return Call(operation, model, stream=False, choices=1, output_tokens_max=0, input_tokens_bound=0, input_tokens_counted=0)


def _streams(document: Mapping[str, Any]) -> bool:
    return document.get("stream") is None or flag(document, "stream")


def _output_tokens_max(document: Mapping[str, Any]) -> int | None:
    """The maximum that the options name; none and what is not above zero mean that the model may go on."""
    options = document.get("options")
    if options is None:
        return None
    if not isinstance(options, dict):
        raise wrong("options", "an object")
    most = options.get("num_predict")
    if most is None:
        return None
    if type(most) is not int or most > OUTPUT_TOKENS_MAX:  # by type, for a bool is no number
        raise wrong("num_predict", f"a whole number up to {OUTPUT_TOKENS_MAX}")
    return most if most > 0 else None


# --- input -----------------------------------------------------------------------------------------------------------------------------


def _add_input(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> None:
    """Count all input of a request. An empty one counts nothing: it only has the model loaded or unloaded."""
    if operation == "chat":
        _add_messages(count, objects(document, "messages"), media)
    elif operation == "generate":
        _add_prompt(count, document, media)
    elif operation == "embed":
        _add_inputs(count, document.get("input"))
    elif _text(document, "prompt"):
        count.open_prompt()
    for name, value in document.items():
        if name not in _NOT_PROMPT and name not in _COUNTED_APART:
            count.add_plain(value)


def _add_messages(count: InputCount, messages: Sequence[Mapping[str, Any]], media: MediaRule) -> None:
    for message in messages:
        check_spelling(message, _SPELT_SO)
        count.open_message()
        _add_images(count, message, media)
        for name, value in message.items():
            if name not in _NOT_PROMPT and name != "images":
                count.add_plain(value)
    if messages:
        count.open_reply()


def _add_prompt(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> None:
    """The frame of a prompt that is given as texts, and what of it is not text; each text becomes a message of the model's template."""
    for name in _TEXTS:
        if _text(document, name):
            count.open_message()
    if document.get("prompt"):
        count.open_reply()
    _add_images(count, document, media)
    context = document.get("context")
    if context is not None:
        if not isinstance(context, list) or not set(map(type, context)) <= {int}:  # by type, for a bool is no token
            raise wrong("context", "a list of token ids")
        count.add_tokens(len(context))


def _add_images(count: InputCount, members: Mapping[str, Any], media: MediaRule) -> None:
    count.add_tokens(len(_texts(members, "images")) * media.image_tokens)


def _add_inputs(count: InputCount, value: object) -> None:
    inputs = _texts({"input": [value] if isinstance(value, str) else value}, "input")
    if len(inputs) > INPUTS_MAX:
        raise Refusal("invalid_request", f"{len(inputs)} inputs are more than {INPUTS_MAX}.", hint="Send them in several requests.")
    for text in inputs:
        count.open_prompt()
        count.add_text(text)


def _text(document: Mapping[str, Any], name: str) -> str:
    text = document.get(name)
    if text is not None and not isinstance(text, str):
        raise wrong(name, "a string")
    return text or ""


def _texts(members: Mapping[str, Any], name: str) -> Sequence[str]:
    value = members.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise wrong(name, "a list of strings")
    return value
