"""Clients that record what they do and see, by the SDK: what fault runs and soaks are made of.

Rules: a send is recorded before it may leave; an entry is recorded (that is this application's
store) before it is acked; what ended without an answer is recorded as unknown.
"""

from __future__ import annotations

import asyncio

from chatmesh.client import (
    ChatmeshError,
    Client,
    ClientClosed,
    Content,
    Delete,
    Edit,
    Entry,
    Message,
    Sent,
    Text,
)
from chatmesh.client._keys import uuid7
from chatmesh.runtime.clock import SystemClock
from chatmesh.testing.history import Recorder, digest_of


def _kind_of(content: Content | None) -> str:
    """As the contract names it."""
    if content is None:
        return "erased"
    if isinstance(content, Text):
        return "text"
    return "server." + type(content).__name__.lower().removesuffix("change")


def _target_of(content: Content | None) -> int:
    return content.target_conversation_seq if isinstance(content, Edit | Delete) else 0


class RecordingDevice:
    """One device that stores everything it receives, and sends unique texts."""

    def __init__(self, client: Client, recorder: Recorder, user: str, device: str) -> None:
        self._client = client
        self._recorder = recorder
        self._user = user
        self._device = device
        self._clock = SystemClock()
        self.stored = 0
        """Highest position stored."""
        self._news = asyncio.Condition()

    async def receive(self) -> None:
        """Store, record and ack entries until the client ends or this task is cancelled."""
        session = self._client.session
        start = session.start_timeline_seq if session is not None else 0
        self.stored = start
        self._record("opened", timeline_seq=start)
        async for entry in self._client.entries():
            self._store(entry)
            async with self._news:
                self._news.notify_all()

    def _store(self, entry: Entry) -> None:
        event = entry.event
        text = event.text
        self._record(
            "received",
            timeline_seq=entry.timeline_seq,
            conversation_id=event.conversation_id,
            conversation_seq=event.conversation_seq,
            message_no=event.message_no,
            message_id=event.message_id,
            sender=event.sender,
            key=event.key.hex(),
            content=_kind_of(event.content),
            target_seq=_target_of(event.content),
            digest=digest_of(text) if text is not None else "",
        )
        self.stored = entry.timeline_seq
        self._record("acked", timeline_seq=entry.timeline_seq)
        entry.ack()

    async def send(self, to_user: str, text: str) -> Sent | None:
        """Send one text; None when the outcome is a refusal or not known."""
        key = uuid7(self._clock.wall_ms())
        facts = {"user": self._user, "device": self._device, "key": key.hex(), "to_user": to_user}
        self._recorder.record("send", **facts, content="text", digest=digest_of(text))
        try:
            sent = await self._client.send_message(Message(Text(text), to_user=to_user, key=key))
        except (ClientClosed, asyncio.CancelledError):
            self._recorder.record("sent", **facts, outcome="unknown")
            raise
        except ChatmeshError as error:
            self._recorder.record("sent", **facts, outcome="refused", reason=error.reason)
            return None
        self._recorder.record(
            "sent",
            **facts,
            outcome="accepted",
            timeline_seq=sent.timeline_seq,
            conversation_id=sent.conversation_id,
            conversation_seq=sent.conversation_seq,
            message_no=sent.message_no,
            message_id=sent.message_id,
        )
        return sent

    async def reaches(self, position: int) -> int:
        """Wait until it has stored up to a position; how far it is then."""
        async with self._news:
            await self._news.wait_for(lambda: self.stored >= position)
        return self.stored

    def final(self, head: int) -> None:
        """The device had time to converge; `head` is its timeline's, asked of the server."""
        self._record("final", timeline_seq=head)

    def _record(self, kind: str, **facts: object) -> None:
        self._recorder.record(kind, user=self._user, device=self._device, **facts)  # type: ignore[arg-type]
