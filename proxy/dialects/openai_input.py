"""The input of an OpenAI request, counted: messages, prompts, items, tools, media.

What a member means decides how it counts; a member nobody here knows counts by its bytes, since a server may well put it into the prompt.
Parts and items that stand for input stored elsewhere are refused: nothing here can bound them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeGuard

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.members import not_priced, objects, wrong
from proxy.dialects.openai_hosted import ITEMS, item_kind
from proxy.errors import Refusal

NOT_PROMPT = frozenset(
    {
        *("model", "stream", "stream_options", "user", "metadata", "store", "seed", "stop", "logit_bias", "tool_choice", "function_call"),
        *("modalities", "audio", "reasoning_effort", "reasoning", "verbosity", "service_tier", "safety_identifier", "truncation"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "include", "encoding_format", "image", "grammar"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "thinking"),
        *("access_programs", "background_options", "samplers", "ignore_eos", "bad_words", "stop_token_ids"),
    }
)
"""Top-level members whose strings never become prompt text."""

_NOT_PROMPT_IN_ITEM = frozenset({"role", "type", "id", "status"})
_ITEM_TYPES = (
    *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning"),
    *("local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output"),
)


def add_input(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> int:
    """Count all input of a request; how many prompts it holds. Raises Refusal: invalid_request."""
    prompts = 1
    if operation == "chat" or (operation == "embeddings" and document.get("messages") is not None):  # vLLM embeds chats, for their media
        add_messages(count, document, media)
        main = "messages"
    elif operation == "responses":
        _add_items(count, document, media)
        main = "input"
    else:
        main = "input" if operation == "embeddings" else "prompt"
        prompts = add_prompts(count, document.get(main), main)
    for name in ("instructions", "suffix"):
        if not isinstance(document.get(name, ""), (str, NoneType)):
            raise wrong(name, "a string")
    for name, value in document.items():
        if name != main and name not in NOT_PROMPT:
            count.add_plain(value)
    return prompts if operation == "completions" else 1


def add_messages(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> None:
    """Count the messages of a chat. Raises Refusal: invalid_request."""
    messages = objects(document, "messages")
    if not messages:
        raise wrong("messages", "a list of at least one message")
    for message in messages:
        _add_message(count, message, media)
    count.open_reply()


def _add_message(count: InputCount, message: Mapping[str, Any], media: MediaRule) -> None:
    count.open_message()
    for name, value in message.items():
        if name == "content":
            add_content(count, value, media)
        elif name == "audio" and value is not None:
            count.add_tokens(media.audio_tokens)  # an earlier spoken answer, by reference
        elif name not in _NOT_PROMPT_IN_ITEM:
            count.add_plain(value)


def add_content(count: InputCount, content: object, media: MediaRule) -> None:
    """Count a text, or a list of parts. Raises Refusal: invalid_request."""
    if isinstance(content, str):
        count.add_text(content)
    elif isinstance(content, list):
        for part in content:
            _add_part(count, part, media)
    elif content is not None:
        raise wrong("content", "a string or a list of parts")


def _add_part(count: InputCount, part: object, media: MediaRule) -> None:
    if isinstance(part, str):
        count.add_text(part)
        return
    if not isinstance(part, dict):
        raise wrong("content", "a string or a list of parts")
    kind = part.get("type")
    if kind is None:
        kind = " ".join(part) or None  # some servers take a member for the type, and media before text
    if not isinstance(kind, str):
        raise wrong("content", "a list of parts that each name their type")
    tokens = _media_tokens(kind, media)
    if tokens is not None:
        count.add_tokens(tokens)
        count.add_plain(part.get("text"))  # no part of this API, but a template may write it beside the medium
    elif "text" in kind or kind in ("refusal", "thinking", "reasoning"):
        for name, value in part.items():
            if name != "type":
                count.add_plain(value)
    else:
        raise not_priced(f"Content of type {kind[:64]!r} cannot be used.")


def _media_tokens(kind: str, media: MediaRule) -> int | None:
    """The operator's rule for parts of a type; None where it is none of media."""
    if "image" in kind:
        return media.image_tokens
    if "audio" in kind:
        return media.audio_tokens
    return media.file_tokens if "video" in kind or "file" in kind or "document" in kind else None


def _add_items(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> None:
    items = document.get("input")
    if isinstance(items, str):
        count.open_message()
        count.add_text(items)
    else:
        for item in objects(document, "input"):
            _add_item(count, item, media)
    count.open_reply()


def _add_item(count: InputCount, item: Mapping[str, Any], media: MediaRule) -> None:
    kind = item_kind(item)
    if kind == "message":
        _add_message(count, item, media)
    elif kind in _ITEM_TYPES:
        count.open_message()
        for name, value in item.items():
            if name == "output":
                add_content(count, value, media)
            elif name not in _NOT_PROMPT_IN_ITEM:
                count.add_plain(value)
    elif kind in ITEMS and media.stored_tokens is not None:
        count.open_message()
        count.add_plain(item)
    else:
        raise Refusal(
            "invalid_request",
            f"Items of type {kind[:64]!r} cannot be used: what they stand for is stored elsewhere or has a cost of its own.",
            hint="Send the messages, tool calls and tool results themselves"
            + ("; or the operator sets stored_tokens, a bound for what is stored, on the [[upstream]]." if kind in ITEMS else "."),
        )


def add_prompts(count: InputCount, value: object, name: str) -> int:
    """Count one or several prompts, in text or token ids; how many they are. Raises Refusal: invalid_request."""
    if isinstance(value, str):
        _add_prompt(count, value, name)
        return 1
    if not isinstance(value, list) or not value:
        raise wrong(name, "a string, a list of strings, a list of token ids, or a list of such lists")
    if _is_token_ids(value):
        _add_prompt(count, value, name)
        return 1
    for prompt in value:
        _add_prompt(count, prompt, name)
    return len(value)


def _add_prompt(count: InputCount, prompt: object, name: str) -> None:
    count.open_prompt()
    if isinstance(prompt, str):
        count.add_text(prompt)
    elif _is_token_ids(prompt):
        count.add_tokens(len(prompt))
    else:
        raise wrong(name, "a string, a list of strings, a list of token ids, or a list of such lists")


def _is_token_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and set(map(type, value)) == {int}  # by type, for a bool is no token
