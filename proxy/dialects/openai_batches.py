"""OpenAI's batches: the requests that an uploaded file holds, a batch as its upstream describes it, the lines of its output.

A file of requests is read as strictly as each of its requests would be, since the upstream carries them all out once the batch begins.
Knows neither budgets nor whose a file is. Fields: github.com/openai/openai-openapi, and the guide to batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.dialects import openai_text
from proxy.dialects.counting import tokens_in
from proxy.dialects.document import encode, lenient_decoder, members_of, read_object
from proxy.dialects.members import not_priced, wrong
from proxy.dialects.multipart import read_form
from proxy.domain import Answer, Call
from proxy.errors import Refusal

URLS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"})
"""Where the requests of a batch may go."""
LINES_MAX = 50_000
"""OpenAI's own bound."""
CUSTOM_ID_LENGTH_MAX = 512
_FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_LINE_MEMBERS = frozenset({"custom_id", "method", "url", "body"})
_CREATION_MEMBERS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})
_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+~-]{0,127}")


# --- what is uploaded ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a file."""

    number: int
    """From 1 on."""
    url: str
    body: bytes


def read_upload(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The content of a file that is uploaded for a batch. Raises Refusal: invalid_request."""
    form = read_form(body, headers)
    texts = form.texts
    if texts.get("purpose") != "batch":
        raise Refusal(
            "invalid_request",
            "Only files for batches can be uploaded here: others are input to later requests, which could not see what it costs.",
            hint='Upload with purpose="batch", or send the content with the request itself.',
        )
    for name in texts.keys() - _FIELDS:
        raise not_priced(f"The field {name[:64]!r} is not known here.")
    files = form.files("file")
    if len(files) != 1 or set(form.file_names) != {"file"}:
        raise wrong("file", "the one file of the form")
    return bytes(files[0])


def read_lines(content: bytes) -> Iterator[BatchLine]:
    """The requests of a file, all to one address. Raises Refusal invalid_request, which names the line."""
    names: set[str] = set()
    url = ""
    for number, text in enumerate(content.split(b"\n"), start=1):
        text = text.removesuffix(b"\r")
        if not text:
            continue
        if len(names) == LINES_MAX:
            raise Refusal("invalid_request", f"The file has more than {LINES_MAX} lines.", hint="Divide it into several batches.")
        with_line = f"Line {number} of the file: "
        try:
            name, line = _read_line(number, text)
        except Refusal as refusal:
            raise Refusal(refusal.code, with_line + refusal.message, hint=refusal.hint) from None
        if name in names:
            raise Refusal("invalid_request", f"{with_line}the custom_id {name[:64]!r} was there before.", hint="Name each request once.")
        if line.url != (url := url or line.url):
            raise Refusal("invalid_request", f"{with_line}it goes to {line.url}, others to {url}.", hint="Make a file for each.")
        names.add(name)
        yield line
    if not names:
        raise Refusal("invalid_request", "The file holds no request.", hint="Write one JSON object on each line.")


def _read_line(number: int, text: bytes) -> tuple[str, BatchLine]:
    if b"\r" in text:  # some readers would begin another line there
        raise Refusal("invalid_request", "it holds a carriage return.", hint="End lines with a line feed.")
    document = read_object(text)
    for unknown in document.keys() - _LINE_MEMBERS:
        raise not_priced(f"{unknown[:64]!r} is not known here.")
    name, url = document.get("custom_id"), document.get("url")
    if not isinstance(name, str) or not 1 <= len(name) <= CUSTOM_ID_LENGTH_MAX:
        raise wrong("custom_id", f"a name of at most {CUSTOM_ID_LENGTH_MAX} characters")
    if document.get("method") != "POST":
        raise wrong("method", "POST")
    if not isinstance(url, str) or url not in URLS:
        raise wrong("url", f"one of {', '.join(sorted(URLS))}")
    if not isinstance(document.get("body"), dict):
        raise wrong("body", "an object")
    return name, BatchLine(number, url, bytes(members_of(text)["body"]))


def check_in_batch(call: Call) -> None:
    """See that a request can be one of a batch. Raises Refusal: invalid_request."""
    if call.stream:
        raise Refusal("invalid_request", "'stream' cannot be used in a batch.", hint="Leave it out; answers come in the output file.")
    if call.units.tool_use:
        raise not_priced("The upstream's own tools cannot be used in a batch.")


# --- what is begun -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Creation:
    """What is asked of a new batch."""

    input_file_id: str
    endpoint: str


def read_creation(body: bytes) -> Creation:
    """What a batch is to be made of. Raises Refusal: invalid_request."""
    document = read_object(body)
    for unknown in document.keys() - _CREATION_MEMBERS:
        raise not_priced(f"{unknown[:64]!r} is not known here.")
    file_id, endpoint = document.get("input_file_id"), document.get("endpoint")
    if not isinstance(file_id, str) or not _ID.fullmatch(file_id):
        raise wrong("input_file_id", "the id of an uploaded file")
    if not isinstance(endpoint, str):
        raise wrong("endpoint", "the address that the file's requests go to")
    return Creation(file_id, endpoint)


# --- what the upstream says ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its upstream describes it."""

    id: str
    input_file_id: str
    has_ended: bool
    has_run: bool
    """Whether any of its requests may have been carried out."""
    result_file_ids: tuple[str, ...]
    """The outputs and the errors, where there are any."""


class _Batch(msgspec.Struct):
    id: Any = None
    status: Any = None
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    request_counts: Any = None


class _Batches(msgspec.Struct):
    data: list[_Batch]
    has_more: Any = False


class _Named(msgspec.Struct):
    id: Any = None


_decode_named = lenient_decoder(_Named)
_decode_batch = lenient_decoder(_Batch)
_decode_batches = lenient_decoder(_Batches)


def read_id(body: bytes) -> str | None:
    """The id in an answer; None where it has none that could stand in a path."""
    named = _decode_named(body)
    return None if named is None else _plain_id(named.id)


def read_batch(body: bytes) -> Batch | None:
    """The batch that an answer describes; None where it describes none."""
    described = _decode_batch(body)
    return None if described is None else _batch(described)


def read_batches(body: bytes) -> tuple[list[Batch], bool] | None:
    """The batches of a page of the upstream's list, and whether there are more pages; None where it cannot be read."""
    page = _decode_batches(body)
    if page is None:
        return None
    return [batch for described in page.data if (batch := _batch(described)) is not None], page.has_more is True


def _batch(described: _Batch) -> Batch | None:
    batch_id = _plain_id(described.id)
    if batch_id is None or not isinstance(described.status, str):
        return None
    results = (_plain_id(described.output_file_id), _plain_id(described.error_file_id))
    counts = described.request_counts
    completed = counts.get("completed") if isinstance(counts, dict) else None if described.status != "failed" else 0
    return Batch(
        id=batch_id,
        input_file_id=_plain_id(described.input_file_id) or "",
        has_ended=described.status in _ENDED,
        has_run=completed != 0,
        result_file_ids=tuple(result for result in results if result is not None),
    )


def _plain_id(value: object) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


# --- what it wrote -------------------------------------------------------------------------------------------------------------------


class _Response(msgspec.Struct):
    status_code: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _OutputLine(msgspec.Struct):
    response: _Response | None = None


class _OddResponse(msgspec.Struct):
    status_code: Any = None
    body: Any = None


class _OddLine(msgspec.Struct):
    response: _OddResponse | None = None


_decode_line = msgspec.json.Decoder(_OutputLine).decode
_decode_odd_line = lenient_decoder(_OddLine)


def read_output_line(call: Call, line: bytes) -> Answer | None:
    """What one line of a batch's output used and holds; None where its request failed and used nothing.

    `call` stands for any of the batch's requests. A line that cannot be read counts by its bytes.
    """
    try:
        response = _decode_line(line).response
        status, body = (None, b"") if response is None else (response.status_code, bytes(response.body))
    except (ValueError, RecursionError):
        odd = _decode_odd_line(line)
        if odd is None:
            return Answer(None, output_tokens_of(call, len(line)))
        status, body = (None, b"") if odd.response is None else (odd.response.status_code, _encoded(odd.response.body))
    if not body:
        return None
    answer = openai_text.read_answer(call, body, "application/json")
    failed = type(status) is int and status >= 400
    return None if failed and answer.usage is None else answer


def output_tokens_of(call: Call, size_bytes: int) -> int:
    """What is counted for so much output that cannot be read."""
    return 0 if call.operation == "embeddings" else tokens_in(size_bytes)


def _encoded(body: object) -> bytes:
    try:
        return encode(body)
    except UnicodeEncodeError:  # halves of surrogate pairs, which some servers send
        return json.dumps(body).encode()
