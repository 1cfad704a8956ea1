"""The controller of interventions: it looks, decides, puts the decision in force and writes down what has changed.

Every parent calls `tick`; whoever comes first when a look is due takes it, so that another goes on where one dies. The decision is the
rules' (`policy/interventions.py`), what it means for a request the workers'. Must not know what a policy does to a caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from proxy.app.intervening import OF_THE_COMMONS, bounds_of, modes_in, steps_max_of
from proxy.config import Config
from proxy.domain import NANOCREDITS_PER_CREDIT
from proxy.errors import Refusal
from proxy.ledger import Store
from proxy.ledger.giving import Giving
from proxy.ledger.interventions import InterventionRecord, Published
from proxy.ledger.people import left_to_give
from proxy.metrics import Metrics
from proxy.metrics.definition import Rows
from proxy.metrics.interventions import rows_of
from proxy.policy.equality import WindowState
from proxy.policy.interventions import Act, Figures, Look, Mode, decide, without_deal
from proxy.policy.orders import POLICIES, PolicyName
from proxy.policy.reach import Reach
from proxy.policy.scarcity import Demand
from proxy.policy.tallies import WindowName
from proxy.server.interventions import Standing
from proxy.server.pools import UpstreamPools

log = logging.getLogger(__name__)

ACTOR: Final = "interventions"
NOBODY: Final = Reach()


class Uses(Protocol):
    """What the ledger knows of everybody's use. Raises LedgerUnavailable."""

    async def state(self, window: WindowName, group: str | None) -> WindowState: ...


