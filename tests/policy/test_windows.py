"""Windows tile time in every zone, whatever its clocks do."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import Limit
from proxy.policy.windows import Window, sliding_window_s, window_at, window_s

CALENDARS = ("hour", "day", "week", "month")
HOUR_MS = 3_600_000

ODD_ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # half-hour offset; changed at one minute past midnight until 2011
    "America/Sao_Paulo",  # had no midnight on the first day of summer
    "America/Havana",
    "America/Scoresbysund",
    "Asia/Beirut",  # no midnight on the first day of summer
    "Africa/Cairo",  # no midnight either, since 2023
    "Africa/Casablanca",  # four changes a year around Ramadan
    "Asia/Kathmandu",
    "Asia/Pyongyang",  # half an hour back and forth
    "Asia/Gaza",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # half-hour summer time
    "Pacific/Apia",  # left out 30 December 2011
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Antarctica/Troll",  # two hours of summer time
)


def at(text: str) -> int:
    """Milliseconds since 1970 of an instant in ISO 8601."""
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def window(kind: str, zone: str, now: str) -> Window:
    return window_at(Limit(1, kind, zone), at(now))


instants_ms = st.integers(at("2016-01-01T00:00+00:00"), at("2026-12-31T00:00+00:00"))
zones = st.one_of(st.sampled_from(ODD_ZONES), st.sampled_from(sorted(zoneinfo.available_timezones())))


@given(now_ms=instants_ms, zone=zones, kind=st.sampled_from(CALENDARS))
def test_a_window_contains_its_instant_and_meets_its_neighbours(now_ms: int, zone: str, kind: str) -> None:
    """Windows are half-open, the next one starts where one ends, and its index is one more."""
    limit = Limit(1, kind, zone)
    present = window_at(limit, now_ms)
    assert present.resets_at_ms is not None
    before, after = window_at(limit, present.starts_at_ms - 1), window_at(limit, present.resets_at_ms)
    assert present.starts_at_ms <= now_ms < present.resets_at_ms
    assert before.resets_at_ms == present.starts_at_ms
    assert after.starts_at_ms == present.resets_at_ms
    assert (before.index, after.index) == (present.index - 1, present.index + 1)


@given(instant_ms=instants_ms, other_ms=instants_ms, zone=zones, kind=st.sampled_from(CALENDARS))
def test_the_window_of_an_instant_does_not_depend_on_what_was_asked_before(instant_ms: int, other_ms: int, zone: str, kind: str) -> None:
    """The remembered window answers only for its own instants; every instant of a window gives the same one."""
    limit = Limit(1, kind, zone)
    expected = window_at(limit, instant_ms)
    assert window_at(limit, other_ms).contains(other_ms)
    assert window_at(limit, instant_ms) == expected
    assert expected.resets_at_ms is not None
    assert window_at(limit, expected.starts_at_ms) == window_at(limit, expected.resets_at_ms - 1) == expected


@pytest.mark.parametrize("zone", ODD_ZONES)
def test_days_weeks_and_months_tile_ten_years(zone: str) -> None:
    """Walking from window to window misses nothing and starts each at the first instant of its local date."""
    for kind, longest_h in (("day", 26), ("week", 170), ("month", 746)):
        limit, now_ms = Limit(1, kind, zone), at("2016-01-01T00:00+00:00")
        previous = window_at(limit, now_ms)
        while now_ms < at("2026-01-01T00:00+00:00"):
            assert previous.resets_at_ms is not None
            now_ms = previous.resets_at_ms
            present = window_at(limit, now_ms)
            assert (present.index, present.starts_at_ms) == (previous.index + 1, now_ms)
            assert 0 < now_ms - previous.starts_at_ms <= longest_h * HOUR_MS
            tz = zoneinfo.ZoneInfo(zone)
            first, last = (dt.datetime.fromtimestamp((now_ms + ms) / 1000, tz).date() for ms in (0, -1000))
            assert first == last + dt.timedelta(days=1)
            assert kind != "week" or first.isoweekday() == 1
            assert kind != "month" or first.day == 1
            previous = present


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Asia/Pyongyang", "America/St_Johns"])
def test_hours_start_where_local_clocks_show_a_whole_hour(zone: str) -> None:
    """Also where the offset has odd minutes; where clocks move by half an hour, one hour is shorter or longer."""
    limit, now_ms = Limit(1, "hour", zone), at("2018-01-01T00:00+00:00")
    previous = window_at(limit, now_ms)
    lengths = set()
    while now_ms < at("2019-06-01T00:00+00:00"):
        assert previous.resets_at_ms is not None
        now_ms = previous.resets_at_ms
        present = window_at(limit, now_ms)
        assert (present.index, present.starts_at_ms) == (previous.index + 1, now_ms)
        length_ms = now_ms - previous.starts_at_ms
        lengths.add(length_ms)
        local = dt.datetime.fromtimestamp(now_ms / 1000, zoneinfo.ZoneInfo(zone))
        assert local.minute == 0 or local.fold == 1  # A half-hour that comes twice is an hour of its own.
        previous = present
    half_hours = {HOUR_MS // 2, HOUR_MS * 3 // 2}
    assert lengths - {HOUR_MS} <= half_hours
    assert (HOUR_MS // 2 in lengths) == (zone == "Australia/Lord_Howe")


@pytest.mark.parametrize(
    ("kind", "zone", "now", "starts", "resets"),
    [
        ("hour", "UTC", "2026-11-22T05:59:59+00:00", "2026-11-22T05:00+00:00", "2026-11-22T06:00+00:00"),
        ("hour", "Asia/Kolkata", "2026-11-22T05:29:59+00:00", "2026-11-22T04:30+00:00", "2026-11-22T05:30+00:00"),
        ("day", "UTC", "2026-11-22T23:59:59.999+00:00", "2026-11-22T00:00+00:00", "2026-11-23T00:00+00:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("day", "America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        ("day", "Asia/Beirut", "2025-03-30T12:00+03:00", "2025-03-30T01:00+03:00", "2025-03-31T00:00+03:00"),
        ("day", "Africa/Cairo", "2025-04-25T12:00+03:00", "2025-04-25T01:00+03:00", "2025-04-26T00:00+03:00"),
        ("week", "UTC", "2026-11-22T23:00+00:00", "2026-11-16T00:00+00:00", "2026-11-23T00:00+00:00"),
        ("week", "UTC", "2026-11-23T00:00+00:00", "2026-11-23T00:00+00:00", "2026-11-30T00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("month", "UTC", "2024-02-29T12:00+00:00", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("month", "Africa/Cairo", "2026-04-30T12:00+03:00", "2026-04-01T00:00+02:00", "2026-05-01T00:00+03:00"),
    ],
)
def test_windows_stand_where_a_calendar_has_them(kind: str, zone: str, now: str, starts: str, resets: str) -> None:
    """Known windows, among them days of 23 and 25 hours and days without a midnight."""
    assert (window(kind, zone, now).starts_at_ms, window(kind, zone, now).resets_at_ms) == (at(starts), at(resets))


def test_a_day_begins_once_where_clocks_strike_midnight_twice() -> None:
    """St John's fell back from 00:01 to 23:01 in 2010: the new day had begun and goes on."""
    twice = window("day", "America/St_Johns", "2010-11-07T02:31:30+00:00")  # 23:01:30 on the 6th, for the second time
    assert twice == window("day", "America/St_Johns", "2010-11-07T02:30:30+00:00")  # 00:00:30 on the 7th, just before
    assert twice.starts_at_ms == at("2010-11-07T02:30:00+00:00")
    assert window_s(Limit(1, "day", "America/St_Johns"), twice) == 25 * 3600


