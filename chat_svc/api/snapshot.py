"""The snapshot: all conversations as of one position, for a device whose cursor cannot be used."""

from __future__ import annotations

import struct
from typing import Final

from chat_svc.api import checks, convert
from chat_svc.api.callers import Caller
from chat_svc.core.page_tokens import PageTokens
from chat_svc.store.bundle import ChatStore
from chat_svc.store.snapshot import SnapshotCursor
from chatmesh.v1.session_pb2 import (
    GetSnapshotRequest,
    GetSnapshotResponse,
)
from chatmesh.v1.types_pb2 import Cursor

_STATE: Final = struct.Struct(">qqqqq")
"""SnapshotCursor."""


class Snapshots:
    """Pages of the snapshot."""

    def __init__(self, store: ChatStore, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def page(self, who: Caller, request: GetSnapshotRequest) -> GetSnapshotResponse:
        """A page of all conversations, as of the position that the first page names.

        Raises:
            Fault: PAGE_TOKEN_INVALID, INVALID_FIELD.
        """
        account, query = who.account.id, checks.query_of(request)
        state = self._tokens.open(account, query, request.page_token)
        page = await self._store.snapshot.page(
            account,
            after=None if state is None else SnapshotCursor(*_STATE.unpack(state)),
            limit=checks.page_size(request.page_size, 50, 200),
        )
        as_of, token = page.as_of, ""
        if page.more:
            packed = _STATE.pack(
                as_of.timeline_seq,
                as_of.message_id,
                as_of.account_version,
                as_of.active_at_ms,
                as_of.conversation,
            )
            token = self._tokens.seal(account, query, packed)
        return GetSnapshotResponse(
            conversations=[convert.conversation(view, who.user) for view in page.views],
            next_page_token=token,
            as_of=Cursor(timeline_seq=as_of.timeline_seq, message_id=as_of.message_id),
            account_version=as_of.account_version,
        )
