"""The input of a Gemini request, counted: contents, instructions, tools, schemas, media.

A member nobody here knows counts by its bytes, since it may well become prompt text. Google reads every member under two names, as
`camelCase` and as `snake_case`, and one object where a list is due; so does this. Fields: ai.google.dev/api/generate-content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.members import not_priced, wrong
from proxy.errors import Refusal

_NOT_PROMPT = frozenset({"model", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}) | {
    *("safetySettings", "store", "labels", "serviceTier", "cachedContent", "continuationToken")
}
_NOT_PROMPT_IN_CONFIG = frozenset(
    {"stopSequences", "responseMimeType", "responseModalities", "speechConfig", "imageConfig", "thinkingConfig", "mediaResolution"}
)
_NOT_PROMPT_IN_PART = frozenset({"thought", "videoMetadata", "mediaResolution"})
_NOT_PROMPT_IN_EMBEDDING = frozenset({"model", "content", "taskType", "outputDimensionality"})
_STORED = ("cachedContent", "continuationToken")


def camel(name: str) -> str:
    """A member's name in camelCase, in whichever of the two ways it is spelt."""
    if "_" not in name:
        return name
    first, *others = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in others)


def named(value: object, name: str) -> dict[str, Any]:
    """An object's members under their names in camelCase. Raises Refusal invalid_request: no object, or one member under both names."""
    if not isinstance(value, dict):
        raise wrong(name, "an object")
    members: dict[str, Any] = {}
    for own, member in value.items():
        if (spelt := camel(own)) in members:
            raise Refusal("invalid_request", f"{name!r} names {spelt[:64]!r} in two spellings.", hint="Name each member once.")
        members[spelt] = member
    return members


def listed(value: object, name: str) -> Sequence[object]:
    """The elements of a member that is a list, one object, or absent. Raises Refusal: invalid_request."""
    if value is None:
        return ()
    if isinstance(value, dict):
        return (value,)
    if not isinstance(value, list):
        raise wrong(name, "a list of objects")
    return value


def config_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The members of `generationConfig`; none where it is absent. Raises Refusal: invalid_request."""
    config = request.get("generationConfig")
    return {} if config is None else named(config, "generationConfig")


def add_prompt(count: InputCount, request: Mapping[str, Any], media: MediaRule) -> None:
    """Count all that a request to generate puts before the model. Raises Refusal: invalid_request."""
    contents = listed(request.get("contents"), "contents")
    if not contents:
        raise wrong("contents", "a list of at least one content")
    for content in contents:
        count.open_message()
        _add_content(count, content, "contents", media)
    if request.get("systemInstruction") is not None:
        count.open_message()
        _add_content(count, request["systemInstruction"], "systemInstruction", media)
    for tool in listed(request.get("tools"), "tools"):
        _add_tool(count, tool)
    for name in _STORED:
        if request.get(name) is not None:
            _add_stored(count, name, media)
    _add_others(count, config_of(request), known=_NOT_PROMPT_IN_CONFIG)
    _add_others(count, request, known=_NOT_PROMPT)
    count.open_reply()


def add_embedding(count: InputCount, request: Mapping[str, Any], media: MediaRule) -> None:
    """Count what one embedding is made of. Raises Refusal: invalid_request."""
    count.open_prompt()
    _add_content(count, request.get("content"), "content", media)
    _add_others(count, request, known=_NOT_PROMPT_IN_EMBEDDING)


def _add_content(count: InputCount, content: object, name: str, media: MediaRule) -> None:
    members = named(content, name)
    for part in listed(members.get("parts"), "parts"):
        _add_part(count, part, media)
    _add_others(count, members, known=("role", "parts"))


def _add_part(count: InputCount, part: object, media: MediaRule) -> None:
    for name, value in named(part, "parts").items():
        if value is None or name in _NOT_PROMPT_IN_PART:
            continue
        if name == "inlineData":
            _add_inline(count, named(value, name), media)
        elif name == "fileData":
            _add_file(count, named(value, name), media)
        elif name == "functionResponse":
            _add_function_response(count, named(value, name), media)
        else:
            _add_plain(count, value)


def _add_function_response(count: InputCount, response: dict[str, Any], media: MediaRule) -> None:
    for part in listed(response.pop("parts", None), "parts"):
        _add_part(count, part, media)
    count.add_json(response)


def _add_inline(count: InputCount, blob: Mapping[str, Any], media: MediaRule) -> None:
    tokens = _media_tokens(blob, media)
    if tokens is None:
        _add_plain(count, blob.get("data"))  # a text in base64, and so a little longer than it is
    else:
        count.add_tokens(tokens)


def _add_file(count: InputCount, file: Mapping[str, Any], media: MediaRule) -> None:
    tokens = _media_tokens(file, media)
    if tokens is None:
        _add_stored(count, "fileData of another type than image, audio, video or PDF", media)
    else:
        count.add_tokens(tokens)


def _media_tokens(blob: Mapping[str, Any], media: MediaRule) -> int | None:
    """The operator's rule for a medium by its type; None where it is a text, or may be one."""
    media_type = blob.get("mimeType")
    if not isinstance(media_type, str):
        return None
    kind = media_type.partition("/")[0].lower()
    if kind == "image":
        return media.image_tokens
    if kind == "audio":
        return media.audio_tokens
    return media.file_tokens if kind == "video" or media_type.lower() == "application/pdf" else None


def _add_stored(count: InputCount, name: str, media: MediaRule) -> None:
    if media.stored_tokens is None:
        raise not_priced(f"{name} cannot be used: it adds input that cannot be seen here.")
    count.add_tokens(media.stored_tokens)


def _add_tool(count: InputCount, tool: object) -> None:
    for name, value in named(tool, "tools").items():
        if name == "functionDeclarations":
            _add_plain(count, value)
        elif value is not None:
            raise not_priced(f"The tool {name[:64]!r} cannot be used: it has a cost of its own or adds input that cannot be seen here.")


def _add_others(count: InputCount, members: Mapping[str, Any], *, known: frozenset[str] | Sequence[str]) -> None:
    for name, value in members.items():
        if name not in known:
            _add_plain(count, value)


def _add_plain(count: InputCount, value: object) -> None:
    if isinstance(value, str):
        count.add_text(value)
    elif isinstance(value, (dict, list)) and value:
        count.add_json(value)
