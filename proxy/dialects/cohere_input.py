"""The input of a Cohere request, counted: messages and documents, texts and images to embed, documents to rank.

What a member means decides how it counts; a member nobody here knows counts by its bytes, since a server may well put it into the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proxy.dialects.counting import InputCount, MediaRule, size_bytes, tokens_in
from proxy.dialects.members import not_priced, objects, wrong
from proxy.errors import Refusal

INPUTS_MAX = 2048
DOCUMENTS_MAX = 10_000

DOCUMENTS_PER_SEARCH_UNIT = 100
CHUNK_TOKENS = 500
"""A document longer than this, together with the query, is ranked in chunks, and each counts as a document (cohere.com/pricing)."""
CHUNK_DOCUMENT_TOKENS_MIN = 250
"""However long the query, about half of a chunk is left to the document."""

_NOT_PROMPT = frozenset(
    {
        *("model", "stream", "citation_options", "safety_mode", "stop_sequences", "tool_choice", "thinking", "input_type"),
        *("embedding_types", "truncate", "relevant_spans", "role", "tool_call_id"),
    }
)
"""Members, of requests and of messages, whose strings never become prompt text."""


def add_messages(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> None:
    """Count a conversation and all that comes with it. Raises Refusal: invalid_request."""
    messages = objects(document, "messages")
    if not messages:
        raise wrong("messages", "a list of at least one message")
    for message in messages:
        count.open_message()
        for name, value in message.items():
            if name == "content":
                _add_content(count, value, media)
            elif name not in _NOT_PROMPT:
                count.add_plain(value)
    count.open_reply()
    _add_others(count, document, {"messages"})


def _add_content(count: InputCount, content: object, media: MediaRule) -> None:
    if isinstance(content, str):
        count.add_text(content)
    elif isinstance(content, list):
        for part in content:
            _add_part(count, part, media)
    elif content is not None:
        raise wrong("content", "a string or a list of parts")


def _add_part(count: InputCount, part: object, media: MediaRule) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise wrong("content", "a list of parts that each name their type")
    if kind == "image_url":
        count.add_tokens(media.image_tokens)
    elif kind in ("text", "thinking", "document"):
        for name, value in part.items():
            if name != "type":
                count.add_plain(value)
    else:
        raise not_priced(f"Content of type {kind[:64]!r} cannot be used.")


def add_embedded(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> int:
    """Count what is to be embedded; how many images are among it. Raises Refusal: invalid_request."""
    texts = _strings(document, "texts")
    images = len(_strings(document, "images"))
    for text in texts:
        count.open_prompt()
        count.add_text(text)
    count.add_tokens(images * media.image_tokens)
    inputs = objects(document, "inputs")
    parts = [part for one in inputs for part in objects(one, "content")]
    for part in parts:
        count.open_prompt()
        _add_part(count, part, media)
    if len(texts) + images + len(inputs) > INPUTS_MAX:
        raise Refusal("invalid_request", f"More than {INPUTS_MAX} inputs are too many.", hint="Send them in several requests.")
    _add_others(count, document, {"texts", "images", "inputs"})
    return images + sum(1 for part in parts if part["type"] == "image_url")


def add_ranked(count: InputCount, document: Mapping[str, Any]) -> int:
    """Count the documents to rank, each together with the query; the search units that they make at most.

    Raises Refusal: invalid_request.
    """
    query = document.get("query")
    if not isinstance(query, str):
        raise wrong("query", "a string")
    documents = document.get("documents")
    if not isinstance(documents, list) or not documents or not all(isinstance(one, (str, dict)) for one in documents):
        raise wrong("documents", "a list of at least one text or object")
    if len(documents) > DOCUMENTS_MAX:
        raise Refusal("invalid_request", f"{len(documents)} documents are more than {DOCUMENTS_MAX}.", hint="Send fewer.")
    query_bytes = size_bytes(query)
    count.bound += len(documents) * query_bytes
    count.counted += len(documents) * tokens_in(query_bytes)
    room_tokens = max(CHUNK_DOCUMENT_TOKENS_MIN, CHUNK_TOKENS - query_bytes)
    chunks = 0
    for one in documents:
        count.open_prompt()
        count.add_plain(one)
        size = size_bytes(one) if isinstance(one, str) else len(msgspec.json.encode(one))
        chunks += max(1, -(-size // room_tokens))
    _add_others(count, document, {"query", "documents"})
    return -(-chunks // DOCUMENTS_PER_SEARCH_UNIT)


def _add_others(count: InputCount, document: Mapping[str, Any], counted: set[str]) -> None:
    for name, value in document.items():
        if name not in counted and name not in _NOT_PROMPT:
            count.add_plain(value)


def _strings(document: Mapping[str, Any], name: str) -> Sequence[str]:
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise wrong(name, "a list of strings")
    return value
