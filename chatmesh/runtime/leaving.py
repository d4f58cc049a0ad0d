"""Long-lived streams at a graceful stop: the server half ends them, clients open them elsewhere.

A stream has no end of its own, so a stop would wait for all its grace. `leave` is a drain (see
lifecycle.py): it ends the handlers inside `stream()`, whose clients read status OK, reopen on
another replica and send again what was not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OpenStreams:
    """The open streams of one server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving = False

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Around a handler's body: `leave` ends the body here, without an error."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs inside a task")
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._leaving or task.uncancel() > 0:
                raise
        finally:
            self._tasks.discard(task)

    async def leave(self) -> None:
        """End all streams."""
        self._leaving = True
        for task in self._tasks:
            task.cancel()
