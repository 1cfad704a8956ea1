"""Which models a caller may use: served by some upstream, priced, and in the caller's plan.

Names come from the configuration; where an upstream's patterns leave them open, from the upstream's own list, asked at most once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from proxy.dialects import Dialect
from proxy.domain import CREDITS, Caller, Price
from proxy.errors import Failure, Refusal
from proxy.policy.levels import Levels
from proxy.policy.price_row import row_to_add
from proxy.policy.pricing import REMEMBERED_PRICES_MAX, PriceBook, is_priced, matches
from proxy.policy.units import price_in_units
from proxy.server.routing import Routes
from proxy.server.upstream import Endpoint

LIST_FRESH_S = 60.0
LIST_TIMEOUT_S = 5.0
LIST_MAX_BYTES = 4 * 2**20
MODELS_MAX = 10_000
ANY_PRICE: Sequence[Sequence[str]] = (("input",), ("output",), ("image",), ("character",), ("second",), ("megabyte",), ("tool_use",))
"""A model may be listed that has any price at all; what an operation needs of it is asked when it is used."""
_BLENDED: Sequence[Sequence[str]] = (("input", "output"),)
"""What a row prices that a level's index can be taken from."""


class Prices:
    """The price book in force, arranged anew whenever its rows have changed; its rows in credits, or in units of a level."""

    def __init__(self, rows: Callable[[], tuple[Price, ...]], now_ms: Callable[[], int], levels: Callable[[], Levels] = Levels) -> None:
        self._read_rows = rows
        self._read_levels = levels
        self._now_ms = now_ms
        self._rows: tuple[Price, ...] = ()
        self._book = PriceBook(())
        self._in_units: dict[tuple[int, str], tuple[Price, Price]] = {}
        """By a row's identity, which the kept row holds on to, and the level: the row, and what was derived from it last."""

    @property
    def rows(self) -> tuple[Price, ...]:
        return self._read_rows()

    def find(self, model: str) -> Price | None:
        rows = self._read_rows()
        if rows is not self._rows:
            self._rows, self._book = rows, PriceBook(rows)
        return self._book.find(model, self._now_ms())

    def price_of(
        self,
        model: str,
        needs: Sequence[Sequence[str]],
        *,
        real_name: str | None = None,
        in_batch: bool = False,
        unit: str = CREDITS,
    ) -> Price:
        """The price of a model now, by its name or, where that is an alias without a row of its own, by what it stands for.

        `in_batch`: its row must say what a batch costs. `unit`: what it is to count. Raises Refusal model_not_priced, whose hint is the
        row to add.
        """
        price = self.find(model)
        if real_name is not None and (price is None or price.model != model):
            price = self.find(real_name)
        if price is None or not is_priced(price, needs):
            lacks = "." if price is None else f" for its {' and '.join(needs[0])}."
        elif in_batch and price.batch_percent is None:
            lacks = " for batches."
        else:
            return price if unit == CREDITS else self.in_unit(price, unit)
        raise Refusal(
            "model_not_priced",
            f"The model {model!r} has no price here{lacks}",
            hint=f"Whoever runs this proxy: add a row such as\n{row_to_add(real_name or model, needs, in_batch=in_batch)}",
        )

    def in_unit(self, row: Price, unit: str) -> Price:
        """A row of the book in what an account counts: by a level's index as it is now, whatever the row's own level.

        The same one again as long as the index is the same. Raises Refusal model_not_priced where the level has no index.
        """
        if unit == CREDITS:
            return row
        index = self._read_levels().index(unit, self._now_ms())
        if index is None:
            raise Refusal(
                "model_not_priced",
                f"The level {unit!r}, in whose units this account counts, has no index: no row in force prices a model of it.",
                hint=f"Whoever runs this proxy: give the level a model, by a row such as\n{row_to_add(row.model, _BLENDED, level=unit)}",
            )
        known = self._in_units.get((id(row), unit))
        if known is None or known[0] is not row or known[1].worth_nanocredits != index:
            if len(self._in_units) >= REMEMBERED_PRICES_MAX:
                self._in_units.clear()
            known = self._in_units[id(row), unit] = (row, price_in_units(row, unit, index))
        return known[1]


def check_allowed(caller: Caller, model: str) -> None:
    """Raises Refusal model_not_allowed where the caller's plan leaves a model out."""
    if not may_use(caller, model):
        raise Refusal(
            "model_not_allowed",
            f"The plan {caller.plan.name} does not include the model {model!r}.",
            hint="GET /v1/models lists what you may use.",
            account=caller.account,
        )


def may_use(caller: Caller, model: str) -> bool:
    patterns = caller.plan.models
    return "*" in patterns or any(matches(pattern, model) for pattern in patterns)


class Catalogue:
    """The lists of models, by dialect."""

    def __init__(self, routes: Routes[Endpoint], prices: Prices) -> None:
        self._routes = routes
        self._prices = prices
        self._asking = asyncio.Lock()
        self._reported: dict[str, tuple[float, frozenset[str]]] = {}

    async def models_for(self, caller: Caller, dialect: Dialect) -> list[str]:
        """What the caller may use, by name."""
        endpoints = self._routes.speaking(dialect.name)
        patterns = [*(row.model for row in self._prices.rows), *(p for e in endpoints for p in (*e.models, *e.aliases))]
        names = {pattern for pattern in patterns if not pattern.endswith("*")}
        for endpoint in endpoints:
            if any(pattern.endswith("*") for pattern in endpoint.models):
                names |= await self._reported_by(endpoint, dialect)
        return sorted(name for name in names if may_use(caller, name) and self._is_offered(dialect, name))[:MODELS_MAX]

    def check_offered(self, caller: Caller, dialect: Dialect, model: str) -> None:
        """Raises Refusal: model_not_allowed, model_not_found, model_not_priced."""
        check_allowed(caller, model)
        serving = self._routes.serving(dialect.name, model)
        self._prices.price_of(model, ANY_PRICE, real_name=serving[0].aliases.get(model))

    def _is_offered(self, dialect: Dialect, model: str) -> bool:
        try:
            serving = self._routes.serving(dialect.name, model)
        except Refusal:
            return False
        return self._prices.find(serving[0].aliases.get(model, model)) is not None

    async def _reported_by(self, endpoint: Endpoint, dialect: Dialect) -> frozenset[str]:
        async with self._asking:  # one asks, the others take what it heard
            now_s = time.monotonic()
            asked_s, names = self._reported.get(endpoint.name, (-LIST_FRESH_S, frozenset[str]()))
            if now_s - asked_s >= LIST_FRESH_S:
                names = await _ask(endpoint, dialect)
                self._reported[endpoint.name] = (now_s, names)
            return names


async def _ask(endpoint: Endpoint, dialect: Dialect) -> frozenset[str]:
    """The models that an upstream lists; none where it does not say."""
    listing = dialect.listing
    if listing is None:
        return frozenset()
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            with await endpoint.send(dialect, "GET", listing.path, query=listing.query, passing=listing.headers) as reply:
                body = await reply.read(max_bytes=LIST_MAX_BYTES, heard=lambda: None)
                told = reply.meaning(body, max_bytes=LIST_MAX_BYTES)
    except (Failure, TimeoutError):
        return frozenset()
    return frozenset(name for name in listing.read(told) if name.isprintable())
