"""Wakes the load client at exact times: event-loop timers round to a whole millisecond.

Role: calls `due()` every `interval_seconds` from the event loop, from a given moment on; on Linux
by a timerfd, elsewhere by the loop's own timer (intended times are then met to a millisecond only,
which counts as latency).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_NONBLOCK: Final = os.O_NONBLOCK
_CLOEXEC: Final = os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pacer:
    """A periodic call on the running loop; `stop()` ends it."""

    def __init__(
        self, interval_seconds: float, due: Callable[[], None], first_ns: int | None = None
    ) -> None:
        """`first_ns` is the first call's time on the monotonic clock; None: after one interval."""
        if first_ns is None:
            first_ns = time.monotonic_ns() + int(interval_seconds * 1e9)
        self._loop = asyncio.get_running_loop()
        self._interval = interval_seconds
        self._due = due
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = _timer_descriptor(first_ns, interval_seconds)
        if self._descriptor is None:
            delay = (first_ns - time.monotonic_ns()) / 1e9
            self._timer = self._loop.call_later(delay, self._again)
        else:
            self._loop.add_reader(self._descriptor, self._ticked)

    def stop(self) -> None:
        """No call follows. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _ticked(self) -> None:
        if self._descriptor is not None:
            try:
                os.read(self._descriptor, 8)  # number of expirations since the last read
            except BlockingIOError:
                return
            self._due()

    def _again(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._again)
        self._due()


def _timer_descriptor(first_ns: int, interval_seconds: float) -> int | None:
    """A timerfd with this period; None where there is none (os.timerfd_create came with 3.13)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC))
    if descriptor < 0:
        return None
    when = _Itimerspec(_timespec(round(interval_seconds * 1e9)), _timespec(first_ns))
    if libc.timerfd_settime(descriptor, _ABSOLUTE, ctypes.byref(when), None) != 0:
        os.close(descriptor)
        return None
    return descriptor


def _timespec(nanoseconds: int) -> _Timespec:
    return _Timespec(*divmod(nanoseconds, 1_000_000_000))
