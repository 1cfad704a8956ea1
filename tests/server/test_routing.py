"""Which upstream serves a model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from proxy.config import Upstream
from proxy.errors import Refusal
from proxy.server import routing
from proxy.server.routing import Routes


def upstream(name: str, *models: str, dialects: tuple[str, ...] | None = None, **members: Any) -> Upstream:
    return Upstream.model_validate({"name": name, "base_url": "http://x", "models": models or ("*",), "dialects": dialects, **members})


def names(upstreams: Iterable[Upstream]) -> list[str]:
    return [upstream.name for upstream in upstreams]


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o", "exact"), ("gpt-4o-mini", "long"), ("gpt-5", "short"), ("llama", "any"), ("gpt-4o*", "long"), ("", "any")],
)
def test_closest_pattern_wins(model: str, name: str) -> None:
    """An exact name beats a prefix, a longer prefix a shorter one, whatever their order in the file."""
    upstreams = [upstream("any"), upstream("short", "gpt-*"), upstream("exact", "gpt-4o"), upstream("long", "gpt-4o*")]
    for seed in range(5):
        random.Random(seed).shuffle(upstreams)
        assert Routes(upstreams).serving("openai", model)[0].name == name


def test_first_of_equals_wins() -> None:
    """Of two that fit equally closely the first in the file serves."""
    assert Routes([upstream("a"), upstream("b")]).serving("openai", "m")[0].name == "a"


def test_only_who_speaks_the_dialect_is_asked() -> None:
    """A closer pattern in another dialect does not count; where nobody speaks it, the path does not exist."""
    routes = Routes([upstream("a", "m", dialects=("anthropic",)), upstream("b", "m*", dialects=("openai",))])
    assert routes.serving("openai", "m")[0].name == "b"
    with pytest.raises(Refusal) as caught:
        routes.serving("gemini", "m")
    assert caught.value.code == "unknown_path"


def test_the_others_stand_in() -> None:
    """Behind the closest come all that serve the model, the closer ones first; who does not serve it is never asked."""
    upstreams = [upstream("any"), upstream("other", "gpt-*"), upstream("exact", "llama"), upstream("prefix", "ll*")]
    assert names(Routes(upstreams).serving("openai", "llama")) == ["exact", "prefix", "any"]


def test_an_alias_is_served_by_whoever_has_it() -> None:
    """It counts as an exact name, although the upstream serves it under another."""
    upstreams = [upstream("any"), upstream("local", "llama", aliases={"fast": "llama"})]
    assert names(Routes(upstreams).serving("openai", "fast")) == ["local", "any"]
    assert names(Routes([upstreams[1]]).serving("openai", "llama")) == ["local"]


@pytest.mark.parametrize(
    ("upstreams", "model"),
    [
        ([upstream("a", "m*"), upstream("b", "exact")], "exact"),
        ([upstream("a", "m*", default_model="m7"), upstream("b", "exact")], "m7"),
        ([upstream("a", "one", dialects=("tei",)), upstream("b", "two", dialects=("llamacpp",))], "two"),
    ],
)
def test_requests_that_name_no_model_mean_the_upstreams_own(upstreams: list[Upstream], model: str) -> None:
    """The first upstream that speaks the dialect and says what it serves: by `default_model`, or by its only exact name."""
    assert Routes(upstreams).default_model("llamacpp") == model


def test_a_model_that_nobody_names_is_not_found() -> None:
    """Patterns leave it open, so the request is refused with what the operator can do."""
    with pytest.raises(Refusal, match="name no model") as caught:
        Routes([upstream("a"), upstream("b", "x", "y")]).default_model("llamacpp")
    assert caught.value.code == "model_not_found"
    assert "default_model" in (caught.value.hint or "")


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
        assert routes.serving("openai", f"m{n}")[0].name == "a"
    assert len(routes._remembered) <= 10
