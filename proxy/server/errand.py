"""What is known of a request on its way: how it will be counted, and all that sending it and forwarding its answer takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from aiohttp import web

from proxy import domain
from proxy.dialects import Dialect
from proxy.errors import Refusal
from proxy.policy.orders import NEUTRAL, Treatment
from proxy.server.exchange import Exchange
from proxy.server.holding import Reservation
from proxy.server.metering import NO_CHARGE, Charge, Meter
from proxy.server.seat import Turn
from proxy.server.upstream import Endpoint


class WantedBack(Refusal):
    """A spare seat is wanted by somebody with a budget."""

    def __init__(self) -> None:
        message = "The budget is used up, and somebody who has one wants the spare seat that this request was given."
        super().__init__("insufficient_quota", message, hint="Try again when the endpoint is idle, or once the budget turns.")


@dataclass(slots=True)
class Visit:
    """One request as it will be counted: who serves it, what was asked for, how it ended. Its id is also its hold's."""

    request_id: str
    began_s: float
    dialect: Dialect | None = None
    """None until its path has been read."""
    pool: str = ""
    model: str = ""
    outcome: str = "complete"
    queued_s: float | None = None
    """How long it waited for a seat; None where there are as many as anyone likes."""
    most_nanocredits: Callable[[], int] = lambda: 0
    """What it may cost, in credits whatever the caller counts in, once that is known."""
    spent_nanocredits: int | None = None
    """What it did cost, in credits; None while nothing has been sent."""
    debited: int = 0
    """The same as its budget pays it: nanocredits, or nanounits of what its plan counts in."""
    caller: domain.Caller | None = None
    """Whoever asks, once it is known what the request may cost."""
    treatment: Treatment = NEUTRAL
    """What interventions make of it."""
    is_over: bool = False
    """Whether all has been said, so that a client which leaves now is not one that hung up."""

    def ended(self, turn: Turn, price: domain.Price) -> Callable[[Charge | None], None]:
        """What is to happen when its hold ends: its seat is given back, and its cost counted."""

        def end(charge: Charge | None) -> None:
            self.debited = 0 if charge is None else charge.spent_nanocredits
            work = None if charge is None else charge.in_credits(price)
            self.spent_nanocredits = None if work is None else work.spent_nanocredits
            turn.leave(work)

        return end


@dataclass(slots=True)
class Errand:
    """What is known once a request is to be sent: all that forwarding its answer takes."""

    request: web.BaseRequest
    visit: Visit
    dialect: Dialect
    call: domain.Call
    endpoint: Endpoint
    hold: Reservation[Meter]
    exchange: Exchange
    turn: Turn

    def turn_to(self, endpoint: Endpoint) -> None:
        """From now on this upstream is to serve it."""
        if endpoint is not self.endpoint:
            self.turn.ask(endpoint.section)
        self.endpoint = endpoint
        if endpoint.section.continuous_usage != self.call.hides_continuous_usage:
            self.call = replace(self.call, hides_continuous_usage=endpoint.section.continuous_usage)
        self.visit.pool = endpoint.name
        self.hold.meter.missing_usage = endpoint.section.missing_usage
        self.exchange.turn_to(endpoint.section)

    async def take_seat(self) -> None:
        """Wait for its turn where seats are scarce. Raises Refusal queue_full, queue_timeout; LedgerUnavailable."""
        if self.turn.seat is not None:
            self.exchange.queues()
            self.turn.seat.so_far = self.hold.certain_in_credits
            if self.turn.is_lent:
                self.turn.seat.on_yield = lambda: self.exchange.interrupt(WantedBack())
            self.visit.queued_s = (self.visit.queued_s or 0.0) + await self.turn.seat.taken()
            self.exchange.sends()

    def leave_seat(self, charge: Charge) -> None:
        """The upstream has done its part, which will cost so much: others may have the seat."""
        self.turn.leave(None if charge is NO_CHARGE else charge.in_credits(self.hold.meter.price))


def broken_off(request: web.BaseRequest) -> ConnectionResetError:
    """Close the client's connection with the answer unfinished; raise what this returns."""
    if request.transport is not None:
        request.transport.close()
    return ConnectionResetError("the answer was broken off")
