"""Whoever can write Redis can forge the queue: it delivers nothing that the store does not hold.

Forged hints cause a read and no more; forged receipts, typing and counts are dropped, because no
chat node has signed them. On a running mesh, by writing straight into its queue.
"""

from __future__ import annotations

import asyncio
import urllib.request
import uuid
from collections.abc import Sequence

import psycopg
import pytest
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from chat_svc.core.entry_bytes import entry_bytes
from chat_svc.core.frames import PONG, RECEIPTS, TYPING, piece
from chat_svc.node.hints import HintSigner
from chatmesh.embedded.running import RunningMesh
from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch, Signal
from chatmesh.runtime.clock import SystemClock
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_node.device import Device

pytestmark = pytest.mark.mesh
WAIT_SECONDS = 60
LOOK_SECONDS = 0.1
FORGED_EVENT = types_pb2.Event(
    conversation_id=1,
    message_id=1,
    sender_user_id="mallory",
    content=types_pb2.Content(text=types_pb2.TextContent(body="forged")),
).SerializeToString()
SIGNALS = (
    (piece(RECEIPTS, pb.Receipt(conversation_id=1, user_id="x").SerializeToString()), b"r"),
    (piece(TYPING, pb.Typing(conversation_id=1, user_id="x").SerializeToString()), b"t"),
    (piece(PONG, pb.Pong(unread=99, account_version=1 << 40).SerializeToString()), b"p"),
)


async def account_of(mesh: RunningMesh, user: str) -> int:
    async with await psycopg.AsyncConnection.connect(mesh.owner_url()) as connection:
        cursor = await connection.execute(
            "SELECT id FROM chat.account WHERE external_id = %s", (user,)
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def write(mesh: RunningMesh, batch: HintBatch) -> None:
    """Into one stream of the queue, as sync_svc would."""
    async with redis.asyncio.Redis.from_url(mesh.redis_url()) as client:
        (key, *_) = sorted(await client.keys("{sync:*"))
        await client.xadd(key, {"b": batch.SerializeToString()})


def counted(mesh: RunningMesh, name: str) -> float:
    """Sum of a counter over the chat nodes."""
    total = 0.0
    for process in mesh.processes:
        if process.service == "chat_svc" and process.metrics:
            with urllib.request.urlopen(f"http://{process.metrics}/metrics", timeout=10) as answer:
                page = answer.read().decode()
            for family in text_string_to_metric_families(page):
                if family.name == name:
                    total += sum(sample.value for sample in family.samples)
    return total


async def until_counted(mesh: RunningMesh, name: str, least: float) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await asyncio.to_thread(counted, mesh, name) >= least:
                return
            await asyncio.sleep(LOOK_SECONDS)


def forged_hints(account: int) -> Sequence[Hint]:
    """Next positions with entries of their own, unsigned and signed with another key, and a
    position that no timeline has."""
    entry = entry_bytes(2, FORGED_EVENT, b"")
    signer = HintSigner(b"not the key of this mesh", b"h" * 16)
    return [
        Hint(account_id=account, timeline_seq=2, entry=entry, message_id=1),
        Hint(
            account_id=account,
            timeline_seq=2,
            entry=entry,
            message_id=1,
            digest=signer.digest(account, 2, entry),
        ),
        Hint(account_id=account, timeline_seq=(1 << 62), pushable=True, entry=entry),
    ]


async def test_nothing_forged_in_the_queue_reaches_a_device(running_mesh: RunningMesh) -> None:
    suffix = uuid.uuid4().hex[:8]
    alice, bob = f"forge-alice-{suffix}", f"forge-bob-{suffix}"
    sender = Device(running_mesh.public, alice, "phone", running_mesh.token(alice))
    receiver = Device(running_mesh.public, bob, "phone", running_mesh.token(bob), node=1)
    async with sender, receiver:
        await sender.answered(await sender.send("first", to=bob))
        await receiver.until(lambda: receiver.texts() == ["first"])
        account = await account_of(running_mesh, bob)
        hints_before = await asyncio.to_thread(counted, running_mesh, "chatmesh_chat_hints_refused")
        signals_before = await asyncio.to_thread(
            counted, running_mesh, "chatmesh_chat_signals_refused"
        )
        now_ms = SystemClock().wall_ms()
        unsigned = [
            Signal(account_id=account, frame=frame, coalesce_key=key, signed_at_ms=now_ms)
            for frame, key in SIGNALS
        ]
        signed = [
            Signal(account_id=account, frame=frame, coalesce_key=key + b"2")
            for frame, key in SIGNALS
        ]
        HintSigner(b"not the key of this mesh", b"h" * 16).sign(signed, 1 << 20, now_ms)
        await write(
            running_mesh,
            HintBatch(format=1, hints=forged_hints(account), signals=[*unsigned, *signed]),
        )
        await until_counted(running_mesh, "chatmesh_chat_hints_refused", hints_before + 3)
        await until_counted(running_mesh, "chatmesh_chat_signals_refused", signals_before + 6)
        await sender.answered(await sender.send("second", to=bob))
        await receiver.until(lambda: receiver.texts() == ["first", "second"])
        assert receiver.end is None, "a position that is not there ends no session"
        frames = receiver.frames
        assert [one for frame in frames for one in frame.receipts if one.user_id == "x"] == []
        assert [one for frame in frames for one in frame.typing] == []
        assert [one for frame in frames for one in frame.pong if one.unread == 99] == []
