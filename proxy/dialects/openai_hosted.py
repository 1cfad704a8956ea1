"""What the Responses API does at the upstream: input that is kept there, tools that run there.

Nobody here sees how much of either there is, so both take the operator's word: `stored_tokens` for all that a request refers to,
`tool_use_tokens` for what one use of a tool adds. Without it such requests are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.members import objects, whole
from proxy.errors import Refusal

TOOL_USES_MAX = 128
TOOLS = ("web_search", "file_search", "code_interpreter")
"""What their types begin with: the versions of a tool have dates in their names."""
CLIENT_TOOLS = ("local_shell", "apply_patch")
"""Tools that the API defines and the client runs."""
CLIENT_TOOL_TOKENS_BOUND = 2_048
"""What the API adds to explain one of them, which it does not document; Anthropic's largest takes some 1,200."""
ITEMS = ("item_reference", "web_search_call", "file_search_call", "code_interpreter_call")
"""Items of input that stand for what is kept."""
_STORED = ("previous_response_id", "conversation", "prompt")
_OF_THE_CLIENT = ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")


def add_hosted(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> int:
    """Count, after all other input, what a request makes the upstream add to it; how many uses of tools it allows.

    Raises Refusal: invalid_request.
    """
    referring = [name for name in _STORED if document.get(name) is not None]
    if isinstance(document.get("input"), list):
        referring += [kind for item in objects(document, "input") if (kind := item_kind(item)) in ITEMS]
    if referring:
        if media.stored_tokens is None:
            raise _unseen(referring[0], "stored_tokens")
        count.add_tokens(media.stored_tokens)
    count.bound += CLIENT_TOOL_TOKENS_BOUND * sum(tool.get("type") in CLIENT_TOOLS for tool in objects(document, "tools"))
    tools = [str(tool.get("type")) for tool in objects(document, "tools") if is_hosted(tool)]
    if not tools:
        return 0
    if media.tool_use_tokens is None:
        raise _unseen(tools[0], "tool_use_tokens")
    uses = whole(document, "max_tool_calls", TOOL_USES_MAX)
    if uses is None:
        raise Refusal("invalid_request", f"A tool of type {tools[0][:64]!r} needs a limit.", hint="Set 'max_tool_calls'; each has a price.")
    # After each use everything is read again, with what all uses before have added.
    count.bound = (uses + 1) * count.bound + uses * (uses + 1) // 2 * media.tool_use_tokens
    return uses


def _unseen(name: str, key: str) -> Refusal:
    return Refusal(
        "invalid_request",
        f"{name[:64]!r} cannot be used: it adds input that cannot be seen here.",
        hint=f"Send all input itself; or the operator bounds it by {key} of the [[upstream]].",
    )


def item_kind(item: Mapping[str, Any]) -> str:
    """The type of an item of input: messages may leave it out, and so may references."""
    return str(item.get("type") or ("message" if "role" in item else ITEMS[0]))


def is_hosted(tool: Mapping[str, Any]) -> bool:
    """Whether a tool runs at the upstream, and is one whose uses can be bounded and priced."""
    return str(tool.get("type")).startswith(TOOLS)


def tool_uses(items: object) -> int:
    """How many of a response's output items are uses of the upstream's own tools."""
    return sum(map(is_tool_use, items)) if isinstance(items, list) else 0


def is_tool_use(item: object) -> bool:
    """Whether an output item is a use of one of the upstream's own tools, not of the client's."""
    kind = item.get("type") if isinstance(item, dict) else None
    return isinstance(kind, str) and kind.endswith("_call") and kind not in _OF_THE_CLIENT
