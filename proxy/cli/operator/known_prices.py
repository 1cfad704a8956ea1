"""The prices that the package genai-prices knows (https://github.com/pydantic/genai-prices), as rows of the price book.

Dollars per million tokens become credits per million tokens. A name belongs to the model that the package itself finds by it, so that a row
never prices a model that is another's. What a row cannot say is told, and the row left out where it would cost less than it should.
Reads the data that came with the package; asks no network.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from proxy.cli.operator.client import CommandFailed
from proxy.cli.operator.known_rates import Unsayable, credit_row
from proxy.domain import Price
from proxy.policy.pricing import matches

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_EPOCH = dt.date(1970, 1, 1)
_LEAST_BILLED = frozenset({"groq whisper-large-v3", "groq whisper-large-v3-turbo"})
"""Billed for ten seconds at least, which the package has in its code and no row can say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are asked for."""

    providers: tuple[str, ...] = ()
    """Of several that know a model the first counts; none: the maker, as the package finds it by the model's name alone."""
    models: tuple[str, ...] = ()
    since: dt.date | None = None
    """From when on the history is of interest; what was in force that day is part of it."""
    credits_per_dollar: Decimal = Decimal(1)
    nearest: bool = False
    """Whether rows are wanted even where some kind of token would cost less here than it does there."""


@dataclass(frozen=True, slots=True)
class Known:
    """The dated rows of one name or prefix, and where they come from."""

    source: str
    rows: tuple[Price, ...]

    @property
    def name(self) -> str:
        return self.rows[0].model


@dataclass(frozen=True, slots=True)
class Found:
    version: str
    known: tuple[Known, ...]
    notes: tuple[str, ...]
    """What was left out or could not be said in full, a line each."""


def find(wanted: Wanted) -> Found:
    """The rows that the package knows, by name. Raises CommandFailed: no such package, no such provider."""
    try:
        package, snapshot = importlib.import_module("genai_prices"), importlib.import_module("genai_prices.data_snapshot").get_snapshot()
    except ImportError as error:
        message = "price import needs the package genai-prices, of the extra [prices]: pip install 'compute-ledger[prices]'"
        raise CommandFailed(message) from error
    catalogue = _Catalogue(_chosen(snapshot.providers, wanted.providers), None if wanted.providers else snapshot.find_provider)
    reading = _Reading(catalogue, wanted)
    known = tuple(sorted(reading.known(), key=lambda one: (one.source, one.name)))
    return Found(package.__version__, known, tuple(reading.notes))


def _chosen(providers: Sequence[Provider], names: Sequence[str]) -> Sequence[Provider]:
    by_id = {provider.id: provider for provider in providers}
    for name in names:
        if name not in by_id:
            raise CommandFailed(f"there is no provider {name!r}; there are {', '.join(sorted(by_id))}")
    return [by_id[name] for name in names] if names else providers


class _Catalogue:
    """Whose a model's name is."""

    def __init__(self, providers: Sequence[Provider], find_maker: Callable[[str, None, None], Provider] | None) -> None:
        self.providers = providers
        self._find_maker = find_maker

    def owner(self, name: str) -> tuple[Provider, ModelInfo] | None:
        if self._find_maker is not None:
            try:
                providers: Sequence[Provider] = [self._find_maker(name, None, None)]
            except LookupError:
                return None
        else:
            providers = self.providers
        return next(((provider, model) for provider in providers if (model := provider.find_model(name)) is not None), None)

    def owns(self, model: ModelInfo, name: str) -> bool:
        owner = self.owner(name)
        return owner is not None and owner[1] is model


