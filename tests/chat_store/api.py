"""The unary services over a real store, called as the interceptors would call them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from chat_svc.api.contacts import ContactApi
from chat_svc.api.conversations import ConversationApi
from chat_svc.api.devices import DeviceApi
from chat_svc.api.parts import UnaryParts
from chat_svc.api.users import UserApi
from chat_svc.core.audit import Note
from chat_svc.core.limits import Limits
from chat_svc.core.page_tokens import PageTokens
from chat_svc.node.handover import Stored
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.standing import Standing
from chat_svc.store.devices import SignedOut
from chat_svc.store.receipts import ChangedMark
from chatmesh.mesh.v1 import push_pb2, push_pb2_grpc
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.identity import Identity, set_current_identity
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.devices_pb2 import PushToken
from chatmesh.v1.types_pb2 import Conversation
from tests.chat_store.world import NODE, World, uuid7


class Call:
    """What a handler sees of its call."""

    def __init__(self, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Metadata of the client."""
        return self._metadata


class PushKeeper:
    """The token side of the push contract, kept in memory, served over gRPC."""

    def __init__(self) -> None:
        self.tokens: dict[tuple[int, str], PushToken] = {}

    def _count(self, account: int) -> int:
        return sum(owner == account for owner, _ in self.tokens)

    async def PutToken(self, request: push_pb2.PutTokenRequest, context: Any) -> Any:
        """Binds; a token bound elsewhere moves."""
        moved = 0
        for place, token in list(self.tokens.items()):
            if token.token == request.token.token:
                moved = place[0]
                del self.tokens[place]
        self.tokens[request.account_id, request.token.device_id] = request.token
        return push_pb2.PutTokenResponse(
            push_devices=self._count(request.account_id),
            moved_from_account_id=moved,
            moved_from_push_devices=self._count(moved),
        )

    async def DeleteTokens(self, request: push_pb2.DeleteTokensRequest, context: Any) -> Any:
        """Unbinds."""
        for owner, device in list(self.tokens):
            if owner == request.account_id and device in request.device_ids:
                del self.tokens[owner, device]
        return push_pb2.DeleteTokensResponse(push_devices=self._count(request.account_id))

    async def ListTokens(self, request: push_pb2.ListTokensRequest, context: Any) -> Any:
        """Lists."""
        return push_pb2.ListTokensResponse(
            tokens=[t for (owner, _), t in self.tokens.items() if owner == request.account_id]
        )


@dataclass
class Api:
    """The servicers, and what they told the node."""

    world: World
    parts: UnaryParts
    push: PushKeeper
    published: list[tuple[int, Sequence[Stored]]] = field(default_factory=list)
    marks: list[ChangedMark] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    refreshed: list[int] = field(default_factory=list)
    ended: list[SignedOut] = field(default_factory=list)
    restated: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversations = ConversationApi(self.parts)
        self.contacts = ContactApi(self.parts)
        self.devices = DeviceApi(self.parts)
        self.users = UserApi(self.parts)

    async def call(
        self,
        user: str,
        method: Any,
        request: Any,
        *,
        tenant: str = "default",
        scopes: Iterable[str] = (),
        issued_at_ms: int | None = None,
        **metadata: str,
    ) -> Any:
        """Call a method as a user, by default with a token of this moment."""
        issued = int(time.time() * 1000) if issued_at_ms is None else issued_at_ms
        set_current_identity(Identity(tenant, user, frozenset(scopes), 1 << 60, "test", "", issued))
        pairs = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        return await method(request, Call(pairs))


def build(world: World, push: PushKeeper, channel: grpc.aio.Channel) -> Api:
    """Servicers over a world's store."""
    resolver = Resolver(
        world.store.accounts,
        world.store.conversations,
        world.new_ids,
        makes_unknown=False,
        makes_contacts=True,
    )
    holder: list[Api] = []

    async def publish(batch_id: int, stored: Sequence[Stored]) -> None:
        holder[0].published.append((batch_id, stored))

    async def tell_marks(changed: Sequence[ChangedMark]) -> None:
        holder[0].marks += changed

    async def tell_account(account: int) -> None:
        holder[0].told.append(account)

    async def end_sessions(account: int, devices: Sequence[SignedOut]) -> None:
        holder[0].ended += devices

    standing = Standing(world.store.users, world.store.devices, resolver, Sessions(), SystemClock())

    async def record(tenant_id: int, *notes: Note) -> None:
        await world.store.audit.append(tenant_id, notes)

    async def standing_changed(account: int) -> None:
        holder[0].restated.append(account)
        await standing.refresh()

    def contacts_changed(accounts: Iterable[int]) -> None:
        holder[0].refreshed += accounts

    def privacy_changed(account: int, watchers: Iterable[int]) -> None:
        holder[0].refreshed += (account, *watchers)

    parts = UnaryParts(
        store=world.store,
        resolver=resolver,
        limits=Limits(max_group_members=5),
        clock=SystemClock(),
        new_ids=world.new_ids,
        node_id=lambda: NODE,
        tokens=PageTokens(b"k" * 32, SystemClock().wall_ms),
        push=push_pb2_grpc.PushServiceStub(channel),
        makes_unknown=False,
        publish=publish,
        tell_marks=tell_marks,
        tell_account=tell_account,
        contacts_changed=contacts_changed,
        privacy_changed=privacy_changed,
        end_sessions=end_sessions,
        record=record,
        standing_changed=standing_changed,
    )
    holder.append(Api(world, parts, push))
    return holder[0]


def add_push(keeper: PushKeeper, server: grpc.aio.Server) -> None:
    """Serve the three methods of the contract that chat_svc calls."""
    kinds: dict[str, tuple[Any, Any]] = {
        "PutToken": (push_pb2.PutTokenRequest, push_pb2.PutTokenResponse),
        "DeleteTokens": (push_pb2.DeleteTokensRequest, push_pb2.DeleteTokensResponse),
        "ListTokens": (push_pb2.ListTokensRequest, push_pb2.ListTokensResponse),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(keeper, name), asked.FromString, answered.SerializeToString
        )
        for name, (asked, answered) in kinds.items()
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("chatmesh.mesh.v1.PushService", handlers),)
    )


async def names(api: Api, count: int, tenant: str = "default") -> list[str]:
    """User ids of new accounts."""
    return [api.world.name_of(account) for account in await api.world.users(count, tenant)]


async def create(api: Api, owner: str, *members: str, **fields: Any) -> Conversation:
    """A new group."""
    values = {"idempotency_key": uuid7(), "member_user_ids": members, "title": "t", **fields}
    request = pb.CreateConversationRequest(**values)
    answer = await api.call(owner, api.conversations.CreateConversation, request)
    made: Conversation = answer.conversation
    return made
