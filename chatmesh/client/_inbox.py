"""Entries between the session and the application.

Bounded by the server's window: the server stops writing while too much is unacked, and the
application acks only what it took. Nothing here grows with a slow application.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from chatmesh.client._values import Entry


class Inbox:
    """Entries that the application has not taken yet."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._taking = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entries: Iterable[Entry]) -> None:
        """Entries arrived."""
        self._waiting.extend(entries)
        self._wake.set()

    def clear(self) -> None:
        """A snapshot makes them void."""
        self._waiting.clear()

    def end(self, error: BaseException | None) -> None:
        """No more come; what is there is still given out."""
        self._ended, self._error = True, error
        self._wake.set()

    async def take(self) -> Entry | None:
        """The next entry; None at a good end.

        Raises the error that ended the client, or RuntimeError for a second reader.
        """
        if self._taking:
            raise RuntimeError("entries() is being iterated already: one reader a client")
        self._taking = True
        try:
            while not self._waiting:
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                self._wake.clear()
                await self._wake.wait()
            return self._waiting.popleft()
        finally:
            self._taking = False


class Entries:
    """Async iterator over a client's entries.

    With `auto_ack`, asking for an entry acks the one before: by then the application has stored
    it. Leaving the loop acks nothing more, so the entry being handled comes again after a crash.
    """

    def __init__(self, inbox: Inbox, *, auto_ack: bool) -> None:
        self._inbox = inbox
        self._auto_ack = auto_ack
        self._given: Entry | None = None

    def __aiter__(self) -> Entries:
        return self

    async def __anext__(self) -> Entry:
        given, self._given = self._given, None
        if given is not None and self._auto_ack:
            given.ack()
        entry = await self._inbox.take()
        if entry is None:
            raise StopAsyncIteration
        self._given = entry
        return entry
