"""What `compute-ledger check` has to say of prices: models that would be refused for want of one, and rows that price nothing.

Tiers that do not rise and two rows of one date keep the file from being read at all; `proxy.config` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.config import Config, Upstream


def price_warnings(settings: Config, now_ms: int) -> list[str]:
    """A line for each; all may be meant."""
    in_force = {row.model for row in settings.price if row.to_price().effective_at_ms <= now_ms}
    priced = list(dict.fromkeys(row.model for row in settings.price))
    served = [name for upstream in settings.upstream for name in _names(upstream)]
    lines = [line for upstream in settings.upstream for line in _unpriced(upstream, in_force)]
    for pattern in priced:
        parts = [_closer(pattern, name) for name in served if covers(pattern, name) or covers(name, pattern)]
        if not parts:
            lines.append(f"price {pattern!r}: no upstream serves such a model")
        elif all(_hidden(pattern, part, in_force) for part in parts):
            lines.append(f"price {pattern!r}: never used: every model that is served has a row that fits closer")
    lines += [f"price {row.model!r}: takes effect later" for row in settings.price if row.to_price().effective_at_ms > now_ms]
    return lines


def covers(pattern: str, other: str) -> bool:
    """Whether every model that `other` matches is matched by `pattern`."""
    return other.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == other


def _names(upstream: Upstream) -> Iterator[str]:
    """Every name and prefix under which an upstream's models are priced."""
    yield from upstream.models
    for alias, model in upstream.aliases.items():
        yield from (alias, model)
    if upstream.default_model is not None:
        yield upstream.default_model


def _unpriced(upstream: Upstream, in_force: Iterable[str]) -> Iterator[str]:
    exact = dict.fromkeys([*upstream.models, *([upstream.default_model] if upstream.default_model is not None else [])])
    for pattern in exact:
        if not any(covers(row, pattern) for row in in_force):
            if pattern.endswith("*"):
                yield f"upstream {upstream.name!r}: no price covers all of {pattern!r}; models without a price are refused"
            else:
                yield f"upstream {upstream.name!r}: {pattern!r} has no price, so it is refused"
    for alias, model in upstream.aliases.items():
        if alias not in in_force and not any(covers(row, model) for row in in_force):
            yield f"upstream {upstream.name!r}: the alias {alias!r} has no price, nor has {model!r}, so it is refused"


def _closer(one: str, other: str) -> str:
    """What two patterns have in common, of which one covers the other."""
    return other if covers(one, other) else one


def _hidden(pattern: str, part: str, in_force: Iterable[str]) -> bool:
    """Whether another row prices all of this part: an exact one, or a longer prefix."""
    return any(row != pattern and covers(row, part) and covers(pattern, row) for row in in_force)
