"""Which dialect and operation a path belongs to, and that nothing but the plain spelling of a path is served."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Dialect, Found, Operation, Paths
from proxy.errors import Refusal

SERVED = Paths([DIALECTS["openai"]])


class Speaking:
    """A dialect of which only the table of operations is of interest."""

    def __init__(self, name: str, *paths: str, method: Any = "POST", **members: Any) -> None:
        self.name = name
        self.operations = tuple(Operation(path.strip("/").split("/")[-1], name, method, path, **members) for path in paths)


def paths_of(*dialects: Speaking) -> Paths:
    return Paths(cast(Dialect, dialect) for dialect in dialects)


def refusal(paths: Paths, method: str, path: str, headers: Container[str] = ()) -> Refusal:
    with pytest.raises(Refusal) as refused:
        paths.find(method, path, headers)
    return refused.value


@pytest.mark.parametrize(
    ("method", "path", "name", "output", "forwarded"),
    [
        ("POST", "/v1/chat/completions", "chat", "tokens", True),
        ("POST", "/v1/completions", "completions", "tokens", True),
        ("POST", "/v1/responses", "responses", "tokens", True),
        ("POST", "/v1/embeddings", "embeddings", "none", True),
        ("GET", "/v1/models", "models", "none", False),
    ],
)
def test_each_endpoint_is_found(method: str, path: str, name: str, output: str, forwarded: bool) -> None:
    """An operation says what it gives and whether it goes to an upstream at all."""
    dialect, operation, model = SERVED.find(method, path)
    assert dialect is DIALECTS["openai"]
    assert (operation.dialect, operation.name, operation.output, operation.forwarded) == ("openai", name, output, forwarded)
    assert (operation.path, model) == (path, None)


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
    assert SERVED.find("GET", path).model == model


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
    refused = refusal(SERVED, method, path)
    assert refused.code == "invalid_request"
    assert refused.hint


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/", "Served here"),
        ("/v1", "Did you mean /v1/"),
        ("/v1/chat/completions/", "Did you mean /v1/chat/completions?"),
        ("/chat/completions", "Did you mean /v1/chat/completions?"),
        ("/V1/chat/completions", "Did you mean /v1/chat/completions"),
        ("/v1/chat/Completions", "Did you mean /v1/chat/completions"),
        ("/v1/embedings", "Did you mean /v1/embeddings"),
        ("/v1/models/", "Did you mean /v1/models?"),
        ("/.well-known/x", "Served here"),
        ("/v1/chat/completions..", "Did you mean /v1/chat/completions"),
    ],
)
def test_an_unknown_path_is_refused_with_a_hint(path: str, hint: str) -> None:
    """Nothing passes that no price covers; the caller learns what is served."""
    refused = refusal(SERVED, "POST", path)
    assert refused.code == "unknown_path"
    assert hint in (refused.hint or "")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/fine_tuning/jobs", "/v1/uploads/u/parts", "/v1/assistants", "/v1/messages/batches"),
        *("/v1/threads/t/runs", "/v1/vector_stores", "/v1/videos", "/v1/containers", "/v1/evals/e/runs", "/v1/conversations"),
        *("/v1/realtime/client_secrets", "/v1/responses/resp_1", "/v1/chat/completions/c", "/v1/organization/usage"),
    ],
)
def test_what_the_api_has_and_no_price_covers_is_refused_with_the_reason(path: str) -> None:
    """The caller learns that the path is no mistake, and why it is not served all the same."""
    refused = refusal(SERVED, "POST", path)
    assert (refused.code, refused.message.partition(": ")[0]) == ("unknown_path", "This path is not served, for it cannot be priced here")


@pytest.mark.parametrize("path", ["/v1/files/a/b", "/v1/batches/%2e%2e", "/v1/files/a%2Fb/content"])
def test_an_id_is_one_plain_segment(path: str) -> None:
    """For it stands in the path at the upstream."""
    assert SERVED.find("GET", "/v1/files/file-1/content").model == "file-1"
    assert "id of a file" in refusal(SERVED, "GET", path).message


def test_a_prefix_is_whole_segments() -> None:
    """What only begins like a path that cannot be priced is plainly unknown."""
    assert refusal(SERVED, "POST", "/v1/filesystem").message == "Nothing is served at this path."


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
    refused = refusal(SERVED, method, path)
    assert refused.code == "method_not_allowed"
    assert refused.hint == f"Send the request as {allowed}."


@given(st.text(max_size=30), st.sampled_from(["", "/", "/v1/", "/v1/models/", "/v1/chat/completions"]))
def test_no_path_ends_in_anything_but_an_operation_or_a_refusal(rest: str, start: str) -> None:
    """Whatever comes, the choice is made, and nothing but an exact path is forwarded."""
    try:
        found = SERVED.find("POST", start + rest)
    except Refusal:
        return
    assert found.operation.path == start + rest


# --- models in paths -----------------------------------------------------------------------------------------------------------------

NATIVE = Speaking("native", "/v2/{model}/infer", "/v2/{model}:stream", "/v2/models/{model}/infer", "/v2/{model}")


@pytest.mark.parametrize(
    ("path", "template", "model"),
    [
        ("/v2/m/infer", "/v2/{model}/infer", "m"),
        ("/v2/llama3:8b/infer", "/v2/{model}/infer", "llama3:8b"),
        ("/v2/m:stream", "/v2/{model}:stream", "m"),
        ("/v2/a:b:stream", "/v2/{model}:stream", "a:b"),
        ("/v2/models/m/infer", "/v2/models/{model}/infer", "m"),
        ("/v2/m", "/v2/{model}", "m"),
        ("/v2/infer", "/v2/{model}", "infer"),
    ],
)
def test_a_path_may_name_the_model(path: str, template: str, model: str) -> None:
    """The most particular template counts, and what stands in its place is the model."""
    found = paths_of(NATIVE).find("POST", path)
    assert (found.operation.path, found.model) == (template, model)
    assert found.operation.path_to(model) == path


@pytest.mark.parametrize(
    "path", ["/v2/a/b/infer", "/v2/a%2Fb/infer", "/v2/../infer", "/v2/./infer", "/v2/a b", "/v2/a;b", "/v2/a?b", "/v2/" + "m" * 257]
)
def test_a_model_in_a_forwarded_path_is_one_plain_segment(path: str) -> None:
    """What the upstream might decode or split into another path is refused."""
    assert refusal(paths_of(NATIVE), "POST", path).code == "invalid_request"


def test_an_alias_in_a_path_is_escaped() -> None:
    """The upstream's own name of a model may hold what a path must not."""
    assert Operation("infer", "native", "POST", "/v2/{model}/infer").path_to("org/a b?") == "/v2/org%2Fa%20b%3F/infer"


