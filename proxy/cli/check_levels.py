"""What `compute-ledger check` has to say of levels: those that no row prices a model of, and plans that count in what is not there.

Also plans that would share with the commons and count in something else.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config import Config
from proxy.domain import CREDITS
from proxy.policy.levels import Levels


def level_warnings(settings: Config, now_ms: int) -> list[str]:
    """A line for each; rows that are added while the proxy runs may be what is missing."""
    levels = Levels([row.to_price() for row in settings.price], [row.to_level() for row in settings.level])
    lines = []
    for level in settings.level:
        if not levels.steps[level.name]:
            lines.append(f"level {level.name!r}: no price row names it with prices above 0 for its blend, so it has no index")
    for name in sorted({row.level for row in settings.price if row.level is not None} - {level.name for level in settings.level}):
        if not levels.steps[name]:
            lines.append(f"level {name!r}: none of its price rows has prices above 0 for its blend, so it has no index")
    for plan in settings.plan:
        if plan.unit == CREDITS:
            continue
        if plan.unit not in levels.by_name:
            lines.append(f"plan {plan.name!r}: counts in units of {plan.unit!r}, which no price row names: its accounts are refused")
        elif levels.index(plan.unit, now_ms) is None:
            lines.append(f"plan {plan.name!r}: counts in units of {plan.unit!r}, which has no index yet: its accounts are refused")
    return [*lines, *_commons_warnings(settings)]


def _commons_warnings(settings: Config) -> Iterator[str]:
    """Plans that have to do with the commons and do not count as it does, as far as the file says how it does."""
    units = {plan.name: plan.unit for plan in reversed(settings.plan)}
    for account in settings.account:
        if account.id == settings.commons.account and settings.plan:
            unit = units.get(account.plan or settings.plan[0].name, CREDITS)
            for plan in settings.plan:
                if (plan.scavenge or plan.expired_to_commons) and plan.unit != unit:
                    yield f"plan {plan.name!r}: counts in {plan.unit}, the commons in {unit}, so that neither gives the other anything"
