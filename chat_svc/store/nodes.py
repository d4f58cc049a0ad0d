"""Leases of chat nodes: who lives, and whose devices must be handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array, TextArray


@dataclass(frozen=True, slots=True)
class StrandedDevice:
    """A device that is still bound to a dead node."""

    account: int
    device_id: str
    session_no: int
    acked_seq: int
    notify_seq: int


_START: Final = """
INSERT INTO chat.chat_node (name, target, started_at_ms, lease_until_ms)
VALUES (%s, %s, chat.now_ms(), chat.now_ms() + %s) RETURNING id
"""
_RENEW: Final = """
UPDATE chat.chat_node SET lease_until_ms = chat.now_ms() + %s WHERE id = %s AND taken_at_ms = 0
RETURNING lease_until_ms
"""
_LEAVE: Final = "UPDATE chat.chat_node SET lease_until_ms = 0 WHERE id = %s"
_TARGETS: Final = """
SELECT id, target FROM chat.chat_node WHERE id = ANY (%s) AND lease_until_ms > chat.now_ms()
"""
_TAKE: Final = """
UPDATE chat.chat_node SET taken_at_ms = chat.now_ms() WHERE id IN (
  SELECT n.id FROM chat.chat_node n
  WHERE n.lease_until_ms < chat.now_ms() AND n.taken_at_ms < chat.now_ms() - %s
    AND chat.now_ms() < %s
  ORDER BY n.id LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING id
"""
_STRANDED: Final = """
SELECT d.account, d.device_id, d.session_no, d.acked_seq, h.notify_seq
FROM chat.device d JOIN chat.timeline_head h ON h.account = d.account
WHERE d.session_node = %s AND (d.account, d.device_id) > (%s, %s)
ORDER BY d.account, d.device_id LIMIT %s
"""
_RELEASE: Final = "SELECT chat.close_sessions_1(%s, %s, %s)"
_REMOVE: Final = """
DELETE FROM chat.chat_node n WHERE n.id = %s AND n.taken_at_ms > 0
  AND NOT EXISTS (SELECT FROM chat.device d WHERE d.session_node = n.id AND d.session_node > 0)
  AND NOT EXISTS (SELECT FROM chat.outbox o WHERE o.node = n.id)
"""
_SAY_SESSIONS: Final = """
WITH said AS (
  UPDATE chat.chat_node SET sessions = %(sessions)s WHERE id = %(node)s AND taken_at_ms = 0
  RETURNING id
)
SELECT count(*), coalesce(sum(CASE WHEN n.id = %(node)s THEN %(sessions)s ELSE n.sessions END), 0)
FROM chat.chat_node n WHERE n.lease_until_ms > chat.now_ms() AND n.taken_at_ms = 0
"""
_ORPHANED: Final = """
WITH RECURSIVE of_device(node) AS (
  SELECT min(d.session_node) FROM chat.device d WHERE d.session_node > 0
  UNION ALL
  SELECT (SELECT min(d.session_node) FROM chat.device d WHERE d.session_node > p.node
    AND d.session_node > 0) FROM of_device p WHERE p.node IS NOT NULL
), of_outbox(node) AS (
  SELECT min(o.node) FROM chat.outbox o
  UNION ALL
  SELECT (SELECT min(o.node) FROM chat.outbox o WHERE o.node > p.node)
  FROM of_outbox p WHERE p.node IS NOT NULL
)
SELECT f.node FROM (SELECT node FROM of_device UNION SELECT node FROM of_outbox) f
WHERE f.node IS NOT NULL AND NOT EXISTS (SELECT FROM chat.chat_node n WHERE n.id = f.node)
ORDER BY f.node LIMIT %s
"""
"""Steps from node to node over both indexes: its cost is the number of nodes, not of rows."""
_ROLL: Final = "SELECT chat.roll_key_partitions()"


class NodeStore:
    """Reads and writes of chat_node. All times are PostgreSQL's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start_node(self, name: str, target: str, lease_ms: int) -> int:
        """A new life of a node: its id, greater than any before."""
        found = await calls.row(self._database, _START, (name, target, lease_ms))
        if found is None:
            raise LookupError("an insert gave no row")
        return int(found[0])

    async def renew(self, node_id: int, lease_ms: int) -> int:
        """Extend the lease; its new end. 0: another node has taken it; start anew under a new id.

        A lease that is over but was not taken may go on: after an outage of PostgreSQL every
        node's is over, and none of them died.
        """
        found = await calls.row(self._database, _RENEW, (lease_ms, node_id))
        return int(found[0]) if found else 0

    async def leave(self, node_id: int) -> None:
        """End the lease now: others take over outbox rows and devices at once."""
        await calls.change(self._database, _LEAVE, (node_id,))

    async def targets(self, node_ids: Sequence[int]) -> dict[int, str]:
        """Mesh targets of live nodes."""
        return dict(await calls.rows(self._database, _TARGETS, (Int8Array(node_ids),)))

    async def take_expired(
        self, before_ms: int, limit: int = 16, *, again_after_ms: int = 30_000
    ) -> list[int]:
        """Take nodes whose lease is over, for one reaper at a time, oldest first.

        A node that was taken and not removed within `again_after_ms` is given again: its reaper
        died.

        Args:
            before_ms: PostgreSQL's time after which nothing is taken. A call that PostgreSQL was
                too busy, or stopped, to answer finds every lease over, and nobody died.
        """
        found = await calls.rows(self._database, _TAKE, (again_after_ms, before_ms, limit))
        return sorted(node for (node,) in found)

    async def stranded_devices(
        self, node_id: int, after: tuple[int, str], limit: int
    ) -> list[StrandedDevice]:
        """Devices still bound to that node, by (account, device_id), after (0, '') at first.

        Those with acked_seq < notify_seq are handed over to push; all are released then.
        """
        found = await calls.rows(self._database, _STRANDED, (node_id, *after, limit))
        return [StrandedDevice(*columns) for columns in found]

    async def release_devices(self, devices: Sequence[StrandedDevice]) -> None:
        """After the hand-over: the devices have no node (unless a newer session has begun)."""
        if devices:
            arguments = (
                Int8Array([device.account for device in devices]),
                TextArray([device.device_id for device in devices]),
                Int8Array([device.session_no for device in devices]),
            )
            await calls.rows(self._database, _RELEASE, arguments)

    async def remove_node(self, node_id: int) -> bool:
        """Delete a taken node that owns nothing any more; False when it still does."""
        return await calls.change(self._database, _REMOVE, (node_id,)) > 0

    async def share(self, node_id: int, sessions: int) -> tuple[int, int]:
        """Say how many sessions the node has; (live nodes, sessions on all of them)."""
        values = {"node": node_id, "sessions": sessions}
        found = await calls.row(self._database, _SAY_SESSIONS, values)
        return (int(found[0]), int(found[1])) if found else (0, 0)

    async def orphaned_nodes(self, limit: int = 16) -> list[int]:
        """Nodes that are not there any more and still own outbox rows or devices, by id.

        A statement that hung while its node was declared dead, handed over and removed leaves such.
        """
        return [node for (node,) in await calls.rows(self._database, _ORPHANED, (limit,))]

    async def roll_key_partitions(self) -> int:
        """Make partitions of idempotency keys 8 days ahead, drop those past 31; how many changed.

        At the start of a node and once an hour (`node.partitions`).
        """
        found = await calls.row(self._database, _ROLL)
        return int(found[0]) if found else 0
