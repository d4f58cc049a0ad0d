"""One `Watch` stream: interest in, facts and digests out.

A slow reader delays nobody: what it is not told yet waits once per account, newest first in
meaning, in `Watches`.
"""

import asyncio
from collections.abc import AsyncIterator

from chatmesh import errors
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.runtime import metrics
from presence_svc import convert, measures
from presence_svc.observer import Observer
from presence_svc.watch import Watches

FACTS_PER_RESPONSE = 1_000
"""About 60 KB: far below what a listener takes."""


class Watcher:
    """Serves one stream."""

    def __init__(
        self, watches: Watches, observer: Observer, *, digest_seconds: float, max_accounts: int
    ) -> None:
        self._watches = watches
        self._observer = observer
        self._digest_seconds = digest_seconds
        self._max_accounts = max_accounts
        self._wake = asyncio.Event()
        self._stream = watches.open(self._wake.set)
        self._notices = metrics.counter(measures.NOTICES)

    async def serve(
        self, requests: AsyncIterator[pb.WatchRequest]
    ) -> AsyncIterator[pb.WatchResponse]:
        """Responses until the requests end. Raises Fault for what a request cannot hold."""
        reader = asyncio.create_task(self._read(requests), name="watch reader")
        reader.add_done_callback(lambda _: self._wake.set())
        loop = asyncio.get_running_loop()
        digest_due = loop.time() + self._digest_seconds
        try:
            while not reader.done():
                notices = self._watches.take(self._stream, FACTS_PER_RESPONSE)
                if notices:
                    self._notices.inc(len(notices))
                    yield pb.WatchResponse(facts=map(convert.fact_of, notices))
                if loop.time() >= digest_due:
                    digest_due = loop.time() + self._digest_seconds
                    yield pb.WatchResponse(
                        digest=self._watches.digest(self._stream), has_digest=True
                    )
                if not notices:
                    await self._sleep(digest_due - loop.time())
            reader.result()
        finally:
            while not reader.done():
                reader.cancel()
                await asyncio.wait((reader,), timeout=1)
            self._watches.close(self._stream)

    async def _read(self, requests: AsyncIterator[pb.WatchRequest]) -> None:
        async for request in requests:
            convert.check_watch(request)
            self._watches.remove(self._stream, request.remove_account_ids)
            wanted = len(request.add_account_ids) + self._watches.interest(self._stream)
            if wanted > self._max_accounts:
                raise errors.LIMIT_EXCEEDED(
                    "too many watched accounts on one stream",
                    limit="presence_max_watched",
                    value=self._max_accounts,
                    size=wanted,
                )
            self._watches.add(self._stream, request.add_account_ids)
            self._observer.request(request.add_account_ids)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()
