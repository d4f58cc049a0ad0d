"""Ids in blocks: one request to the sequencer serves up to 256 messages.

A block is thrown away 50 ms after it came: the order of messages is conversation_seq, so an id a
few milliseconds older than its neighbour does no harm, but one of yesterday would decode to a lie.
The next block is asked for before the last one ends, so that a busy node never waits for ids.

While the sequencer is away new messages wait (nothing is refused: they are sent when ids come);
reads, deliveries and repeats of earlier keys go on.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from chat_svc.node.counters import NodeCounters
from chatmesh import errors
from chatmesh.mesh.v1.sequencer_pb2 import NextIdsRequest, NextIdsResponse
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger

BLOCK_IDS: Final = 256
LOW_WATER_IDS: Final = 96
"""The next block is asked for when fewer are left: at 10,000 messages a second a request is
answered within the time that these last."""
MAX_AGE_SECONDS: Final = 0.050
MAX_REQUEST_IDS: Final = 10_000
ANSWER_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.05

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class IdStream(Protocol):
    """What is used of the NextIdsStream's client."""

    async def call(self, request: NextIdsRequest, *, timeout_seconds: float) -> NextIdsResponse:
        """One request and its answer."""
        ...


class IdBlocks:
    """The node's stock of ids."""

    def __init__(self, stream: IdStream, clock: Clock, counters: NodeCounters) -> None:
        self._stream = stream
        self._clock = clock
        self._counters = counters
        self._ids: deque[range] = deque()
        self._count = 0
        self._best_before = 0.0
        self._refill = asyncio.Event()
        self._fetching = asyncio.Lock()

    def take_now(self, count: int) -> list[int] | None:
        """That many ids from the stock, rising; None when it holds too few fresh ones."""
        if self._count < count or self._clock.monotonic() > self._best_before:
            return None
        taken: list[int] = []
        while len(taken) < count:
            block = self._ids[0]
            wanted = count - len(taken)
            taken += block[:wanted]
            if wanted >= len(block):
                self._ids.popleft()
            else:
                self._ids[0] = block[wanted:]
        self._count -= count
        if self._count < LOW_WATER_IDS:
            self._refill.set()
        return taken

    async def take(self, count: int) -> list[int]:
        """That many ids; waits for the sequencer as long as it takes."""
        while (ids := self.take_now(count)) is None:
            await self._fetch(count)
        return ids

    async def new_ids(self, count: int) -> list[int]:
        """Ids for a unary call: accounts, conversations, groups.

        Raises:
            Fault: UNAVAILABLE PEER_TIMEOUT when the sequencer does not answer.
        """
        if (ids := self.take_now(count)) is not None:
            return ids
        return self._expand(await self._request(count))

    async def run(self) -> None:
        """Fetch the next block while the last one is being used up."""
        while True:
            await self._refill.wait()
            self._refill.clear()
            if self._count < LOW_WATER_IDS:
                await self._fetch(LOW_WATER_IDS)

    async def _fetch(self, needed: int) -> None:
        """Have at least so many, by one request for a block (or for more, if more are needed)."""
        async with self._fetching:
            if self._count >= needed and self._clock.monotonic() <= self._best_before:
                return  # somebody else's fetch brought enough
            try:
                response = await self._request(max(BLOCK_IDS, needed))
            except Fault as fault:
                if _budget.take():
                    _log.warning("no ids yet", fault=str(fault))
                await self._clock.sleep(RETRY_SECONDS)  # a refusal comes at once
                return
            now = self._clock.monotonic()
            if now > self._best_before:
                self._ids.clear()
                self._count = 0
            for ids in response.ranges:
                self._ids.append(range(ids.first, ids.first + ids.count))
                self._count += ids.count
            self._best_before = now + MAX_AGE_SECONDS

    async def _request(self, count: int) -> NextIdsResponse:
        self._counters.id_requests += 1
        request = NextIdsRequest(count=min(count, MAX_REQUEST_IDS))
        response = await self._stream.call(request, timeout_seconds=ANSWER_SECONDS)
        if response.error_code:
            raise _refused(response)
        return response

    @staticmethod
    def _expand(response: NextIdsResponse) -> list[int]:
        return [n for ids in response.ranges for n in range(ids.first, ids.first + ids.count)]


def _refused(response: NextIdsResponse) -> Fault:
    refusal = errors.BY_REASON.get(response.error_reason, errors.NOT_SERVING)
    return refusal(response.error_message or None)
