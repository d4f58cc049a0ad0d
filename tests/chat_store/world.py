"""Accounts, conversations and messages for the tests of the store."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg

from chat_svc.core.membership import Change, Role
from chat_svc.store.accounts import AccountRow
from chat_svc.store.bundle import ROLE, ChatStore
from chat_svc.store.commit import CommitOutcome, CommitRow, CommitStore, EventFlag, EventKind
from chat_svc.store.govern import Properties
from chat_svc.store.governed import Governed, Request
from chatmesh.runtime.postgres import Lane
from chatmesh.v1.types_pb2 import Content, DeleteContent, EditContent, Event, TextContent

MESSAGE = int(EventFlag.VISIBLE | EventFlag.NOTIFIES)
NODE = 1


def uuid7(at_ms: int | None = None) -> bytes:
    """A key of that moment, by default now."""
    ms = int(time.time() * 1000) if at_ms is None else at_ms
    raw = bytearray(ms.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


def text_body(text: str) -> bytes:
    """What is stored of a text message."""
    return Event(content=Content(text=TextContent(body=text))).SerializeToString()


def edit_body(target: int, text: str) -> bytes:
    """What is stored of an edit."""
    edit = EditContent(target_conversation_seq=target, text=TextContent(body=text))
    return Event(content=Content(edit=edit)).SerializeToString()


def delete_body(target: int) -> bytes:
    """What is stored of a deletion."""
    content = Content(delete=DeleteContent(target_conversation_seq=target))
    return Event(content=content).SerializeToString()


class World:
    """One database with its stores; users get new names, so tests of a module do not meet."""

    def __init__(self, url: str, store: ChatStore) -> None:
        self.url = url
        self.store = store
        self._ids = itertools.count(1_000_000)
        self._names = itertools.count(1)
        self._user_ids: dict[int, str] = {}

    async def new_ids(self, count: int) -> list[int]:
        """Ids that were never given before."""
        return [next(self._ids) for _ in range(count)]

    def new_id(self) -> int:
        """One of them."""
        return next(self._ids)

    async def users(self, count: int, tenant: str = "default") -> list[AccountRow]:
        """New accounts."""
        names = [f"user{next(self._names):06}" for _ in range(count)]
        made = await self.store.accounts.resolve_accounts(tenant, names, True, self.new_ids)
        self._user_ids.update({made[name].id: name for name in names})
        return [made[name] for name in names]

    async def direct(self, one: AccountRow, other: AccountRow) -> int:
        """The direct (or self) conversation of two accounts."""
        pair = (min(one.id, other.id), max(one.id, other.id))
        made = await self.store.conversations.direct_conversations(
            one.tenant_id, [pair], self.new_ids
        )
        return made[pair]

    def row(
        self,
        sender: AccountRow,
        conversation: int,
        text: str = "hello",
        *,
        key: bytes | None = None,
        content_hash: int = 1,
        kind: EventKind = EventKind.TEXT,
        flags: int = MESSAGE,
        target_seq: int = 0,
        body: bytes | None = None,
        mentions: Sequence[int] = (),
        expires_at_ms: int = 0,
    ) -> CommitRow:
        """A message to commit."""
        return CommitRow(
            message_id=self.new_id(),
            tenant_id=sender.tenant_id,
            sender=sender.id,
            conversation=conversation,
            event_kind=kind,
            flags=flags,
            key=uuid7() if key is None else key,
            content_hash=content_hash,
            target_seq=target_seq,
            expires_at_ms=expires_at_ms,
            body=text_body(text) if body is None else body,
            trace=b"",
            mentions=mentions,
        )

    def request(
        self, actor: AccountRow, *, key: bytes | None = None, content_hash: int = 1 << 56
    ) -> Request:
        """Somebody asks for a slow commit."""
        return Request(
            tenant_id=actor.tenant_id,
            actor=actor.id,
            actor_user=self.name_of(actor),
            key=uuid7() if key is None else key,
            content_hash=content_hash,
            node_id=NODE,
        )

    def name_of(self, account: AccountRow) -> str:
        """Its user id."""
        return self._user_ids[account.id]

    def named(self, *accounts: AccountRow) -> dict[int, str]:
        """User ids by account."""
        return {account.id: self.name_of(account) for account in accounts}

    async def group(self, owner: AccountRow, *members: AccountRow, history: int = 1) -> int:
        """A new group."""
        made = await self.store.govern.create_group(
            self.request(owner),
            self.named(*members),
            Properties("group", 1, history),
            max_members=1_000,
            ids=await self.new_ids(4),
        )
        assert made.first is not None
        return made.first.conversation

    async def change(
        self,
        actor: AccountRow,
        conversation: int,
        change: Change,
        *targets: AccountRow,
        role: Role = Role.NONE,
        key: bytes | None = None,
    ) -> Governed:
        """Change members of a group."""
        return await self.store.govern.change_members(
            self.request(actor, key=key),
            conversation,
            change,
            self.named(*targets),
            role,
            max_members=1_000,
            ids=await self.new_ids(2),
        )

    async def commit(
        self,
        *rows: CommitRow,
        done: Sequence[int] = (),
        batch_id: int | None = None,
        on: CommitStore | None = None,
    ) -> list[CommitOutcome]:
        """Commit on the common lane, or on another."""
        return await (on or self.store.commit).commit(
            rows, batch_id=batch_id or self.new_id(), node_id=NODE, done=done
        )

    @asynccontextmanager
    async def lane(self, **settings: str) -> AsyncIterator[CommitStore]:
        """A second lane."""
        async with Lane(
            self.url, role_name=ROLE, name="second", session_settings=tuple(settings.items())
        ) as lane:
            yield CommitStore(lane)

    async def ask(self, query: LiteralString, *params: Any) -> list[tuple[Any, ...]]:
        """A question as the owner."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def timeline(self, account: AccountRow) -> list[tuple[int, int, int]]:
        """(timeline_seq, conversation, conversation_seq) of all entries, by position."""
        return [
            (seq, conversation, conversation_seq)
            for seq, conversation, conversation_seq in await self.ask(
                "SELECT timeline_seq, conversation, conversation_seq FROM chat.timeline"
                " WHERE account = %s ORDER BY timeline_seq",
                account.id,
            )
        ]

    async def assert_contiguous(self) -> None:
        """Every conversation and every timeline counts 1, 2, 3, … up to its head."""
        broken = await self.ask(
            """
            SELECT 'conversation', c.id FROM chat.conversation c
            LEFT JOIN (SELECT conversation, count(*) AS n, max(conversation_seq) AS last,
                count(*) FILTER (WHERE message_no > 0) AS visible, max(message_no) AS last_no,
                count(DISTINCT message_no) FILTER (WHERE message_no > 0) AS numbers
              FROM chat.event GROUP BY conversation) e ON e.conversation = c.id
            WHERE coalesce(e.n, 0) <> c.last_conversation_seq
              OR coalesce(e.last, 0) <> c.last_conversation_seq
              OR coalesce(e.last_no, 0) <> c.last_message_no
              OR coalesce(e.visible, 0) <> c.last_message_no
              OR coalesce(e.numbers, 0) <> c.last_message_no
            UNION ALL
            SELECT 'timeline', h.account FROM chat.timeline_head h
            LEFT JOIN (SELECT account, count(*) AS n, max(timeline_seq) AS last,
                min(timeline_seq) AS first
              FROM chat.timeline GROUP BY account) t ON t.account = h.account
            WHERE coalesce(t.n, 0) <> h.seq OR coalesce(t.last, 0) <> h.seq
              OR coalesce(t.first, 1) <> 1
            """
        )
        assert broken == []
