"""The unary services of the public face, put together. Pure wiring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chat_svc.api.callers import Caller
from chat_svc.api.contacts import ContactApi
from chat_svc.api.conversations import ConversationApi
from chat_svc.api.devices import DeviceApi
from chat_svc.api.parts import UnaryParts
from chat_svc.api.snapshot import Snapshots
from chat_svc.api.telling import Telling
from chat_svc.api.users import UserApi
from chat_svc.assembly import Ground, Path, Sides, receipt_telling
from chat_svc.core.page_tokens import PageTokens
from chat_svc.node.elsewhere import Elsewhere
from chat_svc.node.node import ChatNode
from chat_svc.store.devices import SignedOut
from chatmesh.runtime.server import GrpcServer
from chatmesh.v1 import (
    contacts_pb2_grpc,
    conversations_pb2_grpc,
    devices_pb2_grpc,
    users_pb2_grpc,
)
from chatmesh.v1.session_pb2 import Closed, Presence


def snapshots(ground: Ground) -> Snapshots:
    """What ChatService needs for GetSnapshot."""
    return Snapshots(ground.call_store, _page_tokens(ground))


def _page_tokens(ground: Ground) -> PageTokens:
    """One key for all chat nodes."""
    return PageTokens(ground.settings.hint_digest_key, ground.clock.wall_ms)


def add_unary_services(
    server: GrpcServer, ground: Ground, path: Path, sides: Sides, node: ChatNode
) -> None:
    """All services of the public listener that are not the stream's own."""
    telling = Telling(
        receipt_telling(ground.call_store, path.resolver, sides.signals), sides.signals
    )

    async def end_sessions(account: int, devices: Sequence[SignedOut]) -> None:
        node.end_sessions(account, [device.device_id for device in devices], Closed.REASON_REVOKED)
        for device in devices:
            if device.node_target and device.node_id != ground.address.node_id:
                sides.neighbours.end_soon(
                    device.node_target, account, [device.device_id], Closed.REASON_REVOKED
                )

    async def standing_changed(account: int) -> None:
        await sides.standing.refresh()
        for node_id, target in await ground.call_store.users.nodes_of(account):
            if node_id != ground.address.node_id:
                sides.neighbours.end_soon(target, account, [], Closed.REASON_REVOKED)

    def contacts_changed(accounts: Iterable[int]) -> None:
        sides.signals.contacts_changed(accounts)
        sides.signals.flush()

    def privacy_changed(account: int, watchers: Iterable[int]) -> None:
        sides.signals.privacy_changed(account, watchers)
        sides.signals.flush()

    async def presence_of(who: Caller, users: Sequence[str]) -> Sequence[Presence]:
        return await sides.audience.presence_of(who.tenant, who.account.id, users)

    erasing = Elsewhere(ground.links.push_stub, ground.links.forget, ground.links.lookup)
    parts = UnaryParts(
        store=ground.call_store,
        resolver=path.resolver,
        limits=ground.limits,
        clock=ground.clock,
        new_ids=path.ids.new_ids,
        node_id=lambda: ground.address.node_id,
        tokens=_page_tokens(ground),
        push=ground.links.push_stub,
        makes_unknown=ground.settings.makes_unknown_recipients,
        publish=path.handover.publish,
        tell_marks=telling.marks,
        tell_account=telling.account,
        contacts_changed=contacts_changed,
        privacy_changed=privacy_changed,
        presence_of=presence_of,
        end_sessions=end_sessions,
        record=sides.audit.record,
        standing_changed=standing_changed,
        has_sessions=erasing.has_sessions,
        forget_elsewhere=erasing.forget,
        to_the_end=sides.tasks.to_the_end,
        may_have_rows=path.outbox.may_have_rows,
    )
    server.add(
        conversations_pb2_grpc.add_ConversationServiceServicer_to_server, ConversationApi(parts)
    )
    server.add(contacts_pb2_grpc.add_ContactServiceServicer_to_server, ContactApi(parts))
    server.add(devices_pb2_grpc.add_DeviceServiceServicer_to_server, DeviceApi(parts))
    server.add(users_pb2_grpc.add_UserServiceServicer_to_server, UserApi(parts))
