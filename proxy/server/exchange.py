"""One request on its way through an upstream: its time limits, and what may interrupt it.

No timer is set for each request or event; a periodic job looks at all exchanges instead (`Exchanges.pulse`), so a limit is kept to about a
quarter of a second. An interruption surfaces as the Failure that it was made with, wherever the exchange is waiting at that moment.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from proxy import config
from proxy.errors import Failure, UpstreamTimeout
from proxy.server.holding import Reservation

DEBITS_AT_ONCE_MAX = 256


class ClientTooSlow(Failure):
    """The client has not taken what was written for longer than it may; there is nobody left to answer."""

    def __init__(self) -> None:
        super().__init__("invalid_request", "The answer was not read in time.")


class Exchange:
    """The limits of one request. `async with exchange:` around what may be interrupted; between two such blocks nothing is."""

    __slots__ = ("_alarm", "_loop", "_section", "_sent_at_s", "_since_s", "_state", "_write_timeout_s", "hold", "reason")

    def __init__(self, section: config.Upstream, hold: Reservation, *, write_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._section = section
        self._write_timeout_s = write_timeout_s
        self._alarm: asyncio.Timeout | None = None
        self._sent_at_s = self._since_s = self._loop.time()
        self._state = "sending"
        self.hold = hold
        self.reason: Failure | None = None

    async def __aenter__(self) -> Self:
        if self.reason is not None:
            raise self.reason
        self._alarm = asyncio.timeout(None)
        await self._alarm.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        alarm, self._alarm = self._alarm, None
        assert alarm is not None, "entered before it is left"
        try:
            await alarm.__aexit__(kind, error, trace)
        except TimeoutError:
            assert self.reason is not None, "only `interrupt` lets the alarm ring"
            raise self.reason from None

    def reads(self) -> None:
        """From now on it waits for the upstream's next bytes."""
        self._state = "reading"
        self._since_s = self._loop.time()

    def writes(self) -> None:
        """From now on it waits for the client to take what it is sent."""
        self._state = "writing"
        self._since_s = self._loop.time()

    def interrupt(self, reason: Failure) -> None:
        """End it with this failure, now; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._alarm is not None:
                self._alarm.reschedule(self._loop.time())

    def overdue(self, now_s: float) -> Failure | None:
        """The limit that it has exceeded, if any."""
        section, waited_s = self._section, now_s - self._since_s
        if now_s - self._sent_at_s > section.total_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} took longer than {section.total_timeout_s:g} seconds.")
        if self._state == "sending" and waited_s > section.first_byte_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} did not answer within {section.first_byte_timeout_s:g} seconds.")
        if self._state == "reading" and waited_s > section.idle_timeout_s:
            return UpstreamTimeout(f"The upstream {section.name} was silent for {section.idle_timeout_s:g} seconds.")
        if self._state == "writing" and waited_s > self._write_timeout_s:
            return ClientTooSlow()
        return None


class Exchanges:
    """All exchanges of one worker."""

    def __init__(self) -> None:
        self._open: set[Exchange] = set()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, section: config.Upstream, hold: Reservation, *, write_timeout_s: float) -> Opened:
        """A new exchange, watched over as long as this context lasts."""
        return Opened(self._open, Exchange(section, hold, write_timeout_s=write_timeout_s))

    async def pulse(self) -> None:
        """Interrupt what is overdue, and debit what is due. For a periodic job."""
        now_s = asyncio.get_running_loop().time()
        due: list[Reservation] = []
        for exchange in self._open:
            overdue = exchange.overdue(now_s)
            if overdue is not None:
                exchange.interrupt(overdue)
            elif exchange.hold.is_due_for_debit(now_s):
                due.append(exchange.hold)
        for first in range(0, len(due), DEBITS_AT_ONCE_MAX):
            await asyncio.gather(*(hold.debit() for hold in due[first : first + DEBITS_AT_ONCE_MAX]))

    def interrupt_all(self, reason: Failure) -> None:
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
