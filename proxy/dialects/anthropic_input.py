"""The input of an Anthropic request, counted: the system prompt, messages, tools, and what the API itself writes to explain the tools.

What a block means decides how it counts; a member nobody here knows counts by its bytes, since a server may well put it into the prompt.
Blocks of unknown types are refused, for they may stand for input kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.members import not_priced, objects, wrong

EXPLAINED_TOKENS_BOUND = 1_024
"""What the API adds to the prompt to explain tools, or the form of the output; it documents from 159 to 530 tokens by model."""
OWN_TOOL_TOKENS_BOUND = 2_048
"""A tool that Anthropic itself defines: 245 tokens (bash) to 735 and a prompt of 499 (computer), as it documents."""
OWN_TOOLSET_TOKENS_BOUND = 16_384
"""A whole set of them, some twenty."""

_NOT_PROMPT = frozenset(
    {
        *("model", "stream", "metadata", "stop_sequences", "service_tier", "speed", "inference_geo", "tool_choice", "thinking"),
        *("cache_control", "context_management", "diagnostics", "fallback_credit_token"),
    }
)
"""Top-level members whose strings never become prompt text."""

_NOT_PROMPT_IN_BLOCK = frozenset({"type", "id", "tool_use_id", "cache_control", "caller"})
_BLOCK_TYPES = frozenset({"text", "search_result", "thinking", "redacted_thinking", "tool_reference", "tool_removal", "browser_state"})
_BLOCK_TYPE_ENDINGS = ("_use", "_result", "_error", "_output")
"""Of what tools were asked and what they answered; a server's own tools have a type each."""


def add_input(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> None:
    """Count all input of a request. Raises Refusal: invalid_request."""
    messages = objects(document, "messages")
    if not messages:
        raise wrong("messages", "a list of at least one message")
    if document.get("system") is not None:
        count.open_message()
        _add_content(count, document["system"], media, "system")
    for message in messages:
        _add_message(count, message, media)
    count.open_reply()
    _add_tools(count, document)
    for name, value in document.items():
        if name not in ("system", "messages", "tools") and name not in _NOT_PROMPT:
            count.add_plain(value)


def is_own_tool(kind: str) -> bool:
    """Whether a tool is one that Anthropic defines and the client runs, by its type."""
    return kind.startswith(("bash_", "text_editor_", "computer_", "memory_", "browser_"))


def _add_tools(count: InputCount, document: Mapping[str, Any]) -> None:
    tools = objects(document, "tools")
    output = document.get("output_config")
    if tools or (isinstance(output, dict) and output.get("format") is not None):
        count.bound += EXPLAINED_TOKENS_BOUND
    for tool in tools:
        count.add_json(tool)
        kind = tool.get("type")
        if isinstance(kind, str) and is_own_tool(kind):
            count.bound += OWN_TOOLSET_TOKENS_BOUND if "_toolset_" in kind else OWN_TOOL_TOKENS_BOUND


def _add_message(count: InputCount, message: Mapping[str, Any], media: MediaRule) -> None:
    count.open_message()
    for name, value in message.items():
        if name == "content":
            _add_content(count, value, media, name)
        elif name != "role":
            count.add_plain(value)


def _add_content(count: InputCount, content: object, media: MediaRule, name: str) -> None:
    if isinstance(content, str):
        count.add_text(content)
    elif isinstance(content, list):
        for block in content:
            _add_block(count, block, media)
    elif content is not None:
        raise wrong(name, "a string or a list of blocks")


def _add_block(count: InputCount, block: object, media: MediaRule) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(kind, str):
        raise wrong("content", "a string or a list of blocks that each name their type")
    if kind == "image":
        source = block.get("source")
        count.add_tokens(_media_tokens(source.get("type") if isinstance(source, dict) else None, media.image_tokens, media))
    elif kind == "document":
        _add_document(count, block, media)
    elif kind in _BLOCK_TYPES or kind.endswith(_BLOCK_TYPE_ENDINGS):
        # A thinking block's signature counts as well: where its text is left out, the signature holds all of it, encrypted.
        for name, value in block.items():
            if name == "content":
                _add_inner(count, value, media)
            elif name not in _NOT_PROMPT_IN_BLOCK:
                count.add_plain(value)
    else:
        raise not_priced(f"Content of type {kind[:64]!r} cannot be used.")


def _add_inner(count: InputCount, content: object, media: MediaRule) -> None:
    """The content of a block, which may also be a single block."""
    if isinstance(content, dict):
        _add_block(count, content, media)
    else:
        _add_content(count, content, media, "content")


def _add_document(count: InputCount, block: Mapping[str, Any], media: MediaRule) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or not isinstance(kind, str):
        raise wrong("source", "an object that names its type")
    if kind == "text":
        count.add_plain(source.get("data"))
    elif kind == "content":
        _add_content(count, source.get("content"), media, "content")
    else:
        count.add_tokens(_media_tokens(kind, media.file_tokens, media))
    for name, value in block.items():
        if name != "source" and name not in _NOT_PROMPT_IN_BLOCK:
            count.add_plain(value)


def _media_tokens(source_type: object, tokens: int, media: MediaRule) -> int:
    """What an image or document counts that is sent along or fetched from a URL; by its id it is one that the upstream keeps."""
    if source_type != "file":
        return tokens
    if media.stored_tokens is None:
        raise not_priced("A file that is stored at the upstream cannot be used: it adds input that cannot be seen here.")
    return media.stored_tokens