class _Reading:
    """One reading of the catalogue, with what there is to tell about it."""

    def __init__(self, catalogue: _Catalogue, wanted: Wanted) -> None:
        self.notes: list[str] = []
        self._catalogue = catalogue
        self._wanted = wanted
        self._rows: dict[int, tuple[Price, ...]] = {}
        """By a model's identity; the package keeps the models."""

    def known(self) -> Iterator[Known]:
        """Every wanted pattern of every model; a model asked for by its exact name has its row under that name."""
        prefixes = [pattern for pattern in self._wanted.models if pattern.endswith("*")]
        exact = [name for name in dict.fromkeys(self._wanted.models) if name not in prefixes]
        if prefixes or not exact:
            found = self._patterns(prefixes or ["*"])
            yield from (one for one in found if one.name not in exact)
        for name in exact:
            owner = self._catalogue.owner(name)
            if owner is None:
                self.notes.append(f"{name}: left out: no price is known")
            elif (one := self._named(*owner, name)) is not None:
                yield one

    def _patterns(self, wanted: Sequence[str]) -> Iterable[Known]:
        kept: dict[str, tuple[ModelInfo, Known]] = {}
        stems: set[str] = set()
        others = 0
        for provider in self._catalogue.providers:
            for model in provider.models:
                names, rules = _names(model)
                own = [name for name in names if self._catalogue.owns(model, name.removesuffix("*"))]
                stems |= {name.removesuffix("*") for name in names}
                shown = [name for name in own if any(matches(pattern, name) for pattern in wanted)]
                others += bool(shown and model.price_variants)
                if shown and rules:
                    self.notes.append(f"{provider.id} {model.id}: only its plain names have rows; ask for others with --model")
                for name in shown:
                    if (one := self._named(provider, model, name)) is not None:
                        kept[name] = (model, one)
        if others:
            self.notes.append(f"models with other prices for batches or service tiers, of which only the standard ones have rows: {others}")
        self._drop_too_wide(kept, stems)
        return [one for _, one in kept.values()]

    def _drop_too_wide(self, kept: dict[str, tuple[ModelInfo, Known]], stems: set[str]) -> None:
        """A prefix must not price a known name that is another model's and has no closer row of its own."""
        for prefix in sorted((name for name in kept if name.endswith("*")), key=len, reverse=True):
            model, one = kept[prefix]
            for stem in sorted(stems):
                if not matches(prefix, stem) or self._catalogue.owns(model, stem):
                    continue
                if not any(len(name) > len(prefix) and matches(name, stem) for name in kept) and stem not in kept:
                    self.notes.append(f"{one.source} {prefix}: left out: it would price {stem} too, which is another model")
                    del kept[prefix]
                    break

    def _named(self, provider: Provider, model: ModelInfo, name: str) -> Known | None:
        """A model's dated rows under a name; None where there are none."""
        rows = self._rows.get(id(model))
        if rows is None:
            rows = self._rows[id(model)] = tuple(self._dated_rows(f"{provider.id} {model.id}", model))
        return Known(f"{provider.id}: {model.id}", tuple(replace(row, model=name) for row in rows)) if rows else None

    def _dated_rows(self, where: str, model: ModelInfo) -> Sequence[Price]:
        """A model's rows, and tells what is missing."""
        rows: list[Price] = []
        try:
            if where in _LEAST_BILLED:
                raise Unsayable("ten seconds are billed at least")
            dated = _history(model, self._wanted.since)
        except Unsayable as reason:
            self.notes.append(f"{where}: left out: {reason}")
            return rows
        for effective_at_ms, prices in dated:
            place = where if len(dated) == 1 else f"{where} from {_EPOCH + dt.timedelta(milliseconds=effective_at_ms)}"
            try:
                row, said = credit_row(prices, credits_per_dollar=self._wanted.credits_per_dollar, nearest=self._wanted.nearest)
            except Unsayable as reason:
                self.notes.append(f"{place}: left out: {reason}")
                rows.clear()  # what was in force before it must not go on
                continue
            self.notes += [f"{place}: {line}" for line in said]
            rows.append(replace(row, effective_at_ms=effective_at_ms))
        return rows


def _names(model: ModelInfo) -> tuple[Sequence[str], bool]:
    """The patterns among a model's names and whether it has others that are no exact name and no prefix."""
    names, pending, rules = [model.id], [model.match], False
    while pending:
        clause: Any = pending.pop(0)
        if (either := getattr(clause, "or_", None)) is not None:
            pending += either
        elif (name := getattr(clause, "equals", None)) is not None:
            names.append(name)
        elif (prefix := getattr(clause, "starts_with", None)) is not None:
            names.append(f"{prefix}*")
        else:
            rules = True
    return [name for name in dict.fromkeys(names) if f"{name}*" not in names], rules


def _history(model: ModelInfo, since: dt.date | None) -> Sequence[tuple[int, ModelPrice]]:
    """A model's prices with the instants at which they begin, in milliseconds since 1970. Raises Unsayable."""
    if not isinstance(model.prices, list):
        return [(0, model.prices)]
    starts = [_EPOCH]
    for constraint in (one.constraint for one in model.prices if one.constraint is not None):
        start: dt.date | None = getattr(constraint, "start_date", None)
        if start is None:
            raise Unsayable("its price depends on the time of day")
        starts.append(start)
    starts = sorted(set(starts))
    in_force = max((start for start in starts if since is None or start <= since), default=_EPOCH)
    dated: list[tuple[int, ModelPrice]] = []
    for start in starts:
        prices = model.get_prices(dt.datetime(start.year, start.month, start.day, tzinfo=dt.UTC))
        if (since is None or start >= in_force) and (not dated or prices != dated[-1][1]):
            dated.append(((start - _EPOCH) // dt.timedelta(milliseconds=1), prices))
    return dated