# --- several dialects ----------------------------------------------------------------------------------------------------------------

PLAIN = Speaking("plain", "/v1/x", "/v1/only", "/v1/{model}/y")
MARKED = Speaking("marked", "/v1/x", "/v1/{model}/y", marker="x-marked")


@pytest.mark.parametrize("path", ["/v1/x", "/v1/m/y"])
@pytest.mark.parametrize(
    ("dialects", "headers", "meant"),
    [
        ((PLAIN, MARKED), {}, "plain"),
        ((MARKED, PLAIN), {}, "plain"),
        ((PLAIN, MARKED), {"x-marked": "1"}, "marked"),
        ((MARKED, PLAIN), {"x-other": "1"}, "plain"),
        ((MARKED,), {}, "marked"),
        ((Speaking("earlier", "/v1/x", "/v1/{model}/y"), PLAIN), {}, "earlier"),
    ],
)
def test_of_several_dialects_with_one_path_the_marked_one_counts_then_the_earlier(
    path: str, dialects: tuple[Speaking, ...], headers: Mapping[str, str], meant: str
) -> None:
    """A header that says which is meant goes before the order; without it a dialect that needs none is meant."""
    assert paths_of(*dialects).find("POST", path, headers).dialect.name == meant


@pytest.mark.parametrize("path", ["/v1/x/", "/V1/X", "/v1/X/", "/V1/models/m:generateContent", "/v1/models/m:generateContent/"])
def test_a_rule_for_the_rest_takes_no_operation_in_another_spelling(path: str) -> None:
    """Some servers read paths in any case, or with a slash more, and the rule has another price."""
    paths = paths_of(Speaking("plain", "/v1/x", "/v1/models/{model}:generateContent"), Speaking("opaque", "/*"))
    assert refusal(paths, "POST", path).code == "unknown_path"
    assert paths.find("POST", "/v1/x").dialect.name == "plain"
    for other in ("/v1/y", "/v1/x/y", "/v1/models/m:other", "/custom/", "/Custom"):
        assert paths.find("POST", other).dialect.name == "opaque"


def test_only_the_dialects_that_are_spoken_have_paths() -> None:
    """A path of a dialect that no upstream speaks is unknown, whatever its marker."""
    assert refusal(paths_of(MARKED), "POST", "/v1/only", {"x-marked": "1"}).code == "unknown_path"
    assert isinstance(paths_of(PLAIN).find("POST", "/v1/only"), Found)


def test_the_methods_of_a_path_are_known() -> None:
    """All that any dialect takes at it, sorted; none where nothing is served."""
    paths = paths_of(PLAIN, Speaking("reading", "/v1/x", "/v1/{model}/y", method="GET"))
    assert paths.methods_at("/v1/x") == paths.methods_at("/v1/m/y") == ["GET", "POST"]
    assert paths.methods_at("/v1/only") == ["POST"]
    assert paths.methods_at("/v1/none") == paths.methods_at("//") == ()
