"""Quiet hours in the user's own time zone: over midnight, where clocks change, in none."""

from __future__ import annotations

import datetime

import pytest

from chat_svc.core.quiet import MINUTES_PER_DAY, is_quiet, zone_of

EVENING, MORNING = 22 * 60, 7 * 60


def ms(text: str) -> int:
    """A moment in UTC."""
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)


# moment in UTC, zone → whether it lies between 22:00 and 07:00 there
@pytest.mark.parametrize(
    ("at", "zone", "quiet"),
    [
        ("2026-01-15T21:59", "", False),
        ("2026-01-15T22:00", "", True),
        ("2026-01-16T06:59:59", "", True),
        ("2026-01-16T07:00", "", False),
        # winter: an hour ahead of UTC
        ("2026-01-15T20:59", "Europe/Berlin", False),
        ("2026-01-15T21:00", "Europe/Berlin", True),
        ("2026-01-16T06:00", "Europe/Berlin", False),
        # summer: two hours ahead
        ("2026-07-15T20:00", "Europe/Berlin", True),
        ("2026-07-15T05:00", "Europe/Berlin", False),
        # the night in which 02:00 becomes 03:00, and the one in which 03:00 becomes 02:00
        ("2026-03-29T00:59", "Europe/Berlin", True),
        ("2026-03-29T01:00", "Europe/Berlin", True),
        ("2026-03-29T05:00", "Europe/Berlin", False),
        ("2026-10-25T00:30", "Europe/Berlin", True),
        ("2026-10-25T01:30", "Europe/Berlin", True),
        ("2026-10-25T06:00", "Europe/Berlin", False),
        # another day there, and a zone of three quarters of an hour
        ("2026-01-15T18:00", "Pacific/Auckland", False),
        ("2026-01-15T10:00", "Pacific/Auckland", True),
        ("2026-01-15T16:15", "Asia/Kathmandu", True),
        ("2026-01-15T16:14", "Asia/Kathmandu", False),
        # a zone that nobody knows counts as UTC
        ("2026-01-15T22:00", "No/Where", True),
        ("2026-01-15T21:59", "../etc/passwd", False),
    ],
)
def test_the_users_clock_counts(at: str, zone: str, quiet: bool) -> None:
    assert is_quiet(ms(at), EVENING, MORNING, zone) is quiet


def test_within_a_day_and_never() -> None:
    noon, two = 12 * 60, 14 * 60
    assert is_quiet(ms("2026-01-15T12:00"), noon, two, "")
    assert not is_quiet(ms("2026-01-15T14:00"), noon, two, "")
    for minute in range(0, MINUTES_PER_DAY, 97):
        assert not is_quiet(ms("2026-01-15T12:00"), minute, minute, ""), "equal: none"


def test_all_but_a_minute() -> None:
    assert is_quiet(ms("2026-01-15T23:58"), 0, MINUTES_PER_DAY - 1, "")
    assert not is_quiet(ms("2026-01-15T23:59"), 0, MINUTES_PER_DAY - 1, "")


def test_zones() -> None:
    assert zone_of("") is datetime.UTC
    assert zone_of("Europe/Berlin") is not None
    for none in ("No/Where", "../etc/passwd", "/etc/passwd", "\0", "Europe"):
        assert zone_of(none) is None, none
