"""Requests of the Gemini dialect: what they ask for, how much they may cost, which are refused, and what is forwarded instead."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.domain import Call
from proxy.errors import Refusal

GEMINI = DIALECTS["gemini"]
PATHS = Paths([GEMINI])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
STORED = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000, stored_tokens=9_000)
HELLO = {"parts": [{"text": "hi"}]}
GENERATE, STREAM, COUNT, EMBED, BATCH = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
)
MINIMAL: dict[str, dict[str, Any]] = {
    GENERATE: {"contents": [HELLO]},
    STREAM: {"contents": [HELLO]},
    COUNT: {"contents": [HELLO]},
    EMBED: {"content": HELLO},
    BATCH: {"requests": [{"model": "models/m", "content": HELLO}]},
}


def request_of(method: str, body: bytes, *, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> Request:
    found = PATHS.find("POST", f"/v1beta/models/m:{method}")
    return Request(found.operation, body, found.model, query or {}, headers or {})


def parse_body(method: str, body: bytes, media: MediaRule = MEDIA) -> Call:
    return GEMINI.parse_request(request_of(method, body), media)


def parse(method: str = GENERATE, *, media: MediaRule = MEDIA, **members: Any) -> Call:
    document = {name: value for name, value in (MINIMAL[method] | members).items() if value is not ...}
    return parse_body(method, json.dumps(document, ensure_ascii=False).encode(), media)


def refusal(method: str = GENERATE, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(method, **members)
    assert refused.value.code == "invalid_request"
    return refused.value


def rewritten(method: str, body: str, changes: Changes) -> str | None:
    request = request_of(method, body.encode())
    changed = GEMINI.rewrite(GEMINI.parse_request(request, MEDIA), request, changes)
    return None if changed is None else changed.decode()


# --- paths -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1beta", "v1", "v1alpha"])
@pytest.mark.parametrize("method", list(MINIMAL))
def test_each_version_has_every_operation_and_takes_the_model_from_the_path(version: str, method: str) -> None:
    """The colon belongs to the operation, not to the model."""
    found = PATHS.find("POST", f"/{version}/models/gemini-2.5-flash:{method}")
    assert found.model == "gemini-2.5-flash"
    assert found.operation.path_to("other") == f"/{version}/models/other:{method}"
    assert found.operation.free == (method == COUNT)
    assert {"key", "alt"} <= found.operation.query


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/models/imagen:predict",
        "/v1beta/models/veo:predictLongRunning",
        "/v1beta/models/m:batchGenerateContent",
        "/v1beta/models/m:asyncBatchEmbedContent",
        "/v1beta/files",
        "/upload/v1beta/files",
        "/v1beta/cachedContents",
        "/v1beta/tunedModels/m:generateContent",
        "/v1beta/interactions",
        "/v1beta/batches",
        "/v1beta/operations/o",
        "/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
    ],
)
def test_what_nothing_prices_is_not_served(path: str) -> None:
    """Images, videos, batches, files, caches, tuned models and Vertex are no operations of this dialect."""
    with pytest.raises(Refusal) as refused:
        PATHS.find("POST", path)
    assert refused.value.code in ("unknown_path", "method_not_allowed")


@pytest.mark.parametrize("path", ["/v1beta/models", "/v1beta/models/m"])
def test_lists_of_models_are_the_proxys_own(path: str) -> None:
    """They say what the caller may use, whatever the upstream has."""
    assert not PATHS.find("GET", path).operation.forwarded


# --- what is asked for -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "stream"), [(GENERATE, False), (STREAM, True)])
def test_a_request_to_generate_is_read(method: str, stream: bool) -> None:
    """The model of the path, and the numbers of the configuration."""
    call = parse(method, generationConfig={"maxOutputTokens": 50, "candidateCount": 3, "thinkingConfig": {"thinkingBudget": 1000}})
    assert (call.model, call.stream, call.choices, call.output_tokens_max) == ("m", stream, 3, 50)
    assert call.needs == (("input", "output"),)


@pytest.mark.parametrize("config", [..., None, {}])
def test_a_request_without_maximum_has_none(config: object) -> None:
    """One candidate, as long as the model likes."""
    call = parse(generationConfig=config)
    assert (call.choices, call.output_tokens_max) == (1, None)


@pytest.mark.parametrize(("method"), [EMBED, BATCH])
def test_embeddings_have_no_output(method: str) -> None:
    """Only their input needs a price."""
    call = parse(method)
    assert (call.output_tokens_max, call.stream, call.needs) == (0, False, (("input",),))


@pytest.mark.parametrize("config", ["generationConfig", "generation_config"])
@pytest.mark.parametrize("maximum", ["maxOutputTokens", "max_output_tokens"])
def test_members_are_read_in_both_spellings(config: str, maximum: str) -> None:
    """Google takes either, so a maximum in the other one bounds as well."""
    assert parse(**{config: {maximum: 7, "candidate_count": 2}}) == parse(generationConfig={"maxOutputTokens": 7, "candidateCount": 2})


@pytest.mark.parametrize(
    "members",
    [
        {"generationConfig": {}, "generation_config": {"maxOutputTokens": 1}},
        {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
        {"generationConfig": {"maxOutputTokens": None, "max_output_tokens": 9}},
        {"contents": [{"parts": [{"inlineData": {}, "inline_data": {}}]}]},
    ],
)
def test_a_member_in_both_spellings_is_ambiguous(members: dict[str, Any]) -> None:
    """Which of them an upstream takes, nobody can say."""
    assert "spellings" in refusal(**members).message


@pytest.mark.parametrize(
    "config",
    [
        {"maxOutputTokens": "50"},
        {"maxOutputTokens": 50.0},
        {"maxOutputTokens": 0},
        {"maxOutputTokens": -1},
        {"maxOutputTokens": True},
        {"maxOutputTokens": 10**9},
        {"candidateCount": 129},
        {"candidateCount": "2"},
        [],
        False,
        "x",
    ],
)
def test_numbers_that_bound_the_cost_are_whole(config: object) -> None:
    """What is spelt in another way might be read in another way."""
    refusal(generationConfig=config)


@pytest.mark.parametrize(
    ("method", "members"),
    [
        (GENERATE, {"contents": ...}),
        (GENERATE, {"contents": []}),
        (GENERATE, {"contents": "hi"}),
        (GENERATE, {"contents": ["hi"]}),
        (GENERATE, {"contents": [{"parts": "hi"}]}),
        (GENERATE, {"contents": [{"parts": ["hi"]}]}),
        (GENERATE, {"systemInstruction": "be kind"}),
        (GENERATE, {"tools": "search"}),
        (GENERATE, {"tools": ["search"]}),
        (EMBED, {"content": ...}),
        (EMBED, {"content": "hi"}),
        (BATCH, {"requests": []}),
        (BATCH, {"requests": ...}),
        (BATCH, {"requests": {"content": HELLO}}),
        (BATCH, {"requests": [{}]}),
        (BATCH, {"requests": [{"content": HELLO}] * 2049}),
    ],
)
def test_what_cannot_be_read_is_refused(method: str, members: dict[str, Any]) -> None:
    """A request of another shape might hold more than it shows."""
    refusal(method, **members)


# --- the model in the body ---------------------------------------------------------------------------------------------------------

NAMING: list[tuple[str, dict[str, Any]]] = [
    (GENERATE, {"model": "models/m"}),
    (STREAM, {"model": "m"}),
    (EMBED, {"model": "models/m"}),
    (BATCH, {"requests": [{"content": HELLO}, {"model": "models/m", "content": HELLO}]}),
    (COUNT, {"generateContentRequest": {"model": "models/m", "contents": [HELLO]}}),
    (COUNT, {"generate_content_request": {"model": "models/m", "contents": [HELLO]}}),
]


@pytest.mark.parametrize(("method", "members"), NAMING)
def test_a_body_may_repeat_the_paths_model(method: str, members: dict[str, Any]) -> None:
    """With or without its prefix."""
    assert parse(method, **members).model == "m"


@pytest.mark.parametrize(("method", "members"), NAMING)
@pytest.mark.parametrize("other", ["models/dear", "tunedModels/m", 1, ["m"]])
def test_a_body_may_not_name_another_model(method: str, members: dict[str, Any], other: object) -> None:
    """It would be answered by one model and priced as another."""
    document = json.loads(json.dumps(members).replace('"models/m"', json.dumps(other)).replace('"m"', json.dumps(other)))
    assert "another model" in refusal(method, **document).message


@pytest.mark.parametrize(
    ("method", "body", "forwarded"),
    [
        (GENERATE, '{"contents":[{}]}', None),
        (GENERATE, '{ "model": "m", "contents":[{}]}', '{ "model": "models/own", "contents":[{}]}'),
        (EMBED, '{"model": "models/m",\n"content":{}}', '{"model": "models/own",\n"content":{}}'),
        (
            BATCH,
            '{"requests":[ {"model":"models/m", "content":{}} , {"content":{}}] }',
            '{"requests":[{"model":"models/own", "content":{}},{"content":{}}] }',
        ),
        (
            COUNT,
            '{"generate_content_request":{"model":"models/m","contents":[]}}',
            '{"generate_content_request":{"model":"models/own","contents":[]}}',
        ),
        (COUNT, '{"contents":[]}', None),
        (COUNT, '{"generateContentRequest":null}', '{"generateContentRequest":null}'),
    ],
)
def test_an_alias_is_rewritten_wherever_the_body_repeats_it(method: str, body: str, forwarded: str | None) -> None:
    """The upstream must not see a name that it does not know; what names none stays as it is."""
    assert rewritten(method, body, Changes(model="own")) == forwarded


# --- the maximum -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "forwarded"),
    [
        ('{"contents":[{}]}', '{"contents":[{}],"generationConfig":{"maxOutputTokens":7}}'),
        ('{"contents":[{}],"generationConfig":null}', '{"contents":[{}],"generationConfig":{"maxOutputTokens":7}}'),
        ('{"contents":[{}],"generation_config":{ }}', '{"contents":[{}],"generation_config":{"maxOutputTokens":7 }}'),
        (
            '{"generationConfig": {"temperature": 1.0},"contents":[{}]}',
            '{"generationConfig": {"temperature": 1.0,"maxOutputTokens":7},"contents":[{}]}',
        ),
        (
            '{"generation_config": {"max_output_tokens": 8, "topK": 1},"contents":[{}]}',
            '{"generation_config": {"max_output_tokens": 7, "topK": 1},"contents":[{}]}',
        ),
        ('{"generationConfig": {"maxOutputTokens": 7},"contents":[{}]}', None),
        ('{"generationConfig": {"maxOutputTokens": 6},"contents":[{}]}', None),
    ],
)
def test_the_maximum_is_lowered_or_added(body: str, forwarded: str | None) -> None:
    """In the request's own spelling, and with every other byte as it came."""
    assert rewritten(GENERATE, body, Changes(output_tokens_max=7)) == forwarded


