"""ChatNodeService: what the mesh asks of this node. Check, convert, call, convert."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from chat_svc.node.delivery import Comparison, Delivery
from chat_svc.node.node import ChatNode
from chat_svc.node.standing import Standing
from chat_svc.store.devices import DeviceStore
from chat_svc.store.push_state import PendingRow, PushStateRow, PushStateStore
from chatmesh import errors
from chatmesh.mesh.v1 import node_pb2 as pb
from chatmesh.mesh.v1 import node_pb2_grpc
from chatmesh.v1.session_pb2 import Closed
from chatmesh.v1.types_pb2 import DeviceKind, Event, PushOptions

MAX_PUSH_STATES = 1_000
MAX_PREVIEW_BYTES = 1_024


class NodeServicer(node_pb2_grpc.ChatNodeServiceServicer):
    """Mesh face; each method names its callers in the contract."""

    def __init__(
        self,
        node: ChatNode,
        delivery: Delivery,
        comparison: Comparison,
        devices: DeviceStore,
        push_state: PushStateStore,
        standing: Standing,
    ) -> None:
        self._standing = standing
        self._node = node
        self._delivery = delivery
        self._comparison = comparison
        self._devices = devices
        self._push_state = push_state
        self._streams: set[asyncio.Task[Any]] = set()
        self._leaving = False

    async def Deliver(
        self, request_iterator: AsyncIterator[pb.DeliverRequest], context: Any
    ) -> AsyncIterator[pb.DeliverResponse]:
        """Hints for sessions here; one answer per frame. When the stream ends, sessions are
        compared with their heads: what was on it may be lost."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs inside a task")
        self._streams.add(task)
        try:
            async for request in request_iterator:
                response = self._delivery.take(request)
                if response is not None:
                    yield response
        except asyncio.CancelledError:
            if not self._leaving or task.uncancel() > 0:
                raise
        finally:
            self._streams.discard(task)
            self._comparison.all_soon()

    async def leave(self) -> None:
        """End the Deliver streams: nobody lives here any more."""
        self._leaving = True
        for task in self._streams:
            task.cancel()

    async def PushState(self, request: pb.PushStateRequest, context: Any) -> pb.PushStateResponse:
        """What a push would say now; one batched read."""
        if len(request.devices) > MAX_PUSH_STATES:
            raise errors.LIMIT_EXCEEDED(
                limit="devices", value=MAX_PUSH_STATES, size=len(request.devices)
            )
        states = await self._push_state.push_state(
            [(device.account_id, device.device_id) for device in request.devices],
            self._node.node_id,
        )
        return pb.PushStateResponse(devices=map(self._state, states))

    async def EndSessions(
        self, request: pb.EndSessionsRequest, context: Any
    ) -> pb.EndSessionsResponse:
        """Sign-out, replacement, disabled users."""
        device_ids = list(request.device_ids)
        if request.reason not in Closed.Reason.values():
            raise errors.INVALID_FIELD(field="reason")
        reason = Closed.Reason.ValueType(request.reason)
        if reason == Closed.REASON_REVOKED and not device_ids:
            # A user was switched off, signed out of everywhere or erased: what this node keeps of
            # the account tells whom it concerns; who signed in anew since then stays.
            return pb.EndSessionsResponse(ended=await self._standing.refresh())
        if reason == Closed.REASON_REPLACED and not request.before_session_no:
            # Of an older release, and maybe late: a device whose newest session is here stays.
            newest_here = {
                device.device_id
                for device in await self._devices.list_devices(request.account_id)
                if device.session_node == self._node.node_id
            }
            device_ids = [device for device in device_ids if device not in newest_here]
            if not device_ids:
                return pb.EndSessionsResponse()
        return pb.EndSessionsResponse(
            ended=self._node.end_sessions(
                request.account_id,
                device_ids,
                reason,
                before_session_no=request.before_session_no,
            )
        )

    async def SetPushDevices(
        self, request: pb.SetPushDevicesRequest, context: Any
    ) -> pb.SetPushDevicesResponse:
        """A device's push binding came or went."""
        await self._devices.set_push_devices(request.account_id, request.push_devices)
        return pb.SetPushDevicesResponse()

    def _state(self, row: PushStateRow) -> pb.DevicePushState:
        return pb.DevicePushState(
            account_id=row.account,
            device_id=row.device_id,
            exists=row.exists,
            acked_timeline_seq=row.acked_seq,
            notify_timeline_seq=row.notify_seq,
            badge=row.badge,
            visible=row.visible,
            pending=[_pending(pending) for pending in row.pending],
            pending_count=row.pending_count,
            pending_mentions=row.pending_mentions,
            tenant=row.tenant,
            device_kind=DeviceKind.ValueType(row.kind),
            other_device_active=row.active_elsewhere
            or any(
                session.machine.active and session.device_id != row.device_id
                for session in self._node.parts.sessions.of(row.account)
            ),
        )


def _pending(row: PendingRow) -> pb.PendingNotification:
    event = Event.FromString(row.body)
    text = ""
    if not event.encrypted and event.content.HasField("text"):
        text = preview(event.content.text.body)
    return pb.PendingNotification(
        timeline_seq=row.timeline_seq,
        message_id=row.message_id,
        conversation_id=row.conversation,
        sender_user_id=row.sender_user,
        title=row.title,
        text=text,
        mention=row.mention,
        collapse_key=event.push.collapse_key,
        high_priority=event.push.priority != PushOptions.PRIORITY_NORMAL,
        trace_context=event.trace_context,
    )


def preview(text: str) -> str:
    """At most `MAX_PREVIEW_BYTES`, cut on a code point."""
    encoded = text.encode()
    if len(encoded) <= MAX_PREVIEW_BYTES:
        return text
    return encoded[:MAX_PREVIEW_BYTES].decode(errors="ignore")
