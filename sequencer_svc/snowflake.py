"""Snowflake ids out of a reserved window of time.

Role: one worker's position within the window that was reserved for it, and the ranges it gives.
Rules: pure. It reads no clock at all: `elapsed_ms` is how long ago the reservation was made, as
the caller measured it, and it may stall, jump and repeat. Whatever it says, an id is never given
twice: the window is the worker's alone, and the position in it only moves forward.

An id holds the time of its millisecond *in the window*, which is the database's time at the
reservation plus what passed since. A millisecond whose sequence numbers are used up borrows the
next one, up to the window's end; then the caller waits for the window to be extended.
"""

from dataclasses import dataclass

from chatmesh.ids import SnowflakeLayout


class WindowSpentError(Exception):
    """The window gives no more: extend it, then ask again. Nothing was taken."""


class WindowOverError(WindowSpentError):
    """The time of the window has passed."""


class WindowFullError(WindowSpentError):
    """Every id up to the window's end is given, or fewer are left than were asked for."""


@dataclass(frozen=True, slots=True)
class Range:
    """The ids `first`, `first + 1`, … , `first + count - 1`; all of one millisecond."""

    first: int
    count: int


class Snowflake:
    """One worker's ids."""

    def __init__(
        self, layout: SnowflakeLayout, worker: int, *, start_ms: int, end_ms: int, time_ms: int
    ) -> None:
        """Begin a window.

        Args:
            layout: how the bits are split.
            worker: `[0, layout.workers)`.
            start_ms: first millisecond of the window, since the Unix epoch.
            end_ms: first millisecond after the window.
            time_ms: the database's time when it made the reservation. It may lie before
                `start_ms`, when an earlier holder of the worker had borrowed ahead of it.

        Raises:
            ValueError: the worker or the window does not fit the layout.
        """
        if not 0 <= worker < layout.workers:
            raise ValueError(f"worker {worker} is outside [0, {layout.workers})")
        if not layout.epoch_ms <= start_ms < end_ms <= layout.end_ms:
            raise ValueError(
                f"the window [{start_ms}, {end_ms}) ms is empty or outside "
                f"[{layout.epoch_ms}, {layout.end_ms}), the time that ids can hold"
            )
        self._layout = layout
        self._worker = worker
        self._end_ms = end_ms
        self._time_ms = time_ms
        self._at_ms = start_ms
        self._sequence = 0  # the next one of _at_ms; up to per_ms, which stands for "used up"

    @property
    def worker(self) -> int:
        """The worker's number."""
        return self._worker

    @property
    def end_ms(self) -> int:
        """First millisecond after the window, since the Unix epoch."""
        return self._end_ms

    @property
    def position_ms(self) -> int:
        """First millisecond of which no id was given: where a successor may begin."""
        return self._at_ms + 1 if self._sequence else self._at_ms

    def time_ms(self, elapsed_ms: int) -> int:
        """What time it is, in ms since the Unix epoch, `elapsed_ms` after the reservation."""
        return self._time_ms + elapsed_ms

    def is_over(self, elapsed_ms: int) -> bool:
        """Whether the window's time has passed `elapsed_ms` after the reservation."""
        return self.time_ms(elapsed_ms) >= self._end_ms

    def extend(self, end_ms: int, time_ms: int) -> None:
        """Take the extended window; from now on `elapsed_ms` counts from this reservation.

        A database whose clock fell back makes `time_ms` lower than before: ids go on from the
        position and borrow until that time has caught up.

        Raises:
            ValueError: the window would shrink, or ends beyond the layout.
        """
        if not self._end_ms <= end_ms <= self._layout.end_ms:
            raise ValueError(
                f"a window to {self._end_ms} ms cannot become one to {end_ms} ms "
                f"(ids hold time up to {self._layout.end_ms} ms)"
            )
        self._end_ms = end_ms
        self._time_ms = time_ms

    def take(self, count: int, elapsed_ms: int) -> list[Range]:
        """Give `count` ids as rising ranges, all above every id given before.

        Raises:
            WindowOverError, WindowFullError: nothing was taken; extend the window and ask again.
        """
        per_ms = self._layout.per_ms
        now_ms = self._time_ms + elapsed_ms
        if now_ms >= self._end_ms:
            raise WindowOverError(f"the window ended {now_ms - self._end_ms} ms ago")
        at_ms, sequence = self._at_ms, self._sequence
        if now_ms > at_ms:
            at_ms, sequence = now_ms, 0
        left = (self._end_ms - at_ms) * per_ms - sequence
        if left < count:
            raise WindowFullError(f"{left} ids are left in the window, {count} were asked for")
        ranges = []
        while count > 0:
            if sequence == per_ms:
                at_ms, sequence = at_ms + 1, 0
            taken = min(count, per_ms - sequence)
            ranges.append(Range(self._layout.encode(at_ms, self._worker, sequence), taken))
            sequence += taken
            count -= taken
        self._at_ms, self._sequence = at_ms, sequence
        return ranges
