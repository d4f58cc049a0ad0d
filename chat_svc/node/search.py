"""Fills the search index behind the commit, in the background.

What this node commits is noted by conversation (in memory, no call) and looked at soon after, many
messages in one statement. A sweep finds what a node that died knew, and whatever else was missed.
Any node steps for all; the database lets one at a time. Nothing depends on the index being in time
but how soon a message is found: so an error is logged and tried again later.
"""

import random
from collections.abc import Iterable
from typing import Final, Protocol

import psycopg

from chat_svc.node.counters import NodeCounters
from chat_svc.store.search import IndexStep, SweepStep
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

MAX_EVENTS: Final = 1_000
"""Of one step: some tens of milliseconds of one connection."""
MAX_CONVERSATIONS: Final = 500
"""Of one step."""
MAX_NOTED: Final = 20_000
"""Conversations that wait in memory; what is above is left to the sweep."""
GATHER_SECONDS: Final = 0.3
"""Messages of this time are one step, and wait so long at most while PostgreSQL keeps up."""
PAUSE_SECONDS: Final = 0.02
"""Between steps that follow each other, so that they take a share of PostgreSQL only."""
RETRY_SECONDS: Final = 2.0
SWEEP_ROWS: Final = 2_000
SWEEP_SECONDS: Final = 2.0
SWEEP_PERIOD_MS: Final = 5_000
"""From the end of one pass to the begin of the next."""

LAG_SECONDS: Final = metrics.Spec(
    "chatmesh_chat_search_lag_seconds",
    "Age of the oldest message that this node knows to wait for the search index",
)

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class SearchRows(Protocol):
    """What is used of the store."""

    async def index(self, conversations: list[int], *, max_events: int) -> IndexStep:
        """One bounded step over new events."""
        ...

    async def sweep(self, *, max_rows: int, period_ms: int) -> SweepStep:
        """One bounded step over everything."""
        ...


class SearchIndexing:
    """See the module's text."""

    def __init__(self, rows: SearchRows, clock: Clock, counters: NodeCounters) -> None:
        self._rows = rows
        self._clock = clock
        self._counters = counters
        self._noted: dict[int, int] = {}
        """Conversation to when its oldest event that waits was committed, by this node's clock."""
        self._gauge = metrics.gauge(LAG_SECONDS)

    def note(self, conversations: Iterable[int]) -> None:
        """Something was committed there. On the message path: a dictionary's price."""
        now_ms, noted = self._clock.wall_ms(), self._noted
        for conversation in conversations:
            if conversation not in noted and len(noted) < MAX_NOTED:
                noted[conversation] = now_ms

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event known to wait; 0 when none does."""
        if not self._noted:
            return 0.0
        return max(0, self._clock.wall_ms() - min(self._noted.values())) / 1_000

    async def run(self) -> None:
        """Index what was noted; in the background."""
        while True:
            self._gauge.set(self.lag_seconds)
            pause = GATHER_SECONDS
            if self._noted:
                try:
                    pause = await self.step()
                except Exception as error:  # noqa: BLE001 - the store is away or busy: later
                    pause = RETRY_SECONDS
                    if _budget.take():
                        _log.warning("search index not filled", error=type(error).__name__)
            await self._clock.sleep(pause * random.uniform(0.5, 1))

    async def step(self) -> float:
        """Look at some of what was noted; how many seconds to wait before the next time."""
        chosen = dict(list(self._noted.items())[:MAX_CONVERSATIONS])
        for conversation in chosen:
            del self._noted[conversation]
        try:
            behind, is_busy = await self._index(chosen)
        except BaseException:
            self._give_back(chosen, chosen)
            raise
        self._give_back(chosen, chosen if is_busy else behind)
        return PAUSE_SECONDS if behind or len(self._noted) >= MAX_CONVERSATIONS else GATHER_SECONDS

    async def _index(self, chosen: dict[int, int]) -> tuple[list[int], bool]:
        try:
            step = await self._rows.index(list(chosen), max_events=MAX_EVENTS)
        except psycopg.DataError as error:
            return await self._without_poison(chosen, error)
        self._counters.search_events += step.events
        return step.behind, step.is_busy

    async def _without_poison(
        self, chosen: dict[int, int], error: psycopg.DataError
    ) -> tuple[list[int], bool]:
        """One text that cannot be split into words keeps nobody else's from being found."""
        if len(chosen) == 1:
            if _budget.take():
                _log.error("a conversation cannot be indexed", error=type(error).__name__)
            return [], False
        pairs = list(chosen.items())
        half = len(pairs) // 2
        behind: list[int] = []
        for part in (dict(pairs[:half]), dict(pairs[half:])):
            left, is_busy = await self._index(part)
            behind += part if is_busy else left
        return behind, False

    def _give_back(self, chosen: dict[int, int], behind: Iterable[int]) -> None:
        for conversation in behind:
            noted_ms = self._noted.get(conversation, chosen[conversation])
            self._noted[conversation] = min(chosen[conversation], noted_ms)

    async def run_sweep(self) -> None:
        """Find what nobody noted; in the background."""
        while True:
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the store is away or busy: later
                if _budget.take():
                    _log.warning("search index not swept", error=type(error).__name__)
            await self._clock.sleep(SWEEP_SECONDS * random.uniform(0.5, 1))

    async def sweep(self) -> SweepStep:
        """One step of the sweep; what it finds is noted."""
        step = await self._rows.sweep(max_rows=SWEEP_ROWS, period_ms=SWEEP_PERIOD_MS)
        for conversation in step.behind:
            if len(self._noted) < MAX_NOTED:
                noted_ms = self._noted.get(conversation, step.oldest_ms)
                self._noted[conversation] = min(step.oldest_ms, noted_ms)
        return step