def test_nothing_to_change_changes_nothing() -> None:
    """Usage comes by itself, so a stream is forwarded as it came."""
    assert rewritten(STREAM, '{"contents":[{}]}', Changes()) is None
    assert rewritten(EMBED, '{"content":{}}', Changes(output_tokens_max=7)) is None


# --- input -------------------------------------------------------------------------------------------------------------------------

BASE = parse()


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({"systemInstruction": {"parts": [{"text": "x" * 40}]}}, 40),
        ({"system_instruction": {"parts": {"text": "x" * 40}}}, 40),
        ({"contents": {"role": "user", "parts": {"text": "hi" + "x" * 40}}}, 40),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}]}, len('[{"name":"f"}]')),
        ({"tools": {"function_declarations": [{"name": "f"}]}}, len('[{"name":"f"}]')),
        ({"generationConfig": {"responseSchema": {"type": "STRING"}}}, len('{"type":"STRING"}')),
        ({"generationConfig": {"response_json_schema": {"type": "string"}}}, len('{"type":"string"}')),
        ({"contents": [{"parts": [{"text": "hi"}, {"functionCall": {"name": "f"}}]}]}, len('{"name":"f"}')),
        ({"contents": [{"parts": [{"text": "hi"}, {"functionResponse": {"name": "f"}}]}]}, len('{"name":"f"}')),
        ({"contents": [{"parts": [{"text": "hi", "thought": True, "thoughtSignature": "c2ln"}]}]}, 4),
        ({"contents": [{"parts": [{"text": "hi", "newKind": {"a": "b"}}]}]}, len('{"a":"b"}')),
        ({"contents": [{"parts": [{"text": "hi", "inlineData": None, "functionCall": None}]}], "tools": None}, 0),
        ({"newMember": "text"}, 4),
        ({"generationConfig": {"newMember": "text"}}, 4),
        ({"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}], "labels": {"team": "red"}}, 0),
        ({"generationConfig": {"stopSequences": ["x"], "speechConfig": {"voiceConfig": {}}, "responseModalities": ["AUDIO"]}}, 0),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}, "store": False, "serviceTier": "standard"}, 0),
    ],
)
def test_whatever_may_become_prompt_text_is_bounded_by_its_bytes(members: dict[str, Any], size: int) -> None:
    """Schemas and calls by their JSON, unknown members too; settings not at all."""
    call = parse(**members)
    extra_messages = 8 if "ystem" in next(iter(members)) else 0
    assert call.input_tokens_bound == BASE.input_tokens_bound + size + extra_messages
    assert BASE.input_tokens_counted <= call.input_tokens_counted <= call.input_tokens_bound


