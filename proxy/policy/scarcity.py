"""Whether compute or budget is scarce: what is asked for and not served, smoothed, with a band in which nothing switches.

Scarcity begins when the share of the demand that is not served, or of the requests that wait for a seat, has been high for
a sustained time, and ends when it has been low for as long; between the two bounds nothing changes (a Schmitt trigger with a dwell). Where
nobody asks, nothing is scarce. Pure: the instant and the figures are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.policy.bounds import Bounds


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for: in a window so far, and at this instant of all pools with seats."""

    window_starts_at_ms: int
    served_nanocredits: float
    deficit_nanocredits: float
    """Asked for and refused for want of budget or seats, as estimated."""
    waiting: int = 0
    """With those that stand back for others."""
    seats: int = 0
    used: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether seats are left that nobody wants; never where nothing has seats."""
        return not self.waiting and self.used < self.seats

    @property
    def queue_share(self) -> float:
        """Of the requests that have a seat or wait for one, those that wait."""
        return self.waiting / (self.waiting + self.used) if self.waiting else 0.0


@dataclass(frozen=True, slots=True)
class Scarcity:
    """What has been seen of the demand, and what follows: `is_scarce`."""

    seen: Demand | None = None
    looked_at_ms: int = 0
    asked_at_ms: int = 0
    """When anything was asked for last."""
    recent_served: float = 0.0
    recent_deficit: float = 0.0
    """Nanocredits of late; what is older counts less."""
    recent_queue: float = 0.0
    is_scarce: bool = False
    turning_since_ms: int | None = None
    """Since when the opposite of `is_scarce` seems to hold."""

    @property
    def share(self) -> float:
        """How much of what is asked for is not served, 0 to 1."""
        recent = self.recent_served + self.recent_deficit
        return max(self.recent_queue, self.recent_deficit / recent if recent > 0 else 0.0)


def watch(before: Scarcity, demand: Demand, *, now_ms: int, bounds: Bounds) -> Scarcity:
    """What is known of scarcity after one more look. A first look, or one at another window, counts only from then on."""
    sustained_ms = bounds.sustained_s * 1000
    passed_ms = max(0, now_ms - before.looked_at_ms)
    kept = 0.5 ** (passed_ms / sustained_ms) if sustained_ms else 0.0
    served, deficit = _asked_since(before.seen, demand)
    has_asked = served + deficit > 0 or demand.waiting > 0
    asked_at_ms = now_ms if has_asked else min(before.asked_at_ms, now_ms)
    if now_ms - asked_at_ms > sustained_ms:
        kept = 0.0
    if not sustained_ms and not has_asked:
        served = deficit = 0.0
    after = replace(
        before,
        seen=demand,
        looked_at_ms=now_ms,
        asked_at_ms=asked_at_ms,
        recent_served=kept * before.recent_served + served,
        recent_deficit=kept * before.recent_deficit + deficit,
        recent_queue=kept * before.recent_queue + (1 - kept) * demand.queue_share,
    )
    return _turned(after, now_ms=now_ms, bounds=bounds)


def _asked_since(seen: Demand | None, demand: Demand) -> tuple[float, float]:
    """What was served and what was not since the last look; totals only grow, but for corrections, which are not demand."""
    if seen is None:
        return 0.0, 0.0
    served, deficit = demand.served_nanocredits, demand.deficit_nanocredits
    if seen.window_starts_at_ms == demand.window_starts_at_ms:
        served, deficit = served - seen.served_nanocredits, deficit - seen.deficit_nanocredits
    return max(0.0, served), max(0.0, deficit)


def _turned(scarcity: Scarcity, *, now_ms: int, bounds: Bounds) -> Scarcity:
    """Switch once the opposite has seemed to hold for long enough: it begins beyond one bound and is forgotten beyond the other."""
    is_high, is_low = scarcity.share >= bounds.scarcity_min, scarcity.share < bounds.scarcity_release
    seems_turned, seems_as_before = (is_low, is_high) if scarcity.is_scarce else (is_high, is_low)
    since_ms = scarcity.turning_since_ms
    if seems_as_before:
        since_ms = None
    elif seems_turned and (since_ms is None or since_ms > now_ms):
        since_ms = now_ms
    if since_ms is None or now_ms - since_ms < bounds.sustained_s * 1000:
        return replace(scarcity, turning_since_ms=since_ms)
    return replace(scarcity, is_scarce=not scarcity.is_scarce, turning_since_ms=None)
