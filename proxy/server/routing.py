"""Which upstream serves a model: of those that speak the dialect, the one whose pattern fits most closely.

An exact name beats a prefix, a longer prefix beats a shorter one, and of equals the first in the file wins. Must not know prices or plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


Target = TypeVar("Target", bound=Served)


def closeness(pattern: str, model: str) -> int:
    """How closely a pattern fits: 0 where it does not, more the more of the name it spells out."""
    if not matches(pattern, model):
        return 0
    return len(pattern) if pattern.endswith("*") else len(pattern) + 2  # "ab" is closer to ab than "ab*" is


class Routes(Generic[Target]):
    """The way from dialect and model to an upstream; `targets` in the order of the file."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = tuple(targets)
        self._remembered: dict[tuple[str, str], Target] = {}
        self._speaking: dict[str, tuple[Target, ...]] = {}

    def serving(self, dialect: str, model: str) -> Target:
        """The upstream for a model. Raises Refusal unknown_path where none speaks the dialect, model_not_found where none has the model."""
        target = self._remembered.get((dialect, model))
        if target is None:
            target = self._find(dialect, model)
            if len(self._remembered) >= REMEMBERED_MAX:  # names come from callers: what is remembered stays bounded
                self._remembered.clear()
            self._remembered[dialect, model] = target
        return target

    def speaking(self, dialect: str) -> tuple[Target, ...]:
        """The upstreams that speak a dialect, in the order of the file."""
        speaking = self._speaking.get(dialect)
        if speaking is None:  # one for each dialect that there is
            speaking = self._speaking[dialect] = tuple(t for t in self._targets if t.dialects is None or dialect in t.dialects)
        return speaking

    def _find(self, dialect: str, model: str) -> Target:
        speaking = self.speaking(dialect)
        if not speaking:
            raise Refusal("unknown_path", f"No upstream here speaks the {dialect} API.")
        best = max(speaking, key=lambda target: _closest(target.models, model))  # max takes the first of equals
        if _closest(best.models, model) == 0:
            raise Refusal("model_not_found", f"No upstream here serves the model {model!r}.", hint="GET /v1/models lists what you may use.")
        return best


def _closest(patterns: Sequence[str], model: str) -> int:
    return max((closeness(pattern, model) for pattern in patterns), default=0)
