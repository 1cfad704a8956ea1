"""Text Embeddings Inference's own API: what its requests may cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.dialects import Changes
from proxy.domain import Answer
from tests.dialects.native_wire import MEDIA, Wire

WIRE = Wire("tei")


@pytest.mark.parametrize(
    ("path", "document", "bound", "counted"),
    [
        ("/embed", {"inputs": "hello"}, 16 + 4 + 5, 2),
        ("/embed", {"inputs": ["hello", "you"], "truncate": True, "normalize": False}, 16 + 8 + 8, 3),
        ("/embed_all", {"inputs": [1, 2, 3], "truncation_direction": "left"}, 16 + 4 + 3, 3),
        ("/embed_sparse", {"inputs": [[1, 2, 3], "hello"]}, 16 + 8 + 8, 5),
        ("/predict", {"inputs": ["hello", "you"]}, 16 + 8 + 8, 3),
        ("/predict", {"inputs": [["hello", "you"], ["hello"]]}, 16 + 12 + 13, 5),
        ("/rerank", {"query": "hello", "texts": ["one", "three"], "raw_scores": True}, 16 + 2 * (16 + 5) + 8 + 8, 4 + 3),
        ("/similarity", {"inputs": {"source_sentence": "hello", "sentences": ["one", "three"]}}, 16 + 12 + 13, 2 + 1 + 2),
    ],
)
def test_input(path: str, document: dict[str, Any], bound: int, counted: int) -> None:
    """Text by its bytes, ids one by one; a query once more with every text. Only input needs a price."""
    call = WIRE.parse(path, document)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (bound, counted)
    assert (call.model, call.stream, call.output_tokens_max, call.needs) == ("", False, 0, (("input",),))
    assert WIRE.rewritten(path, document, Changes(output_tokens_max=5)) == document


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/embed", {}),
        ("/embed", {"inputs": []}),
        ("/embed", {"inputs": {"a": "b"}}),
        ("/embed", {"inputs": "hello", "parameters": 7}),
        ("/rerank", {"query": "hello"}),
        ("/similarity", {"inputs": "hello"}),
        ("/similarity", {"inputs": {"source_sentence": "hello"}}),
    ],
)
def test_wrong_requests(path: str, document: dict[str, Any]) -> None:
    """What is not there cannot be counted."""
    WIRE.refusal(path, document)


@pytest.mark.parametrize("path", ["/embed", "/similarity"])
def test_a_prompt_that_the_server_keeps(path: str) -> None:
    """It comes before every input and is unseen: refused, unless the operator says how long it is."""
    inputs = "hello" if path == "/embed" else {"source_sentence": "hello", "sentences": ["one"]}
    document = {"inputs": inputs, **({"prompt_name": "q"} if path == "/embed" else {"parameters": {"prompt_name": "q"}})}
    assert "cannot be seen" in WIRE.refusal(path, document).message
    ruled = Wire("tei", media=replace(MEDIA, stored_tokens=50)).parse(path, document)
    assert ruled.input_tokens_counted == (52 if path == "/embed" else 103)


def test_an_answer_says_nothing() -> None:
    """What was used is in no body, so what was counted is charged; and nothing comes as a stream."""
    call = WIRE.parse("/embed", {"inputs": "hello"})
    assert WIRE.answer(call, [[0.5, 1.0]]) == Answer(None, 0)
    assert WIRE.dialect.read_stream(call, "text/event-stream") is None