@pytest.mark.parametrize("name", ["inlineData", "inline_data", "fileData"])
@pytest.mark.parametrize(
    ("media_type", "tokens"),
    [("image/png", 1_000), ("audio/wav", 2_000), ("video/mp4", 4_000), ("application/pdf", 4_000), ("IMAGE/JPEG", 1_000)],
)
def test_media_count_by_the_operators_rule(name: str, media_type: str, tokens: int) -> None:
    """However large they are."""
    medium = {"mimeType": media_type, "data": "A" * 10_000, "fileUri": "https://f"}
    call = parse(contents=[{"parts": [{"text": "hi"}, {name: medium}]}])
    assert call.input_tokens_bound == BASE.input_tokens_bound + tokens
    answer = {"functionResponse": {"name": "f", "parts": [{name: medium}]}}
    assert parse(contents=[{"parts": [{"text": "hi"}, answer]}]).input_tokens_bound == call.input_tokens_bound + len('{"name":"f"}')


@pytest.mark.parametrize("media_type", ["text/plain", "application/json", None])
def test_an_inline_text_counts_as_text(media_type: str | None) -> None:
    """A file that is a prompt in truth costs what the prompt would."""
    data = base64.b64encode(b"word " * 3_000).decode()
    call = parse(contents=[{"parts": [{"text": "hi"}, {"inlineData": {"mimeType": media_type, "data": data}}]}])
    assert call.input_tokens_bound == BASE.input_tokens_bound + len(data)


