"""Which upstreams serve a model: of those that speak the dialect, the ones whose patterns fit, the closest first.

An exact name (or an alias) beats a prefix, a longer prefix beats a shorter one, and of equals the first in the file wins. The others stand
in where the first one fails. Must not know prices or plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from proxy.errors import Refusal
from proxy.policy.pricing import matches

REMEMBERED_MAX = 4096


class Served(Protocol):
    """What routing needs to know of an upstream."""

    @property
    def dialects(self) -> Sequence[str] | None:
        """None: every one."""
        ...

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def aliases(self) -> Mapping[str, str]: ...

    @property
    def default_model(self) -> str | None: ...


Target = TypeVar("Target", bound=Served)


def closeness(pattern: str, model: str) -> int:
    """How closely a pattern fits: 0 where it does not, more the more of the name it spells out."""
    if not matches(pattern, model):
        return 0
    return len(pattern) if pattern.endswith("*") else len(pattern) + 2  # "ab" is closer to ab than "ab*" is


class Routes(Generic[Target]):
    """The way from dialect and model to upstreams; `targets` in the order of the file."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = tuple(targets)
        self._remembered: dict[tuple[str, str], tuple[Target, ...]] = {}
        self._speaking: dict[str, tuple[Target, ...]] = {}

    def serving(self, dialect: str, model: str) -> tuple[Target, ...]:
        """The upstreams for a model, at least one, the one to ask first in front.

        Raises Refusal unknown_path where none speaks the dialect, model_not_found where none has the model.
        """
        targets = self._remembered.get((dialect, model))
        if targets is None:
            targets = self._find(dialect, model)
            if len(self._remembered) >= REMEMBERED_MAX:  # names come from callers: what is remembered stays bounded
                self._remembered.clear()
            self._remembered[dialect, model] = targets
        return targets

    def speaking(self, dialect: str) -> tuple[Target, ...]:
        """The upstreams that speak a dialect, in the order of the file."""
        speaking = self._speaking.get(dialect)
        if speaking is None:  # one for each dialect that there is
            speaking = self._speaking[dialect] = tuple(t for t in self._targets if t.dialects is None or dialect in t.dialects)
        return speaking

    def default_model(self, dialect: str) -> str:
        """What a request means that cannot name a model. Raises Refusal model_not_found where no upstream says."""
        for target in self.speaking(dialect):
            exact = [pattern for pattern in target.models if not pattern.endswith("*")]
            if target.default_model is not None:
                return target.default_model
            if len(exact) == len(target.models) == 1:
                return exact[0]
        raise Refusal(
            "model_not_found",
            f"Requests of the {dialect} API name no model here, and no upstream says which one it serves.",
            hint='Whoever runs this proxy: set default_model = "..." for the upstream.',
        )

    def _find(self, dialect: str, model: str) -> tuple[Target, ...]:
        speaking = self.speaking(dialect)
        if not speaking:
            raise Refusal("unknown_path", f"No upstream here speaks the {dialect} API.")
        serving = [(target, closest) for target in speaking if (closest := _closest(target, model))]
        if not serving:
            raise Refusal("model_not_found", f"No upstream here serves the model {model!r}.", hint="GET /v1/models lists what you may use.")
        serving.sort(key=lambda found: -found[1])  # stable, so of equals the first in the file stays in front
        return tuple(target for target, _ in serving)


def _closest(target: Served, model: str) -> int:
    return max((closeness(pattern, model) for pattern in (*target.models, *target.aliases)), default=0)
