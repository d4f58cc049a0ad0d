"""Events that an account writes to its own devices: what changed of it, and what it hid.

They go through the commit under its lock order (`migrations/pre/0032-hidden.sql`). State that
is not in the timeline (privacy, mutes) is healed by account_version; its event is written after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from chat_svc.core.server_events import account_body
from chat_svc.store import calls
from chat_svc.store.conversations import SELF
from chat_svc.store.governed import NOTHING, Governed, GovernedEvent, fresh_key, outcomes
from chatmesh.runtime.postgres import Database

_TELL: Final = """
SELECT * FROM chat.tell_self_1(%s::integer, %s::bigint, %s::bigint, %s, %s, %s::bigint, %s::bigint)
"""
_HIDE: Final = """
SELECT * FROM chat.hide_1(%s::integer, %s::bigint, %s::bigint, %s::bigint, %s::bigint, %s, %s,
  %s::bigint, %s::bigint)
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose log, and which node owns the outbox row."""

    tenant_id: int
    account: int
    user: str
    node_id: int


class SelfLogStore:
    """Writes of self conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, owner: Owner, subject: str, state: str, *, ids: Sequence[int]) -> Governed:
        """Something of the account changed.

        Args:
            ids: two fresh Snowflakes: event, batch.

        Raises:
            Fault: NOT_FOUND (the account is disabled).
        """
        event_id, batch_id = ids
        key, body = fresh_key(), account_body(subject, "", state)
        values = (
            owner.tenant_id,
            owner.account,
            event_id,
            UUID(bytes=key),
            body,
            batch_id,
            owner.node_id,
        )
        answer = await calls.rows(self._database, _TELL, values)
        return _governed(owner, key, body, batch_id, answer)

    async def hide(
        self, owner: Owner, conversation: int, seq: int, *, ids: Sequence[int]
    ) -> Governed:
        """Hide a message from the account's own devices; nothing when it was hidden already.

        Args:
            ids: two fresh Snowflakes: event, batch.

        Raises:
            Fault: NOT_FOUND: no visible message there that this account may read.
        """
        event_id, batch_id = ids
        key = fresh_key()
        body = account_body("hidden", "", "hidden", conversation=conversation, seq=seq)
        values = (
            owner.tenant_id,
            owner.account,
            conversation,
            seq,
            event_id,
            UUID(bytes=key),
            body,
            batch_id,
            owner.node_id,
        )
        answer = await calls.rows(self._database, _HIDE, values)
        return _governed(owner, key, body, batch_id, answer) if answer else NOTHING


def _governed(
    owner: Owner, key: bytes, body: bytes, batch_id: int, answer: Sequence[calls.Row]
) -> Governed:
    stored = outcomes([owner.account], answer)
    if stored is None:
        raise RuntimeError("an event without a state cannot be stale")
    event = GovernedEvent(stored[0], owner.account, owner.user, owner.user, SELF, key, body)
    return Governed(batch_id, [event], stored[0])
