"""Looks at the window and at the machine's wall clock, a few times a second.

Role: keeps readiness and metrics true between reservations; raises the alarm when the wall clock
and the database's clock differ.
Rules: the wall clock is only watched: nothing that gives ids ever reads it.
"""

from __future__ import annotations

from typing import Final

from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger
from sequencer_svc import measures
from sequencer_svc.worker import Worker

INTERVAL_SECONDS: Final = 0.2
ALARM_MS: Final = 1_000
CALM_MS: Final = 500
"""The alarm ends below this, so that a clock at the threshold does not fill the log."""

_log = logger(__name__)


class Watch:
    """What was seen last."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._off = metrics.gauge(measures.WALL_CLOCK_OFF_SECONDS)
        self.alarmed = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await self._clock.sleep(INTERVAL_SECONDS)

    def look(self) -> None:
        """Look once."""
        self._worker.tell()
        time_ms = self._worker.time_ms()
        if time_ms is None:
            return
        off_ms = self._clock.wall_ms() - time_ms
        self._off.set(off_ms / 1000)
        if abs(off_ms) > ALARM_MS and not self.alarmed:
            self.alarmed = True
            _log.error("wall clock and database differ; ids are not affected", off_ms=off_ms)
        elif abs(off_ms) < CALM_MS and self.alarmed:
            self.alarmed = False
            _log.info("wall clock and database agree again", off_ms=off_ms)
