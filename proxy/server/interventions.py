"""Interventions as they fall on one request: how its caller is treated, by the orders in force and by what its person has used today.

Orders are read once a second; nothing is asked about anybody while none are in force, and where the ledger cannot say, none count.
What runs keeps the treatment that it began with. Credits that policies move are transfers, each under an id of its own, with the policy in
the journal's memo. Must not know why the orders are what they are.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from proxy.domain import Caller, Ledger, Path, Price
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger.giving import COMMONS
from proxy.ledger.interventions import Published
from proxy.metrics import Metrics
from proxy.policy.effects import effect
from proxy.policy.equality import Uses
from proxy.policy.interventions import AT_REST, Mode
from proxy.policy.orders import NEUTRAL, WEIGHT_UNIT, Orders, PolicyName, Treatment, treat, without_seat
from proxy.policy.raised_price import raised

log = logging.getLogger(__name__)

OWED_MAX: Final = 10_000
"""Persons whose tithes wait; of more, none is taken."""
RAISED_MAX: Final = 4_096
DAY_MS: Final = 86_400_000


class PersonUses(Protocol):
    """What persons have used, as this process last heard."""

    async def of(self, path: Path) -> Uses | None:
        """Of the person that a path's use counts as; None where it never used anything. Raises LedgerUnavailable."""
        ...

    async def set_aside(self, person: Path) -> int:
        """What a person has given or lent others today, and what its running requests hold. Raises LedgerUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How interventions stand, for people: the record, and what holds of the modes and bounds."""

    published: Published
    modes: Mapping[PolicyName, Mode]
    steps_max: Mapping[PolicyName, int]
    is_in_force: bool = False
    """Whether the orders were renewed lately enough to count."""

    def acts(self, name: PolicyName) -> bool:
        """Whether a policy acts on callers."""
        return self._has_strength(name, "on")

    def is_proposed(self, name: PolicyName) -> bool:
        """Whether it is a dry run that would act."""
        return self._has_strength(name, "dry_run")

    def _has_strength(self, name: PolicyName, mode: Mode) -> bool:
        """In this mode, at the last look and still."""
        policy = self.published.state.policies.get(name, AT_REST)
        return self.is_in_force and policy.mode == self.modes[name] == mode and policy.strength > 0


class Control(Protocol):
    """What operators may ask and change. Every call raises LedgerUnavailable."""

    async def standing(self) -> Standing:
        """As of the last look."""
        ...

    async def set_mode(self, policy: PolicyName, mode: Mode | None) -> None:
        """From the next look on; None: as the configuration has it. Raises Refusal invalid_request."""
        ...


@dataclass(frozen=True, slots=True)
class _Gift:
    """A transfer that may be repeated; its amount is in what the giver's budget counts in."""

    operation_id: str
    reason: str
    amount: int
    expires_at_ms: int | None = None


