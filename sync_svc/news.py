"""Signals that wait while presence does not know where anybody is.

A signal without a frame says "read anew" of something lasting (contacts, privacy). Presence that
has just lost everything names no route yet; what it said of the account then would be the last
that the account's nodes heard for a minute. So such a signal waits with the hints, and is carried
to whoever has turned up. Typing and receipts do not wait: late, they would tell of what is over.

Rules: pure. Bounded: the newest of a key wins, then the oldest go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chatmesh.mesh.v1.hint_pb2 import Signal

MAX_WAITING: Final = 4_096


class WaitingNews:
    """See the module's text."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, bytes], Signal] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, signals: Iterable[Signal]) -> int:
        """Keep those that may wait; how many were dropped for want of room."""
        for signal in signals:
            if not signal.frame:
                key = (signal.account_id, signal.coalesce_key)
                self._waiting.pop(key, None)
                self._waiting[key] = signal
        dropped = max(len(self._waiting) - MAX_WAITING, 0)
        for key in list(self._waiting)[:dropped]:
            del self._waiting[key]
        return dropped

    def take(self) -> list[Signal]:
        """All that wait, oldest first; none is left."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        return taken
