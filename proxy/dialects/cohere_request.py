"""Requests of Cohere's second API: what they ask for, what they may cost, and the body to forward instead.

Members: docs.cohere.com/reference/chat, /embed and /rerank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.cohere_input import add_embedded, add_messages, add_ranked
from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, objects, whole
from proxy.dialects.protocol import Changes, Request
from proxy.domain import NO_USAGE, Call, Usage

OUTPUT_TOKENS_MAX = 100_000_000

_EXTRA_COST = "it has a cost of its own"
_HIDDEN_INPUT = "it adds input that cannot be seen here"
_REFUSED = {"connectors": _EXTRA_COST, "conversation_id": _HIDDEN_INPUT, "num_generations": _EXTRA_COST}
"""Members of the first API; servers that speak both might obey them."""

_SPELT_SO = frozenset(
    {"model", "messages", "documents", "tools", "stream", "max_tokens", "texts", "images", "inputs", "query", "response_format", *_REFUSED}
)
"""Names that decide what a request costs; servers written in Go read them in any case."""

_NEEDS_OUTPUT = (("input", "output"),)
_NEEDS_INPUT = (("input",),)
_NEEDS_FOR_IMAGES = (("input", "image"),)
"""Some models bill images by the piece, others by the token; whoever prices one of these says so by a price of 0 for the image."""
_NEEDS_FOR_SEARCHES = (("tool_use",), ("input",))


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation.name
    document = read_object(request.body)
    check_spelling(document, _SPELT_SO)
    model = model_name(document)
    count = InputCount(media)
    most: int | None = 0
    units = NO_USAGE
    needs: Sequence[Sequence[str]] = _NEEDS_INPUT
    if operation == "chat":
        _check_bounded(document)
        add_messages(count, document, media)
        most = whole(document, "max_tokens", OUTPUT_TOKENS_MAX)
        needs = _NEEDS_OUTPUT
    elif operation == "embed":
        units = Usage(image=add_embedded(count, document, media))
        needs = _NEEDS_FOR_IMAGES if units.image else _NEEDS_INPUT
    else:
        units = Usage(tool_use=add_ranked(count, document))
        needs = _NEEDS_FOR_SEARCHES
    return Call(
        operation=operation,
        model=model,
        stream=operation == "chat" and flag(document, "stream"),
        choices=1,
        output_tokens_max=most,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        units=units,
        needs=needs,
    )


def rewrite(call: Call, body: bytes, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    edits: dict[str, bytes] = {}
    most = changes.output_tokens_max
    if most is not None and (call.output_tokens_max is None or call.output_tokens_max > most):
        edits["max_tokens"] = b"%d" % most
    if changes.model is not None:
        edits["model"] = encode(changes.model)
    return edit_members(body, edits) if edits else None


def _check_bounded(document: Mapping[str, Any]) -> None:
    """Refuse what would cost more than the request lets us see."""
    for name, why in _REFUSED.items():
        if document.get(name):
            raise not_priced(f"{name!r} cannot be used: {why}.")
    for tool in objects(document, "tools"):
        if tool.get("type", "function") != "function":
            raise not_priced("Only tools of type function can be used: the others have a cost of their own.")