@pytest.mark.parametrize(
    "members",
    [
        {"cachedContent": "cachedContents/c"},
        {"cached_content": "cachedContents/c"},
        {"continuationToken": "dG9rZW4="},
        {"contents": [{"parts": [{"text": "hi"}, {"fileData": {"fileUri": "https://f", "mimeType": "text/plain"}}]}]},
        {"contents": [{"parts": [{"text": "hi"}, {"fileData": {"fileUri": "https://f"}}]}]},
    ],
)
def test_input_that_is_stored_elsewhere_needs_a_rule(members: dict[str, Any]) -> None:
    """Nothing here can see how long it is, so the operator says it, or it is refused."""
    assert "cannot be seen" in refusal(**members).message
    assert parse(media=STORED, **members).input_tokens_bound == BASE.input_tokens_bound + 9_000


@pytest.mark.parametrize(
    "members",
    [
        *({"tools": [{tool: {}}]} for tool in ("googleSearch", "google_search", "googleSearchRetrieval", "codeExecution", "urlContext")),
        *({"tools": [{tool: {}}]} for tool in ("googleMaps", "fileSearch", "computerUse", "mcpServers", "retrieval", "newTool")),
        {"tools": [{"functionDeclarations": [], "googleSearch": {}}]},
        {"serviceTier": "priority"},
        {"service_tier": "SERVICE_TIER_FLEX"},
        {"serviceTier": 3},
        {"generationConfig": {"routingConfig": {"autoMode": {}}}},
        {"generationConfig": {"model_selection_config": {}}},
    ],
)
def test_what_has_a_cost_of_its_own_is_refused(members: dict[str, Any]) -> None:
    """The upstream's own tools, other tiers, other models."""
    assert "not priced" in (refusal(**members).hint or "")


