"""One account of the model: windows, grants and totals, and how credits move between them.

Amounts are nanocredits, times milliseconds, and now is an argument. Knows one account at a time; paths, holds and ids are
`model_ledger`'s. Methods that take assume that what they take is available.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proxy import domain
from proxy.domain import AMOUNT_MAX_NANOCREDITS, AccountId, AccountStatus, Limit, Path, Plan
from proxy.errors import Conflict
from proxy.policy.windows import sliding_window_s, window_at

GRANTS_MAX = 256
GRANTS = "grants"
MINUTE_US = 60_000_000


@dataclass(slots=True, eq=False)
class WindowState:
    """What a limit carried into one of its windows, and what was spent and is held in it."""

    limit: Limit
    """The limit as it was when the window was last used: what is left of it, and the rule for that, do not change afterwards."""
    index: int
    starts_at_ms: int
    resets_at_ms: int | None
    carried: int = 0
    spent: int = 0
    held: int = 0

    def left(self, credits: int | None = None) -> int:
        """What can still be taken, with the credits of its last use or with those that the limit has now."""
        credits = self.limit.credits_nanocredits if credits is None else credits
        return max(0, credits + self.carried - self.spent - self.held)


@dataclass(slots=True, eq=False)
class GrantState:
    """A grant and where its credits are: credits = left + held + spent + expired + given + revoked."""

    grant_id: str
    credits: int
    priority: int
    effective_at_ms: int
    expires_at_ms: int | None
    created_at_ms: int
    reason: str
    left: int
    held: int = 0
    spent: int = 0
    expired: int = 0
    given: int = 0
    revoked: int = 0
    live: bool = True
    """False once it was revoked."""

    def is_over(self, now_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms

    def is_usable(self, now_ms: int) -> bool:
        return self.live and self.effective_at_ms <= now_ms and not self.is_over(now_ms)

    def rank(self) -> tuple[int, float, int, str]:
        """Grants are spent in this order."""
        expires_at_ms = float("inf") if self.expires_at_ms is None else self.expires_at_ms
        return self.priority, expires_at_ms, self.created_at_ms, self.grant_id

    def shown(self, now_ms: int) -> domain.Grant:
        remaining = 0 if self.is_over(now_ms) else self.left
        return domain.Grant(
            self.grant_id, self.credits, remaining, self.held, self.spent, self.priority,
            self.effective_at_ms, self.expires_at_ms, self.reason, self.created_at_ms,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class Part:
    """A piece of what a hold took at one level: from the windows of all its limits at once, from one grant, or (neither) free."""

    sources: tuple[WindowState | GrantState, ...]
    held: int


@dataclass(slots=True, eq=False)
class Level:
    """One account: settings, windows, grants and totals."""

    id: AccountId
    path: Path
    plan: str
    plans: Mapping[str, Plan]
    weight: int
    labels: dict[str, str]
    own_limits: tuple[Limit, ...] | None
    created_at_ms: int
    status: AccountStatus = "active"
    version: int = 1
    windows: dict[str, list[WindowState]] = field(default_factory=dict)
    """By limit key, oldest first; the last one is the present one, as far as it was turned."""
    grants: dict[str, GrantState] = field(default_factory=dict)
    dropped: dict[str, GrantState] = field(default_factory=dict)
    """Finished grants that are no longer listed."""
    spent: int = 0
    held: int = 0
    granted: int = 0
    expired: int = 0
    given: int = 0
    revoked: int = 0
    adjusted: int = 0
    overrun: int = 0
    collected: int = 0
    uncollected: dict[str, int] = field(default_factory=dict)
    """What has expired since the last collection: by limit, and (under `grants`) of grants."""
    collected_at_ms: int | None = None
    running: int = 0
    """Open holds of the account and of those below it."""
    used_until_us: int = 0
    """Until when what has begun uses up the requests a minute."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.plans[self.plan].limits if self.own_limits is None else self.own_limits

    # --- windows -------------------------------------------------------------------------------------------------------------

    def present(self, limit: Limit, now_ms: int) -> WindowState:
        """The limit's window now: the stored one, or, where that is over, the one that a turn would open."""
        past = self.windows.get(limit.key)
        if past and (past[-1].resets_at_ms is None or now_ms < past[-1].resets_at_ms):
            return past[-1]
        length_s = sliding_window_s(limit)
        if length_s is None:
            calendar = window_at(limit, now_ms)
            opened = WindowState(limit, calendar.index, calendar.starts_at_ms, calendar.resets_at_ms)
        else:
            opened = WindowState(limit, past[-1].index + 1 if past else 0, now_ms, now_ms + length_s * 1000)
        if past:
            skipped = opened.index - past[-1].index - 1
            opened.carried = min(_keeps(limit), past[-1].left() + skipped * limit.credits_nanocredits)
        return opened

    def turn_windows(self, now_ms: int) -> None:
        """Open the present window of every limit whose last one is over; what that had left and is not carried expires."""
        for limit in self.limits:
            present = self.present(limit, now_ms)
            past = self.windows.setdefault(limit.key, [])
            if not past or past[-1] is not present:
                if past:
                    self.expire(limit.key, max(0, past[-1].left() - present.carried))
                past.append(present)
            present.limit = limit

    def remaining(self, limit: Limit, now_ms: int) -> int:
        return self.present(limit, now_ms).left(limit.credits_nanocredits)

    # --- what can be had -----------------------------------------------------------------------------------------------------

    def usable_grants(self, now_ms: int) -> list[GrantState]:
        return sorted((grant for grant in self.grants.values() if grant.is_usable(now_ms)), key=GrantState.rank)

    def granted_left(self, now_ms: int) -> int:
        return sum(grant.left for grant in self.usable_grants(now_ms))

    def available(self, now_ms: int) -> int:
        """What can be taken now. No level's account of what it spent and holds may leave the range in which it is exact."""
        room = AMOUNT_MAX_NANOCREDITS - self.spent - self.held
        if not self.limits:
            return room
        return min(room, min(self.remaining(limit, now_ms) for limit in self.limits) + self.granted_left(now_ms))

    def capacity(self, now_ms: int) -> int:
        """What could be had if nothing were spent or held in the present windows."""
        if not self.limits:
            return AMOUNT_MAX_NANOCREDITS
        windows = (max(0, limit.credits_nanocredits + self.present(limit, now_ms).carried) for limit in self.limits)
        return min(windows) + sum(grant.left + grant.held for grant in self.usable_grants(now_ms))

    # --- how many requests ---------------------------------------------------------------------------------------------------

    @property
    def per_minute(self) -> int | None:
        return self.plans[self.plan].requests_per_minute

    @property
    def is_full(self) -> bool:
        """Whether as many requests run as may."""
        at_once = self.plans[self.plan].concurrent_requests
        return at_once is not None and self.running >= at_once

    def ahead_us(self, now_ms: int) -> int:
        """How long it takes until what has begun no longer counts: so much of the minute for each, and at most the whole minute."""
        ahead_us = self.used_until_us - now_ms * 1000
        if self.per_minute is None or not 0 < ahead_us <= 2 * MINUTE_US:
            return 0  # The last is what a clock leaves that was set back.
        return min(ahead_us, self.per_minute * _share_us(self.per_minute))

    def wait_ms(self, now_ms: int) -> int:
        """Until the next request may begin: there must be room for one in the minute ahead."""
        if self.per_minute is None:
            return 0
        room_us = self.per_minute * _share_us(self.per_minute) - self.ahead_us(now_ms)
        return max(0, _up(_share_us(self.per_minute) - room_us, 1000))

    def rate(self, now_ms: int) -> domain.RequestRate | None:
        if self.per_minute is None:
            return None
        ahead_us = self.ahead_us(now_ms)
        left = self.per_minute - _up(ahead_us, _share_us(self.per_minute))
        return domain.RequestRate(self.id, self.per_minute, left, now_ms + _up(ahead_us, 1000))

    def begin_request(self, now_ms: int) -> None:
        self.running += 1
        if self.per_minute is not None:
            self.used_until_us = now_ms * 1000 + self.ahead_us(now_ms) + _share_us(self.per_minute)

    # --- moving it -----------------------------------------------------------------------------------------------------------

    def reserve(self, amount: int, now_ms: int) -> list[Part]:
        """Hold an amount that is available: as far as they go from all limits at once, the rest from grants in their order."""
        if not self.limits:
            self.held += amount
            return [Part((), amount)]
        limited = min(amount, *(self.remaining(limit, now_ms) for limit in self.limits))
        windows = tuple(self.present(limit, now_ms) for limit in self.limits)
        for window in windows:
            window.held += limited
        self.held += limited
        return [Part(windows, limited), *self.reserve_granted(amount - limited, now_ms)]

    def reserve_granted(self, amount: int, now_ms: int) -> list[Part]:
        if amount == 0:
            return []
        self.expire_grants(now_ms)
        parts = []
        self.held += amount
        for grant in self.usable_grants(now_ms):
            taken = min(amount, grant.left)
            grant.left -= taken
            grant.held += taken
            amount -= taken
            parts.append(Part((grant,), taken))
        assert amount == 0, "more was reserved than is available"
        return parts

    def expire(self, source: str, amount: int) -> None:
        self.expired += amount
        self.uncollected[source] = self.uncollected.get(source, 0) + amount

    def uncollected_at(self, now_ms: int, *, stale_ms: int) -> int:
        """What has expired since the last time, unless that is too long ago: of grants, and the least that any limit left."""
        self.turn_windows(now_ms)
        self.expire_grants(now_ms)
        return 0 if self._is_stale(now_ms, stale_ms) else self.uncollected.get(GRANTS, 0) + self._least_uncollected()

    def collect(self, amount: int, now_ms: int, *, stale_ms: int) -> None:
        """So much of it flows, of grants first. Of what the limits left, more than the least is nobody's."""
        least, of_grants = self._least_uncollected(), min(amount, self.uncollected.get(GRANTS, 0))
        keys = [limit.key for limit in self.limits]
        if self._is_stale(now_ms, stale_ms):
            self.uncollected.update(dict.fromkeys([GRANTS, *keys], 0))
        else:
            self.uncollected[GRANTS] = self.uncollected.get(GRANTS, 0) - of_grants
            self.uncollected.update(dict.fromkeys(keys if least else [], least - (amount - of_grants)))
        self.collected_at_ms = now_ms
        self.expired -= amount
        self.given += amount
        self.collected += amount

    def _is_stale(self, now_ms: int, stale_ms: int) -> bool:
        return self.collected_at_ms is None or now_ms - self.collected_at_ms > stale_ms

    def _least_uncollected(self) -> int:
        return min((self.uncollected.get(limit.key, 0) for limit in self.limits), default=0)

    def expire_grants(self, now_ms: int) -> None:
        """Book what grants have left past their expiry. Nobody could use it any more, so the books may follow later."""
        for grant in self.grants.values():
            if grant.is_over(now_ms):
                self.expire(GRANTS, grant.left)
                grant.expired += grant.left
                grant.left = 0

    def spend(self, parts: Iterable[Part], amount: int) -> None:
        """Move an amount from held to spent, in the order in which it was taken, in the windows and grants it was taken from."""
        self.held -= amount
        self.spent += amount
        for part in parts:
            paid = min(amount, part.held)
            amount -= paid
            part.held -= paid
            for source in part.sources:
                source.held -= paid
                source.spent += paid

    def give(self, parts: Iterable[Part]) -> None:
        """Move reserved parts out of the account. For a window that is use like any other, for a grant it is given away."""
        for part in parts:
            self.held -= part.held
            self.given += part.held
            for source in part.sources:
                source.held -= part.held
                if isinstance(source, GrantState):
                    source.given += part.held
                else:
                    source.spent += part.held
            part.held = 0

    def release(self, parts: Iterable[Part], now_ms: int) -> None:
        """Return what is still held to where it came from, as far as that still takes it."""
        for part in parts:
            self.held -= part.held
            for source in part.sources:
                source.held -= part.held
                if isinstance(source, GrantState):
                    self._return_to_grant(source, part.held, now_ms)
                elif source is not self.windows[source.limit.key][-1]:
                    self._return_to_turned_window(source, part.held)
            part.held = 0

    def _return_to_grant(self, grant: GrantState, amount: int, now_ms: int) -> None:
        if not grant.live:
            grant.revoked += amount
            self.revoked += amount
            return
        grant.left += amount
        if grant.is_over(now_ms):
            self.expire(GRANTS, amount)
            grant.expired += amount
            grant.left -= amount

    def _return_to_turned_window(self, window: WindowState, amount: int) -> None:
        """The window is no longer its limit's last: by its rule, what comes back is carried into the last one or expires."""
        last = self.windows[window.limit.key][-1]
        carried = min(amount, max(0, _keeps(window.limit) - last.carried))
        last.carried += carried
        self.expire(window.limit.key, amount - carried)

    def demand_room(self, now_ms: int) -> None:
        """For one more grant. Raises Conflict."""
        if len(self.grants) >= GRANTS_MAX and not any(g.held == 0 and (g.left == 0 or g.is_over(now_ms)) for g in self.grants.values()):
            raise Conflict(f"{self.id} already has {GRANTS_MAX} grants that are not used up")

    def add_grant(self, grant: GrantState, now_ms: int) -> None:
        """Finished grants stay listed until there are too many; then the oldest makes room."""
        self.demand_room(now_ms)
        if len(self.grants) >= GRANTS_MAX:
            self.expire_grants(now_ms)
            oldest = min((g for g in self.grants.values() if g.held == g.left == 0), key=lambda g: (g.created_at_ms, g.grant_id))
            self.dropped[oldest.grant_id] = self.grants.pop(oldest.grant_id)
        self.grants[grant.grant_id] = grant
        self.granted += grant.credits

    def grant_like(self, begins: str, expires_at_ms: int | None) -> GrantState | None:
        """The live grant whose id begins so and that expires then."""
        alike = (g for g in self.grants.values() if g.live and g.grant_id.startswith(begins) and g.expires_at_ms == expires_at_ms)
        return next(alike, None)

    def add_to_grant(self, grant: GrantState, credits: int) -> None:
        """More of the same: it expires when the grant does."""
        grant.credits += credits
        grant.left += credits
        self.granted += credits


def _keeps(limit: Limit) -> int:
    """The most that a limit carries from one window to the next."""
    match limit.rollover:
        case "none":
            return 0
        case "capped":
            return limit.rollover_max_nanocredits
        case "full":
            return AMOUNT_MAX_NANOCREDITS


def _up(amount: int, unit: int) -> int:
    """How many units it takes, begun ones included."""
    return -(-amount // unit)


def _share_us(per_minute: int) -> int:
    """What one request uses of its minute."""
    return _up(MINUTE_US, per_minute)
