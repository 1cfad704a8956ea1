"""Gemini requests: what they ask for, what they may cost, and the body to forward instead.

The model stands in the path; where a body repeats it, it must be the same one. Refuses what cannot be read, and what costs in ways that
the price book does not know or that the request hides. `maxOutputTokens` bounds thoughts and answer together (googleapis/python-genai
issue 2062); a thinking budget is a wish beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.gemini_input import add_embedding, add_prompt, camel, config_of, named
from proxy.dialects.members import not_priced, objects, whole, wrong
from proxy.dialects.protocol import Changes, Request
from proxy.domain import Call
from proxy.errors import Refusal

CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 100_000_000
PROMPTS_MAX = 2048
MODEL_PREFIX = "models/"

_FORM = re.compile(r"(json|sse)(?:;enum-encoding=int)?")
_FORM_PARAMETERS = ("alt", "$alt")
GENERATING = ("generate_content", "stream_generate_content")
_REFUSED_HEADERS = {
    "x-goog-fieldmask": "it leaves the usage out of the answer",
    "x-http-method-override": "it makes another request of this one",
}
_OTHER_MODEL = ("routingConfig", "modelConfig", "modelSelectionConfig")
_STANDARD_TIERS = ("", "unspecified", "standard")

_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    operation = request.operation
    _check_form(request)
    document = named(read_object(request.body), "the body")
    for name in _models_named(operation.name, document):
        if not isinstance(name, str) or name.removeprefix(MODEL_PREFIX) != request.model:
            raise Refusal("invalid_request", "The body names another model than the path.", hint="Leave 'model' out, or repeat the path's.")
    count = InputCount(media)
    config: Mapping[str, Any] = {}
    if operation.output == "tokens":
        config = config_of(document)
        _check_bounded(document, config)
        add_prompt(count, document, media)
    elif not operation.free:
        _add_embeddings(count, operation.name, document, media)
    return Call(
        operation=operation.name,
        model=request.model or "",
        stream=operation.name == "stream_generate_content",
        choices=whole(config, "candidateCount", CHOICES_MAX) or 1,
        output_tokens_max=whole(config, "maxOutputTokens", OUTPUT_TOKENS_MAX) if operation.output == "tokens" else 0,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        wants_usage=True,
        needs=(("input", "output"),) if operation.output == "tokens" else (("input",),),
    )


def rewrite(call: Call, body: bytes, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes."""
    edits: dict[str, bytes] = {}
    members = members_of(body)
    maximum = changes.output_tokens_max
    if maximum is not None and (call.output_tokens_max is None or call.output_tokens_max > maximum):
        config = _spelt(members, "generationConfig")
        edits[config] = _with_member(members.get(config), "maxOutputTokens", b"%d" % maximum)
    if changes.model is not None:
        edits |= _renamed(call.operation, members, encode(MODEL_PREFIX + changes.model))
    return edit_members(body, edits) if edits else None


def _check_form(request: Request) -> None:
    """Refuse what would give the answer another form than the two that are read here."""
    forms = [form for name in _FORM_PARAMETERS if (form := request.query.get(name)) is not None]
    for form in forms:
        known = _FORM.fullmatch(form)
        if known is None or len(forms) > 1 or (known[1] == "sse" and request.operation.name not in GENERATING):
            raise Refusal("invalid_request", f"An answer in the form {form[:64]!r} cannot be read here.", hint="Ask for json or sse.")
    for name in request.headers:
        reason = _REFUSED_HEADERS.get(name.lower())
        if reason is not None:
            raise Refusal("invalid_request", f"The header {name} cannot be used: {reason}.", hint="Leave it out.")


def _check_bounded(document: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse what would cost more than the request lets us see."""
    for name in _OTHER_MODEL:
        if config.get(name) is not None:
            raise not_priced(f"{name!r} cannot be used: another model than the one priced may answer.")
    tier = document.get("serviceTier")
    if tier is not None and (not isinstance(tier, str) or tier.lower().removeprefix("service_tier_") not in _STANDARD_TIERS):
        raise not_priced("A 'serviceTier' other than standard cannot be used: it has prices of its own.")


def _add_embeddings(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> None:
    if operation == "embed_content":
        add_embedding(count, document, media)
        return
    requests = objects(document, "requests")
    if not requests:
        raise wrong("requests", "a list of at least one request")
    if len(requests) > PROMPTS_MAX:
        raise Refusal("invalid_request", f"{len(requests)} prompts are more than {PROMPTS_MAX}.", hint="Send them in several requests.")
    for request in requests:
        add_embedding(count, named(request, "requests"), media)


def _models_named(operation: str, document: Mapping[str, Any]) -> Iterator[object]:
    """Each model that a body names, wherever a body of this kind can."""
    inner: list[object] = [document]
    if operation == "batch_embed_contents":
        inner += objects(document, "requests")
    elif operation == "count_tokens" and document.get("generateContentRequest") is not None:
        inner.append(named(document["generateContentRequest"], "generateContentRequest"))
    for members in inner:
        if isinstance(members, dict) and members.get("model") is not None:
            yield members["model"]


def _renamed(operation: str, members: Mapping[str, msgspec.Raw], model: bytes) -> dict[str, bytes]:
    """The members that hold a model's name, each with another name in its place."""
    edits: dict[str, bytes] = {}
    for own, value in members.items():
        name = camel(own)
        if name == "model":
            edits[own] = model
        elif name == "generateContentRequest" and operation == "count_tokens":
            edits[own] = _with_model(value, model)
        elif name == "requests" and operation == "batch_embed_contents":
            edits[own] = b"[" + b",".join(_with_model(request, model) for request in _decode_elements(value)) + b"]"
    return edits


def _with_model(value: msgspec.Raw, model: bytes) -> bytes:
    inner = bytes(value)
    return edit_members(inner, {"model": model}) if inner != b"null" and "model" in members_of(inner) else inner


def _with_member(value: msgspec.Raw | None, name: str, member: bytes) -> bytes:
    inner = b"{}" if value is None or bytes(value) == b"null" else bytes(value)
    return edit_members(inner, {_spelt(members_of(inner), name): member})


def _spelt(members: Mapping[str, object], name: str) -> str:
    """A member's name as an object spells it."""
    return next((own for own in members if camel(own) == name), name)
