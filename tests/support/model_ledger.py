"""The ledger as plain Python: what every verb means, for readers and for the suites that hold the real one to it.

No I/O, no concurrency, no speed: each verb is one function that first decides and then writes, so a refusal changes nothing.
Amounts are nanocredits, times milliseconds by the clock that is given. Every account on a path is a level; a hold books the same
amount at each of them (`model_account`). Written from the ledger's rules alone, never from its scripts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from proxy import domain
from proxy.domain import AMOUNT_MAX_NANOCREDITS, AccountId, AccountStatus, Limit, Path, Plan
from proxy.errors import Conflict, Refusal
from proxy.policy.units import check_keeps_unit, check_one_unit, check_plan_keeps_unit, check_transfer
from proxy.policy.windows import sliding_window_s, window_at, window_s
from tests.support.model_account import GrantState, Level, Part, WindowState

Answer = TypeVar("Answer")
UNCOLLECTED_MS = 40 * 86_400_000


@dataclass(slots=True, eq=False)
class HoldState:
    """A hold from its first day on; it stays known after its end, so that repeats get their answer."""

    hold_id: str
    path: Path
    want: int
    least: int
    created_at_ms: int
    deadline_ms: int
    parts: dict[AccountId, list[Part]]
    first_amount: int = 0
    """What the hold itself got; a repeat of it answers this also after extensions."""
    amount: int = 0
    spent: int = 0
    sequence: int = 0
    sequence_want: int | None = None
    extended: int = 0
    """The largest spent that an extension has said."""
    state: Literal["open", "settled", "voided", "expired"] = "open"
    overrun: int = 0
    settled_with: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A list that came whole."""

    items: tuple[Any, ...]
    next: str | None = None


