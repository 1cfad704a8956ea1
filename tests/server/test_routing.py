"""Which upstream serves a model."""

from __future__ import annotations

import random

import pytest

from proxy.config import Upstream
from proxy.errors import Refusal
from proxy.server import routing
from proxy.server.routing import Routes


def upstream(name: str, *models: str, dialects: tuple[str, ...] | None = None) -> Upstream:
    return Upstream.model_validate({"name": name, "base_url": "http://x", "models": models or ("*",), "dialects": dialects})


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o", "exact"), ("gpt-4o-mini", "long"), ("gpt-5", "short"), ("llama", "any"), ("gpt-4o*", "long"), ("", "any")],
)
def test_closest_pattern_wins(model: str, name: str) -> None:
    """An exact name beats a prefix, a longer prefix a shorter one, whatever their order in the file."""
    upstreams = [upstream("any"), upstream("short", "gpt-*"), upstream("exact", "gpt-4o"), upstream("long", "gpt-4o*")]
    for seed in range(5):
        random.Random(seed).shuffle(upstreams)
        assert Routes(upstreams).serving("openai", model).name == name


def test_first_of_equals_wins() -> None:
    """Of two that fit equally closely the first in the file serves."""
    assert Routes([upstream("a"), upstream("b")]).serving("openai", "m").name == "a"


def test_only_who_speaks_the_dialect_is_asked() -> None:
    """A closer pattern in another dialect does not count; where nobody speaks it, the path does not exist."""
    routes = Routes([upstream("a", "m", dialects=("anthropic",)), upstream("b", "m*", dialects=("openai",))])
    assert routes.serving("openai", "m").name == "b"
    with pytest.raises(Refusal) as caught:
        routes.serving("gemini", "m")
    assert caught.value.code == "unknown_path"


def test_model_that_nobody_serves() -> None:
    """404, each time anew."""
    routes = Routes([upstream("a", "gpt-*")])
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            routes.serving("openai", "llama")
        assert (caught.value.code, caught.value.status) == ("model_not_found", 404)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers invent names without end; memory has one."""
    monkeypatch.setattr(routing, "REMEMBERED_MAX", 10)
    routes = Routes([upstream("a")])
    for n in range(100):
        assert routes.serving("openai", f"m{n}").name == "a"
    assert len(routes._remembered) <= 10