def test_a_date_that_a_zone_left_out_is_empty() -> None:
    """Apia went from 29 to 31 December 2011: nothing lies between, and the missing date still has its number."""
    before, after = (window("day", "Pacific/Apia", noon) for noon in ("2011-12-29T12:00-10:00", "2011-12-31T12:00+14:00"))
    assert before.resets_at_ms == after.starts_at_ms
    assert after.index == before.index + 2


def test_ever_is_one_window() -> None:
    """It is the same at every instant and never resets."""
    assert window_at(Limit(1, "ever"), 0) == window_at(Limit(1, "ever"), 4_000_000_000_000) == Window(0, 0, None)
    assert window_s(Limit(1, "ever")) is None


def test_seconds_have_no_calendar() -> None:
    """A window of N seconds starts at its first use, so an instant alone does not tell which one it is in."""
    limit = Limit(1, "18000s")
    assert (sliding_window_s(limit), window_s(limit), sliding_window_s(Limit(1, "day"))) == (18_000, 18_000, None)
    with pytest.raises(ValueError, match="stands in no calendar"):
        window_at(limit, 0)


def test_the_length_of_a_calendar_window_is_its_own() -> None:
    """A day lasts 23, 24 or 25 hours, a month what it has, and without the window nobody can tell."""
    limit = Limit(1, "day", "Europe/Berlin")
    lengths_h = [window_s(limit, window_at(limit, at(f"2026-{date}T12:00+00:00"))) for date in ("03-29", "06-01", "10-25")]
    assert lengths_h == [23 * 3600, 24 * 3600, 25 * 3600]
    assert window_s(Limit(1, "month"), window("month", "UTC", "2026-02-10T00:00+00:00")) == 28 * 86_400
    with pytest.raises(ValueError, match="depends on which"):
        window_s(limit)


def test_an_unknown_zone_is_an_error() -> None:
    """It is never taken for UTC."""
    with pytest.raises(zoneinfo.ZoneInfoNotFoundError):
        window_at(Limit(1, "day", "Mars/Olympus"), 0)
