"""What is owed when sessions end: cursors written, devices handed over to push, rows released.

The order makes a crash anywhere harmless: the device row names this node until the push job is
committed, so that the reaper of another node finds what was not finished.

1. Write the cursors that wait: the last acks count.
2. Read the heads: a device whose newest position that may notify is unacked is owed a push.
3. Hand those over; push_svc answers after its commit.
4. Release the device rows (unless a newer session took them: they are fenced by session_no).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chat_svc.node.cursors import Cursors
from chat_svc.node.push import Owed
from chat_svc.store.devices import Head
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

GATHER_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 0.5
MAX_TOGETHER: Final = 1_000
COMEBACK_MS: Final = 3_000
"""A device that only changed its network is back, and has acked, within this: no notification."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that is over."""

    account: int
    device_id: str
    session_no: int
    acked_seq: int
    head_seq: int


class DeviceRows(Protocol):
    """What is used of the store."""

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        ...

    async def close_sessions(self, sessions: Sequence[tuple[int, str, int]]) -> None:
        """Release devices, fenced by session_no."""
        ...


class HandsOver(Protocol):
    """What is used of the push link."""

    async def hand_over(self, owed: Sequence[Owed]) -> None:
        """Return once all are committed jobs."""
        ...


class Farewell:
    """See the module's text."""

    def __init__(
        self, devices: DeviceRows, cursors: Cursors, push: HandsOver, clock: Clock
    ) -> None:
        self._devices = devices
        self._cursors = cursors
        self._push = push
        self._clock = clock
        self._waiting: dict[Ended, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def say(self, ended: Ended) -> None:
        """A session is over."""
        self._waiting[ended] = None
        self._idle.clear()
        self._wake.set()

    async def wait_idle(self) -> None:
        """Return once nothing is owed any more; for the drain."""
        await self._idle.wait()

    async def run(self) -> None:
        """In the background."""
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._wake.clear()
            while self._waiting:
                try:
                    await self._settle(list(self._waiting)[:MAX_TOGETHER])
                except Exception as error:  # noqa: BLE001 - the store or push is away: once more
                    if _budget.take():
                        _log.warning("ended sessions wait", error=type(error).__name__)
                    await self._clock.sleep(RETRY_SECONDS)
            self._idle.set()

    async def _settle(self, together: Sequence[Ended]) -> None:
        if not await self._cursors.flush():
            raise ConnectionError("cursors wait")
        owed = await self._owed(together)
        await self._release([ended for ended in together if ended not in owed])
        if owed:
            await self._push.hand_over(list(owed.values()))
            await self._release(list(owed))

    async def _owed(self, together: Sequence[Ended]) -> dict[Ended, Owed]:
        behind = [ended for ended in together if ended.head_seq > ended.acked_seq]
        if not behind:
            return {}
        heads = await self._devices.heads(sorted({ended.account for ended in behind}))
        return {
            ended: Owed(ended.account, ended.device_id, head.notify_seq, COMEBACK_MS)
            for ended in behind
            if (head := heads.get(ended.account)) and head.notify_seq > ended.acked_seq
        }

    async def _release(self, ended: Sequence[Ended]) -> None:
        if ended:
            await self._devices.close_sessions(
                [(one.account, one.device_id, one.session_no) for one in ended]
            )
            for one in ended:
                self._waiting.pop(one, None)
