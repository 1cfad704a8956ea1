"""How long whoever is turned away from a pool should wait: by how far behind others it is to go, and by how fast the pool serves.

Owns what one worker has seen of each pool's pace; the lag is the pool's to say. Must not know who waits.
"""

from __future__ import annotations

from proxy import config
from proxy.errors import Refusal
from proxy.ledger.pools import QueueFull

LATEST_COUNTS = 0.1
"""How much the latest request counts in the means."""
SEAT_S = 1.0
"""How long a seat is taken, before any has been."""
PATIENCE_MAX_S = 3600.0


class Patience:
    """The pace of each pool, and the refusals that tell of it."""

    def __init__(self) -> None:
        self._taken_s: dict[str, float] = {}
        """For how long a seat is taken, in the mean."""
        self._pace: dict[str, float] = {}
        """Nanocredits a second that one seat serves, in the mean."""

    def was_taken(self, pool: str, seconds: float, spent_nanocredits: int) -> None:
        """A seat was taken for so long, and served so much."""
        _follow(self._taken_s, pool, seconds)
        if spent_nanocredits and seconds > 0:
            _follow(self._pace, pool, spent_nanocredits / seconds)

    def taken_s(self, pool: str) -> float:
        """For how long a seat is taken, in the mean."""
        return self._taken_s.get(pool, SEAT_S)

    def full(self, refusal: Refusal, section: config.Upstream) -> Refusal:
        """The refusal of one request too many in a caller's own queue."""
        lag = refusal.lag_nanocredits if isinstance(refusal, QueueFull) else 0
        message = f"As many requests of this account wait for {section.name} as may: {section.queue_depth_per_account}."
        return self._later(section, "queue_full", message, own=section.queue_depth_per_account, lag_nanocredits=lag)

    def timed_out(self, section: config.Upstream, *, lag_nanocredits: int) -> Refusal:
        """The refusal of a request that has waited for long enough; the lag is what it was when it came."""
        message = f"All seats of {section.name} were taken for {section.queue_timeout_s:g} seconds, and others were to go first."
        return self._later(section, "queue_timeout", message, own=1, lag_nanocredits=lag_nanocredits)

    def _later(self, section: config.Upstream, code: str, message: str, *, own: int, lag_nanocredits: int) -> Refusal:
        """What others are to be served first, and the caller's own queue, at the pool's pace."""
        assert section.first_seats is not None, "who has no limit has no seats"
        taken_s, pace = self.taken_s(section.name), self._pace.get(section.name)
        wait_s = (own * taken_s + (lag_nanocredits / pace if pace else 0.0)) / section.first_seats
        hint = "Try again later, or send fewer requests at a time."
        return Refusal(code, message, hint=hint, retry_after_s=min(PATIENCE_MAX_S, max(1.0, wait_s)))


def _follow(means: dict[str, float], pool: str, value: float) -> None:
    before = means.get(pool)
    means[pool] = value if before is None else before + LATEST_COUNTS * (value - before)
