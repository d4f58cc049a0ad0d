"""A receiving device as a process: `python -m tests.e2e.receiver {sdk|raw}`.

The first line of stdin is JSON: target, token, user, device, history. It stores every entry by
recording it, acks, and prints the position; it leaves when stdin ends. `sdk`
remembers its cursor in SQLite and may be killed and started again; `raw` uses the stubs alone
and comes back by itself as the contract says, so that a defect of the SDK cannot hide one of the
mesh.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from chatmesh.client import Client, SqliteStore
from chatmesh.runtime import engine
from chatmesh.testing import Recorder
from chatmesh.testing.history import digest_of
from chatmesh.testing.recording import RecordingDevice

CHANGES = ("edit", "delete")


def say(position: int) -> None:
    print(json.dumps({"stored": position}), flush=True)


async def stdin_ends(reader: asyncio.StreamReader) -> None:
    while await reader.readline():
        pass


async def by_sdk(order: dict[str, Any], recorder: Recorder) -> None:
    async with Client(
        order["target"],
        token=order["token"],
        device_id=order["device"],
        store=SqliteStore(order["history"] + ".db"),
        ack="manual",
    ) as client:
        device = RecordingDevice(client, recorder, order["user"], order["device"])
        receiving = asyncio.create_task(device.receive())
        try:
            said = -1
            while True:
                said = await device.reaches(said + 1)
                say(said)
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)


class RawDevice:
    """hello, entries, ack: nothing else."""

    def __init__(self, order: dict[str, Any], recorder: Recorder) -> None:
        self._order = order
        self._recorder = recorder
        self._cursor: tuple[int, int] | None = None

    async def run(self) -> None:
        import grpc

        from chatmesh.v1.session_pb2_grpc import ChatServiceStub

        targets = self._order["target"].split(",")
        while True:
            async with grpc.aio.insecure_channel(targets[0]) as channel:
                stub: Any = ChatServiceStub(channel)
                bearer = (("authorization", f"Bearer {self._order['token']}"),)
                try:
                    await self._session(stub.Session(metadata=bearer))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass  # lost: come back, here or elsewhere
            targets.append(targets.pop(0))
            await asyncio.sleep(0.1)

    async def _session(self, call: Any) -> None:
        import grpc

        from chatmesh.v1 import session_pb2 as pb

        hello = pb.Hello(device_id=self._order["device"])
        if self._cursor is not None:
            hello.cursor.timeline_seq, hello.cursor.message_id = self._cursor
        await call.write(pb.ClientFrame(hello=hello))
        while (frame := await call.read()) is not grpc.aio.EOF:
            for welcome in frame.welcome:
                self._record("opened", timeline_seq=welcome.start_timeline_seq)
                self._cursor = self._cursor or (welcome.start_timeline_seq, 0)
                say(self._cursor[0])
            for entry in frame.entries:
                self._store(entry)
            if frame.entries:
                position = frame.entries[-1].timeline_seq
                self._record("acked", timeline_seq=position)
                await call.write(pb.ClientFrame(ack=pb.Ack(up_to_timeline_seq=position)))
                say(position)
            if frame.closed:
                return

    def _store(self, entry: Any) -> None:
        event = entry.event
        kind = event.content.WhichOneof("kind")
        is_text = kind == "text"
        target = getattr(event.content, kind).target_conversation_seq if kind in CHANGES else 0
        self._record(
            "received",
            timeline_seq=entry.timeline_seq,
            conversation_id=event.conversation_id,
            conversation_seq=event.conversation_seq,
            message_no=event.message_no,
            message_id=event.message_id,
            sender=event.sender_user_id,
            key=event.idempotency_key.hex(),
            content="text" if is_text else f"server.{kind}" if kind else "erased",
            target_seq=target,
            digest=digest_of(event.content.text.body) if is_text else "",
        )
        self._cursor = entry.timeline_seq, event.message_id

    def _record(self, kind: Any, **facts: Any) -> None:
        self._recorder.record(kind, user=self._order["user"], device=self._order["device"], **facts)


async def main(kind: str) -> int:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())
    with Recorder(Path(order["history"]), f"{order['user']}-{order['device']}") as recorder:
        work = by_sdk(order, recorder) if kind == "sdk" else RawDevice(order, recorder).run()
        receiving = asyncio.create_task(work)
        ending = asyncio.create_task(stdin_ends(reader))
        await asyncio.wait({receiving, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (receiving, ending):
            task.cancel()
        results = await asyncio.gather(receiving, ending, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
    return 0


if __name__ == "__main__":
    engine.prepare()
    sys.exit(engine.run(main(sys.argv[1])))
