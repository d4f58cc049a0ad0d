"""Both stores, by the same cases; what SQLite adds."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatmesh.client import Cursor, MemoryStore, SqliteStore, Store, StoredMessage, StoreFailed

Maker = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "device.db")
    memory = MemoryStore()
    return lambda: memory


def message(number: int, group: int = 0) -> StoredMessage:
    return StoredMessage(number.to_bytes(16, "big"), b"body %d" % number, group)


async def test_everything_is_there_again(make: Maker) -> None:
    store = make()
    before = await store.open()
    assert (before.user_id, before.device_id, before.cursor) == ("", "", None)
    await store.put([message(1), message(2, 77)])
    await store.put([message(3)])
    await store.save_identity("alice", "phone")
    await store.save_cursor(Cursor(2**64 - 1, 2**63 + 5))
    await store.settle([message(1).key])
    await store.close()

    store = make()
    after = await store.open()
    assert (after.user_id, after.device_id) == ("alice", "phone")
    assert after.cursor == Cursor(2**64 - 1, 2**63 + 5)
    assert list(after.unanswered) == [message(2, 77), message(3)]
    await store.close()


async def test_the_same_key_is_kept_once(make: Maker) -> None:
    store = make()
    await store.open()
    await store.put([message(1)])
    await store.put([message(1)])
    await store.close()
    store = make()
    assert len((await store.open()).unanswered) == 1
    await store.close()


async def test_overlapping_calls_keep_their_order(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "device.db")
    await store.open()
    await asyncio.gather(*(store.put([message(number)]) for number in range(200)))
    await store.close()
    store = SqliteStore(tmp_path / "device.db")
    assert list((await store.open()).unanswered) == [message(number) for number in range(200)]
    await store.close()


async def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "device.db")
    await first.open()
    with pytest.raises(StoreFailed, match="in use by another"):
        await SqliteStore(tmp_path / "device.db").open()
    await first.close()
    with pytest.raises(StoreFailed, match="not open"):
        await first.put([message(1)])


async def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        await SqliteStore(tmp_path / "file" / "device.db").open()


_PUT_AND_DIE = """
import asyncio, os, signal, sys
from chatmesh.client import SqliteStore, StoredMessage, Cursor
async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.put([StoredMessage(b"k" * 16, b"body")])
    await store.save_cursor(Cursor(9, 99))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_what_returned_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _PUT_AND_DIE, str(path)], env=os.environ, check=False
    )
    assert died.returncode == -signal.SIGKILL
    store = SqliteStore(path)
    after = await store.open()
    assert [one.body for one in after.unanswered] == [b"body"]
    assert after.cursor == Cursor(9, 99)
    await store.close()