class Controller:
    """One parent's part in the interventions."""

    def __init__(
        self,
        store: Store,
        *,
        uses: Uses,
        pools: UpstreamPools,
        metrics: Metrics,
        settings: Callable[[], Config],
        giving: Giving,
    ) -> None:
        self._store = store
        self._record = InterventionRecord(store.engine)
        self._uses = uses
        self._pools = pools
        self._metrics = metrics
        self._settings = settings
        self._giving = giving
        self._known = Published()

    async def tick(self) -> None:
        """Look and decide, where it is time for a look and nobody else takes it; show how interventions stand in any case. To be called
        more often than looks are due. Raises LedgerUnavailable."""
        try:
            leased = await self._record.lease(round(self._settings().intervention.tick_s * 1000))
            self._known = await self._record.read()
            if leased:
                self._known = await self._decide(self._known)
        finally:
            self._metrics.interventions_are(self._rows())  # what lapses is to be seen without a ledger, too

    def _rows(self) -> Mapping[str, Rows]:
        standing = self._standing_of(self._known)
        return rows_of(
            standing.published.state,
            acting=[name for name in POLICIES if standing.acts(name)],
            proposed=[name for name in POLICIES if standing.is_proposed(name)],
            steps_max=standing.steps_max,
            worth_credits=self._worth_credits(),
        )

    def _worth_credits(self) -> float:
        """What one of what the orders count is worth by now."""
        orders = self._known.orders
        index = None if orders is None else self._store.directory.levels.index(orders.unit, self._store.engine.now_ms())
        return 1.0 if index is None else index / NANOCREDITS_PER_CREDIT

    async def _decide(self, published: Published) -> Published:
        modes = self.modes(published)
        if published.orders is None and all(mode == "off" for mode in modes.values()):
            return published  # nothing has begun, and nothing will
        decision = decide(published.state, await self._look(), modes, bounds_of(self._settings().intervention))
        if not await self._record.is_still(published.revision):
            return await self._record.read()  # somebody else has decided, or a mode was set: what was seen is to be judged again
        state, dividend_id = decision.state, ""
        for act in decision.acts:
            if act.kind == "deal" and act.mode == "on":
                act, dividend_id = await self._dealt(act, decision.orders.at_ms, before_ms=published.state.dealt_at_ms)
            if act.kind == "deal_refused":
                state = without_deal(state, published.state)
            await self._write_down(act, decision.orders.at_ms, state.reaches.get(act.policy, NOBODY), dividend_id)
        if not await self._record.publish(state, decision.orders, since=published.revision):
            log.info("a decision on interventions came too late and is not in force")
        return await self._record.read()

    def modes(self, published: Published) -> Mapping[PolicyName, Mode]:
        """The mode of each policy as it holds now."""
        return modes_in(self._settings(), published.modes)

    async def standing(self) -> Standing:
        """How interventions stand, as of the last look."""
        return self._standing_of(await self._record.read())

    def _standing_of(self, published: Published) -> Standing:
        orders, now_ms = published.orders, self._store.engine.now_ms()
        is_in_force = orders is not None and orders.are_valid(now_ms)
        return Standing(published, self.modes(published), steps_max_of(self._settings().intervention), is_in_force)

    async def set_mode(self, policy: PolicyName, mode: Mode | None) -> None:
        """Have a policy in this mode from the next look on; None: as the configuration has it. Raises Refusal invalid_request."""
        if mode == "on" and policy in OF_THE_COMMONS and self._settings().commons.account is None:
            raise Refusal("invalid_request", f"{policy} needs a commons, and there is none", hint="name its account in [commons]")
        await self._record.set_mode(policy, mode)

    async def _look(self) -> Look:
        state = await self._uses.state("day", None)
        pools = await self._pools.all()
        demand = Demand(
            window_starts_at_ms=state.starts_at_ms,
            served_nanocredits=state.total.tally.use_nanocredits,
            deficit_nanocredits=sum(state.deficit_nanocredits.values()),
            waiting=sum(pool.waiting + pool.spare_waiting for pool in pools),  # else a cap would hide the want that it is for
            seats=sum(pool.seats for pool in pools),
            used=sum(pool.used for pool in pools),
        )
        return Look(
            now_ms=self._store.engine.now_ms(),
            uses=state.total.tally,
            demand=demand,
            denied_people=state.denied_people,
            entitled_people=state.total.population.people,
            commons_nanocredits=await self._commons_nanocredits(),
            utilisation=state.utilisation,
            unit=state.unit,
        )

    async def _commons_nanocredits(self) -> int:
        """What the commons could give now."""
        account = self._giving.commons()
        if account is None:
            return 0
        try:
            _, levels = await self._store.directory.snapshot(await self._store.directory.path(account))
        except Refusal:
            return 0
        return left_to_give(levels[-1:], self._store.engine.now_ms())

    async def _dealt(self, act: Act, at_ms: int, *, before_ms: int) -> tuple[Act, str]:
        """Declare a dividend; what came of it, and its id. That is made from when one was dealt before, so it stays the same until this one
        is noted: where it was declared, and that could not be noted, it is that one."""
        interval_ms = round(self._settings().intervention.dividend.interval_s * 1000)
        dividend_id = f"intervention:{before_ms}"
        with contextlib.suppress(Refusal):
            there = await self._giving.dividends.find(dividend_id)
            if abs(at_ms - there.declared_at_ms) < interval_ms:
                return dataclasses.replace(act, amount_nanocredits=there.asked_nanocredits or 0), dividend_id
            dividend_id = f"{dividend_id}:{at_ms}"  # what was dealt before is not known any more: that one is over
        try:
            await self._giving.dividends.declare(
                dividend_id,
                credits_nanocredits=act.amount_nanocredits,
                by="equal",
                expires_at_ms=None,
                reason=f"intervention dividend: {act.reason}",
            )
        except Refusal as refusal:
            log.warning("the dividend was not dealt: %s", refusal.message)
            return dataclasses.replace(act, kind="deal_refused", reason=refusal.message), dividend_id
        return act, dividend_id

    async def _write_down(self, act: Act, at_ms: int, reach: Reach, dividend_id: str) -> None:
        """In the metrics, the log and the audit log. Where the ledger fails before the decision is in force, a line may stand twice."""
        is_dealt = act.kind == "deal" and act.mode == "on"
        self._metrics.intervened(act.policy, "would_deal" if act.kind == "deal" and not is_dealt else act.kind)
        log.info("intervention %s (%s): %s, strength %d: %s", act.policy, act.mode, act.kind, act.strength, act.reason)
        await self._store.directory.record_event(
            actor=ACTOR,
            action=f"intervention.{act.kind}",
            subject=act.policy,
            before=_text(act.strength_before, act.before),
            after=_text(act.strength, act.after, mode=act.mode, amount_nanocredits=act.amount_nanocredits, **dataclasses.asdict(reach)),
            reason=act.reason,
            operation_id=dividend_id if is_dealt else f"intervention:{act.policy}:{act.kind}:{at_ms}",
        )


def _text(strength: int, figures: Figures, **more: object) -> str:
    members = {"strength": strength, **{name: value for name, value in more.items() if value}, **dataclasses.asdict(figures)}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in members.items() if value is not None}
    return json.dumps(rounded, separators=(",", ":"), sort_keys=True)
