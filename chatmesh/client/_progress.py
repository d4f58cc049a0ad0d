"""Where one device stands in its account's timeline. Pure.

Positions:  acked ≤ stored ≤ received,  acked ≤ seen ≤ received.
- received: highest entry taken from the server, contiguous;
- stored: highest that the application stored *and* the device's store remembers as its cursor;
- seen: highest that the server wrote in *this* session; after a resume it writes again what was
  received before, and may be acked no further than it wrote (ACK_BEYOND_SENT);
- acked: highest told to the server in this session, never above stored and seen.
Entries between stored and received are held by their ids only, to notice a rewound history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from chatmesh.v1.types_pb2 import Cursor as CursorMessage
from chatmesh.v1.types_pb2 import Entry as EntryMessage


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a timeline: position and the message id there (0 = not known)."""

    timeline_seq: int = 0
    message_id: int = 0


class GapSeen(Exception):
    """An entry skipped a position: this session cannot be trusted, resume from the cursor."""


class HistoryRewound(Exception):
    """The server's history is not the one that this device has seen: a snapshot is needed."""


class Progress:
    """Positions of one device. `cursor` None: a device that has not begun."""

    def __init__(self, cursor: Cursor | None) -> None:
        self.stored = cursor
        self.received = cursor.timeline_seq if cursor else 0
        self.seen = 0
        self.acked = 0
        self.epoch = 0
        """Rises with each snapshot: acks of entries from before are void."""
        self._held: deque[Cursor] = deque()

    @property
    def held(self) -> int:
        """Entries received and not stored yet."""
        return len(self._held)

    def hello_cursor(self) -> CursorMessage | None:
        """What `hello` says."""
        if self.stored is None:
            return None
        return CursorMessage(
            timeline_seq=self.stored.timeline_seq, message_id=self.stored.message_id
        )

    def opened(self, start: int, head: int) -> bool:
        """A session starts after `start`; True when this is where the device begins.

        Raises HistoryRewound when the server's history cannot be continued from here.
        """
        if begins := self.stored is None:
            self.stored, self.received = Cursor(start), start
        if head < self.received or start > self.received:
            raise HistoryRewound(
                f"this device has seen position {self.received}, the server's head is {head} "
                f"and it starts after {start}"
            )
        self.acked = self.seen = start
        return begins

    def receive(self, entries: Iterable[EntryMessage]) -> list[EntryMessage]:
        """The entries that are new, in order.

        Raises GapSeen on a skipped position, HistoryRewound when a known position holds another
        message now.
        """
        fresh: list[EntryMessage] = []
        for entry in entries:
            seq, message_id = entry.timeline_seq, entry.event.message_id
            self.seen = max(self.seen, min(seq, self.received + 1))
            if seq <= self.received:
                self._compare(seq, message_id)
            elif seq == self.received + 1:
                self.received = seq
                self._held.append(Cursor(seq, message_id))
                fresh.append(entry)
            else:
                raise GapSeen(f"entry {seq} came after {self.received}")
        return fresh

    def _compare(self, seq: int, message_id: int) -> None:
        if not self._held or seq < self._held[0].timeline_seq:
            return  # stored already; `hello` compared the cursor's id
        if self._held[seq - self._held[0].timeline_seq].message_id != message_id:
            raise HistoryRewound(f"position {seq} holds another message than before")

    def cursor_at(self, seq: int) -> Cursor | None:
        """The cursor for a held position; None when it is stored already or was never received."""
        if not self._held or not self._held[0].timeline_seq <= seq <= self.received:
            return None
        return self._held[seq - self._held[0].timeline_seq]

    def store(self, cursor: Cursor) -> None:
        """The application stored up to here, and the device's store remembers it. Rises only."""
        if self.stored is not None and cursor.timeline_seq <= self.stored.timeline_seq:
            return
        self.stored = cursor
        while self._held and self._held[0].timeline_seq <= cursor.timeline_seq:
            self._held.popleft()

    @property
    def ackable(self) -> int:
        """The highest position that may be acked in this session."""
        return 0 if self.stored is None else min(self.stored.timeline_seq, self.seen)

    @property
    def to_ack(self) -> int:
        """How many positions may be acked and are not."""
        return max(0, self.ackable - self.acked)

    def void(self) -> None:
        """A snapshot is needed: what the application holds of this epoch counts no more."""
        self._held.clear()
        self.epoch += 1

    def reset(self, as_of: Cursor) -> None:
        """A snapshot replaces everything up to its position."""
        self.stored, self.received = as_of, as_of.timeline_seq
        self.seen = self.acked = 0
        self._held.clear()
