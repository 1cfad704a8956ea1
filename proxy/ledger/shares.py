"""A dividend as a record: its terms, who was counted, who gets what share, how far it was paid. Pure; `dividends` carries out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from proxy.domain import AccountId

By = Literal["equal", "weight"]
DividendState = Literal["counting", "paying", "done"]


class CountedPage(msgspec.Struct, frozen=True, array_like=True):
    """A page of those that were counted, and the last account that was looked at for it (None: there are no more)."""

    people: tuple[tuple[AccountId, int], ...]
    """Each with its weight of then."""
    last: str | None


class Dividend(msgspec.Struct, frozen=True):
    """A dividend, and how far it came. `after` is the last account that was looked at to count."""

    dividend_id: str
    asked_nanocredits: int | None
    """None: all that the commons has once everybody is counted."""
    by: By
    expires_at_ms: int | None
    reason: str
    declared_at_ms: int
    commons: AccountId
    """Who pays it, also where another account becomes the commons."""
    state: DividendState = "counting"
    after: str = ""
    accounts: int = 0
    """Who is entitled."""
    weight: int = 0
    """Of all of them together."""
    credits_nanocredits: int = 0
    """What is divided among them; known once they are counted."""
    paid_accounts: int = 0
    paid_nanocredits: int = 0
    unpaid_accounts: int = 0
    """Whose share was nothing, or could not be taken or given."""
    pages: int = 0
    """How many are counted."""
    paid_pages: int = 0
    began_at_ms: int = 0
    """When the payment of the next page began; 0: nobody on it has been paid but those that are dealt with."""
    dealt: tuple[int, ...] = ()
    """Who on the next page, by their places, was paid or never will be, where the rest of it waits."""

    @property
    def terms(self) -> tuple[object, ...]:
        """What stays as it was declared."""
        return self.asked_nanocredits, self.by, self.expires_at_ms, self.reason

    def share_nanocredits(self, weight: int) -> int:
        """What somebody of a weight gets, rounded down."""
        if self.by == "equal":
            return self.credits_nanocredits // max(1, self.accounts)
        return self.credits_nanocredits * weight // max(1, self.weight)

    def counted(self, page: CountedPage) -> Dividend:
        """The same with one more page of people."""
        return msgspec.structs.replace(
            self,
            after=page.last or "",
            pages=self.pages + 1,
            accounts=self.accounts + len(page.people),
            weight=self.weight + sum(weight for _, weight in page.people),
        )

    def divided(self, has_nanocredits: int) -> Dividend:
        """The same once everybody is counted, and the commons has so much."""
        asked = self.asked_nanocredits
        return msgspec.structs.replace(
            self, state="paying", credits_nanocredits=has_nanocredits if asked is None else min(has_nanocredits, asked)
        )

    def begun(self, now_ms: int) -> Dividend:
        """The same where the payment of the next page begins."""
        return msgspec.structs.replace(self, began_at_ms=now_ms)

    def paid(self, got_nanocredits: Mapping[int, int], *, waits: bool) -> Dividend:
        """The same once those at some places of the next page have got so much; `waits` where the others on it wait."""
        count = sum(1 for amount in got_nanocredits.values() if amount)
        after = msgspec.structs.replace(
            self,
            began_at_ms=0,
            dealt=(*self.dealt, *got_nanocredits) if waits else (),
            paid_accounts=self.paid_accounts + count,
            paid_nanocredits=self.paid_nanocredits + sum(got_nanocredits.values()),
            unpaid_accounts=self.unpaid_accounts + len(got_nanocredits) - count,
            paid_pages=self.paid_pages + (not waits),
        )
        if after.paid_pages < after.pages:
            return after
        return msgspec.structs.replace(after, state="done", unpaid_accounts=after.accounts - after.paid_accounts)
