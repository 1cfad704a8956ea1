"""The controller of interventions: it looks, decides, puts the decision in force and writes down what has changed.

Every parent calls `tick`; whoever comes first when a look is due takes it, so that another goes on where one dies. The decision is the
rules' (`policy/interventions.py`), what it means for a request the workers'. Must not know what a policy does to a caller.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from proxy.app.intervening import bounds_of, modes_of, steps_max_of
from proxy.config import Config
from proxy.errors import Refusal
from proxy.ledger import Store
from proxy.ledger.giving import Giving
from proxy.ledger.interventions import InterventionRecord, Published
from proxy.ledger.people import left_to_give
from proxy.metrics import Metrics
from proxy.metrics.interventions import rows_of
from proxy.policy.equality import WindowState
from proxy.policy.interventions import Act, Decision, Figures, Look, Mode, decide
from proxy.policy.orders import PolicyName
from proxy.policy.scarcity import Demand
from proxy.policy.tallies import WindowName
from proxy.server.interventions import Standing
from proxy.server.pools import UpstreamPools

log = logging.getLogger(__name__)

ACTOR: Final = "interventions"


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

    async def tick(self) -> None:
        """Look and decide, where it is time for a look and nobody else takes it; show how interventions stand in any case. To be called
        more often than looks are due. Raises LedgerUnavailable."""
        section = self._settings().intervention
        published = await self._record.read()
        if await self._record.lease(round(section.tick_s * 1000)):
            published = await self._decide(published)
        self._metrics.interventions_are(rows_of(published.state.policies, steps_max=steps_max_of(section)))

    async def _decide(self, published: Published) -> Published:
        modes = self.modes(published)
        if published.orders is None and all(mode == "off" for mode in modes.values()):
            return published  # nothing has begun, and nothing will
        decision = decide(published.state, await self._look(), modes, bounds_of(self._settings().intervention))
        for act in decision.acts:
            await self._carry_out(act, decision)
        await self._record.publish(decision.state, decision.orders)
        return dataclasses.replace(published, state=decision.state, orders=decision.orders)

    def modes(self, published: Published) -> Mapping[PolicyName, Mode]:
        """The mode of each policy: as set at run time, else as the file has it."""
        return {**modes_of(self._settings().intervention), **published.modes}

    async def standing(self) -> Standing:
        """How interventions stand, as of the last look."""
        published = await self._record.read()
        return Standing(published, self.modes(published), steps_max_of(self._settings().intervention))

    async def set_mode(self, policy: PolicyName, mode: Mode | None) -> None:
        """Have a policy in this mode from the next look on; None: as the configuration has it."""
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
            commons_nanocredits=await self._commons_nanocredits(),
            utilisation=state.utilisation,
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

    async def _carry_out(self, act: Act, decision: Decision) -> None:
        """Do what an act does by itself, and write it down. Where the ledger fails in between it is decided again: a dividend is dealt
        once nevertheless, a line may stand twice."""
        at_ms = decision.orders.at_ms
        if act.kind == "deal" and act.mode == "on":
            interval_ms = round(self._settings().intervention.dividend.interval_s * 1000)
            try:
                await self._giving.dividends.declare(
                    f"intervention:{at_ms // interval_ms}",
                    credits_nanocredits=act.amount_nanocredits,
                    by="equal",
                    expires_at_ms=None,
                    reason=f"intervention dividend: {act.reason}",
                )
            except Refusal as refusal:
                log.warning("the dividend was not dealt: %s", refusal.message)
        self._metrics.intervened(act.policy, act.kind)
        log.info("intervention %s (%s): %s, strength %d: %s", act.policy, act.mode, act.kind, act.strength, act.reason)
        await self._store.directory.record_event(
            actor=ACTOR,
            action=f"intervention.{act.kind}",
            subject=act.policy,
            before=_text(act.strength_before, act.before),
            after=_text(act.strength, act.after, mode=act.mode, amount_nanocredits=act.amount_nanocredits),
            reason=act.reason,
            operation_id=f"intervention:{act.policy}:{act.kind}:{at_ms}",
        )


def _text(strength: int, figures: Figures, **more: object) -> str:
    members = {"strength": strength, **{name: value for name, value in more.items() if value}, **dataclasses.asdict(figures)}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in members.items() if value is not None}
    return json.dumps(rounded, separators=(",", ":"), sort_keys=True)
