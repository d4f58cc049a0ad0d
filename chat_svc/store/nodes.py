"""Leases of chat nodes: who lives, and whose devices must be handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database


@dataclass(frozen=True, slots=True)
class StrandedDevice:
    """A device of a dead node with unacked entries that may notify."""

    account: int
    device_id: str
    session_no: int
    notify_seq: int


class NodeStore:
    """Reads and writes of chat_node."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start_node(self, name: str, target: str, lease_ms: int) -> int:
        """A new life of a node: its id, greater than any before."""
        raise NotImplementedError

    async def renew(self, node_id: int, lease_ms: int) -> bool:
        """Extend the lease. False: it was over and was taken; start anew under a new id."""
        raise NotImplementedError

    async def leave(self, node_id: int) -> None:
        """End the lease now: others take over outbox rows and devices at once."""
        raise NotImplementedError

    async def targets(self, node_ids: Sequence[int]) -> dict[int, str]:
        """Mesh targets of live nodes."""
        raise NotImplementedError

    async def expired_nodes(self, limit: int = 16) -> list[int]:
        """Nodes whose lease is over and that still own outbox rows or devices, oldest first."""
        raise NotImplementedError

    async def stranded_devices(
        self, node_id: int, after: tuple[int, str], limit: int
    ) -> list[StrandedDevice]:
        """Devices still bound to that node, by (account, device_id): those to hand over to push."""
        raise NotImplementedError

    async def release_devices(self, node_id: int, devices: Sequence[StrandedDevice]) -> None:
        """After the hand-over: the devices have no node (unless a newer session has begun)."""
        raise NotImplementedError

    async def remove_node(self, node_id: int) -> bool:
        """Delete an expired node that owns nothing any more; False when it still does."""
        raise NotImplementedError
