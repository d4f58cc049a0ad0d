"""What the stores say of a run's devices: acked, told, owed, and what was shown.

Role: reads rows of the run's own users; judges nothing. Blocking.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
import redis
from prometheus_client.parser import text_string_to_metric_families

from chatmesh.embedded.running import RunningMesh

SCRAPE_SECONDS: Final = 5

# Messages that a device with a token has neither acked nor been told of.
_NEITHER: Final[LiteralString] = """
SELECT coalesce(sum((
  SELECT count(*) FROM chat.timeline x
  JOIN chat.event e ON e.conversation = x.conversation AND e.conversation_seq = x.conversation_seq
  WHERE x.account = a.id AND x.timeline_seq > greatest(d.acked_seq, t.pushed_seq)
    AND x.timeline_seq <= h.notify_seq AND e.sender <> a.id AND e.message_no > 0
)), 0)
FROM chat.account a
JOIN chat.timeline_head h ON h.account = a.id
JOIN chat.device d ON d.account = a.id
JOIN push.push_token t ON t.account_id = a.id AND t.device_id = d.device_id
WHERE a.external_id = ANY (%s)
"""
_SHOWN: Final[LiteralString] = """
SELECT a.external_id, l.device_id, l.timeline_seq, l.message_id,
  (extract(epoch FROM l.sent_at) * 1000)::bigint
FROM push.push_log l JOIN chat.account a ON a.id = l.account_id
WHERE l.outcome = 'sent' AND l.visible AND a.external_id = ANY (%s)
ORDER BY l.push_id
"""
_OUTBOX: Final[LiteralString] = """
SELECT count(*), coalesce(sum(cardinality(accounts)), 0) FROM chat.outbox
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One visible notification."""

    user: str
    device_id: str
    timeline_seq: int
    message_id: int
    at_ms: int


def neither(mesh: RunningMesh, users: Sequence[str]) -> int:
    """Messages for devices of these users that are neither acked nor told. Raises psycopg.Error."""
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        row = connection.execute(_NEITHER, [list(users)]).fetchone()
        return int(row[0]) if row else 0


def shown(mesh: RunningMesh, users: Sequence[str]) -> list[Shown]:
    """Visible notifications to these users, in their order. Raises psycopg.Error."""
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        return [Shown(*row) for row in connection.execute(_SHOWN, [list(users)]).fetchall()]


def outbox(mesh: RunningMesh) -> tuple[int, int]:
    """Unsettled batches and the hints in them, over all nodes. Raises psycopg.Error."""
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        row = connection.execute(_OUTBOX).fetchone() or (0, 0)
        return int(row[0]), int(row[1])


def queue_entries(mesh: RunningMesh) -> int:
    """Batches that lie in the streams and were not read yet. Raises RedisError."""
    client = redis.Redis.from_url(mesh.redis_url(), socket_timeout=SCRAPE_SECONDS)
    try:
        unread = 0
        for key in client.scan_iter("{sync:*}:hints"):
            for group in client.xinfo_groups(key):
                unread += group["lag"] if group["lag"] is not None else client.xlen(key)
        return unread
    finally:
        client.close()


def counted(mesh: RunningMesh, service: str, name: str) -> dict[str, float]:
    """A counter of all replicas of a service, by its `outcome` ("" without). Raises OSError."""
    found: dict[str, float] = {}
    for process in mesh.processes:
        if process.service != service or not process.metrics:
            continue
        with urllib.request.urlopen(
            f"http://{process.metrics}/metrics", timeout=SCRAPE_SECONDS
        ) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    outcome = sample.labels.get("outcome", "")
                    found[outcome] = found.get(outcome, 0) + sample.value
    return found


def settled_hints(mesh: RunningMesh) -> float:
    """Hints that nodes took, and push targets that push_svc committed, so far. Raises OSError."""
    taken = counted(mesh, "sync_svc", "chatmesh_sync_hints_total").get("taken", 0)
    return taken + sum(counted(mesh, "sync_svc", "chatmesh_sync_pushes_total").values())


def resent(mesh: RunningMesh) -> float:
    """Outbox rows that chat nodes sent again. Raises OSError."""
    return sum(counted(mesh, "chat_svc", "chatmesh_outbox_resends_total").values())


def twice(pushes: Iterable[Shown]) -> int:
    """Notifications that told a device of nothing newer than one before."""
    told: dict[tuple[str, str], int] = {}
    count = 0
    for one in pushes:
        key = (one.user, one.device_id)
        count += one.timeline_seq <= told.get(key, 0)
        told[key] = max(one.timeline_seq, told.get(key, 0))
    return count


def after_ack(
    pushes: Iterable[Shown], acks: Mapping[str, Sequence[Sequence[int]]], device_id: str
) -> int:
    """Notifications to an online device of positions that it had acked.

    Args:
        acks: user → (timeline_seq, Unix ms) of each ack of that device, rising.
    """
    count = 0
    for one in pushes:
        if one.device_id == device_id:
            count += any(
                seq >= one.timeline_seq and at_ms < one.at_ms
                for seq, at_ms in acks.get(one.user, ())
            )
    return count
