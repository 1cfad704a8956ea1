"""Calendar windows: which hour, day, week or month of a time zone an instant belongs to.

Windows are half-open, tile time without gap or overlap, and are numbered so that neighbours differ by one. A day starts at the
first instant of its local date, so it may last 23 or 25 hours; where clocks strike midnight twice the first stroke counts, and
where they skip midnight the day starts with the jump. A date that a zone left out altogether (Apia, 30 December 2011) is an empty
window. An hour starts where a local clock shows a whole hour. Pure: the instant is an argument, nothing reads a clock.
"""

from __future__ import annotations

import bisect
import datetime as dt
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass

from proxy.domain import Limit

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a calendar: `index` is one more than that of the window before."""

    index: int
    starts_at_ms: int
    resets_at_ms: int | None
    """The first instant that no longer belongs to it; None where it never ends."""

    def contains(self, now_ms: int) -> bool:
        return self.starts_at_ms <= now_ms and (self.resets_at_ms is None or now_ms < self.resets_at_ms)


EVER = Window(index=0, starts_at_ms=0, resets_at_ms=None)

_last_seen: dict[tuple[str, str], Window] = {}
"""The window asked for last, by window and zone: the next question is nearly always about the same one. It cannot outgrow the
time zones that exist, for an unknown one raises before it is kept."""


def window_at(limit: Limit, now_ms: int) -> Window:
    """The window of a limit at an instant.

    Raises ValueError for a limit of `<N>s`, whose windows start at their first use and stand in no calendar.
    """
    if limit.window == "ever":
        return EVER
    key = (limit.window, limit.time_zone)
    window = _last_seen.get(key)
    if window is None or not window.contains(now_ms):
        window = _calendar_window(limit.window, zoneinfo.ZoneInfo(limit.time_zone), now_ms // 1000)
        _last_seen[key] = window
    return window


def window_s(limit: Limit, window: Window | None = None) -> int | None:
    """How long a window lasts; None where it never ends. Only calendar windows differ in length and must be given."""
    if limit.window == "ever":
        return None
    if (length_s := sliding_window_s(limit)) is not None:
        return length_s
    if window is None or window.resets_at_ms is None:
        raise ValueError(f"how long a {limit.window} lasts depends on which one it is")
    return (window.resets_at_ms - window.starts_at_ms) // 1000


def index_on(kind: str, day: int) -> int:
    """The index of the day, week or month of UTC that a day belongs to; days are numbered as `date.toordinal` does."""
    return _CALENDARS[kind][0](dt.date.fromordinal(day))


def first_day(kind: str, index: int) -> int:
    """The number of the day with which a day, week or month begins."""
    return _CALENDARS[kind][1](index).toordinal()


def sliding_window_s(limit: Limit) -> int | None:
    """N where the limit's windows are `<N>s`: as many seconds from the first use; None for every other limit."""
    return int(limit.window[:-1]) if limit.window.endswith("s") else None


def _calendar_window(kind: str, zone: zoneinfo.ZoneInfo, now_s: int) -> Window:
    if kind == "hour":
        return _hour_window(zone, now_s)
    if kind not in _CALENDARS:
        raise ValueError(f"a window of {kind!r} stands in no calendar")
    index_of, first_date = _CALENDARS[kind]
    index = index_of(_local(zone, now_s).date())
    ends_at_s = _date_starts_at_s(zone, first_date(index + 1))
    if now_s >= ends_at_s:  # Clocks went back over midnight: the date had begun once before, and a window never comes twice.
        index += 1
        ends_at_s = _date_starts_at_s(zone, first_date(index + 1))
    return Window(index, _date_starts_at_s(zone, first_date(index)) * 1000, ends_at_s * 1000)


# --- days, weeks, months -------------------------------------------------------------------------------------------------------


def _week_index(date: dt.date) -> int:
    return (date.toordinal() - 1) // 7  # Ordinal 1 was a Monday.


def _week_date(index: int) -> dt.date:
    return dt.date.fromordinal(index * 7 + 1)


def _month_index(date: dt.date) -> int:
    return date.year * 12 + date.month


def _month_date(index: int) -> dt.date:
    years, months = divmod(index - 1, 12)
    return dt.date(years, months + 1, 1)


_CALENDARS: dict[str, tuple[Callable[[dt.date], int], Callable[[int], dt.date]]] = {
    "day": (dt.date.toordinal, dt.date.fromordinal),
    "week": (_week_index, _week_date),
    "month": (_month_index, _month_date),
}
"""For each calendar: the index of the window that a local date belongs to, and the date that a window starts with."""


def _local(zone: zoneinfo.ZoneInfo, at_s: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_s, zone)


def _date_starts_at_s(zone: zoneinfo.ZoneInfo, date: dt.date) -> int:
    """The first instant of a local date, or, where the zone left the date out, of the next one."""
    midnight = dt.datetime(date.year, date.month, date.day, tzinfo=zone)
    starts_at_s = int(midnight.timestamp())
    if _local(zone, starts_at_s).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return starts_at_s
    # Clocks skip this midnight. Read with the offset before the jump it is no earlier than the jump, with the one after no later.
    earliest_s = int(midnight.replace(fold=1).timestamp())
    return earliest_s + bisect.bisect_left(range(earliest_s, starts_at_s), True, key=lambda at_s: _local(zone, at_s).date() >= date)


# --- hours ---------------------------------------------------------------------------------------------------------------------


def _hour_index(zone: zoneinfo.ZoneInfo, at_s: int) -> int:
    """Hours since 1970, counted in UTC but shifted so that they turn when the zone's clocks show a whole hour.

    Whole-hour changes of the clock leave it untouched; half-hour ones (Lord Howe) make one hour shorter or longer. It never
    falls: no zone has, since 1970, set its clocks back by part of an hour from within an hour.
    """
    offset = _local(zone, at_s).utcoffset() or dt.timedelta()
    return (at_s + int(offset.total_seconds()) % HOUR_S) // HOUR_S


def _hour_window(zone: zoneinfo.ZoneInfo, now_s: int) -> Window:
    index = _hour_index(zone, now_s)
    around = range(now_s - 2 * HOUR_S, now_s + 2 * HOUR_S)  # No hour lasts two, whatever the clocks do.
    starts_at_s = around[bisect.bisect_left(around, index, key=lambda at_s: _hour_index(zone, at_s))]
    ends_at_s = around[bisect.bisect_left(around, index + 1, key=lambda at_s: _hour_index(zone, at_s))]
    return Window(index, starts_at_s * 1000, ends_at_s * 1000)
