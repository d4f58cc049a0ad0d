"""The slow, single commit: groups and their members, roles, titles; contacts and blocks.

Rules (who may do what) are decided in Python by `core.membership` on a state that was read
before; the function in PostgreSQL locks as the fast commit does, compares `govern_version` and
refuses a state that changed meanwhile: then it is read and decided anew. So no lock is held over
a round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chat_svc.store.commit import CommitOutcome

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database


@dataclass(frozen=True, slots=True)
class Governed:
    """A slow commit: what it appended, ready to hand over to hints and local sessions."""

    outcome: CommitOutcome
    batch_id: int
    sender: int
    body: bytes
    key: bytes
    kind: int
    trace: bytes


class GovernStore:
    """Group, membership, contact and block changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
