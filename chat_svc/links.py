"""The other services as this one calls them: one channel each, long-lived streams over it."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from chat_svc.settings import ChatSettings
from chatmesh.mesh.v1 import presence_pb2_grpc, push_pb2_grpc, sequencer_pb2_grpc, sync_pb2
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.peers import Peer

CALLER: Final = "chat_svc"
_ENQUEUE: Final = "/chatmesh.mesh.v1.SyncService/Enqueue"

Open = Callable[[], Any]
"""Begins one call of a stream."""


@dataclass(frozen=True, slots=True)
class Links:
    """How each stream is opened, and the stubs for what is unary."""

    next_ids: Open
    keep_alive: Open
    attach: Open
    watch: Open
    get_facts: Callable[[Any], Any]
    lookup: Callable[[Any], Any]
    forget: Callable[[Any], Any]
    """Presence of erased accounts."""
    enqueue: Open
    """Takes raw bytes: frames are joined by joining bytes."""
    push: Open
    cancel: Open
    push_stub: Any
    connect: Callable[[str], Peer]
    """A channel to another chat node."""


def open_links(settings: ChatSettings, stack: AsyncExitStack) -> Links:
    """Channels to all peers; closed by ``stack``.

    Raises:
        StartupError: a target cannot be one.
    """

    def channel(target: str) -> Any:
        try:
            peer = Peer(target, settings, caller=CALLER)
        except ValueError as error:
            raise StartupError(f"{target!r} is no target: {error}") from None
        stack.push_async_callback(peer.close)
        return peer.channel

    sequencer: Any = sequencer_pb2_grpc.SequencerServiceStub(channel(settings.sequencer_target))
    presence: Any = presence_pb2_grpc.PresenceServiceStub(channel(settings.presence_target))
    push: Any = push_pb2_grpc.PushServiceStub(channel(settings.push_target))
    enqueue = channel(settings.sync_target).stream_stream(
        _ENQUEUE,
        request_serializer=None,
        response_deserializer=sync_pb2.EnqueueResponse.FromString,
    )
    return Links(
        next_ids=sequencer.NextIdsStream,
        keep_alive=presence.KeepAlive,
        attach=presence.Attach,
        watch=presence.Watch,
        get_facts=presence.GetFacts,
        lookup=presence.LookupSessions,
        forget=presence.Forget,
        enqueue=enqueue,
        push=push.Push,
        cancel=push.Cancel,
        push_stub=push,
        connect=lambda target: Peer(target, settings, caller=CALLER),
    )
