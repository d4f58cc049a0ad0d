"""Tasks of the node that are no loops: one per session that opens or slow commit, never one per
message.

A task is held until it ends, and what it raises is logged: nothing dies in silence.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from chatmesh.runtime.logs import LogBudget, logger

T = TypeVar("T")

_log = logger(__name__)
_budget: Final = LogBudget(per_second=5)


class Tasks:
    """All of them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it now, in the background."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def to_the_end(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """The result of work that goes on when its caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=1)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and _budget.take():
            _log.error("a task of the node failed", task=task.get_name(), exc_info=error)