@pytest.mark.parametrize("tier", [None, "standard", "STANDARD", "SERVICE_TIER_STANDARD", "unspecified"])
def test_the_standard_tier_may_be_named(tier: str | None) -> None:
    """It is what the price is for."""
    assert parse(serviceTier=tier) == BASE


def test_each_embedding_of_a_batch_is_counted() -> None:
    """Their titles too."""
    one = parse(EMBED)
    request = {"content": HELLO, "title": "t" * 12, "taskType": "RETRIEVAL_DOCUMENT"}
    two = parse(BATCH, requests=[{"content": HELLO}, request])
    assert two.input_tokens_bound - 16 == 2 * (one.input_tokens_bound - 16) + 12
    assert two.input_tokens_counted == 2 * one.input_tokens_counted + 3


# --- query and headers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "query", "is_read"),
    [
        (STREAM, {"alt": "sse"}, True),
        (STREAM, {"alt": "json"}, True),
        (STREAM, {"$alt": "json;enum-encoding=int"}, True),
        (GENERATE, {"alt": "sse", "prettyPrint": "true"}, True),
        (EMBED, {"alt": "json"}, True),
        (EMBED, {"alt": "sse"}, False),
        (STREAM, {"alt": "proto"}, False),
        (STREAM, {"$alt": "media"}, False),
        (STREAM, {"alt": "sse", "$alt": "json"}, False),
        (STREAM, {"alt": ""}, False),
    ],
)
def test_answers_are_asked_for_in_a_form_that_can_be_metered(method: str, query: dict[str, str], is_read: bool) -> None:
    """JSON, whole or as events; not in protocol buffers."""
    request = request_of(method, json.dumps(MINIMAL[method]).encode(), query=query)
    if is_read:
        assert GEMINI.parse_request(request, MEDIA) == parse(method)
    else:
        with pytest.raises(Refusal, match="form"):
            GEMINI.parse_request(request, MEDIA)


@pytest.mark.parametrize("header", ["X-Goog-FieldMask", "X-HTTP-Method-Override"])
def test_headers_that_hide_the_cost_are_refused(header: str) -> None:
    """A field mask would leave the usage out, another method would make another request of it."""
    request = request_of(GENERATE, json.dumps(MINIMAL[GENERATE]).encode(), headers={header: "candidates"})
    with pytest.raises(Refusal, match=header):
        GEMINI.parse_request(request, MEDIA)


# --- anything at all ---------------------------------------------------------------------------------------------------------------

NAMES = ("contents", "parts", "text", "inlineData", "mimeType", "model", "requests", "content", "generationConfig", "generation_config")
MORE_NAMES = ("maxOutputTokens", "tools", "functionDeclarations", "functionResponse", "generateContentRequest", "systemInstruction")
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.text(max_size=3) | st.just("models/m"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(list(MINIMAL)), st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), DOCUMENTS, max_size=5))
def test_any_document_is_read_or_refused(method: str, members: dict[str, Any]) -> None:
    """And what is read can be rewritten, into what is read as asked."""
    request = request_of(method, json.dumps(MINIMAL[method] | members).encode())
    try:
        call = GEMINI.parse_request(request, MEDIA)
    except Refusal:
        return
    assert call.input_tokens_counted <= call.input_tokens_bound
    body = GEMINI.rewrite(call, request, Changes(output_tokens_max=1, model="m")) or request.body
    again = GEMINI.parse_request(replace(request, body=body), MEDIA)
    assert again.output_tokens_max == (0 if call.output_tokens_max == 0 else 1)
    assert again.input_tokens_bound == call.input_tokens_bound
