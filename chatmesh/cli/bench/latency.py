"""Latencies in constant memory: a histogram with logarithmic buckets (as HdrHistogram).

Role: count, merge, ask for quantiles, draw. Values are nanoseconds; each power of two has 128
buckets, so that a quantile is at most 0.8 % above the truth. The maximum is exact.

Rules: pure. `record` is on the load client's hot path: one list increment, no allocation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

_SUB_BITS: Final = 7
_SUB: Final = 1 << _SUB_BITS
_LOWEST_NS: Final = _SUB
"""Below this, buckets would be finer than a nanosecond."""
_POWERS: Final = 40
"""Up to 2^46 ns: 19 hours."""

_BARS: Final = "▏▎▍▌▋▊▉█"


class Histogram:
    """Counts of latencies in nanoseconds."""

    __slots__ = ("_counts", "count", "max_ns")

    def __init__(self) -> None:
        self._counts = [0] * (_POWERS << _SUB_BITS)
        self.count = 0
        self.max_ns = 0

    def record(self, value_ns: int) -> None:
        """Count one latency; negative ones (there are none on one clock) count as the lowest."""
        if value_ns < _LOWEST_NS:
            value_ns = _LOWEST_NS
        shift = value_ns.bit_length() - _SUB_BITS - 1
        self._counts[(shift << _SUB_BITS) + (value_ns >> shift) - _SUB] += 1
        self.count += 1
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one."""
        for index, count in enumerate(other._counts):
            if count:
                self._counts[index] += count
        self.count += other.count
        self.max_ns = max(self.max_ns, other.max_ns)

    def take(self) -> Histogram:
        """What was counted so far; counting begins anew. Whoever records here goes on doing so."""
        taken = Histogram()
        taken._counts, self._counts = self._counts, taken._counts
        taken.count, self.count = self.count, 0
        taken.max_ns, self.max_ns = self.max_ns, 0
        return taken

    def quantile_ns(self, share: float) -> int:
        """The latency that `share` (0 to 1) of all stay at or below; 0 when nothing was counted."""
        if not self.count:
            return 0
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_upper_ns(index), self.max_ns)
        return self.max_ns

    def summary_ms(self) -> dict[str, float]:
        """p50, p90, p99 and max in milliseconds."""
        return {
            "p50": round(self.quantile_ns(0.50) / 1e6, 3),
            "p90": round(self.quantile_ns(0.90) / 1e6, 3),
            "p99": round(self.quantile_ns(0.99) / 1e6, 3),
            "max": round(self.max_ns / 1e6, 3),
        }

    def to_json(self) -> dict[str, Any]:
        """Bucket number → count, without the empty ones; `from_json` reads it back."""
        counts = {str(index): count for index, count in enumerate(self._counts) if count}
        return {"counts": counts, "max_ns": self.max_ns}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Histogram:
        """The histogram that `to_json` wrote."""
        made = cls()
        for index, count in content["counts"].items():
            made._counts[int(index)] += int(count)
            made.count += int(count)
        made.max_ns = int(content["max_ns"])
        return made

    def lines(self, width: int = 48) -> list[str]:
        """The histogram drawn for a terminal: four rows to each power of two, bars by share."""
        rows = self._rows()
        if not rows:
            return []
        most = max(count for _, count in rows)
        drawn = []
        for upper_ns, count in rows:
            eighths = round(count / most * width * 8)
            bar = _BARS[-1] * (eighths // 8) + (_BARS[eighths % 8 - 1] if eighths % 8 else "")
            share = count / self.count
            drawn.append(f"{'≤ ' + readable_ns(upper_ns):>10}  {share:6.1%}  {bar}")
        return drawn

    def _rows(self) -> list[tuple[int, int]]:
        """(upper bound in ns, count) with 4 rows a power of two, from first to last non-empty."""
        step = _SUB // 4
        sums = [
            (_upper_ns(start + step - 1), sum(self._counts[start : start + step]))
            for start in range(0, len(self._counts), step)
        ]
        filled = [index for index, (_, count) in enumerate(sums) if count]
        return sums[filled[0] : filled[-1] + 1] if filled else []


def _upper_ns(index: int) -> int:
    """The highest value of a bucket."""
    shift, sub = index >> _SUB_BITS, index & (_SUB - 1)
    return ((_SUB + sub + 1) << shift) - 1


def readable_ns(value_ns: float) -> str:
    """A time with three digits and its unit."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if value_ns >= size:
            return f"{value_ns / size:.3g} {unit}"
    return f"{value_ns:.0f} ns"
