"""Outcomes out: what gathered while the last statement ran is the next one, until it is certain.

A result that cannot be written is kept and tried again: forgetting it would tell a device twice.
Bounded by the slots of the claim loop, each of which waits for its result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import psycopg

from chatmesh.runtime import failpoints
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.postgres import LostConnection
from push_svc.store.jobs import JobStore, Result

RETRY_SECONDS: Final = 0.5
MAX_RESULTS: Final = 500
MAX_LATER: Final = 256
STORE_ERRORS: Final = (LostConnection, StoreRefused, psycopg.OperationalError)

_log = logger(__name__)
_budget = LogBudget(per_second=1)
_T = TypeVar("_T")


class Recorder:
    """Writes results of one replica."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._waiting: list[tuple[Sequence[Result], asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._later: set[asyncio.Task[None]] = set()

    async def finish(self, results: Sequence[Result]) -> None:
        """Return when the results are committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((results, done))
        self._wake.set()
        await done

    async def run(self) -> None:
        """Write for ever."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await self._write_some()
        finally:
            for task in self._later:
                task.cancel()

    async def certainly(self, run: Callable[[], Awaitable[_T]]) -> _T:
        """Run something idempotent until the store took it."""
        while True:
            try:
                return await run()
            except STORE_ERRORS as error:
                if _budget.take():
                    _log.warning("result not written yet", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that may fail beside everything else; too much of it is left undone."""
        if len(self._later) >= MAX_LATER:
            work.close()
            return
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._done_later)

    def _done_later(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.warning("left undone", exc_info=task.exception())

    async def _write_some(self) -> None:
        batch: list[tuple[Sequence[Result], asyncio.Future[None]]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= MAX_RESULTS):
            size += len(self._waiting[0][0])
            batch.append(self._waiting.pop(0))
        results = [result for part, _ in batch for result in part]
        await failpoints.hit("push.record.before")
        await self.certainly(lambda: self._jobs.finish(results))
        await failpoints.hit("push.record.after")
        for _, done in batch:
            if not done.done():
                done.set_result(None)
