"""Anthropic requests: what they ask for, what they may cost, and the body to forward instead.

Refuses what cannot be read, and what costs in ways that the price book does not know or that the request hides. The rest is the
upstream's to judge. Members: platform.claude.com/docs/en/api/messages and the types of its clients, as of November 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.dialects.anthropic_input import add_input, is_own_tool
from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, objects, whole, wrong
from proxy.dialects.protocol import Changes, Request
from proxy.domain import NO_USAGE, Call, Usage
from proxy.errors import Refusal

OUTPUT_TOKENS_MAX = 100_000_000
TOOL_USES_MAX = 100
THINKING_TOKENS_MIN = 1_024
"""The least `budget_tokens` that the API takes; it must also be less than `max_tokens`."""

_EXTRA_COST = "it has a cost of its own"
_HIDDEN_INPUT = "it adds input that cannot be seen here"
_REFUSED = {
    "billing_policy": "it changes whom the upstream bills",
    "compaction": _EXTRA_COST,
    "container": _HIDDEN_INPUT,
    "fallbacks": "another model than the one priced may answer",
    "mcp_servers": _HIDDEN_INPUT,
    "thread": _HIDDEN_INPUT,
}
_STANDARD: Mapping[str, tuple[str | None, ...]] = {
    "inference_geo": (None, "global"),
    "service_tier": (None, "auto", "standard_only"),
    "speed": (None, "standard"),
}
"""Members that may also ask for what has a price of its own, and their values that do not."""

_SPELT_SO = frozenset({"model", "messages", "system", "tools", "thinking", "stream", "max_tokens", *_REFUSED, *_STANDARD})
"""Names that decide what a request costs; some servers that speak this API read them in any case."""
_NEEDS = (("input", "output"),)
_NEEDS_TOOL_USE = (("input", "output", "tool_use"),)
_COUNTED_TOOLS = ("web_search_", "web_fetch_")
"""The server's own tools whose uses a request can limit; of the others (code, searches for tools, MCP, another model as an advisor)
neither the number nor the cost is known before."""


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    document = read_object(request.body)
    check_spelling(document, _SPELT_SO)
    model = model_name(document)
    if request.operation.free:
        return Call(request.operation.name, model, False, 1, 0, 0, 0)
    _check_bounded(document)
    uses = _tool_uses(document, media)
    count = InputCount(media)
    add_input(count, document, media)
    return Call(
        operation=request.operation.name,
        model=model,
        stream=flag(document, "stream"),
        choices=1,
        output_tokens_max=_output_tokens_max(document),
        input_tokens_bound=_with_uses(count.bound, uses, media.tool_use_tokens or 0),
        input_tokens_counted=count.counted,
        units=Usage(tool_use=uses) if uses else NO_USAGE,
        needs=_NEEDS_TOOL_USE if uses else _NEEDS,
    )


def rewrite(call: Call, body: bytes, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    edits: dict[str, bytes] = {}
    most = changes.output_tokens_max
    if most is not None and (call.output_tokens_max is None or call.output_tokens_max > most):
        edits["max_tokens"] = b"%d" % most
        thinking = _with_budget_below(most, bytes(members_of(body).get("thinking", b"null")))
        if thinking is not None:
            edits["thinking"] = thinking
    if changes.model is not None:
        edits["model"] = encode(changes.model)
    return edit_members(body, edits) if edits else None


def _with_budget_below(most: int, thinking: bytes) -> bytes | None:
    """The member `thinking` with a budget that fits a lowered maximum; None where it fits, or where none could."""
    budget = json.loads(thinking).get("budget_tokens") if thinking.startswith(b"{") else None
    if type(budget) is not int or not THINKING_TOKENS_MIN < most <= budget:
        return None
    return edit_members(thinking, {"budget_tokens": b"%d" % (most - 1)})


def _check_bounded(document: Mapping[str, Any]) -> None:
    """Refuse what would cost more than the request lets us see."""
    for name, why in _REFUSED.items():
        if document.get(name) not in (None, False, []):
            raise not_priced(f"{name!r} cannot be used: {why}.")
    for name, standard in _STANDARD.items():
        if document.get(name) not in standard:
            known = " or ".join(value for value in standard if value)
            raise not_priced(f"A {name!r} other than {known} cannot be used: it has prices of its own.")
    management = document.get("context_management")
    if management is not None and not (isinstance(management, dict) and _only_clears(management)):
        raise not_priced("A 'context_management' that does more than clear cannot be used: it has a cost of its own.")


def _only_clears(management: Mapping[str, Any]) -> bool:
    """Whether earlier input is only left out, so that the bound holds all the more."""
    kinds = (edit.get("type") for edit in objects(management, "edits"))
    return management.keys() <= {"edits"} and all(isinstance(kind, str) and kind.startswith("clear_") for kind in kinds)


def _tool_uses(document: Mapping[str, Any], media: MediaRule) -> int:
    """How often the server's own tools may be used. Raises Refusal: invalid_request.

    What a search finds and a page holds becomes input that no request limits, and that is read again at every further step of the
    server's loop. So such tools are refused unless the operator says how much one use may add.
    """
    uses = 0
    for tool in objects(document, "tools"):
        kind = tool.get("type")
        if kind is None or kind == "custom":
            continue
        if not isinstance(kind, str):
            raise wrong("type", "the name of a kind of tool")
        if is_own_tool(kind):
            continue
        if not kind.startswith(_COUNTED_TOOLS):
            raise not_priced(f"A tool of type {kind[:64]!r} cannot be used: what it costs is not known before.")
        if media.tool_use_tokens is None:
            raise not_priced(f"A tool of type {kind[:64]!r} cannot be used: it adds input that cannot be seen here.")
        most = whole(tool, "max_uses", TOOL_USES_MAX)
        if most is None:
            raise Refusal(
                "invalid_request", f"A tool of type {kind[:64]!r} needs a limit.", hint="Set its 'max_uses'; each use has a price."
            )
        uses += most
    return uses


def _with_uses(prompt: int, uses: int, tokens_of_use: int) -> int:
    """The bound of all input that the server's loop reads: at each step the prompt, and what all uses before have added."""
    return (uses + 1) * prompt + uses * (uses + 1) // 2 * tokens_of_use


def _output_tokens_max(document: Mapping[str, Any]) -> int | None:
    """Thinking is inside it. It may be 0: then the prompt is only written into the cache."""
    most = document.get("max_tokens")
    return 0 if type(most) is int and most == 0 else whole(document, "max_tokens", OUTPUT_TOKENS_MAX)
