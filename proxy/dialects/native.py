"""The requests of inference servers' own APIs, as far as these have a form in common.

Prompts are text, token ids or lists of either; no model is named and none is listed; a maximum stands among the other settings. Knows no
server: each has a module of its own, which says what its members mean. What servers answer is read in `native_answers`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import msgspec

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import edit_members, members_of
from proxy.dialects.listing import Listing
from proxy.dialects.members import wrong
from proxy.dialects.protocol import Changes, Operation, Reader, Request
from proxy.domain import Answer, Call
from proxy.errors import Expected, Refusal

PROMPTS_MAX = 2048
CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 100_000_000

_NEEDS_INPUT = (("input",),)
_PROMPT = "text, a list of token ids, or a list of such prompts"


class Native(ABC):
    """A server's own API; it has no state, so one serves all."""

    name: str
    operations: Sequence[Operation]
    listing: Listing | None = None

    @abstractmethod
    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""

    @abstractmethod
    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""

    @abstractmethod
    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""

    @abstractmethod
    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `compute_ledger` among them."""

    def lowered(self, members: Mapping[str, msgspec.Raw], most: int) -> Mapping[str, bytes]:
        """The members to change so that no answer is longer than `most` tokens; none where the API has no maximum."""
        return {}

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        most = changes.output_tokens_max
        if most is None or (call.output_tokens_max is not None and call.output_tokens_max <= most):
            return None
        edits = self.lowered(members_of(request.body), most)
        return edit_members(request.body, edits) if edits else None

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(self.error_members(refusal, status=status)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "Authorization", f"Bearer {api_key}"

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The models that a caller may use, for the sake of completeness: no operation asks for them."""
        return json.dumps({"models": list(models)}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One of them."""
        return json.dumps({"model": model}).encode()


def free_call(request: Request, model: str = "") -> Call:
    """What a free operation asks for: nothing that is counted."""
    return call_without_output(request, model, InputCount())


def call_without_output(request: Request, model: str, count: InputCount, *, reports_usage: bool = True) -> Call:
    """What an operation asks for that reads and does not write: vectors, scores."""
    return Call(
        operation=request.operation.name,
        model=model,
        stream=False,
        choices=1,
        output_tokens_max=0,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        needs=_NEEDS_INPUT,
        reports_usage=reports_usage,
    )


def add_prompts(
    count: InputCount, value: object, name: str, *, add_object: Callable[[InputCount, Mapping[str, Any]], None] | None = None
) -> int:
    """Count prompts; how many they are. A list with a token id in it is one prompt, of ids and text; any other is a list of prompts.

    `add_object` counts prompts that are objects, where the API has them. Raises Refusal: invalid_request.
    """
    prompts = 0
    pending = [value]
    while pending:
        prompt = pending.pop()
        if isinstance(prompt, list) and prompt and not any(type(element) is int for element in prompt):
            pending += prompt
            continue
        prompts += 1
        count.open_prompt()
        if isinstance(prompt, dict) and add_object is not None:
            add_object(count, prompt)
        else:
            _add_prompt(count, prompt, name)
    if prompts > PROMPTS_MAX:
        raise Refusal("invalid_request", f"{prompts} prompts are more than {PROMPTS_MAX}.", hint="Send them in several requests.")
    return prompts


def _add_prompt(count: InputCount, prompt: object, name: str) -> None:
    if isinstance(prompt, str):
        count.add_text(prompt)
    elif isinstance(prompt, list) and prompt and set(map(type, prompt)) <= {int, str}:  # by type, for a bool is no token
        texts = [element for element in prompt if isinstance(element, str)]
        count.add_tokens(len(prompt) - len(texts))
        for text in texts:
            count.open_prompt()  # a tokenizer may begin each text anew
            count.add_text(text)
    else:
        raise wrong(name, _PROMPT)


def add_pairs(count: InputCount, document: Mapping[str, Any], texts_name: str) -> None:
    """Count what a reranker reads: the query once more with every text. Raises Refusal: invalid_request."""
    query, texts = document.get("query"), document.get(texts_name)
    if not isinstance(query, str):
        raise wrong("query", "text")
    if not isinstance(texts, list) or not texts:
        raise wrong(texts_name, "a list of texts")
    alone = InputCount()
    alone.add_text(query)
    for text in texts:
        count.open_prompt()
        if isinstance(text, str):
            count.add_text(text)
        elif isinstance(text, dict):
            count.add_json(text)
        else:
            raise wrong(texts_name, "a list of texts")
    count.bound += alone.bound * len(texts)
    count.counted += alone.counted * len(texts)


def add_others(count: InputCount, document: Mapping[str, Any], *, but: Container[str]) -> None:
    """Count by its bytes every member that nobody here knows, since the server may well put it into the prompt."""
    for name, value in document.items():
        if name in but:
            continue
        if isinstance(value, str):
            count.add_text(value)
        elif isinstance(value, (dict, list)) and value:
            count.add_json(value)


def flag(document: Mapping[str, Any], name: str) -> bool:
    """A member that is true or false; false where it is absent. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, "true or false")
    return bool(value)


def settings(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object, or absent. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is not None and not isinstance(value, dict):
        raise wrong(name, "an object")
    return value or {}


def whole_from_zero(document: Mapping[str, Any], name: str) -> int | None:
    """A maximum of output, 0 allowed, or None where it is absent. Raises Refusal: invalid_request."""
    value = document.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= OUTPUT_TOKENS_MAX):
        raise wrong(name, f"a whole number from 0 to {OUTPUT_TOKENS_MAX}")
    return value


def lower_maxima(members: Mapping[str, msgspec.Raw], names: Sequence[str], most: int, *, default: int | None = None) -> dict[str, bytes]:
    """The maxima by these names that must be lowered, each negative one (no limit) among them; the first is added where none is named.

    What is added is never above the API's own default: a caller must not get more because the budget is low.
    """
    named = {name: int(bytes(value)) for name in names if (value := members.get(name)) is not None and bytes(value) != b"null"}
    if named:
        return {name: b"%d" % most for name, value in named.items() if not 0 <= value <= most}
    return {names[0]: b"%d" % (most if default is None else min(most, default))}