class Interventions:
    """The orders in force in one worker, and what it owes because of them."""

    def __init__(
        self,
        *,
        read_orders: Callable[[], Awaitable[Orders | None]],
        uses: PersonUses,
        ledger: Ledger,
        commons: Callable[[], Awaitable[Path | None]],
        metrics: Metrics,
        now_ms: Callable[[], int],
        in_background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._read_orders = read_orders
        self._uses = uses
        self._ledger = ledger
        self._commons = commons
        self._metrics = metrics
        self._now_ms = now_ms
        self._in_background = in_background
        self._orders: Orders | None = None
        self.in_force = False
        """Whether anybody may be treated otherwise than ever, or would be in a dry run."""
        self._raised: dict[tuple[int, int], tuple[Price, Price]] = {}
        """By a price's identity, which the kept one holds on to, and the percentage."""
        self._name, self._numbers = secrets.token_hex(8), itertools.count()
        self._owed: dict[Path, int] = {}
        self._gifts: list[tuple[Path, _Gift]] = []
        """What could not be told to the ledger yet; bounded as `_owed` is."""
        self._is_commons_missing = False

    async def refresh(self) -> None:
        """Take over the orders as they are now; while the ledger is away those that are known stay, for as long as they are valid."""
        try:
            self._orders = await self._read_orders()
        except LedgerUnavailable:
            log.debug("no orders: the ledger is away")
        orders = self._orders
        self.in_force = orders is not None and orders.are_valid(self._now_ms()) and bool(orders.on or orders.proposed)

    # --- admission ---------------------------------------------------------------------------------------------------------------

    async def treatment(self, caller: Caller, *, takes_seat: bool = True) -> Treatment:
        """How a request that begins now is treated; it is counted by every policy that applies to it, or would. Nothing waits for a
        dry run."""
        if self._orders is not None and not self._orders.on:
            self._in_background(self._count_dry(caller, takes_seat))
            return NEUTRAL
        return await self._counted(caller, takes_seat)

    async def _count_dry(self, caller: Caller, takes_seat: bool) -> None:
        await self._counted(caller, takes_seat)

    async def _counted(self, caller: Caller, takes_seat: bool) -> Treatment:
        treatment = await self.look(caller)
        if not takes_seat:
            treatment = without_seat(treatment)
        self._count(treatment)
        return treatment

    def _count(self, treatment: Treatment) -> None:
        for policy in treatment.applied:
            self._metrics.intervened(policy, "applied")
        for policy in treatment.proposed:
            self._metrics.intervened(policy, "would_apply")

    async def look(self, caller: Caller) -> Treatment:
        """How a request of a caller would be treated now."""
        orders = self._orders
        if orders is None or not self.in_force or caller.plan.unit != orders.unit:
            return NEUTRAL
        try:
            uses = await self._uses.of(caller.person or caller.path)
        except LedgerUnavailable:
            return NEUTRAL
        use, weight = (0.0, caller.weights[1]) if uses is None else (uses.use_nanocredits.get("day", 0.0), uses.weight)
        return treat(orders, use_nanocredits=use, weight=weight)

    def effects(self, policies: Iterable[PolicyName]) -> tuple[str, ...]:
        """What these policies do by the orders in force, in sentences."""
        orders = self._orders
        return () if orders is None else tuple(effect(orders, policy) for policy in policies)

    def price(self, price: Price, treatment: Treatment) -> Price:
        """A price as this caller pays it, the same one for the same percentage."""
        percent = treatment.price_percent
        if percent == 100:
            return price
        known = self._raised.get((id(price), percent))
        if known is None or known[0] is not price:
            if len(self._raised) >= RAISED_MAX:
                self._raised.clear()
            known = self._raised[id(price), percent] = (price, raised(price, percent))
        return known[1]

    def weights(self, caller: Caller, treatment: Treatment) -> tuple[int, int]:
        """The weights with which a caller waits: in quarters for everyone while any weight is changed, so that they stay comparable.

        Inside an organisation a person's own weight changes alone: the organisation's is everybody's in it.
        """
        if self._orders is None or not self.in_force or not {"floor", "brake"}.intersection(self._orders.on):
            return caller.weights
        of_root, own = caller.weights
        person = caller.person or caller.path
        return (of_root * (treatment.weight_quarters if len(person) == 1 else WEIGHT_UNIT), own * treatment.weight_quarters)

    async def top_up(self, caller: Caller, treatment: Treatment, refusal: Refusal) -> bool:
        """Give a person who is refused what it has too little for the floor, from the commons, once a day; whether it may ask again.

        What it gave away today, or holds for other requests, it does not lack.
        """
        orders, person = self._orders, caller.person or caller.path
        amount = treatment.topup_nanocredits - (refusal.available_nanocredits or 0)  # what it has left it may still use
        if orders is None or amount <= 0 or refusal.account != person[-1]:
            return False
        starts_at_ms = orders.window_starts_at_ms
        gift_id, ends_at_ms = f"floor:{starts_at_ms // DAY_MS}:{person[-1]}", starts_at_ms + DAY_MS
        try:
            amount -= await self._uses.set_aside(person)
            commons = await self._path_of_commons()
            gift = _Gift(gift_id, "intervention floor: topped up", amount, ends_at_ms)
            given = amount > 0 and commons is not None and await self._give(gift, commons, person)
        except LedgerUnavailable:
            return False
        if given:
            self._metrics.intervened("floor", "top_up")
        return given

    # --- tithes --------------------------------------------------------------------------------------------------------------------

    def owe(self, person: Path, share: float, debited: int) -> None:
        """Note what is due of a request that has ended: a share of what was debited, in what its budget counts in."""
        due = int(debited * share)
        if due and (person in self._owed or len(self._owed) < OWED_MAX):
            self._owed[person] = self._owed.get(person, 0) + due

    async def give_tithes(self) -> None:
        """Give what is due to the commons, one transfer for each person; where there is none, nothing is due. Once in an interval, and at
        the end."""
        owed, self._owed = self._owed, {}
        gifts, self._gifts = self._gifts, []
        gifts += [(person, _Gift(f"tithe:{self._name}:{next(self._numbers)}", "intervention tithe", due)) for person, due in owed.items()]
        for place, (person, gift) in enumerate(gifts):
            try:
                commons = await self._path_of_commons()
                given = commons is not None and await self._give(gift, person, commons, into=COMMONS)
            except LedgerUnavailable:
                self._gifts = gifts[place : place + OWED_MAX]
                return
            if given:
                self._metrics.intervened("tithe", "give")

    async def _path_of_commons(self) -> Path | None:
        """None where there is no commons, or no such account, which is told once. Raises LedgerUnavailable."""
        try:
            commons = await self._commons()
        except Refusal as refusal:
            if not self._is_commons_missing:
                log.warning("nothing is given to or from the commons: %s", refusal.message)
            self._is_commons_missing = True
            return None
        self._is_commons_missing = False
        return commons

    async def _give(self, gift: _Gift, giver: Path, taker: Path, *, into: str = "") -> bool:
        """Transfer what is meant, or what is left of it; whether anything was: not where the ledger has another amount under its id.
        Raises LedgerUnavailable."""
        amount = gift.amount
        for _ in range(2):
            try:
                await self._ledger.transfer(
                    *(giver, taker, gift.operation_id),
                    credits_nanocredits=amount,
                    reason=gift.reason,
                    into=into,
                    expires_at_ms=gift.expires_at_ms,
                )
            except Refusal as refusal:
                amount = min(amount, refusal.available_nanocredits or 0)
                if refusal.code != "insufficient_quota" or amount <= 0:
                    return False
            else:
                return True
        return False
