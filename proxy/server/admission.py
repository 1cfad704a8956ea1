"""What a request asks for, of whom, and at what price: everything that is decided before credits are held for it.

Put together from the dialects' reading, the routes and the price book; the self-service estimate asks the same questions. Knows no ledger
and no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from proxy import config
from proxy.dialects import DIALECTS, Dialect, MediaRule, Paths, Request
from proxy.dialects.opaque import Opaque, OpaqueRule
from proxy.domain import Call, Caller, Price
from proxy.errors import Refusal, UpstreamError
from proxy.frozen import dataclass
from proxy.server.catalogue import Prices, check_allowed
from proxy.server.estimating import Estimate, bound_nanocredits, estimate
from proxy.server.routing import Routes
from proxy.server.upstream import Endpoint


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was understood, and the upstreams that can serve it, the one to ask first in front."""

    call: Call
    endpoints: tuple[Endpoint, ...]

    @property
    def output_tokens_max(self) -> int:
        """The operator's maximum for each answer of a request that names none, at whichever upstream it ends up."""
        return max(endpoint.section.output_tokens_max for endpoint in self.endpoints)

    def largest(self, price: Price) -> int:
        """What it may cost at most, as far as anyone can say before it runs."""
        call = self.call
        most = self.output_tokens_max if call.output_tokens_max is None else call.output_tokens_max
        return bound_nanocredits(call, price, output_tokens=most * call.choices)

    def estimate(self, price: Price, *, slice_tokens: int) -> Estimate:
        """What to hold for it."""
        return estimate(self.call, price, slice_tokens=slice_tokens, output_tokens_max=self.output_tokens_max)


class Admission:
    """The configured upstreams and prices, as far as they decide what may run."""

    def __init__(self, endpoints: Sequence[Endpoint], prices: Prices, opaque: Iterable[config.Opaque] = ()) -> None:
        self.routes = Routes(endpoints)
        spoken = [dialect for dialect in DIALECTS.values() if self.routes.speaking(dialect.name)]
        self.paths = Paths((*spoken, Opaque(map(_opaque_rule, opaque))))
        """Of the dialects that some upstream speaks, and behind them the operator's own rules."""
        self._by_name = {endpoint.name: endpoint for endpoint in endpoints}
        self._prices = prices

    def read(self, dialect: Dialect, request: Request) -> Asked:
        """What is asked for. How media count is the upstreams' to say, and which those are only the request says.

        Raises Refusal: invalid_request, model_not_found, unknown_path.
        """
        if request.operation.kept:
            raise Refusal("invalid_request", "What is kept has no cost of its own.", hint="Ask about one of the batch's requests.")
        if request.operation.upstream:
            endpoint = self._by_name[request.operation.upstream]
            return Asked(dialect.parse_request(request, endpoint.media), (endpoint,))
        speaking = self.routes.speaking(dialect.name)
        call = dialect.parse_request(request, speaking[0].media)
        if request.operation.free and not call.model:
            return Asked(call, speaking)
        model = call.model or self.routes.default_model(dialect.name)
        endpoints = self.routes.serving(dialect.name, model)
        media = endpoints[0].media if len(endpoints) == 1 else reduce(MediaRule.or_more, (e.media for e in endpoints))
        if media != speaking[0].media:
            call = dialect.parse_request(request, media)
        changes: dict[str, Any] = {} if call.model else {"model": model}
        if unseen := max(endpoint.section.unseen_tokens for endpoint in endpoints):
            changes["unseen_tokens"] = _unseen_tokens(call, unseen)
        if media.count_text is not None:
            changes["count_text"] = media.count_text
        return Asked(replace(call, **changes) if changes else call, endpoints)

    def check_free(self, caller: Caller, asked: Asked) -> None:
        """See that a caller may have what costs nothing. Raises Refusal model_not_allowed."""
        if asked.call.model:
            check_allowed(caller, asked.call.model)

    def price(self, caller: Caller, asked: Asked) -> Price:
        """The price of what is asked for, in the caller's unit. Raises Refusal: model_not_allowed, model_not_priced."""
        return self._price(caller, asked, in_batch=False)

    def price_in_batch(self, caller: Caller, asked: Asked) -> Price:
        """The price of what is asked for as one request of a batch; the same refusals."""
        return self._price(caller, asked, in_batch=True)

    def _price(self, caller: Caller, asked: Asked, *, in_batch: bool) -> Price:
        call = asked.call
        check_allowed(caller, call.model)
        real_name = asked.endpoints[0].aliases.get(call.model)
        return self._prices.price_of(call.model, call.needs, real_name=real_name, in_batch=in_batch, unit=caller.plan.unit)

    def is_price_of(self, price: Price, model: str) -> bool:
        """Whether a model still has this price, in the unit that it is in. Raises Refusal model_not_priced."""
        row = self._prices.find(model)
        return row is not None and self._prices.in_unit(row, price.unit) == price

    def endpoint(self, name: str) -> Endpoint:
        """The upstream of a name. Raises UpstreamError where the configuration no longer has it."""
        endpoint = self._by_name.get(name)
        if endpoint is None:
            raise UpstreamError(f"The upstream {name} is no longer served here.")
        return endpoint


def _unseen_tokens(call: Call, each: int) -> int:
    """What may come unseen of a stream, over all its choices; whole answers are held up to their maximum, which has it in it."""
    if not call.stream or call.measure != "output" or call.output_tokens_max == 0:
        return 0
    return (each if call.output_tokens_max is None else min(each, call.output_tokens_max)) * call.choices


def _opaque_rule(section: config.Opaque) -> OpaqueRule:
    return OpaqueRule(section.path, section.methods, section.upstream, section.model, frozenset(section.query), section.free)
