"""Whether a series is flat: its slope and what it ends at, compared with what it began at.

Rules: pure. The slope is that of the least squares line; the ratio compares the means of the last
and the first third, so that one slice decides nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def slope_per_hour(values: Sequence[float], step_seconds: float) -> float:
    """Growth an hour of values that are so many seconds apart; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    hours = [at * step_seconds / 3600 for at in range(len(values))]
    return statistics.linear_regression(hours, values).slope


def last_over_first(values: Sequence[float]) -> float | None:
    """Mean of the last third over that of the first; None when there is nothing to divide by."""
    third = max(1, len(values) // 3)
    if not values or not (first := statistics.fmean(values[:third])):
        return None
    return statistics.fmean(values[-third:]) / first
