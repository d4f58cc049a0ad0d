"""ContactService: check, convert, call, convert. No rule lives here."""

from __future__ import annotations

from typing import Final

import grpc

from chat_svc.api import checks
from chat_svc.api.parts import (
    Context,
    UnaryParts,
    accounts_of,
    caller_of,
    carry_out,
    request_of,
    tell_self,
)
from chat_svc.api.storeless import outlives_the_store
from chat_svc.core.audit import AuditAction, Note
from chat_svc.core.contacts import ContactAction
from chat_svc.store.accounts import ContactRow, ContactState, Privacy
from chatmesh import errors
from chatmesh.v1 import contacts_pb2 as pb
from chatmesh.v1.contacts_pb2_grpc import ContactServiceServicer

MAX_PRESENCE_USERS: Final = 200
_IDS_OF_A_CHANGE: Final = 3
_BLOCKS: Final = (ContactAction.BLOCK, ContactAction.UNBLOCK)


@outlives_the_store
class ContactApi(ContactServiceServicer):
    """Contacts, blocks, privacy."""

    def __init__(self, parts: UnaryParts) -> None:
        self._parts = parts
        self._accounts = parts.store.accounts

    async def UpdateContact(
        self, request: pb.UpdateContactRequest, context: Context
    ) -> pb.UpdateContactResponse:
        """Request, accept, decline, remove, block, unblock."""
        parts = self._parts
        who = await caller_of(parts, context)
        asked = request_of(parts, who, request.idempotency_key, request)
        try:
            action = ContactAction(request.action)
        except ValueError:
            raise errors.INVALID_FIELD("an action is needed", field="action") from None
        if request.user_id == who.user:
            raise errors.INVALID_FIELD("nobody is their own contact", field="user_id")
        ((other, user),) = (await accounts_of(parts, who, [request.user_id])).items()
        commit = parts.store.relations.change(
            asked, other, user, action, ids=await parts.new_ids(_IDS_OF_A_CHANGE)
        )
        done = await carry_out(parts, commit)
        if done.events and action in _BLOCKS:
            detail = f"UpdateContact action={action.name.lower()}"
            await parts.record(
                who.account.tenant_id, Note(AuditAction.BLOCK, who.actor, user, detail=detail)
            )
        if done.events:
            parts.contacts_changed((who.account.id, other))
        line = await self._accounts.contact(who.account.id, other)
        return pb.UpdateContactResponse(contact=None if line is None else _contact(line))

    async def ListContacts(
        self, request: pb.ListContactsRequest, context: Context
    ) -> pb.ListContactsResponse:
        """The caller's list by user id."""
        who = await caller_of(self._parts, context)
        if request.state not in pb.ContactState.values():
            raise errors.INVALID_FIELD(field="state")
        limit = checks.page_size(request.page_size, 200, 1_000)
        tokens, query = self._parts.tokens, checks.query_of(request)
        after = tokens.open(who.account.id, query, request.page_token)
        lines = await self._accounts.list_contacts(
            who.account.id,
            state=ContactState(request.state),
            after_user=(after or b"").decode(),
            limit=limit + 1,
        )
        token = ""
        if len(lines) > limit:
            token = tokens.seal(who.account.id, query, lines[limit - 1].user_id.encode())
        return pb.ListContactsResponse(
            contacts=[_contact(line) for line in lines[:limit]], next_page_token=token
        )

    async def UpdatePrivacy(
        self, request: pb.UpdatePrivacyRequest, context: Context
    ) -> pb.UpdatePrivacyResponse:
        """Reads, or sets what is set."""
        parts = self._parts
        who = await caller_of(parts, context)
        asked = request.privacy
        wanted = Privacy(asked.presence, asked.last_seen, asked.typing, asked.read_receipts)
        known = pb.Audience.values()
        for field in ("presence", "last_seen", "typing", "read_receipts"):
            if getattr(asked, field) not in known:
                raise errors.INVALID_FIELD(field=f"privacy.{field}")
        if wanted == Privacy(0, 0, 0, 0):
            holds = (await self._accounts.privacy([who.account.id]))[who.account.id]
        else:
            holds = await self._accounts.set_privacy(who.account.id, wanted)
            watchers = (await self._accounts.contacts_of([who.account.id]))[who.account.id]
            parts.privacy_changed(who.account.id, watchers)
            await parts.tell_account(who.account.id)
            await tell_self(parts, who, "privacy", "updated")
        return pb.UpdatePrivacyResponse(
            privacy=pb.PrivacySettings(
                presence=pb.Audience.ValueType(holds.presence),
                last_seen=pb.Audience.ValueType(holds.last_seen),
                typing=pb.Audience.ValueType(holds.typing),
                read_receipts=pb.Audience.ValueType(holds.read_receipts),
            )
        )

    async def GetPresence(
        self, request: pb.GetPresenceRequest, context: Context
    ) -> pb.GetPresenceResponse:
        """Presence of some users, as the caller may see it."""
        parts = self._parts
        who = await caller_of(parts, context)
        if not 0 < len(request.user_ids) <= MAX_PRESENCE_USERS:
            raise errors.LIMIT_EXCEEDED(
                limit="user_ids", value=MAX_PRESENCE_USERS, size=len(request.user_ids)
            )
        if parts.presence_of is None:
            raise errors.UNIMPLEMENTED()
        try:
            presence = await parts.presence_of(who, request.user_ids)
        except grpc.aio.AioRpcError:  # presence is away
            raise errors.NOT_SERVING("presence is not known now", missing="presence") from None
        return pb.GetPresenceResponse(presence=presence)


def _contact(line: ContactRow) -> pb.Contact:
    return pb.Contact(
        user_id=line.user_id,
        state=pb.ContactState.ValueType(line.state),
        changed_at_ms=line.changed_at_ms,
    )
