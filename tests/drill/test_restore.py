"""The restore of docs/backup.md: PostgreSQL rewound to a backup, Redis emptied, clients ahead.

A device that had read past the backup is told so (CURSOR_INVALID, which the SDK answers by taking a
snapshot), and what is said after the restore reaches it.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from chatmesh.client import Client, Snapshot, SqliteStore, Text
from chatmesh.embedded import services
from chatmesh.embedded.binaries import postgres_programs
from chatmesh.testing.mesh import RunningChat, start_mesh

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[RunningChat]:
    # stores of its own, whatever the environment names: they are rewound and emptied
    with start_mesh(
        trace_sample_ratio=None, chat_nodes=1, postgres_url=None, redis_url=None
    ) as started:
        yield started


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [postgres_programs().program(program), *arguments],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def restore(mesh: RunningChat, backup: Path) -> None:
    """As the runbook says: servers down, database back, Redis emptied, servers up."""
    names = [name for name, _ in services.process_names({"chat_svc": 1})]
    for name in names:
        mesh.mesh.hold(name)
    running = mesh.mesh.running
    with psycopg.connect(running.owner_url(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA chat, sequencer, push CASCADE")
    run("pg_restore", "--exit-on-error", "--dbname", running.owner_url(), str(backup))
    with psycopg.connect(running.owner_url(), autocommit=True) as connection:
        connection.execute("UPDATE chat.history SET id = gen_random_uuid()")
    client = redis.Redis.from_url(running.redis_url())
    client.flushall()
    client.close()
    for name in names:
        mesh.mesh.release(name)
    mesh.mesh.wait_ready(names)


async def texts(client: Client, last: str) -> list[str]:
    """What the client reads, to this text."""
    found = []
    async for entry in client.entries():
        if entry.text is not None:
            found.append(entry.text)
            if entry.text == last:
                break
    return found


@pytest.mark.timeout(300)
async def test_a_device_ahead_of_a_restored_database_is_told_and_goes_on(
    mesh: RunningChat, tmp_path: Path
) -> None:
    backup, bobs = tmp_path / "chatmesh.dump", tmp_path / "bob.sqlite"
    snapshots: list[Snapshot] = []
    told = asyncio.Event()

    async def take(snapshot: Snapshot) -> None:
        snapshots.append(snapshot)
        told.set()

    def bob() -> Client:
        return mesh.client("bob", store=SqliteStore(bobs), on_snapshot=take)

    async with mesh.client("alice") as alice, bob() as first:
        await alice.send(to_user="bob", text="kept")
        assert await texts(first, "kept") == ["kept"]
        run("pg_dump", "--format", "custom", "--file", str(backup), "--dbname",
            mesh.mesh.running.owner_url())  # fmt: skip
        for number in range(3):
            await alice.send(to_user="bob", text=f"gone {number}")
        assert len(await texts(first, "gone 2")) == 3
    assert snapshots == []

    await asyncio.to_thread(restore, mesh, backup)

    async with mesh.client("alice", "new-phone") as alice, bob() as again:
        async with asyncio.timeout(60):
            await told.wait()
            await alice.send(to_user="bob", text="after the restore")
            assert await texts(again, "after the restore") == ["after the restore"]
            page = await again.history(with_user="alice")
    assert len(snapshots) == 1, "told once, not silently left behind"
    said = [event.content.body for event in page.messages if isinstance(event.content, Text)]
    assert said == ["kept", "after the restore"], "what the backup does not hold is gone for all"
