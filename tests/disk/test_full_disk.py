"""PostgreSQL on a disk that is really full: a small tmpfs, filled to its last byte.

The database is a server of "yours", so that logs, Valkey and spans of the mesh under test lie
elsewhere. Needs the right to mount; without it the test is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.testing.mesh import RunningChat, start_mesh
from chatmesh.v1 import session_pb2
from tests.raw import RawSession, client_frame

pytestmark = pytest.mark.mesh

DISK_MIB = 160
TEXT_BYTES = 12_000
"""Of random letters: does not compress well, so that a few messages need new pages."""
MOST_SENDS = 500


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, of memory."""
    folder = tmp_path_factory.mktemp("disk")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={DISK_MIB}m,mode=0711".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) != 0:
        why = os.strerror(ctypes.get_errno())
        pytest.skip(f"NOT TESTED: a full disk. No file system can be mounted here: {why}")
    yield folder
    assert libc.umount2(os.fsencode(folder), 2) == 0  # MNT_DETACH


@pytest.fixture(scope="module")
def chat(disk: Path) -> Iterator[RunningChat]:
    """A mesh of one chat node, its PostgreSQL on the small disk."""
    options = MeshOptions(
        data=disk / "data",
        ports="auto",
        servers=False,
        postgres_settings={"min_wal_size": "32MB", "max_wal_size": "64MB"},
    )
    with (
        Mesh(options) as theirs,
        start_mesh(chat_nodes=1, postgres_url=theirs.running.owner_url()) as found,
    ):
        yield found


def fill(disk: Path) -> Path:
    """Writes until nothing fits any more."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


async def send(session: RawSession, text: str) -> session_pb2.SendResult:
    """One message on a live session; its result."""
    seen = len(results(session))
    await session.send(
        client_frame(
            f'send {{ messages {{ idempotency_key: "$key" to_user_id: "disk-bob" '
            f'content {{ text {{ body: "{text}" }} }} }} }}'
        )
    )
    await session.until(lambda _: len(results(session)) > seen)
    return results(session)[-1]


def results(session: RawSession) -> list[session_pb2.SendResult]:
    """All that came so far."""
    return [result for frame in session.seen for result in frame.send_results]


async def missing(chat: RunningChat) -> str:
    """What the chat node says it misses, once it misses something."""
    (metrics,) = (one.metrics for one in chat.mesh.running.processes if one.name == "chat-1")
    async with asyncio.timeout(60):
        while True:
            text = await asyncio.to_thread(_missing_now, metrics)
            if text:
                return text
            await asyncio.sleep(0.1)


def _missing_now(metrics: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{metrics}/readyz", timeout=10):
            return ""
    except urllib.error.HTTPError as refused:
        with refused:
            return json.dumps(json.loads(refused.read())["missing"])


async def test_a_full_disk_refuses_loses_nothing_and_heals_by_itself(
    disk: Path, chat: RunningChat
) -> None:
    pid = chat.mesh.pid("chat-1")
    async with (
        grpc.aio.insecure_channel(chat.targets[0]) as channel,
        RawSession(channel, chat.token("disk-alice")) as alice,
    ):
        await alice.hello()
        accepted = ["first"]
        assert (await send(alice, "first")).message_id
        filler = fill(disk)
        problem = None
        for _ in range(MOST_SENDS):
            text = secrets.token_hex(TEXT_BYTES // 2)
            result = await send(alice, text)
            if not result.message_id:
                problem = result.problem
                break
            accepted.append(text)
        assert problem is not None, "the disk never became full"
        assert (problem.code, problem.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "STORE_FULL",
        )  # fmt: skip
        assert problem.retry_after_ms > 0

        assert "disk is full" in await missing(chat)
        async with RawSession(channel, chat.token("disk-carol")) as carol:
            end = await carol.ended()
        assert (end.status, end.reason) == ("UNAVAILABLE", "NOT_SERVING")
        assert "store room" in end.message
        assert (await send(alice, "while full")).problem.reason == "STORE_FULL"

        filler.unlink()
        await asyncio.to_thread(chat.mesh.wait_ready, ["chat-1"])
        assert (await send(alice, "after")).message_id
        accepted.append("after")
    assert chat.mesh.pid("chat-1") == pid, "the node healed without a restart"
    with psycopg.connect(chat.mesh.running.owner_url()) as connection:
        row = connection.execute("SELECT count(*) FROM chat.event").fetchone()
    assert row == (len(accepted),), "all that was accepted is stored, and nothing that was refused"
