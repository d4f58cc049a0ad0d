"""Jobs in: what gathered while the last transaction ran is the next one. Answered after it.

One transaction in flight, no timer: alone a target is written at once, in a crowd hundreds share
one commit. Bounded: above MAX_WAITING the caller is told to come again; it keeps its outbox row.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import psycopg

from chatmesh.runtime import failpoints, faults, metrics, trace
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.trace import Tracer
from push_svc import measures
from push_svc.store.jobs import IntakeStore, Progress, Target

MAX_TARGETS = 2_000
"""Targets of one transaction."""
MAX_WAITING = 20_000
"""Targets that wait for their transaction."""
DISMISS_DELAY_MS = 1_000
"""Reading on one device takes notifications of others away; several reads become one."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


@dataclass(slots=True)
class _Waiting:
    items: tuple[Target, ...] | tuple[Progress, ...]
    done: asyncio.Future[int]
    since_ns: int


class Intake:
    """Everything that wants to write or cancel jobs on this replica."""

    def __init__(
        self, store: IntakeStore, tracer: Tracer, on_jobs: Callable[[float], None]
    ) -> None:
        """`on_jobs(seconds)` is told when the next of the jobs just written is due."""
        self._store = store
        self._tracer = tracer
        self._on_jobs = on_jobs
        self._puts: deque[_Waiting] = deque()
        self._cancels: deque[_Waiting] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._batch = metrics.histogram(measures.JOBS_PUT)

    def put(self, targets: tuple[Target, ...]) -> asyncio.Future[int]:
        """Write jobs; the future gives how many, once they are committed, or a Fault."""
        return self._enqueue(self._puts, targets)

    def cancel(self, progress: tuple[Progress, ...]) -> asyncio.Future[int]:
        """Void jobs; the future ends when they are void."""
        return self._enqueue(self._cancels, progress)

    def _enqueue(
        self, queue: deque[_Waiting], items: tuple[Target, ...] | tuple[Progress, ...]
    ) -> asyncio.Future[int]:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._waiting + len(items) > MAX_WAITING and self._waiting:
            done.set_exception(
                Fault(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    faults.PEER_BUSY,
                    "too many push targets wait",
                )
            )
            return done
        self._waiting += len(items)
        queue.append(_Waiting(items, done, time.time_ns()))
        self._wake.set()
        return done

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._puts or self._cancels:
                # a cancel that came after a put must not run before it
                await self._settle(self._take(self._puts), self._put)
                await self._settle(self._take(self._cancels), self._cancel)

    async def _settle(
        self, batch: list[_Waiting], run: Callable[[list[_Waiting]], Awaitable[None]]
    ) -> None:
        if not batch:
            return
        try:
            await run(batch)
        except (LostConnection, StoreRefused, psycopg.Error) as error:
            if _budget.take():
                _log.warning("jobs not written", error=str(error))
            fault = Fault(
                grpc.StatusCode.UNAVAILABLE,
                faults.NOT_SERVING,
                "not serving: missing postgres",
                {"missing": "postgres"},
                retry_after_seconds=1,
            )
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(fault)
        finally:
            self._waiting -= sum(len(waiting.items) for waiting in batch)

    @staticmethod
    def _take(queue: deque[_Waiting]) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while queue and (not batch or size + len(queue[0].items) <= MAX_TARGETS):
            size += len(queue[0].items)
            batch.append(queue.popleft())
        return batch

    async def _put(self, batch: list[_Waiting]) -> None:
        targets = [item for waiting in batch for item in waiting.items if isinstance(item, Target)]
        self._batch.observe(len(targets))
        await failpoints.hit("push.commit.before")
        accounts = await self._store.put(targets)
        await failpoints.hit("push.commit.after")
        written: dict[int, int] = {}
        for account_id in accounts:
            written[account_id] = written.get(account_id, 0) + 1
        ended_ns = time.time_ns()
        for waiting in batch:
            own = {item.account_id for item in waiting.items}
            _answer(waiting, sum(written.get(account_id, 0) for account_id in own))
            self._trace(waiting, ended_ns)
        if accounts:
            self._on_jobs(min(target.delay_ms for target in targets) / 1000)

    async def _cancel(self, batch: list[_Waiting]) -> None:
        progress = [
            item for waiting in batch for item in waiting.items if isinstance(item, Progress)
        ]
        dismissals = await self._store.cancel(progress, DISMISS_DELAY_MS)
        for waiting in batch:
            _answer(waiting, len(waiting.items))
        if dismissals:
            self._on_jobs(DISMISS_DELAY_MS / 1000)

    def _trace(self, waiting: _Waiting, ended_ns: int) -> None:
        for item in waiting.items:
            if isinstance(item, Target) and trace.is_sampled(item.trace):
                self._tracer.hop(
                    "push.job",
                    item.trace,
                    waiting.since_ns,
                    ended_ns,
                    {"timeline_seq": item.timeline_seq, "delay_ms": item.delay_ms},
                )


def _answer(waiting: _Waiting, result: int) -> None:
    if not waiting.done.done():  # a caller that left has cancelled it
        waiting.done.set_result(result)
