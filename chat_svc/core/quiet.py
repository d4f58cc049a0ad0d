"""Quiet hours: whether a moment lies within them, in the user's own time zone.

Pure but for the system's time zone data; an unknown zone counts as UTC.
"""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

MINUTES_PER_DAY = 1_440


def zone_of(name: str) -> tzinfo | None:
    """The zone of an IANA name; empty = UTC; None: there is no such zone."""
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def is_quiet(now_ms: int, start_minute: int, end_minute: int, zone_name: str) -> bool:
    """Whether `now_ms` (Unix) lies in [start, end) minutes of the local day.

    The start may lie after the end (over midnight); equal = no quiet hours.
    """
    if start_minute == end_minute:
        return False
    local = datetime.fromtimestamp(now_ms / 1000, zone_of(zone_name) or UTC)
    since_start = (local.hour * 60 + local.minute - start_minute) % MINUTES_PER_DAY
    return since_start < (end_minute - start_minute) % MINUTES_PER_DAY
