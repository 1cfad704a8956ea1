"""Which dialect and operation a path belongs to, and that nothing but the plain spelling of a path is served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, for_path
from proxy.errors import Refusal


@pytest.mark.parametrize(
    ("method", "path", "name", "needs_output_price", "forwarded"),
    [
        ("POST", "/v1/chat/completions", "chat", True, True),
        ("POST", "/v1/completions", "completions", True, True),
        ("POST", "/v1/responses", "responses", True, True),
        ("POST", "/v1/embeddings", "embeddings", False, True),
        ("GET", "/v1/models", "models", False, False),
        ("GET", "/v1/models/gpt-4o-mini", "model", False, False),
    ],
)
def test_each_endpoint_is_found(method: str, path: str, name: str, needs_output_price: bool, forwarded: bool) -> None:
    """An operation says what it needs and whether it goes to an upstream at all."""
    dialect, operation = for_path(method, path)
    assert dialect is DIALECTS["openai"]
    assert (operation.dialect, operation.name, operation.needs_output_price, operation.forwarded) == (
        "openai",
        name,
        needs_output_price,
        forwarded,
    )
    assert operation.path == path or operation.model == path.removeprefix("/v1/models/")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/llama3:8b", "llama3:8b"),
        ("/v1/models/meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B"),
        ("/v1/models/meta-llama%2FLlama-3-8B", "meta-llama/Llama-3-8B"),
        ("/v1/models/gpt%2d4o", "gpt-4o"),
    ],
)
def test_a_models_name_may_be_escaped_in_the_path_that_is_never_forwarded(path: str, model: str) -> None:
    """Clients escape a slash in it."""
    assert for_path("GET", path)[1].model == model


NOT_CANONICAL = [
    *("", "v1/chat/completions", "*", "http://evil/v1/chat/completions", "//evil/v1/chat/completions", "/v1//chat/completions"),
    *("/v1/../v1/chat/completions", "/v1/./chat/completions", "/..", "/.", "/v1/..", "/v1/%63hat/completions", "/v1%2fchat/completions"),
    *("/v1/chat;x=1/completions", "/v1\\chat\\completions", "/v1/chat/completions?x=1", "/v1/chat/completions#x"),
    "/v1/chat/completions\x00",
    *(
        "/v1/chat/completions ",
        " /v1/chat/completions",
        "/v1/chat/completions\n",
        "/v1/ch\u0430t/completions",
        "/v1/chat/completions\udcff",
    ),
    *("/v1/%2e%2e/admin", "/v1/chat/completions%", "/v1/<chat>", "/v1/{chat}", '/v1/"chat"', "/" + "a" * 2000, "///"),
    *("/v1/models/..", "/v1/models/../chat/completions", "/v1/models/%2e%2e/x", "/v1/models/a//b", "/v1/models/a%0ab", "/v1/models/%"),
    *("/v1/models/" + "m" * 300, "/v1/models/a;b", "/v1/models/a\\b", "/v1/models/%00", "/v1/models/./a", "/v1/models/a/"),
]


@pytest.mark.parametrize("path", NOT_CANONICAL, ids=ascii)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_in_any_but_its_plain_form_is_refused(method: str, path: str) -> None:
    """What another server might decode, fold or split in its own way is not guessed at."""
    with pytest.raises(Refusal) as refused:
        for_path(method, path)
    assert refused.value.code == "invalid_request"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/files", "Served here"),
        ("/v1/chat/completions/", "Did you mean /v1/chat/completions?"),
        ("/chat/completions", "Did you mean /v1/chat/completions?"),
        ("/V1/chat/completions", "Served here"),
        ("/v1/chat/Completions", "Served here"),
        ("/v1/models/", "Did you mean /v1/models?"),
        ("/v1/realtime", "Served here"),
        ("/.well-known/x", "Served here"),
        ("/v1/chat/completions..", "Served here"),
    ],
)
def test_an_unknown_path_is_refused_with_a_hint(path: str, hint: str) -> None:
    """Nothing passes that no price covers; the caller learns what is served."""
    with pytest.raises(Refusal) as refused:
        for_path("POST", path)
    assert refused.value.code == "unknown_path"
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/models", "GET"),
        ("post", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/models/gpt-4o", "GET"),
    ],
)
def test_a_known_path_with_another_method_is_refused_as_such(method: str, path: str, allowed: str) -> None:
    """405 and not 404, with the method that works."""
    with pytest.raises(Refusal) as refused:
        for_path(method, path)
    assert refused.value.code == "method_not_allowed"
    assert refused.value.hint == f"Send the request as {allowed}."


@given(st.text(max_size=30), st.sampled_from(["", "/", "/v1/", "/v1/models/", "/v1/chat/completions"]))
def test_no_path_ends_in_anything_but_an_operation_or_a_refusal(rest: str, start: str) -> None:
    """Whatever comes, the choice is made, and nothing but an exact path is forwarded."""
    try:
        _, operation = for_path("POST", start + rest)
    except Refusal:
        return
    assert operation.path == start + rest
