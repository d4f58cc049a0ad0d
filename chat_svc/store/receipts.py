"""Read and delivered marks: batched, monotonic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array


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


_WRITE: Final = "SELECT * FROM chat.write_marks_1(%s, %s, %s, %s)"


class ReceiptStore:
    """Writes of member's marks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write_marks(self, marks: Sequence[Mark]) -> list[ChangedMark]:
        """Raise marks of current members; never above the conversation's head, never lower.

        A raised read mark raises the account's account_version.
        """
        highest: dict[tuple[int, int], tuple[int, int]] = {}
        for mark in marks:
            key = (mark.conversation, mark.account)
            read, delivered = highest.get(key, (0, 0))
            highest[key] = (
                max(read, mark.read_message_no),
                max(delivered, mark.delivered_conversation_seq),
            )
        if not highest:
            return []
        arguments = (
            Int8Array([conversation for conversation, _ in highest]),
            Int8Array([account for _, account in highest]),
            Int8Array([read for read, _ in highest.values()]),
            Int8Array([delivered for _, delivered in highest.values()]),
        )
        found = await calls.rows(self._database, _WRITE, arguments)
        return [ChangedMark(*columns) for columns in found]
