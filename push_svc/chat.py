"""The chat nodes: what a push would say now, and how many devices of an account can be pushed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from chatmesh.mesh.v1 import node_pb2 as pb
from chatmesh.mesh.v1 import node_pb2_grpc
from chatmesh.runtime.logs import logger
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.readiness import Component
from push_svc.decide import Entry, Job, State

STATE_SECONDS = 4.0
"""Deadline of one batched read."""
COUNT_SECONDS = 3.0
COUNT_ROUNDS = 4
"""Times a count is told; it is too high at worst, which costs a hint that finds no token."""

_log = logger(__name__)


class ChatAway(Exception):
    """No chat node answered."""


class ChatNodes:
    """Any chat node, by its gRPC target."""

    def __init__(self, peer: Peer, up: Component) -> None:
        self._channel = peer.channel
        self._stub: Any = node_pb2_grpc.ChatNodeServiceStub(peer.channel)
        self._up = up

    async def watch(self) -> None:
        """Keep the channel open and readiness true, for ever: jobs may be hours apart."""
        while True:
            state = self._channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                self._up.up()
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._up.down("no chat node can be connected to")
            await self._channel.wait_for_state_change(state)

    async def states(self, jobs: Sequence[Job]) -> list[State]:
        """The state of each job's device, in order. Raises ChatAway."""
        request = pb.PushStateRequest(
            devices=[
                pb.DeviceRef(account_id=job.account_id, device_id=job.device_id) for job in jobs
            ]
        )
        try:
            response: pb.PushStateResponse = await self._stub.PushState(
                request, timeout=STATE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise ChatAway(f"PushState: {error.code().name} {error.details()}") from None
        if len(response.devices) != len(jobs):
            raise ChatAway("PushState answered for another number of devices")
        return [_state(device) for device in response.devices]

    async def tell_count(self, account_id: int, count: Callable[[], Awaitable[int]]) -> None:
        """Tell how many devices of an account have a token, read by `count`.

        A device may be bound meanwhile and a chat node may have said so itself before this call
        arrived: so the count is read again after telling it, until it was true when it was told.
        """
        told = -1
        for round_ in range(COUNT_ROUNDS):
            devices = await count()
            if devices == told:
                return
            try:
                await self._stub.SetPushDevices(
                    pb.SetPushDevicesRequest(account_id=account_id, push_devices=devices),
                    timeout=COUNT_SECONDS,
                )
                told = devices
            except grpc.aio.AioRpcError as error:
                _log.warning("push devices not told", code=error.code().name, round=round_)
                await asyncio.sleep(0.5 * 2**round_)


def _state(device: pb.DevicePushState) -> State:
    return State(
        exists=device.exists,
        acked_seq=device.acked_timeline_seq,
        notify_seq=device.notify_timeline_seq,
        badge=device.badge,
        visible=device.visible,
        pending=tuple(_entry(one) for one in device.pending),
        pending_count=device.pending_count,
        pending_mentions=device.pending_mentions,
        other_device_active=device.other_device_active,
        tenant=device.tenant,
        device_kind=int(device.device_kind),
    )


def _entry(one: pb.PendingNotification) -> Entry:
    return Entry(
        timeline_seq=one.timeline_seq,
        message_id=one.message_id,
        conversation_id=one.conversation_id,
        sender_user_id=one.sender_user_id,
        title=one.title,
        text=one.text,
        mention=one.mention,
        collapse_key=one.collapse_key,
        high_priority=one.high_priority,
        trace=one.trace_context,
    )
