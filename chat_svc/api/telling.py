"""What a unary change of own state makes the mesh say: receipts to others, counts to oneself.

The same signals as from a session (`node.receipts`), which gathers; here the state is written
already, because the caller's answer holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from chat_svc.node.receipts import MAX_TOLD_MEMBERS
from chat_svc.node.resolver import Resolver
from chat_svc.node.signals import Signals
from chat_svc.store.bundle import ChatStore
from chat_svc.store.receipts import ChangedMark
from chatmesh.v1.session_pb2 import Receipt


class Telling:
    """Signals after a unary call."""

    def __init__(self, store: ChatStore, resolver: Resolver, signals: Signals) -> None:
        self._store = store
        self._resolver = resolver
        self._signals = signals

    async def marks(self, tenant_id: int, changed: Sequence[ChangedMark]) -> None:
        """Marks rose: the other members see it, and the readers' devices their new counts."""
        told = await self._store.conversations.members_of(
            tenant_id, [mark.conversation for mark in changed]
        )
        users = await self._resolver.users_of({mark.account for mark in changed})
        for mark in changed:
            receipt = Receipt(
                conversation_id=mark.conversation,
                user_id=users.get(mark.account, ""),
                delivered_conversation_seq=mark.delivered_conversation_seq,
                read_message_no=mark.read_message_no,
            )
            members = told.get(mark.conversation, [])
            for account in members if len(members) <= MAX_TOLD_MEMBERS else ():
                if account != mark.account:
                    self._signals.receipt(account, receipt)
        for account in sorted({mark.account for mark in changed if mark.read_changed}):
            await self.account(account)
        self._signals.flush()

    async def account(self, account: int) -> None:
        """An account's own state changed: its devices ask for what they lack."""
        heads = await self._store.devices.heads([account])
        if account in heads:
            unread, mentions = await self._store.conversations.unread_totals(account)
            self._signals.counts(account, heads[account].account_version, unread, mentions)
        self._signals.flush()
