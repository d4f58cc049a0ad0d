"""What the message path must not do for each message, counted: tasks, spans, log lines, frames.

Role: plain integers that the runtime adds to where the thing happens, and that `/metrics` reads
when it is asked. A counting test divides them by the messages delivered: each has a ceiling.

Rules: always on, so that what is counted is what runs; one integer addition each (a prometheus
counter costs fifteen times that). Written from the event loop only, but for log lines, whose rare
race between threads may lose a count. Imports nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final


@dataclass(slots=True)
class Tally:
    """Counts of this process since its start."""

    tasks: int = 0
    """Tasks created on the event loop, by whomever (grpc.aio's own included)."""
    spans: int = 0
    """Spans recorded."""
    log_lines: int = 0
    """Log lines written."""
    frames_written: int = 0
    """Frames written on this process's client streams to other services."""
    frames_read: int = 0
    """Frames read from them. Each mesh stream has one client end: nothing is counted twice."""


TALLY: Final = Tally()

HELP: Final = {
    "tasks": "Tasks created on the event loop",
    "spans": "Spans recorded",
    "log_lines": "Log lines written",
    "frames_written": "Frames written on streams to other services",
    "frames_read": "Frames read from streams to other services",
}
"""Metrics `chatmesh_tally_<name>_total`."""


def counting_task_factory(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    /,
    **options: Any,
) -> asyncio.Task[Any]:
    """asyncio's own task, counted. For `loop.set_task_factory`."""
    TALLY.tasks += 1
    return asyncio.Task(coro, loop=loop, **options)
