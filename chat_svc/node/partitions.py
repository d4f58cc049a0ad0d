"""Keeps the partitions of idempotency keys: days ahead made, old days dropped, once an hour.

Any node does it for all; the database lets one at a time. Eight days are made ahead, so a failure
is repeated without haste.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Final

from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger

PERIOD_SECONDS: Final = 3_600.0

_log = logger(__name__)


class KeyPartitions:
    """See the module's text."""

    def __init__(self, roll: Callable[[], Awaitable[int]], clock: Clock) -> None:
        self._roll = roll
        self._clock = clock

    async def run(self) -> None:
        """In the background."""
        while True:
            try:
                changes = await self._roll()
            except Exception as error:  # noqa: BLE001 - the store is away or busy: next hour
                _log.warning("key partitions not kept", error=type(error).__name__)
            else:
                if changes:
                    _log.info("key partitions kept", changes=changes)
            await self._clock.sleep(PERIOD_SECONDS * random.uniform(0.8, 1.2))
