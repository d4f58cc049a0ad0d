"""Keeps the device's store and the session in step, beside the message path.

Rules: a cursor is saved before the session may ack it; the newest that waits is saved, so a busy
application costs one write at a time, not one per entry. Cursors of an epoch before a snapshot
are dropped. A store that fails ends the client: going on would promise what it cannot keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chatmesh.client._outbox import Store
from chatmesh.client._progress import Cursor
from chatmesh.client._session import Session


class Storekeeper:
    """One background loop over one store."""

    def __init__(self, store: Store, session: Session, wake_writer: Callable[[], None]) -> None:
        self._store = store
        self._session = session
        self._wake_writer = wake_writer
        self._wake = asyncio.Event()
        self._cursor: tuple[Cursor, int] | None = None
        self._identity: tuple[str, str] | None = None
        self._settled: list[bytes] = []
        self._stopping = False

    def save_cursor(self, cursor: Cursor, epoch: int) -> None:
        """The application stored up to here."""
        pending = self._cursor
        if pending is not None and pending[1] == epoch and pending[0] >= cursor:
            return
        self._cursor = (cursor, epoch)
        self._wake.set()

    def save_identity(self, user_id: str, device_id: str) -> None:
        """The server said who this device is."""
        self._identity = (user_id, device_id)
        self._wake.set()

    def forget(self, keys: list[bytes]) -> None:
        """Messages have their answer."""
        self._settled.extend(keys)
        self._wake.set()

    async def run(self) -> None:
        """Write until stopped.

        Raises StoreFailed.
        """
        while True:
            await self._write_all()
            if self._stopping:
                return
            await self._wake.wait()

    async def _write_all(self) -> None:
        while True:
            self._wake.clear()
            if self._identity is not None:
                identity, self._identity = self._identity, None
                await self._store.save_identity(*identity)
            elif self._cursor is not None:
                (cursor, epoch), self._cursor = self._cursor, None
                if epoch == self._session.progress.epoch:
                    await self._store.save_cursor(cursor)
                    self._session.stored(cursor, epoch)
                    self._wake_writer()
            elif self._settled:
                keys, self._settled = self._settled, []
                await self._store.settle(keys)
            else:
                return

    async def snapshot(self, as_of: Cursor) -> None:
        """Save a snapshot's position, whatever was pending before it."""
        self._cursor = None
        await self._store.save_cursor(as_of)

    def stop(self) -> None:
        """`run` returns after the last write."""
        self._stopping = True
        self._wake.set()
