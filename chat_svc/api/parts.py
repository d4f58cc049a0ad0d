"""What the unary services need of the node, and the steps that they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import psycopg
from google.protobuf.message import Message

from chat_svc.api.callers import ON_BEHALF_OF, Caller, caller
from chat_svc.core.content import CONTENT_HASH_VERSION, check_key
from chat_svc.core.limits import Limits
from chat_svc.core.page_tokens import PageTokens
from chat_svc.node.handover import Stored
from chat_svc.node.resolver import Resolver
from chat_svc.store.accounts import NewIds
from chat_svc.store.bundle import ChatStore
from chat_svc.store.devices import SignedOut
from chat_svc.store.governed import Governed, Request
from chat_svc.store.receipts import ChangedMark
from chat_svc.store.self_log import Owner
from chatmesh import errors
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.identity import is_clean_text
from chatmesh.runtime.postgres import LostConnection
from chatmesh.v1.session_pb2 import Presence

if TYPE_CHECKING:
    from chatmesh.mesh.v1.push_pb2_grpc import PushServiceAsyncStub

MAX_USER_ID_CHARACTERS: Final = 128
IDS_OF_AN_EVENT: Final = 2
"""Of an event of the account's own log: the event, the batch."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def _by_caller(work: Coroutine[Any, Any, Governed], _name: str) -> Governed:
    return await work


async def _nowhere(*_: Any) -> None:
    """Without a node nobody is told."""


async def _no(*_: Any) -> bool:
    """Without a node there are no sessions."""
    return False


@dataclass(frozen=True, slots=True)
class UnaryParts:
    """Everything behind the unary services."""

    store: ChatStore
    resolver: Resolver
    limits: Limits
    clock: Clock
    new_ids: NewIds
    node_id: Callable[[], int]
    """Owner of the outbox rows that slow commits make."""
    tokens: PageTokens
    push: PushServiceAsyncStub
    makes_unknown: bool
    """Whether a user who never signed in gets an account when somebody addresses them."""
    publish: Callable[[int, Sequence[Stored]], Awaitable[None]]
    """Hands over a slow commit: Handover.publish."""
    tell_marks: Callable[[Sequence[ChangedMark]], Awaitable[None]]
    """Marks that rose: receipts to who may see them, counts to the reader's devices."""
    tell_account: Callable[[int], Awaitable[None]]
    """The account's own state rose in version: a pong to its devices."""
    contacts_changed: Callable[[Iterable[int]], None]
    """Watches of these accounts' sessions, on any node, are to be read anew."""
    privacy_changed: Callable[[int, Iterable[int]], None]
    """(account, those who may watch it): what they are shown changes, on any node."""
    end_sessions: Callable[[int, Sequence[SignedOut]], Awaitable[None]]
    """Ends the live sessions of an account's devices, here or on other nodes."""
    presence_of: Callable[[Caller, Sequence[str]], Awaitable[Sequence[Presence]]] | None = None
    """Presence of users as the caller may see it; None: not offered."""
    to_the_end: Callable[[Coroutine[Any, Any, Governed], str], Awaitable[Governed]] = _by_caller
    """Runs work of the node's own: Tasks.to_the_end."""
    record: Callable[..., Awaitable[None]] = _nowhere
    """(tenant, audit records): appends them, AuditLog.record."""
    standing_changed: Callable[[int], Awaitable[None]] = _nowhere
    """An account was switched off or on, signed out of everywhere, or erased: all nodes are to
    know."""
    has_sessions: Callable[[int], Awaitable[bool]] = _no
    """Whether presence knows live sessions of an account, or cannot tell yet."""
    forget_elsewhere: Callable[[int, str], Awaitable[None]] = _nowhere
    """Other services delete all that they know of an account."""
    may_have_rows: Callable[[], None] = lambda: None
    """A slow commit of unknown outcome may have made an outbox row: Outbox.may_have_rows."""


async def caller_of(parts: UnaryParts, context: Context, *, may_act: bool = True) -> Caller:
    """Who calls, and for whom. `may_act` False: nobody may act for somebody else in this call.

    Raises:
        Fault: SCOPE_REQUIRED, and those of `callers.caller`.
    """
    if not may_act and any(key == ON_BEHALF_OF for key, _ in context.invocation_metadata() or ()):
        raise errors.SCOPE_REQUIRED("nobody may do this for somebody else")
    return await caller(parts.resolver, context, parts.record)


def request_of(parts: UnaryParts, who: Caller, key: bytes, message: Message) -> Request:
    """A change that the caller asks for under a key.

    Raises:
        Fault: KEY_INVALID, KEY_TOO_OLD, KEY_IN_FUTURE.
    """
    check_key(key, parts.limits, parts.clock.wall_ms())
    name = type(message).__name__.encode()
    digest = blake2b(message.SerializeToString(deterministic=True), digest_size=7, person=name[:16])
    return Request(
        tenant_id=who.account.tenant_id,
        actor=who.account.id,
        actor_user=who.user,
        key=key,
        content_hash=CONTENT_HASH_VERSION << 56 | int.from_bytes(digest.digest(), "big"),
        node_id=parts.node_id(),
    )


def owner_of(parts: UnaryParts, who: Caller) -> Owner:
    """The caller, as the owner of their self conversation."""
    return Owner(who.account.tenant_id, who.account.id, who.user, parts.node_id())


async def tell_self(parts: UnaryParts, who: Caller, subject: str, state: str) -> None:
    """The caller's devices learn that something of the account changed; it is written already."""
    ids = await parts.new_ids(IDS_OF_AN_EVENT)
    await carry_out(parts, parts.store.self_log.tell(owner_of(parts, who), subject, state, ids=ids))


async def carry_out(parts: UnaryParts, commit: Coroutine[Any, Any, Governed]) -> Governed:
    """Run a slow commit and hand it over; a caller that gives up ends neither.

    Else its outbox row would stay without anybody who knows of it, and its members untold.
    """
    return await parts.to_the_end(_carry_out(parts, commit), "slow commit")


async def _carry_out(parts: UnaryParts, commit: Coroutine[Any, Any, Governed]) -> Governed:
    try:
        done = await commit
    except (LostConnection, psycopg.OperationalError):
        parts.may_have_rows()
        raise
    await _publish(parts, done)
    return done


async def _publish(parts: UnaryParts, governed: Governed) -> None:
    """Hand over what a slow commit appended, if anything."""
    stored = [
        Stored(
            outcome=event.outcome,
            sender=event.sender,
            sender_user=event.sender_user,
            peer_user=event.peer_user,
            conversation_kind=event.conversation_kind,
            key=event.key,
            body=event.body,
            flags=0,
        )
        for event in governed.events
    ]
    if stored:
        await parts.publish(governed.batch_id, stored)


async def accounts_of(parts: UnaryParts, who: Caller, users: Iterable[str]) -> dict[int, str]:
    """User ids by account, in the order of `users`, each once.

    Raises:
        Fault: NOT_REACHABLE: one of them is not known (or not by that name).
    """
    wanted = list(dict.fromkeys(users))
    if not all(is_clean_text(user, MAX_USER_ID_CHARACTERS) for user in wanted):
        raise errors.NOT_REACHABLE()
    if parts.makes_unknown:
        rows = await parts.store.accounts.resolve_accounts(who.tenant, wanted, True, parts.new_ids)
    else:
        rows = await parts.resolver.find_accounts(who.tenant, wanted)
    if any(user not in rows or rows[user].disabled for user in wanted):
        raise errors.NOT_REACHABLE()
    return {rows[user].id: user for user in wanted}
