"""Deadlines of calls: every unary call has one, and what it calls gets what is left of it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Final

DEFAULT_UNARY_SECONDS: Final = 10.0
"""For clients that set no deadline; also the longest that a handler may run for them."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_deadline(seconds_from_now: float | None) -> None:
    """Bind the running call's deadline; for the interceptor."""
    _deadline.set(None if seconds_from_now is None else time.monotonic() + seconds_from_now)


def remaining_seconds(at_most: float) -> float:
    """Time that a call made now may take: `at_most`, or what the running call has left (≥ 0)."""
    deadline = _deadline.get()
    if deadline is None:
        return at_most
    return max(0.0, min(at_most, deadline - time.monotonic()))
