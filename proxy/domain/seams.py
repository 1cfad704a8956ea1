"""The seams: what dialects read for whoever forwards, and the verbs of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.domain.accounts import Grant, Limit
from proxy.domain.amounts import Path
from proxy.domain.holds import Hold, Settlement
from proxy.domain.usage import Usage
from proxy.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of upstream bytes that is forwarded or withheld as a whole, and what the dialect read in it."""

    data: bytes
    """Exactly what to forward; empty where the piece is taken out (a usage chunk that the client did not ask for)."""
    output_tokens: int = 0
    """Output counted in this piece, in the call's measure: of tokens at least one per delta with content."""
    usage: Usage | None = None
    """Cumulative usage reported in this piece, when it can be believed."""
    last: bool = False
    """The dialect's end marker: held back until the hold is settled."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dialect read from a whole, non-streamed answer."""

    usage: Usage | None
    output_tokens_counted: int
    usage_rejected: bool = False
    """Whether the upstream reported usage that cannot be believed."""


class StreamReader(Protocol):
    """Reads one streamed answer; any chunking gives the same pieces, and the pieces' bytes are the stream's."""

    @property
    def deltas(self) -> int:
        """Deltas with content so far: a floor under what the upstream may report."""
        ...

    @property
    def usage_rejected(self) -> bool:
        """Whether the upstream reported usage that cannot be believed."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the dialect's end marker has been seen."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the upstream sent an error event."""
        ...

    def feed(self, chunk: bytes) -> Sequence[Piece]: ...

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end."""
        ...


class Ledger(Protocol):
    """The budget verbs. Every call is safe to repeat with the same id; the same id with other arguments raises Conflict.

    All raise `errors.LedgerUnavailable` when the ledger does not answer within the deadline, and `errors.Refusal` for an expected no.
    """

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> Hold:
        """Reserve as much of `want` as every level can pay, at least `least`, at every level of the path in one step.

        In the same step one more request has begun and runs at every level, until its hold ends; how it ends gives nothing back of the
        requests a minute. Raises Refusal: insufficient_quota, request_exceeds_budget, budget_in_flight, too_many_requests,
        account_suspended.
        """
        ...

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        """Record the cumulative total spent so far and keep the hold alive; False when the hold is no longer open."""
        ...

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> Hold | None:
        """Debit, then reserve up to `want` more (possibly 0); the hold as it is now, or None when it is no longer open."""
        ...

    async def settle(self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = "") -> Settlement:
        """End a hold at its exact cost and return the rest.

        Cost beyond the hold is paid by what the path has left, and what it cannot pay is booked as overrun, together with
        `overrun_nanocredits`. A hold that has expired before is settled once more by the difference.
        """
        ...

    async def void(self, path: Path, hold_id: str) -> Settlement:
        """End a hold and return all that it did not spend."""
        ...

    async def grant(
        self,
        path: Path,
        grant_id: str,
        *,
        credits_nanocredits: int,
        priority: int = 0,
        effective_at_ms: int | None = None,
        expires_at_ms: int | None = None,
        reason: str = "",
    ) -> Grant: ...

    async def revoke(self, path: Path, grant_id: str, *, operation_id: str, reason: str = "") -> Grant:
        """Take back what a grant has left; what is held of it stays with its hold. Raises Refusal: grant_not_found."""
        ...

    async def adjust(self, path: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> Settlement:
        """Correct what was spent at every level of the path: negative gives back, positive charges.

        A charge is paid like any other; what cannot be paid is overrun. Raises Refusal: adjustment_exceeds_spent.
        """
        ...

    async def transfer(
        self,
        source: Path,
        target: Path,
        operation_id: str,
        *,
        credits_nanocredits: int,
        reason: str = "",
        into: str = "",
        expires_at_ms: int | None = None,
        comes_back: bool = False,
    ) -> None:
        """Give credits away: taken from what is left at every level of `source` that they leave (`policy.paths`), granted to `target`.

        What came from a limit expires when that limit's window would have ended, at whichever of these levels that is first, and nothing
        lasts beyond `expires_at_ms`. `into` is for a receiver of very many: what expires at the same time becomes one grant, whose id
        begins with it. What `comes_back` was taken at every level that leads from the target to the source, and each that has limits gets
        it, too; it may also leave who is closed. Once it is taken it is on its way, also where the receiver cannot have it yet. Raises
        Refusal: insufficient_quota (its account is the level that lacks), account_suspended, units_differ, conflict.
        """
        ...

    async def forgo(self, source: Path, operation_id: str) -> bool:
        """See to it that a transfer that was refused is never made, by whomever; False where it was made after all."""
        ...

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        """Give another account what has expired in `source` since the last time, and no more than at any level that it leaves; how much (0
        the first time).

        Windows that are over are turned for it, at these levels. What is left over waits. Raises Refusal: account_suspended, units_differ.
        """
        ...

    async def set_limits(self, path: Path, operation_id: str, *, limits: tuple[Limit, ...] | None) -> None:
        """Give an account limits of its own, or (None) its plan's again."""
        ...

    async def expire_due(self) -> int:
        """End every hold whose time is over, charged as last recorded; how many."""
        ...
