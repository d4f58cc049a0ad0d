"""Moves the wall clock of a server that a test starts: Python imports this first when its folder is
on PYTHONPATH. Monotonic and boot time stay as they are, as when somebody sets a clock.
"""

import os
import time

_ahead_ns = int(float(os.environ.get("TEST_CLOCK_AHEAD_SECONDS", "0")) * 1e9)
_time_ns = time.time_ns


def _moved_ns() -> int:
    return _time_ns() + _ahead_ns


def _moved() -> float:
    return _moved_ns() / 1e9


time.time_ns = _moved_ns
time.time = _moved
