"""One request on its way through an upstream: its time limits, and what may interrupt it.

No timer is set for each request or event; a periodic job looks at all exchanges instead (`Exchanges.watch`), so a limit is kept to about a
quarter of a second. An interruption surfaces as the exception that it was made with, wherever the exchange is waiting at that moment.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Literal

from proxy import config
from proxy.errors import Expected, Failure, UpstreamTimeout
from proxy.server.holding import Reservation


class ClientTooSlow(ConnectionError):
    """The client has not taken what was written for longer than it may, so it counts as gone."""


Reason = Expected | ClientTooSlow


class Exchange:
    """The limits of one request, made in its task. Inside `with exchange:` it may be interrupted; between two such blocks it is not."""

    __slots__ = (
        *("_cancelling", "_is_inside", "_moved_at_s", "_moves", "_rang", "_section", "_seen_moves", "_sent_at_s", "_task"),
        *("_waits_for", "hold", "reason", "write_timeout_s"),
    )

    def __init__(self, section: config.Upstream, hold: Reservation[Any], *, write_timeout_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None, "made in the task of its request"
        self._task = task
        self._cancelling = task.cancelling()
        self._section = section
        self.write_timeout_s = write_timeout_s
        self._is_inside = self._rang = False
        self._sent_at_s = self._moved_at_s = time.monotonic()
        self._seen_moves = 0
        self.hold = hold
        self.reason: Reason | None = None
        self._waits_for: Literal["seat", "head", "bytes", "client"] = "head"
        self._moves = 0
        """Counted up whenever it moves on; so the clock is read by whoever watches, not for every event."""

    def __enter__(self) -> None:
        if self.reason is not None:
            raise self.reason
        self._is_inside = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """As `asyncio.timeout` does it: our own cancellation is taken back, and surfaces as its reason; anybody else's goes on."""
        self._is_inside = False
        if self._rang:
            self._rang = False
            if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                assert self.reason is not None
                raise self.reason from error

    def turn_to(self, section: config.Upstream) -> None:
        """Another upstream is asked: its limits count from now on, and the one before may have been late."""
        self._section = section
        if isinstance(self.reason, UpstreamTimeout):
            self.reason = None
        self._waits_for = "head"
        self._moves += 1

    def queues(self) -> None:
        """From now on it waits for a seat, which has a limit of its own."""
        self._waits_for = "seat"
        self._moves += 1

    def sends(self) -> None:
        """From now on it waits for the upstream's answer to begin."""
        self._waits_for = "head"
        self._moves += 1

    def reads(self) -> None:
        """From now on it waits for the upstream's next bytes."""
        self._waits_for = "bytes"
        self._moves += 1

    def writes(self) -> None:
        """From now on it waits for the client to take what it is sent."""
        self._waits_for = "client"
        self._moves += 1

    def interrupt(self, reason: Reason) -> None:
        """End it for this reason, now; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._is_inside:
                self._rang = True
                self._task.cancel()

    def overdue(self, now_s: float) -> Reason | None:
        """The limit that it has exceeded, if any; to be asked again and again."""
        if self._moves != self._seen_moves:
            self._seen_moves, self._moved_at_s = self._moves, now_s
        section, waited_s = self._section, now_s - self._moved_at_s
        if now_s - self._sent_at_s > section.total_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} took longer than {section.total_timeout_s:g} seconds.")
        if self._waits_for == "head" and waited_s > section.first_byte_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} did not answer within {section.first_byte_timeout_s:g} seconds.")
        if self._waits_for == "bytes" and waited_s > section.idle_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} was silent for {section.idle_timeout_s:g} seconds.")
        if self._waits_for == "client" and waited_s > self.write_timeout_s:
            return ClientTooSlow()
        return None


class Exchanges:
    """All exchanges of one worker."""

    def __init__(self) -> None:
        self._open: set[Exchange] = set()
        self._ended_by: Reason | None = None

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, section: config.Upstream, hold: Reservation[Any], *, write_timeout_s: float) -> Opened:
        """A new exchange, watched over as long as this context lasts."""
        exchange = Exchange(section, hold, write_timeout_s=write_timeout_s)
        exchange.reason = self._ended_by
        return Opened(self._open, exchange)

    def watch(self) -> list[Reservation[Any]]:
        """Interrupt what is overdue; the holds of which the ledger should hear. To be called again and again."""
        now_s = time.monotonic()
        due: list[Reservation[Any]] = []
        for exchange in self._open:
            overdue = exchange.overdue(now_s)
            if overdue is not None:
                exchange.interrupt(overdue)
                continue
            if exchange.hold.meter.is_timed and (refusal := exchange.hold.keep_time()) is not None:
                exchange.interrupt(refusal)
            if exchange.hold.is_due_for_debit(now_s):
                due.append(exchange.hold)
        return due

    def interrupt_all(self, reason: Failure) -> None:
        """End every exchange, those that are still to come as well."""
        self._ended_by = reason
        for exchange in self._open:
            exchange.interrupt(reason)


class Opened:
    """An exchange while it is watched over."""

    __slots__ = ("_exchange", "_open")

    def __init__(self, open_: set[Exchange], exchange: Exchange) -> None:
        self._open = open_
        self._exchange = exchange

    def __enter__(self) -> Exchange:
        self._open.add(self._exchange)
        return self._exchange

    def __exit__(self, *_: object) -> None:
        self._open.discard(self._exchange)
