"""Devices of a random run: raw stubs, everything recorded, older cursors on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from chatmesh.testing import Recorder
from chatmesh.testing.history import digest_of
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_node.device import Device

CHANGES = ("edit", "delete")
OFFLINE = types_pb2.PRESENCE_STATE_OFFLINE
ONLINE = (
    types_pb2.PRESENCE_STATE_ONLINE,
    types_pb2.PRESENCE_STATE_AWAY,
    types_pb2.PRESENCE_STATE_DO_NOT_DISTURB,
)


def digest(content: types_pb2.Content) -> str:
    """Of the text that a message, or an edit, says."""
    if content.HasField("edit"):
        return digest_of(content.edit.text.body)
    return digest_of(content.text.body) if content.HasField("text") else ""


class RecordedDevice(Device):
    """Stores whatever comes, in the order it came: judging is the checker's."""

    recorder: Recorder
    friends: set[str]
    """Whose presence is recorded: with them nothing changes."""

    def forget(self, count: int) -> None:
        """The newest entries were not kept: the next hello names an older cursor."""
        del self.stored[len(self.stored) - min(count, max(len(self.stored) - 1, 0)) :]

    async def post(self, messages: Sequence[types_pb2.OutgoingMessage]) -> None:
        """Send; they are sent again until they are answered."""
        for message in messages:
            self.unanswered[message.idempotency_key] = message
            self._record_send(message)
        try:
            await self.say(send=pb.Send(messages=messages))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AttributeError):
            pass  # not connected: the next connection sends them

    def _record_send(self, message: types_pb2.OutgoingMessage) -> None:
        self._record(
            "send",
            key=message.idempotency_key.hex(),
            to_user=message.to_user_id,
            content=message.content.WhichOneof("kind"),
            digest=digest(message.content),
        )

    def record_answer(self, key: bytes, result: pb.SendResult) -> None:
        """What a message was answered with."""
        facts: dict[str, Any] = {"outcome": "refused", "reason": result.problem.reason}
        if not result.HasField("problem"):
            facts = {
                "outcome": "accepted",
                "timeline_seq": result.timeline_seq,
                "conversation_id": result.conversation_id,
                "conversation_seq": result.conversation_seq,
                "message_no": result.message_no,
                "message_id": result.message_id,
            }
        self._record("sent", key=key.hex(), **facts)

    def final(self, head: int) -> None:
        """It had time to converge."""
        self._record("final", timeline_seq=head)

    async def _take(self, frame: pb.ServerFrame) -> None:
        for welcome in frame.welcome:
            self._record("opened", timeline_seq=welcome.start_timeline_seq)
        self.frames.append(frame)
        for entry in frame.entries:
            self.stored.append(entry)
            self._record_entry(entry)
        for presence in frame.presence:
            self._record_presence(presence)
        for result in frame.send_results:
            if result.idempotency_key not in self.results:
                self.record_answer(result.idempotency_key, result)
            self.results[result.idempotency_key] = result
            self.answers += 1
            self.unanswered.pop(result.idempotency_key, None)
        if frame.entries and self.acks:
            position = frame.entries[-1].timeline_seq
            self._record("acked", timeline_seq=position)
            try:
                await self.say(ack=pb.Ack(up_to_timeline_seq=position))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the stream has ended: hello's cursor says it again
        async with self._changed:
            self._changed.notify_all()

    def shown_now(self) -> dict[str, bool]:
        """Who was shown online, or not, on this connection; the newest of each counts."""
        return {
            presence.user_id: presence.state in ONLINE
            for frame in self.frames
            for presence in frame.presence
            if presence.user_id != self.user and presence.state in (*ONLINE, OFFLINE)
        }

    def _record_presence(self, presence: pb.Presence) -> None:
        if presence.user_id not in self.friends or presence.state not in (*ONLINE, OFFLINE):
            return  # nothing is known yet
        self._record(
            "shown",
            sender=presence.user_id,
            content="online" if presence.state in ONLINE else "offline",
        )

    def _record_entry(self, entry: types_pb2.Entry) -> None:
        event = entry.event
        kind = event.content.WhichOneof("kind")
        self._record(
            "received",
            timeline_seq=entry.timeline_seq,
            conversation_id=event.conversation_id,
            conversation_seq=event.conversation_seq,
            message_no=event.message_no,
            message_id=event.message_id,
            sender=event.sender_user_id,
            key=event.idempotency_key.hex(),
            content="text" if kind == "text" else f"server.{kind}" if kind else "erased",
            target_seq=(
                getattr(event.content, kind).target_conversation_seq if kind in CHANGES else 0
            ),
            digest=digest_of(event.content.text.body) if kind == "text" else "",
        )

    def _record(self, kind: Any, **facts: Any) -> None:
        self.recorder.record(kind, user=self.user, device=self.device_id, **facts)
