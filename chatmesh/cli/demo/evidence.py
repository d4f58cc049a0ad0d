"""What can be seen of the mesh from outside: rows, the queue, presence's answers, notifications.

Rules: reads only. Every look is bounded in time; what is not there yet is looked at again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, LiteralString, Self, TypeVar

import grpc
import psycopg
import redis.asyncio
from psycopg.rows import DictRow, dict_row

from chatmesh.cli.demo.cast import SEE_SECONDS, NotSeen
from chatmesh.embedded.running import RunningMesh
from chatmesh.mesh.v1 import hint_pb2, presence_pb2, push_pb2
from chatmesh.mesh.v1.presence_pb2_grpc import PresenceServiceStub
from chatmesh.mesh.v1.push_pb2_grpc import PushServiceStub

T = TypeVar("T")

LOOK_AGAIN_SECONDS: Final = 0.03
CALL_SECONDS: Final = 5.0

_EVENT: Final[LiteralString] = """
    SELECT e.conversation, e.conversation_seq, e.message_no, e.created_at_ms, e.sender,
           (SELECT json_object_agg(a.external_id, t.timeline_seq)
              FROM chat.timeline t JOIN chat.account a ON a.id = t.account
             WHERE t.conversation = e.conversation AND t.conversation_seq = e.conversation_seq)
           AS timelines
      FROM chat.event e WHERE e.conversation = %s AND e.conversation_seq = %s AND e.id = %s"""
_WORKER: Final[LiteralString] = (
    "SELECT holder, window_end_ms FROM sequencer.worker WHERE worker = %s AND holder IS NOT NULL"
)
_ACKED: Final[LiteralString] = """
    SELECT d.acked_seq, d.acked_id FROM chat.device d JOIN chat.account a ON a.id = d.account
     WHERE a.external_id = %s AND d.device_id = %s"""
_OUTBOX: Final[LiteralString] = "SELECT count(*) AS rows FROM chat.outbox WHERE %s = ANY(ids)"
_ACCOUNT: Final[LiteralString] = "SELECT id FROM chat.account WHERE external_id = %s"


class Evidence:
    """An observer of one mesh. Use it as an async context manager."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh

    async def __aenter__(self) -> Self:
        self._database = await psycopg.AsyncConnection.connect(
            self._mesh.owner_url(), autocommit=True, row_factory=dict_row
        )
        self._redis = redis.asyncio.Redis.from_url(self._mesh.redis_url())
        files = self._mesh.cli_certificates()
        credentials = grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
        )
        self._channels = {
            service: grpc.aio.secure_channel(self._mesh.addresses_of(service)[0], credentials)
            for service in ("presence_svc", "push_svc")
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()
        await self._redis.aclose()
        await self._database.close()

    async def _row(self, query: LiteralString, *values: Any) -> DictRow | None:
        cursor = await self._database.execute(query, values)
        return await cursor.fetchone()

    # -- rows --------------------------------------------------------------------------------------

    async def event(self, conversation: int, seq: int, message_id: int) -> DictRow:
        """The message's row, with the timelines that show it.

        Raises NotSeen at once: an accepted message is there already, or never.
        """
        row = await self._row(_EVENT, conversation, seq, message_id)
        if row is None:
            raise NotSeen(f"PostgreSQL has no event {message_id}")
        return row

    async def worker(self, number: int) -> DictRow:
        """The sequencer's row of a worker number that is held now."""
        row = await self._row(_WORKER, number)
        if row is None:
            raise NotSeen(f"no sequencer holds worker {number}")
        return row

    async def acked(self, user: str, device: str, seq: int, message_id: int) -> None:
        """Wait until a device's cursor in PostgreSQL is at this entry."""

        async def look() -> bool:
            row = await self._row(_ACKED, user, device)
            return row is not None and (row["acked_seq"], row["acked_id"]) == (seq, message_id)

        await _until(look, f"cursor of {user}'s {device} at {seq}")

    async def settled(self, message_id: int) -> None:
        """Wait until no outbox row names the message: its hints were delivered or are jobs."""

        async def look() -> bool:
            row = await self._row(_OUTBOX, message_id)
            return row is not None and row["rows"] == 0

        await _until(look, f"outbox row of message {message_id} gone")

    async def account(self, user: str) -> int:
        """A user's number inside the mesh."""
        row = await self._row(_ACCOUNT, user)
        if row is None:
            raise NotSeen(f"PostgreSQL has no account {user}")
        return int(row["id"])

    # -- the queue ---------------------------------------------------------------------------------

    async def queued(self, message_id: int) -> str:
        """The entry of the sync queue that carries the message: its stream and id."""

        store: Any = self._redis  # its answers are typed as anything that any server may say

        async def look() -> str | None:
            for key in sorted([key async for key in store.scan_iter("{sync:*}:hints")]):
                for entry_id, fields in await store.xrevrange(key, count=100):
                    batch = hint_pb2.HintBatch.FromString(next(iter(fields.values())))
                    if any(hint.message_id == message_id for hint in batch.hints):
                        return f"{key.decode()} {entry_id.decode()}"
            return None

        return await _until(look, f"queue entry of message {message_id}")

    # -- presence ----------------------------------------------------------------------------------

    async def routes(self, user: str, devices: set[str]) -> dict[str, str]:
        """Wait until presence_svc knows exactly these devices of a user; their nodes by device."""
        account = await self.account(user)
        stub: Any = PresenceServiceStub(self._channels["presence_svc"])

        async def look() -> tuple[dict[str, str]] | None:
            answer: presence_pb2.LookupSessionsResponse = await stub.LookupSessions(
                presence_pb2.LookupSessionsRequest(account_ids=[account]), timeout=CALL_SECONDS
            )
            names = {node.node_id: node.name for node in answer.nodes}
            routes = {
                route.device_id: names.get(route.node_id, "?")
                for route in answer.accounts[0].routes
            }
            return (routes,) if set(routes) == devices else None

        what = f"presence of {user} on {', '.join(sorted(devices)) or 'no device'}"
        (routes,) = await _until(look, what)
        return routes

    # -- push --------------------------------------------------------------------------------------

    async def pushed(self, user: str, message_id: int) -> push_pb2.PushRecord:
        """Wait for push_svc's record of a visible notification about a message."""
        account = await self.account(user)
        stub: Any = PushServiceStub(self._channels["push_svc"])

        async def look() -> push_pb2.PushRecord | None:
            answer: push_pb2.ListPushesResponse = await stub.ListPushes(
                push_pb2.ListPushesRequest(account_id=account), timeout=CALL_SECONDS
            )
            for record in answer.pushes:
                if record.message_id == message_id and record.visible:
                    return record if record.outcome == "sent" else None
            return None

        return await _until(look, f"push to {user} of message {message_id}")

    async def notification_line(self, message_id: int) -> dict[str, Any]:
        """Wait for the line that provider `log` wrote for a message."""
        logs = [one.log for one in self._mesh.processes if one.service == "push_svc"]

        async def look() -> dict[str, Any] | None:
            for log in logs:
                text = await asyncio.to_thread(log.read_text)
                for line in text.splitlines():
                    if '"notification"' in line and str(message_id) in line:
                        return dict(json.loads(line))
            return None

        return await _until(look, f"line of provider log for message {message_id}")


async def _until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look again and again until something is there.

    Raises NotSeen: it was not in time.
    """
    try:
        async with asyncio.timeout(SEE_SECONDS):
            while True:
                found = await look()
                if found is not None and found is not False:
                    return found
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
    except TimeoutError:
        raise NotSeen(f"not seen within {SEE_SECONDS:g} s: {what}") from None