class ModelLedger:
    """`domain.Ledger`, and of the directory what the suites need."""

    def __init__(self, now_ms: Callable[[], int], *, hold_ttl_s: int = 60) -> None:
        self._now_ms = now_ms
        self._hold_ttl_ms = hold_ttl_s * 1000
        self._plans: dict[str, Plan] = {}
        self._levels: dict[str, Level] = {}
        self._holds: dict[tuple[str, str], HoldState] = {}
        self._answers: dict[tuple[str, str, str], tuple[object, Any]] = {}
        """Operations that were carried out: what they were asked, what they answered."""

    # --- holds ---------------------------------------------------------------------------------------------------------------

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> domain.Hold:
        _check_amounts(want_nanocredits, least_nanocredits)
        known = self._holds.get((path[0], hold_id))
        if known is not None:
            if (known.path, known.want, known.least) != (path, want_nanocredits, least_nanocredits):
                raise Conflict(f"hold {hold_id} was asked for with other arguments")
            return self._shown(known, known.first_amount, rate=self._rate(path))
        if least_nanocredits > want_nanocredits:
            raise Refusal("invalid_request", "a hold cannot need more than it wants")
        levels = self._on(path)
        if suspended := next((level for level in levels if level.status != "active"), None):
            raise Refusal("account_suspended", f"{suspended.id} is {suspended.status}", account=suspended.id)
        now_ms = self._now_ms()
        if any(level.is_full or level.wait_ms(now_ms) or level.available(now_ms) < least_nanocredits for level in levels):
            self._expire_due(path[0])
        self._refuse_if_too_many(levels)
        self._refuse_if_less_than(least_nanocredits, levels)
        hold = HoldState(hold_id, path, want_nanocredits, least_nanocredits, now_ms, now_ms + self._hold_ttl_ms, {id_: [] for id_ in path})
        self._holds[path[0], hold_id] = hold
        hold.amount = hold.first_amount = self._take(hold.parts, want_nanocredits)
        for level in levels:
            level.begin_request(now_ms)
        return self._shown(hold, hold.amount, rate=self._rate(path))

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        _check_amounts(spent_nanocredits)
        hold = self._holds.get((path[0], hold_id))
        if hold is None or hold.state != "open":
            return False
        self._debit(hold, spent_nanocredits)
        return True

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> domain.Hold | None:
        _check_amounts(spent_nanocredits, want_nanocredits)
        hold = self._holds.get((path[0], hold_id))
        if hold is None or hold.state != "open":
            return None
        if sequence == hold.sequence and want_nanocredits != hold.sequence_want:
            raise Conflict(f"extension {sequence} of hold {hold_id} was asked for with another amount")
        is_news = sequence > hold.sequence or spent_nanocredits > hold.extended
        self._debit(hold, spent_nanocredits if is_news else 0)
        hold.extended = max(hold.extended, spent_nanocredits)
        if sequence > hold.sequence:
            hold.sequence, hold.sequence_want = sequence, want_nanocredits
            if want_nanocredits > 0 and all(level.status == "active" for level in self._on(hold.path)):
                hold.amount += self._take(hold.parts, want_nanocredits)
        return self._shown(hold, hold.amount)

    async def settle(
        self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = ""
    ) -> domain.Settlement:
        _check_amounts(spent_nanocredits, overrun_nanocredits)
        hold = self._holds.get((path[0], hold_id))
        if hold is None:
            return domain.Settlement(hold_id, "settled", 0, 0)
        asked = (spent_nanocredits, overrun_nanocredits)
        if hold.state == "voided" or (hold.state == "settled" and hold.settled_with != asked):
            raise Conflict(f"hold {hold_id} was {hold.state} before, in another way")
        if hold.state != "settled":
            if hold.state == "open":
                self._debit(hold, spent_nanocredits)
                self._release(hold)
            extra = max(0, spent_nanocredits - hold.spent)
            paid = self._charge(hold.path, extra)
            hold.spent += paid
            hold.overrun = extra - paid + overrun_nanocredits
            self._book_overrun(hold.path, hold.overrun)
            hold.state, hold.settled_with = "settled", asked
        return self._ended(hold)

    async def void(self, path: Path, hold_id: str) -> domain.Settlement:
        hold = self._holds.get((path[0], hold_id))
        if hold is None:
            return domain.Settlement(hold_id, "voided", 0, 0)
        if hold.state == "open":
            self._release(hold)
            hold.state = "voided"
        return self._ended(hold)

    async def expire_due(self) -> int:
        return self._expire_due()

    # --- grants, corrections, transfers, limits ------------------------------------------------------------------------------

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
    ) -> domain.Grant:
        def act() -> GrantState:
            level, now_ms = self._on(path)[-1], self._now_ms()
            if level.granted + credits_nanocredits > AMOUNT_MAX_NANOCREDITS:
                raise Refusal("invalid_request", "an account cannot be granted more than the ledger can count")
            starts_at_ms = now_ms if effective_at_ms is None else effective_at_ms
            if expires_at_ms is not None and expires_at_ms <= max(now_ms, starts_at_ms):
                raise Refusal("invalid_request", "the grant would expire before it can be used")
            grant = GrantState(
                grant_id, credits_nanocredits, priority, starts_at_ms, expires_at_ms, now_ms, reason, left=credits_nanocredits
            )
            level.add_grant(grant, now_ms)
            return grant

        _check_amounts(credits_nanocredits, least=1)
        asked = (path, credits_nanocredits, priority, effective_at_ms, expires_at_ms, reason)
        return self._once("grant", path, grant_id, asked, act).shown(self._now_ms())

    async def revoke(self, path: Path, grant_id: str, *, operation_id: str, reason: str = "") -> domain.Grant:
        def act() -> GrantState:
            level = self._on(path)[-1]
            grant = level.grants.get(grant_id)
            if grant is None:
                raise Refusal("grant_not_found", f"{level.id} has no grant {grant_id}", account=level.id)
            level.revoked += grant.left
            grant.revoked += grant.left
            grant.left = 0
            grant.live = False
            return grant

        return self._once("revoke", path, operation_id, (path, grant_id, reason), act).shown(self._now_ms())

    async def adjust(self, path: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> domain.Settlement:
        def give_back() -> domain.Settlement:
            levels = self._on(path)
            for level in levels:
                if level.spent + credits_nanocredits < 0:
                    raise Refusal("adjustment_exceeds_spent", f"{level.id} has not spent as much", account=level.id)
            for level in levels:
                level.turn_windows(self._now_ms())
                level.spent += credits_nanocredits
                level.adjusted += credits_nanocredits
                for limit in level.limits:
                    level.windows[limit.key][-1].spent += credits_nanocredits
            return domain.Settlement(operation_id, "settled", credits_nanocredits, 0)

        def charge() -> domain.Settlement:
            paid = self._charge(path, credits_nanocredits)
            for level in self._on(path):
                level.adjusted += paid
            self._book_overrun(path, credits_nanocredits - paid)
            return domain.Settlement(operation_id, "settled", paid, credits_nanocredits - paid)

        _check_amounts(abs(credits_nanocredits), least=1)
        act = charge if credits_nanocredits > 0 else give_back
        return self._once("adjust", path, operation_id, (path, credits_nanocredits, reason), act)

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
        def act() -> None:
            now_ms = self._now_ms()
            leaves = self._left(source, target, comes_back=comes_back)
            giver = leaves[-1]
            is_over = comes_back and any(level.status == "closed" for level in self._on(source))
            for level in leaves:
                if level.status != "active" and not is_over:
                    raise Refusal("account_suspended", f"{level.id} is {level.status}", account=level.id)
            if not giver.limits and giver.granted_left(now_ms) < credits_nanocredits:
                raise Refusal("invalid_request", f"{giver.id} has no limit to give from", account=giver.id)
            least = min(leaves, key=lambda level: level.available(now_ms))
            if least.available(now_ms) < credits_nanocredits:
                raise self._lack("insufficient_quota", least, credits_nanocredits, least.available(now_ms))
            takers = self._takers(source, target, comes_back=comes_back)
            for taker in takers:
                taker.demand_room(now_ms)
            all_parts = []
            for level in leaves:
                level.turn_windows(now_ms)
                only_grants = level is giver and not level.limits
                all_parts.append((level.reserve_granted if only_grants else level.reserve)(credits_nanocredits, now_ms))
            gifts = _by_expiry(all_parts, latest_ms=expires_at_ms)
            for level, parts in zip(leaves, all_parts, strict=True):
                level.give(parts)
            for taker in takers:
                for n, (ends_at_ms, credits) in enumerate(gifts.items(), start=1):
                    self._add_gift(taker, credits, ends_at_ms, f"{operation_id}:{n}", into=into, reason=reason)
                taker.expire_grants(now_ms)  # A gift may have been on its way for too long.

        _check_amounts(credits_nanocredits, least=1)
        if source[-1] == target[-1]:
            raise Refusal("invalid_request", "a transfer goes from one account to another")
        plans = [self._plans[self._on(path)[-1].plan] for path in (source, target)]
        check_transfer(*plans, giver=source[-1], receiver=target[-1])
        asked = (source, target, credits_nanocredits, reason, into, expires_at_ms, comes_back)
        self._once("transfer", source, operation_id, asked, act)

    async def forgo(self, source: Path, operation_id: str) -> bool:
        try:
            self._once("forgo", source, operation_id, (source,), lambda: None)
        except Conflict:
            return False
        return True

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        def act() -> int:
            now_ms = self._now_ms()
            *above, giver = self._left(source, target)
            leaves = [*(level for level in above if level.limits), giver]
            for level in (*above, giver):
                if level.status != "active":
                    raise Refusal("account_suspended", f"{level.id} is {level.status}", account=level.id)
            amount = min(level.uncollected_at(now_ms, stale_ms=UNCOLLECTED_MS) for level in leaves)
            for level in leaves:
                level.collect(amount, now_ms, stale_ms=UNCOLLECTED_MS)
            taker = self._on(target)[-1]
            if amount:
                self._add_gift(taker, amount, expires_at_ms, f"{operation_id}:1", into=into, reason=reason)
                taker.expire_grants(now_ms)
            return amount

        asked = (source, target, expires_at_ms, reason, into)
        return self._once("collect", source, operation_id, asked, act)

    async def set_limits(self, path: Path, operation_id: str, *, limits: tuple[Limit, ...] | None) -> None:
        def act() -> None:
            level = self._on(path)[-1]
            level.own_limits = limits
            level.version += 1

        self._once("set_limits", path, operation_id, (path, limits), act)

    # --- the directory, as far as the suites need it -------------------------------------------------------------------------

    async def put_plan(self, plan: Plan, *, operation_id: str) -> None:
        check_plan_keeps_unit(self._plans.get(plan.name, plan), plan)
        self._plans[plan.name] = plan

    async def create_account(
        self,
        account_id: AccountId,
        *,
        parent: AccountId | None,
        plan: str,
        weight: int | None,
        limits: tuple[Limit, ...] | None,
        labels: Mapping[str, str],
        operation_id: str,
    ) -> domain.Account:
        if parent is not None and parent not in self._levels:
            raise Refusal("account_not_found", f"there is no account {parent}", account=parent)
        if plan not in self._plans:
            raise Refusal("not_found", f"there is no plan {plan}")
        path = (*(self._levels[parent].path if parent else ()), account_id)
        check_one_unit(self._plans[plan], [self._plans[level.plan] for level in self._on(path[:-1])], account_id)
        weight = self._plans[plan].weight if weight is None else weight
        if known := self._levels.get(account_id):
            settings = (known.path, known.plan, known.weight, known.own_limits, known.labels)
            if settings != (path, plan, weight, limits, dict(labels)):
                raise Refusal("conflict", f"{account_id} exists with other settings")
        else:
            if len(path) > domain.PATH_DEPTH_MAX:
                raise Refusal("invalid_request", f"accounts nest at most {domain.PATH_DEPTH_MAX} deep")
            self._levels[account_id] = Level(account_id, path, plan, self._plans, weight, dict(labels), limits, self._now_ms())
        return await self.account(account_id)

    async def update_account(
        self,
        account_id: AccountId,
        *,
        operation_id: str,
        plan: str | None = None,
        weight: int | None = None,
        status: AccountStatus | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> domain.Account:
        level = self._level(account_id)
        if level.status == "closed" and status not in (None, "closed"):
            raise Conflict(f"{account_id} is closed, and stays so")
        check_keeps_unit(self._plans[level.plan], self._plans[plan or level.plan], account_id)
        level.plan = level.plan if plan is None else plan
        level.weight = level.weight if weight is None else weight
        level.status = level.status if status is None else status
        level.labels = level.labels if labels is None else dict(labels)
        level.version += 1
        return await self.account(account_id)

    async def account(self, account_id: AccountId) -> domain.Account:
        """The account as of now: a window that is over shows as the one that would be opened, an expired grant as empty."""
        level, now_ms = self._level(account_id), self._now_ms()
        states = []
        for limit in level.limits:
            window = level.present(limit, now_ms)
            states.append(domain.LimitState(limit, window.spent, window.held, window.carried, window.starts_at_ms, window.resets_at_ms))
        limited = [above.available(now_ms) for above in self._on(level.path) if above.limits]
        return domain.Account(
            id=level.id,
            path=level.path,
            plan=level.plan,
            status=level.status,
            weight=level.weight,
            labels=dict(level.labels),
            own_limits=level.own_limits,
            version=level.version,
            created_at_ms=level.created_at_ms,
            limits=tuple(states),
            grants=tuple(grant.shown(now_ms) for grant in level.grants.values()),
            totals=domain.Totals(**{f.name: getattr(level, f.name) for f in dataclasses.fields(domain.Totals)}),
            available_nanocredits=min(limited, default=None),
            requests_per_minute=level.per_minute,
            concurrent_requests=self._plans[level.plan].concurrent_requests,
            running_requests=level.running,
            unit=self._plans[level.plan].unit,
        )

    async def holds(self, account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Page:
        open_holds = (hold for hold in self._holds.values() if hold.state == "open" and account_id in hold.path)
        return Page(
            tuple(
                domain.OpenHold(hold.hold_id, hold.path, hold.amount, hold.spent, hold.created_at_ms, hold.deadline_ms)
                for hold in open_holds
            )
        )

    def open_hold_ids(self) -> set[str]:
        return {hold.hold_id for hold in self._holds.values() if hold.state == "open"}

    async def audit(self) -> domain.AuditReport:
        """Conservation: what is held is what open holds hold, and every credit that was granted or spent is accounted for."""
        broken = [f"{level.id}: {complaint}" for level in self._levels.values() for complaint in self._complaints(level)]
        open_holds = sum(hold.state == "open" for hold in self._holds.values())
        roots = (level for level in self._levels.values() if len(level.path) == 1 and level.limits and level.status == "active")
        left = sum(level.available(self._now_ms()) for level in roots)
        return domain.AuditReport(len(self._levels), 0, open_holds, tuple(broken), left_nanocredits=left)

    def _complaints(self, level: Level) -> Iterable[str]:
        holds = [hold for hold in self._holds.values() if level.id in hold.path]
        parts = [part for hold in holds for part in hold.parts[level.id]]
        if not level.held == sum(part.held for part in parts) == sum(h.amount - h.spent for h in holds if h.state == "open"):
            yield "held is not what its open holds have left"
        if level.running != sum(hold.state == "open" for hold in holds):
            yield "as many requests do not run as it has open holds"
        if level.spent != sum(hold.spent for hold in holds) + level.adjusted:
            yield "spent is not what its holds spent, with corrections"
        sources: list[WindowState | GrantState] = [window for past in level.windows.values() for window in past]
        for source in (*sources, *level.grants.values()):
            if source.held != sum(part.held for part in parts if source in part.sources):
                yield f"{source} holds what no hold holds"
        for grant in level.grants.values():
            spread = grant.left, grant.held, grant.spent, grant.expired, grant.given, grant.revoked
            if grant.credits != sum(spread) or min(spread) < 0:
                yield f"grant {grant.grant_id} does not add up"
        if level.granted != sum(grant.credits for grant in (*level.grants.values(), *level.dropped.values())):
            yield "granted is not the sum of its grants"

    # --- shared steps --------------------------------------------------------------------------------------------------------

    def _level(self, account_id: AccountId) -> Level:
        if account_id not in self._levels:
            raise Refusal("account_not_found", f"there is no account {account_id}", account=account_id)
        return self._levels[account_id]

    def _on(self, path: Path) -> list[Level]:
        return [self._level(account_id) for account_id in path]

    def _left(self, source: Path, target: Path, *, comes_back: bool = False) -> list[Level]:
        """The levels that credits leave: all that do not stand above both accounts. What comes back from below leaves no more of them
        than lie below whom it comes back to, for it was taken from there."""
        left = [level for level in self._on(source) if level.id not in target[:-1] or level.id == source[-1]]
        if comes_back:
            left = [level for level in left if level.id != target[-1]]
        return left

    def _takers(self, source: Path, target: Path, *, comes_back: bool) -> list[Level]:
        """Who gets what is given: the last of the path, and where it comes back every level with limits that it had left then."""
        *above, taker = self._left(target, source) if comes_back else self._on(target[-1:])
        return [*(level for level in above if level.limits), taker]

    def _add_gift(self, taker: Level, credits: int, ends_at_ms: int | None, gift_id: str, *, into: str, reason: str) -> None:
        if into and (merged := taker.grant_like(f"{into}:", ends_at_ms)) is not None:
            taker.add_to_grant(merged, credits)
            return
        gift_id, now_ms = f"{into}:{gift_id}" if into else gift_id, self._now_ms()
        taker.add_grant(GrantState(gift_id, credits, 0, now_ms, ends_at_ms, now_ms, reason, left=credits), now_ms)

    def _once(self, verb: str, path: Path, operation_id: str, asked: object, act: Callable[[], Answer]) -> Answer:
        """Carry an operation out the first time; a repeat finds what it led to. A refused one leaves no trace."""
        key = (verb, path[0], operation_id)
        if key not in self._answers:
            self._answers[key] = (asked, act())
        known, answer = self._answers[key]
        if known != asked:
            raise Conflict(f"{verb} {operation_id} was asked for with other arguments")
        return cast(Answer, answer)

    def _take(self, parts: dict[AccountId, list[Part]], want: int) -> int:
        """Reserve as much of what is wanted as every level has; how much."""
        levels, now_ms = self._on(tuple(parts)), self._now_ms()
        for level in levels:
            level.turn_windows(now_ms)
        amount = min(want, *(level.available(now_ms) for level in levels))
        for level in levels:
            parts[level.id] += level.reserve(amount, now_ms)
        return amount

    def _charge(self, path: Path, amount: int) -> int:
        """Spend as much of an amount as every level has, without a hold; how much. Nothing to charge touches nothing."""
        if amount == 0:
            return 0
        parts: dict[AccountId, list[Part]] = {account_id: [] for account_id in path}
        paid = self._take(parts, amount)
        for level in self._on(path):
            level.spend(parts[level.id], paid)
        return paid

    def _debit(self, hold: HoldState, spent: int) -> None:
        newly = max(0, min(spent, hold.amount) - hold.spent)
        for level in self._on(hold.path):
            level.spend(hold.parts[level.id], newly)
        hold.spent += newly
        hold.deadline_ms = self._now_ms() + self._hold_ttl_ms

    def _release(self, hold: HoldState) -> None:
        for level in self._on(hold.path):
            level.release(hold.parts[level.id], self._now_ms())
            level.running -= 1

    def _expire_due(self, root: str | None = None) -> int:
        """End the holds whose time is over, below one root or below all; how many."""
        due = [hold for hold in self._holds.values() if hold.state == "open" and hold.deadline_ms <= self._now_ms()]
        due = [hold for hold in due if root is None or hold.path[0] == root]
        for hold in due:
            self._release(hold)
            hold.state = "expired"
        return len(due)

    def _book_overrun(self, path: Path, amount: int) -> None:
        for level in self._on(path):
            level.overrun += amount

    def _refuse_if_too_many(self, levels: Sequence[Level]) -> None:
        """Too many that run come first; of the rates the one that makes it wait longest, the first from the root among equals."""
        if full := next((level for level in levels if level.is_full), None):
            message = f"{full.id} runs as many requests as it may"
            raise Refusal("too_many_requests", message, account=full.id, limit="concurrent_requests", retry_after_s=1.0)
        now_ms = self._now_ms()
        level = max(levels, key=lambda level: level.wait_ms(now_ms))
        if wait_ms := level.wait_ms(now_ms):
            message = f"{level.id} has begun as many requests as it may"
            raise Refusal("too_many_requests", message, account=level.id, limit="requests_per_minute", retry_after_s=wait_ms / 1000)

    def _rate(self, path: Path) -> domain.RequestRate | None:
        """The rate that leaves least, the first from the root among equals."""
        rates = [rate for level in self._on(path) if (rate := level.rate(self._now_ms())) is not None]
        return min(rates, key=lambda rate: rate.remaining_requests, default=None)

    def _refuse_if_less_than(self, least: int, levels: Sequence[Level]) -> None:
        now_ms = self._now_ms()
        level = min(levels, key=lambda level: level.available(now_ms))
        available = level.available(now_ms)
        if least <= available:
            return
        if least > level.capacity(now_ms):
            raise self._lack("request_exceeds_budget", level, least, available)
        if least <= available + level.held:
            raise self._lack("budget_in_flight", level, least, available)
        raise self._lack("insufficient_quota", level, least, available)

    def _lack(self, code: str, level: Level, needed: int, available: int) -> Refusal:
        now_ms = self._now_ms()
        limit = min(level.limits, key=lambda limit: level.remaining(limit, now_ms), default=None)
        return Refusal(
            code,
            f"{level.id} has {available} left of {needed}",
            account=level.id,
            limit=None if limit is None else limit.key,
            needed_nanocredits=needed,
            available_nanocredits=available,
            resets_at_ms=None if limit is None else level.present(limit, now_ms).resets_at_ms,
            retry_after_s=1.0 if code == "budget_in_flight" else None,
        )

    def _tightest(self, path: Path) -> domain.Tightest | None:
        """The limit that leaves least, the grants of its account included; the first from the root among equals."""
        now_ms = self._now_ms()
        tightest = None
        for level in self._on(path):
            for limit in level.limits:
                left, window = level.remaining(limit, now_ms) + level.granted_left(now_ms), level.present(limit, now_ms)
                if tightest is None or left < tightest.remaining_nanocredits:
                    length_s = window_s(limit, None if sliding_window_s(limit) else window_at(limit, window.starts_at_ms))
                    tightest = domain.Tightest(level.id, limit.key, limit.credits_nanocredits, left, window.resets_at_ms, length_s)
        return tightest

    def _shown(self, hold: HoldState, amount: int, *, rate: domain.RequestRate | None = None) -> domain.Hold:
        return domain.Hold(hold.hold_id, hold.path, amount, self._tightest(hold.path), rate)

    def _ended(self, hold: HoldState) -> domain.Settlement:
        assert hold.state != "open"
        return domain.Settlement(hold.hold_id, hold.state, hold.spent, hold.overrun)


def _check_amounts(*amounts: int, least: int = 0) -> None:
    for amount in amounts:
        if type(amount) is not int or not least <= amount <= AMOUNT_MAX_NANOCREDITS:
            raise Refusal("invalid_request", f"{amount!r} is not an amount from {least} to {AMOUNT_MAX_NANOCREDITS} nanocredits")


def _by_expiry(levels: Sequence[Sequence[Part]], *, latest_ms: int | None = None) -> dict[int | None, int]:
    """What a gift is made of, in the order it was taken: credits by when they expire. A limit's last as long as its window, none longer
    than `latest_ms`. At each level the same amount was taken; each credit lasts as long as it would have at all of them."""
    cuts = sorted({end for parts in levels for end in itertools.accumulate(part.held for part in parts)} | {0})
    gifts: dict[int | None, int] = {}
    for begins, ends in itertools.pairwise(cuts):
        expiries = [latest_ms]
        for parts in levels:
            upto = itertools.accumulate(part.held for part in parts)
            part = next(part for part, end in zip(parts, upto, strict=True) if end > begins)
            expiries += [s.expires_at_ms if isinstance(s, GrantState) else s.resets_at_ms for s in part.sources]
        expires_at_ms = min((end for end in expiries if end is not None), default=None)
        gifts[expires_at_ms] = gifts.get(expires_at_ms, 0) + ends - begins
    return gifts
