"""The second lane: conversations that somebody holds locked wait here, and nobody waits for them.

A batch that met a lock timeout is sorted by conversation; each conversation's messages are then
tried by themselves, in turns, over a connection of their own. While a conversation waits here its
later messages join it, so its order is kept; everybody else's go on in the commit loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from chat_svc.core.batch import PendingSend, settle_equal_keys
from chat_svc.core.content import content_hash, trace_field
from chat_svc.node.commit_runner import CommitRunner
from chat_svc.node.id_blocks import IdBlocks
from chatmesh.runtime.clock import Clock

MAX_MESSAGES: Final = 256
"""Of one conversation in one call."""
PAUSE_SECONDS: Final = 0.02
"""Between turns when every conversation here is locked; each try waits for its lock, too."""


class WaitingLane:
    """See the module's text."""

    def __init__(self, runner: CommitRunner, ids: IdBlocks, clock: Clock) -> None:
        self._runner = runner
        self._ids = ids
        self._clock = clock
        self._queues: dict[int, deque[PendingSend]] = {}
        self._wake = asyncio.Event()
        self.messages = 0
        self.on_settled: Callable[[PendingSend, bool], None] = lambda _send, _accepted: None
        """Told of each message that was answered."""

    def divert(self, sends: list[PendingSend]) -> list[PendingSend]:
        """Keep the sends whose conversation waits here; the others, in order."""
        if not self._queues:
            return sends
        others = []
        for send in sends:
            queue = self._queues.get(send.conversation)
            if queue is None:
                others.append(send)
            else:
                queue.append(send)
                self.messages += 1
        return others

    def take_over(self, sends: Sequence[PendingSend]) -> None:
        """A call with these met a lock timeout: nothing happened."""
        for send in sends:
            self._queues.setdefault(send.conversation, deque()).append(send)
        self.messages += len(sends)
        self._wake.set()

    async def run(self) -> None:
        """Try the conversations in turns; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queues:
                progress = False
                for conversation in list(self._queues):
                    progress = await self._try(conversation) or progress
                if not progress:
                    await self._clock.sleep(PAUSE_SECONDS)

    async def _try(self, conversation: int) -> bool:
        queue = self._queues[conversation]
        batch = [queue[place] for place in range(min(len(queue), MAX_MESSAGES))]
        unique, followers = settle_equal_keys(batch)
        await prepare(unique, self._ids)
        ran = await self._runner.run(unique)
        if not ran.settled:
            return False
        for _ in batch:
            queue.popleft()
        again = [*ran.locked, *(later for same in followers.values() for later in same)]
        queue.extendleft(reversed(again))
        self.messages -= len(ran.settled)
        if not queue:
            del self._queues[conversation]
        for send, accepted in ran.settled:
            self.on_settled(send, accepted)
        return True


async def prepare(sends: Sequence[PendingSend], ids: IdBlocks) -> None:
    """Give each send its id, hash and body; those that have them keep them."""
    fresh = [send for send in sends if not send.message_id]
    if not fresh:
        return
    for send, message_id in zip(fresh, await ids.take(len(fresh)), strict=True):
        send.message_id = message_id
        send.content_hash = content_hash(send.conversation, send.message.body)
        send.body = send.message.body + send.sender.body_suffix + trace_field(send.trace)
