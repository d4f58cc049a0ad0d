"""One device as a process of its own: `python -m chatmesh.cli.demo.actor NAME`.

It takes orders as JSON lines on stdin and says what it did and saw as JSON lines on stdout; the
process ends with its stdin. Orders:

    {"do": "open", "target": …, "token": …, "device": "phone", "kind": "PHONE"}
    {"do": "send", "to": "bob", "text": …, "traceparent": …}
    {"do": "contact", "user": "bob", "action": "REQUEST"}
    {"do": "read", "conversation_id": …, "message_no": …}
    {"do": "push", "token": …}       registers a push token of provider `log`
    {"do": "close"}                  leaves; a later `open` resumes where the device stopped

Rules: knows the SDK and nothing of the mesh. Every entry is told (that is this application's
store), then acked. Tokens come in by stdin, never by the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from chatmesh.client import (
    CaughtUp,
    ChatmeshError,
    Client,
    ClientEvent,
    Connected,
    ContactAction,
    DeviceKind,
    Disconnected,
    Entry,
    MemoryStore,
    Presence,
    PushProvider,
    Receipt,
    SpanRecorder,
)
from chatmesh.runtime import engine
from chatmesh.runtime.trace import telemetry


def tell(saw: str, **facts: Any) -> None:
    """One line on stdout; flushed, because a parent waits for it."""
    print(json.dumps({"saw": saw, "at_ns": time.time_ns(), **facts}), flush=True)


@dataclass(frozen=True, slots=True)
class _Telemetry:
    """The orders decide what is traced, so this process begins no trace by itself."""

    trace_sample_ratio: float = 0.0


class Device:
    """The application on one device."""

    def __init__(self, tracer: SpanRecorder) -> None:
        self._tracer = tracer
        self._store = MemoryStore()
        self._client: Client | None = None
        self._stack = AsyncExitStack()

    async def obey(self, order: dict[str, Any]) -> None:
        """Carry one order out; a refusal is told, not raised."""
        do = order.pop("do")
        try:
            await getattr(self, f"_do_{do}")(**order)
        except ChatmeshError as error:
            tell("refused", order=do, reason=error.reason, text=str(error))

    @property
    def _open(self) -> Client:
        if self._client is None:
            raise ChatmeshError("this device is not open")
        return self._client

    async def _do_open(self, target: str, token: str, device: str, kind: str) -> None:
        client = Client(
            target,
            token=token,
            device_id=device,
            device_kind=DeviceKind[kind],
            device_name=f"demo {device}",
            store=self._store,
            tracer=self._tracer,
        )
        self._client = await self._stack.enter_async_context(client)
        watchers = (
            _entries(client), _receipts(client), _presence(client), _events(client)
        )  # fmt: skip
        for watcher in watchers:
            task = asyncio.create_task(_until_the_end(watcher))
            self._stack.push_async_callback(_finished, task)
        client.app_state("foreground")

    async def _do_close(self) -> None:
        self._client = None
        await self._stack.aclose()
        tell("closed")

    async def _do_send(self, to: str, text: str, traceparent: str = "") -> None:
        sent = await self._open.send(to_user=to, text=text, traceparent=traceparent)
        tell(
            "sent",
            message_id=sent.message_id,
            conversation_id=sent.conversation_id,
            conversation_seq=sent.conversation_seq,
            message_no=sent.message_no,
            timeline_seq=sent.timeline_seq,
            key=sent.key.hex(),
        )

    async def _do_contact(self, user: str, action: str) -> None:
        contact = await self._open.update_contact(user, ContactAction[action])
        tell("contact", user=user, state=contact.state.name if contact else "NONE")

    async def _do_read(self, conversation_id: int, message_no: int) -> None:
        self._open.mark_read(conversation_id, message_no)

    async def _do_push(self, token: str) -> None:
        await self._open.register_push_token(PushProvider.LOG, token, app="chatmesh-demo")
        tell("push token registered")


async def _finished(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _until_the_end(lines: AsyncIterator[None]) -> None:
    """Run a watcher; what ends its client is told once more, and harmless here."""
    try:
        async for _ in lines:
            pass
    except ChatmeshError as error:
        tell("ended", reason=error.reason, text=str(error))


async def _entries(client: Client) -> AsyncIterator[None]:
    async for entry in client.entries():
        _tell_entry(entry)
        yield


def _tell_entry(entry: Entry) -> None:
    event = entry.event
    tell(
        "entry",
        timeline_seq=entry.timeline_seq,
        message_id=event.message_id,
        conversation_id=event.conversation_id,
        conversation_seq=event.conversation_seq,
        message_no=event.message_no,
        sender=event.sender,
        text=entry.text,
    )
    entry.ack()


async def _receipts(client: Client) -> AsyncIterator[None]:
    async for value in client.receipts():
        _tell_receipt(value)
        yield


def _tell_receipt(value: Receipt) -> None:
    tell(
        "receipt",
        user=value.user_id,
        conversation_id=value.conversation_id,
        delivered_conversation_seq=value.delivered_conversation_seq,
        read_message_no=value.read_message_no,
    )


async def _presence(client: Client) -> AsyncIterator[None]:
    async for value in client.presence():
        _tell_presence(value)
        yield


def _tell_presence(value: Presence) -> None:
    tell("presence", user=value.user_id, state=value.state.name, online=value.is_online)


async def _events(client: Client) -> AsyncIterator[None]:
    async for event in client.events():
        _tell_event(client, event)
        yield


def _tell_event(client: Client, event: ClientEvent) -> None:
    match event:
        case Connected(session):
            tell(
                "connected",
                chat_node=session.chat_node,
                session_no=session.session_no,
                head=session.head_timeline_seq,
                start=session.start_timeline_seq,
                unread=client.unread.messages,
            )
        case CaughtUp():
            tell("caught up")
        case Disconnected(error, after):
            tell("disconnected", reason=error.reason if error else "", again_in_seconds=after)
        case _:
            pass  # nothing that a demonstration shows


async def _orders() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def main(name: str) -> int:
    """Obey until stdin ends."""
    async with telemetry(name, _Telemetry()) as tracer:
        device = Device(tracer)
        tell("ready", pid=os.getpid())
        async for order in _orders():
            await device.obey(order)
        await device.obey({"do": "close"})
    return 0


if __name__ == "__main__":
    sys.exit(engine.run(main(sys.argv[1])))
