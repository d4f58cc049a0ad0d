"""Erasing a user in bounded steps: each is a transaction of its own and may be run again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from chat_svc.core.erasing import without_name
from chat_svc.store import calls
from chatmesh.runtime.postgres import Database

MEMBERS_AT_ONCE: Final = 100
EVENTS_AT_ONCE: Final = 2_000
"""Events that are looked at by one statement, whoever wrote them."""
ROWS_AT_ONCE: Final = 2_000


class Stage(IntEnum):
    """What comes next."""

    SESSIONS = 0
    """Live sessions must have ended."""
    RELATIONS = 1
    MEMBERS = 2
    EVENTS = 3
    TIMELINE = 4
    ELSEWHERE = 5
    """Other services must forget it."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """Where the erasure of an account is."""

    account: int
    tenant_id: int
    user: str
    stage: Stage
    conversation: int
    conversation_seq: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did."""

    work: int
    """Rows that were looked at or changed: what a call is bounded by."""
    erased_messages: int = 0


_BEGIN: Final = """
WITH found AS (
  SELECT a.id, a.tenant, a.external_id FROM chat.tenant t
  JOIN chat.account a ON a.tenant = t.id AND a.external_id = %s WHERE t.name = %s
), begun AS (
  INSERT INTO chat.erasure (account, begun_at_ms) SELECT id, chat.now_ms() FROM found
  ON CONFLICT DO NOTHING
)
SELECT f.id, f.tenant, f.external_id, coalesce(e.stage, 0), coalesce(e.conversation, 0),
  coalesce(e.conversation_seq, 0)
FROM found f LEFT JOIN chat.erasure e ON e.account = f.id
"""
_MOVE: Final = """
UPDATE chat.erasure SET stage = %s, conversation = %s, conversation_seq = %s WHERE account = %s
"""
_RELATIONS: Final = "SELECT chat.erase_relations_1(%s)"
_MEMBERS: Final = "SELECT chat.erase_members_1(%s, %s)"
_TIMELINE: Final = "SELECT chat.erase_timeline_1(%s, %s)"
_ACCOUNT: Final = "SELECT chat.erase_account_1(%s, %s)"
_EVENTS: Final = "SELECT chat.erase_events_1(%s, %s, %s, %s::bigint, %s::bigint)"
_UP_TO: Final = """
SELECT conversation, conversation_seq FROM chat.event
WHERE (conversation, conversation_seq) > (%s, %s)
ORDER BY conversation, conversation_seq OFFSET %s LIMIT 1
"""
_NAMING: Final = """
SELECT e.conversation, e.conversation_seq, e.body
FROM chat.event e JOIN chat.conversation c ON c.id = e.conversation AND c.tenant = %(tenant)s
WHERE (e.conversation, e.conversation_seq) > (%(conversation)s, %(seq)s)
  AND (%(to_conversation)s::bigint IS NULL
    OR (e.conversation, e.conversation_seq) <= (%(to_conversation)s, %(to_seq)s))
  AND e.sender <> %(account)s AND position(%(name)s::bytea IN e.body) > 0
"""
_VERSIONS: Final = """
DELETE FROM chat.event_version v USING chat.conversation c
WHERE c.id = v.conversation AND c.tenant = %(tenant)s
  AND (v.conversation, v.conversation_seq) > (%(conversation)s, %(seq)s)
  AND (%(to_conversation)s::bigint IS NULL
    OR (v.conversation, v.conversation_seq) <= (%(to_conversation)s, %(to_seq)s))
  AND position(%(name)s::bytea IN v.body) > 0
"""
_REWRITE: Final = """
UPDATE chat.event SET body = %s WHERE conversation = %s AND conversation_seq = %s AND body = %s
"""
_BODY: Final = "SELECT body FROM chat.event WHERE conversation = %s AND conversation_seq = %s"


class ErasureStore:
    """Steps of erasures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, tenant: str, user: str) -> Erasure | None:
        """Where the erasure of a user is, begun if it was not; None: there is no such user."""
        found = await calls.row(self._database, _BEGIN, (user, tenant))
        if found is None:
            return None
        account, tenant_id, name, stage, conversation, seq = found
        return Erasure(account, tenant_id, name, Stage(stage), conversation, seq)

    async def move(
        self, at: Erasure, stage: Stage, conversation: int = 0, conversation_seq: int = 0
    ) -> Erasure:
        """Note how far it is."""
        values = (int(stage), conversation, conversation_seq, at.account)
        await calls.change(self._database, _MOVE, values)
        return Erasure(at.account, at.tenant_id, at.user, stage, conversation, conversation_seq)

    async def step(self, at: Erasure) -> tuple[Erasure, Step]:
        """One step of a stage that is PostgreSQL's alone."""
        if at.stage is Stage.RELATIONS:
            await calls.rows(self._database, _RELATIONS, (at.account,))
            return await self.move(at, Stage.MEMBERS), Step(1)
        if at.stage is Stage.MEMBERS:
            found = await calls.row(self._database, _MEMBERS, (at.account, MEMBERS_AT_ONCE))
            count = found[0] if found else 0
            if count < MEMBERS_AT_ONCE:
                at = await self.move(at, Stage.EVENTS)
            return at, Step(count)
        if at.stage is Stage.EVENTS:
            return await self._events(at)
        found = await calls.row(self._database, _TIMELINE, (at.account, ROWS_AT_ONCE))
        count = found[0] if found else 0
        if not count:
            at = await self.move(at, Stage.ELSEWHERE)
        return at, Step(count)

    async def finish(self, at: Erasure, actor: str) -> None:
        """The name itself, and the record of it."""
        await calls.rows(self._database, _ACCOUNT, (at.account, actor))

    async def _events(self, at: Erasure) -> tuple[Erasure, Step]:
        """The next events of the mesh: the user's own are blanked, its name goes from others'."""
        start = (at.conversation, at.conversation_seq)
        end = await calls.row(self._database, _UP_TO, (*start, EVENTS_AT_ONCE - 1))
        to_conversation, to_seq = end or (None, None)
        erased = await calls.row(
            self._database, _EVENTS, (at.account, *start, to_conversation, to_seq)
        )
        values = {
            "tenant": at.tenant_id, "account": at.account, "name": at.user.encode(),
            "conversation": start[0], "seq": start[1],
            "to_conversation": to_conversation, "to_seq": to_seq,
        }  # fmt: skip
        for conversation, seq, body in await calls.rows(self._database, _NAMING, values):
            await self._take_out(conversation, seq, bytes(body), at.user)
        # last: an edit may have kept, meanwhile, what it replaced
        await calls.change(self._database, _VERSIONS, values)
        if end is None:
            at = await self.move(at, Stage.TIMELINE)
        else:
            at = await self.move(at, Stage.EVENTS, *end)
        return at, Step(EVENTS_AT_ONCE, erased[0] if erased else 0)

    async def _take_out(self, conversation: int, seq: int, body: bytes, user: str) -> None:
        """Until it is done on the body that stands there: an edit may come between."""
        while (clean := without_name(body, user)) is not None:
            values = (clean, conversation, seq, body)
            if await calls.change(self._database, _REWRITE, values):
                return
            found = await calls.row(self._database, _BODY, (conversation, seq))
            if found is None:
                return
            body = bytes(found[0])
