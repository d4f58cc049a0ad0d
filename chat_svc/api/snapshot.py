"""The snapshot: all conversations as of one position, for a device whose cursor cannot be used."""

from __future__ import annotations

import struct
from typing import Final

from chat_svc.api import checks, convert
from chat_svc.api.callers import Caller
from chat_svc.core.page_tokens import PageTokens
from chat_svc.store.bundle import ChatStore
from chat_svc.store.conversations import ActivityCursor
from chatmesh.v1.session_pb2 import (
    GetSnapshotRequest,
    GetSnapshotResponse,
)
from chatmesh.v1.types_pb2 import Cursor

_STATE: Final = struct.Struct(">qqqqqq")
"""timeline_seq, message id, account_version; then where the list of conversations goes on."""


class Snapshots:
    """Pages of the snapshot."""

    def __init__(self, store: ChatStore, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def page(self, who: Caller, request: GetSnapshotRequest) -> GetSnapshotResponse:
        """A page of all conversations, as of the position that the first page names.

        The position is read before the conversations: what they say is of that position or of a
        later one, and what follows the position comes again as entries, which changes nothing.

        Raises:
            Fault: PAGE_TOKEN_INVALID, INVALID_FIELD.
        """
        account, query = who.account.id, checks.query_of(request)
        state = self._tokens.open(account, query, request.page_token)
        if state is None:
            seq, message_id, version = await self._store.timeline.head_cursor(account)
            after = None
        else:
            seq, message_id, version, *rest = _STATE.unpack(state)
            after = ActivityCursor(*rest)
        views, following = await self._store.conversations.list_views(
            account,
            after=after,
            limit=checks.page_size(request.page_size, 50, 200),
            include_archived=True,
        )
        token = ""
        if following is not None:
            place = (following.as_of_ms, following.active_at_ms, following.conversation)
            packed = _STATE.pack(seq, message_id, version, *place)
            token = self._tokens.seal(account, query, packed)
        return GetSnapshotResponse(
            conversations=[convert.conversation(view, who.user) for view in views],
            next_page_token=token,
            as_of=Cursor(timeline_seq=seq, message_id=message_id),
            account_version=version,
        )
