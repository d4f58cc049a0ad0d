"""Outbox rows: hints of commits that are not settled yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database


@dataclass(slots=True)
class OutboxRow:
    """The hints of one commit, parallel lists in commit order."""

    batch_id: int
    accounts: list[int]
    seqs: list[int]
    message_ids: list[int]
    pushable: list[bool]
    attempt: int
    """How often it was resent, this time included."""
    created_at_ms: int


class OutboxStore:
    """Reads and writes of outbox; rows are made by the commit alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_done(self, batch_ids: Sequence[int]) -> int:
        """Delete settled rows; how many there were."""
        raise NotImplementedError

    async def due_rows(self, node_id: int, older_than_ms: int, limit: int) -> list[OutboxRow]:
        """Rows of this node to resend now: created at least `older_than_ms` ago and due.

        Each row's next time is moved (older_than_ms doubled per attempt, at most 60 s), so that no
        two calls give the same row at once.
        """
        raise NotImplementedError

    async def take_over(self, node_id: int, dead_nodes: Sequence[int], limit: int) -> int:
        """Make rows of dead nodes this node's own, due now; how many."""
        raise NotImplementedError

    async def count(self, node_id: int) -> int:
        """Rows of this node."""
        raise NotImplementedError

    async def oldest_age_ms(self, node_id: int) -> int:
        """Age of this node's oldest row; 0 = none."""
        raise NotImplementedError
