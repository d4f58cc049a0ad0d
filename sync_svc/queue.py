"""The queue in Redis: N streams, one entry per commit batch, one consumer group.

Role: append, read, trim, and how far behind readers are.
Rules: a plain pipe. Nothing is acknowledged or claimed (NOACK); what is read is ours to lose, and
the outbox sends it again. Keys are `{sync:N}:hints`: one slot each, so Cluster works. The group
begins at 0, never at `$`: what lies in a stream that lost its group is read. All replicas read
under one consumer name, which NOACK allows, so that replicas that die leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.exceptions import RedisError, ResponseError

from chatmesh.runtime.redis import Client, burst

GROUP: Final = "sync"
CONSUMER: Final = "sync"
FIELD: Final = b"b"
"""The one field of an entry: a serialised HintBatch."""
READ_ENTRIES: Final = 64
"""Entries of one stream taken by one read."""
BLOCK_MS: Final = 500
"""An idle read ends after this: so long may a clean stop have to wait for it."""

STORE_ERRORS: Final = (RedisError, OSError, TimeoutError)
"""What any command may raise. A refusal by the server is a ResponseError."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream, as it was looked at last."""

    key: str
    length: int
    unread: int
    lag_ms: int
    """Age of the oldest unread entry by the server's own clock."""


class Queue:
    """The streams."""

    def __init__(
        self, client: Client, blocking: Client, *, streams: int, stream_entries: int
    ) -> None:
        """`blocking` is a client of its own for reads that wait."""
        self._client: Any = client
        self._blocking: Any = blocking
        self._max_entries = stream_entries
        self._is_cluster = isinstance(client, RedisCluster)
        self.keys = tuple(f"{{sync:{number}}}:hints" for number in range(streams))

    def key_of(self, node_id: int) -> str:
        """The stream of a source node's batches."""
        return self.keys[node_id % len(self.keys)]

    def readers(self) -> list[tuple[str, ...]]:
        """Which streams are read together: a blocking read lies within one slot."""
        return [(key,) for key in self.keys] if self._is_cluster else [self.keys]

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Append (key, batch) each as one entry; for each the error it was refused with, or None.

        Raises one of STORE_ERRORS when the outcome of all is unknown.
        """
        if len(entries) == 1:
            key, batch = entries[0]
            try:
                await self._client.xadd(
                    key, {FIELD: batch}, maxlen=self._max_entries, approximate=True
                )
            except ResponseError as error:
                return [error]
            return [None]
        if not self._is_cluster:
            limit = ("MAXLEN", "~", self._max_entries)
            answers = await burst(
                self._client, [("XADD", key, *limit, "*", FIELD, batch) for key, batch in entries]
            )
        else:
            pipeline = self._client.pipeline(transaction=False)
            for key, batch in entries:
                pipeline.xadd(key, {FIELD: batch}, maxlen=self._max_entries, approximate=True)
            answers = await pipeline.execute(raise_on_error=False)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    async def make_groups(self, keys: Sequence[str]) -> None:
        """Make streams and groups where they are missing."""
        for key in keys:
            try:
                await self._client.xgroup_create(key, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Batches nobody has read yet; waits up to BLOCK_MS. None for an entry without the field.

        Raises LookupError when a group is missing (Redis was emptied), else STORE_ERRORS.
        """
        try:
            answer = await self._blocking.xreadgroup(
                GROUP,
                CONSUMER,
                dict.fromkeys(keys, ">"),
                count=READ_ENTRIES,
                block=BLOCK_MS,
                noack=True,
            )
        except ResponseError as error:
            # while it blocks: UNBLOCKED, the key no longer exists; at the next read: NOGROUP
            if "NOGROUP" in str(error) or "UNBLOCKED" in str(error):
                raise LookupError(str(error)) from None
            raise
        return [
            fields.get(FIELD)
            for chunks in (answer or {}).values()
            for entries in chunks
            for _, fields in entries
        ]

    async def look(self) -> list[StreamState]:
        """Cut off what was read, and tell how far behind the group is."""
        return [await self._look_at(key) for key in self.keys]

    async def _look_at(self, key: str) -> StreamState:
        try:
            groups = await self._client.xinfo_groups(key)
        except ResponseError:
            groups = []  # no such stream (any more)
        group = next((one for one in groups if one["name"] == GROUP.encode()), None)
        if group is None:
            return StreamState(key, 0, 0, 0)
        length = await self._client.xlen(key)
        last = group["last-delivered-id"]
        if length and last != b"0-0":
            # Nothing that was read stays: it holds what people wrote.
            length -= await self._client.xtrim(key, minid=_after(last), approximate=False)
        unread = group["lag"]
        if unread == 0:
            return StreamState(key, length, 0, 0)
        oldest = await self._client.xrange(key, min=b"(" + last, count=1)
        if not oldest:
            return StreamState(key, length, 0, 0)
        now_ms = await self._server_ms(key)
        made_ms = int(oldest[0][0].partition(b"-")[0])
        return StreamState(key, length, unread or 1, max(0, now_ms - made_ms))

    async def _server_ms(self, key: str) -> int:
        if self._is_cluster:
            node = self._client.get_node_from_key(key)
            seconds, micros = await self._client.execute_command("TIME", target_nodes=node)
        else:
            seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _after(entry_id: bytes) -> str:
    """The next id that an entry may have."""
    made_ms, _, number = entry_id.decode().partition("-")
    return f"{made_ms}-{int(number) + 1}"
