"""All stores of chat_svc over one pool and one lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from chat_svc.store.accounts import AccountStore
from chat_svc.store.audit import AuditStore
from chat_svc.store.commit import CommitStore
from chat_svc.store.conversations import ConversationStore
from chat_svc.store.devices import DeviceStore
from chat_svc.store.erasure import ErasureStore
from chat_svc.store.govern import GovernStore
from chat_svc.store.history import HistoryStore
from chat_svc.store.nodes import NodeStore
from chat_svc.store.outbox import OutboxStore
from chat_svc.store.presence import PresenceStore
from chat_svc.store.push_state import PushStateStore
from chat_svc.store.receipts import ReceiptStore
from chat_svc.store.relations import RelationStore
from chat_svc.store.retention import RetentionStore
from chat_svc.store.search import SearchStore
from chat_svc.store.self_log import SelfLogStore
from chat_svc.store.snapshot import SnapshotStore
from chat_svc.store.timeline import TimelineStore
from chat_svc.store.users import UserStore

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database, Lane

SERVICE = "chat_svc"
"""Package whose migrations make the schema."""
ROLE = "chatmesh_chat"
"""Role of every connection: data only, no DDL."""


@dataclass(frozen=True, slots=True)
class ChatStore:
    """One object to pass on."""

    accounts: AccountStore
    audit: AuditStore
    commit: CommitStore
    conversations: ConversationStore
    devices: DeviceStore
    erasure: ErasureStore
    govern: GovernStore
    history: HistoryStore
    nodes: NodeStore
    outbox: OutboxStore
    presence: PresenceStore
    push_state: PushStateStore
    receipts: ReceiptStore
    relations: RelationStore
    retention: RetentionStore
    search: SearchStore
    self_log: SelfLogStore
    snapshot: SnapshotStore
    timeline: TimelineStore
    users: UserStore

    @classmethod
    def on(
        cls,
        database: Database,
        lane: Lane,
        *,
        edit_window_ms: int = 86_400_000,
        search_language: str = "simple",
    ) -> Self:
        """All stores; the commit on its own lane."""
        return cls(
            accounts=AccountStore(database),
            audit=AuditStore(database),
            commit=CommitStore(lane, edit_window_ms=edit_window_ms),
            conversations=ConversationStore(database),
            devices=DeviceStore(database),
            erasure=ErasureStore(database),
            govern=GovernStore(database),
            history=HistoryStore(database),
            nodes=NodeStore(database),
            outbox=OutboxStore(database),
            presence=PresenceStore(database),
            push_state=PushStateStore(database),
            receipts=ReceiptStore(database),
            relations=RelationStore(database),
            retention=RetentionStore(database),
            search=SearchStore(database, language=search_language),
            self_log=SelfLogStore(database),
            snapshot=SnapshotStore(database),
            timeline=TimelineStore(database),
            users=UserStore(database),
        )
