"""Read and delivered marks: batched, monotonic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a member has got; 0 = not said. Several of one member may be in one call."""

    conversation: int
    account: int
    read_message_no: int
    delivered_conversation_seq: int


@dataclass(frozen=True, slots=True)
class ChangedMark:
    """A member whose marks rose, and where they stand now."""

    conversation: int
    account: int
    read_message_no: int
    delivered_conversation_seq: int
    read_changed: bool
    delivered_changed: bool
    conversation_kind: int
    member_count: int


class ReceiptStore:
    """Writes of member's marks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write_marks(self, marks: Sequence[Mark]) -> list[ChangedMark]:
        """Raise marks of current members; never above the conversation's head, never lower.

        A raised read mark raises the account's account_version.
        """
        raise NotImplementedError
