"""Where one session stands in its account's timeline: what was written, what is unacked, what is
missing.

Five positions, each ≤ the next::

    acked ≤ taken ≤ queued ≤ (early …) ≤ head
      |       |       |         |         highest position that anybody told us of
      |       |       |         entries that came before a hole was filled; bounded
      |       |       last entry given to the frame queue: contiguous from the start
      |       last entry that left in a frame: the highest that may be acked
      last position the device says it has stored

Worked case: queued 4. Entry 6 is offered: 5 is a hole, 6 waits early. After a few milliseconds the
node reads after 4 and gets 5 and 6: both are queued; 6 leaves early. Entry 5 is offered: ≤ 6,
dropped.

Window: entries between acked and queued are bounded in number and bytes. Past it nothing is kept;
only ``head`` rises, and the store is read again when acks make room. So a stalled device costs a
constant, and nobody waits for it.

Pure: time is passed in as monotonic seconds.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

EARLY_ENTRIES: Final = 64
EARLY_BYTES: Final = 64 * 1024
"""Entries kept while a hole before them is filled; beyond that the read brings them anyway."""

READ_ENTRIES: Final = 256
READ_BYTES: Final = 256 * 1024
"""One read of the store for one session: a long catch-up takes turns with the others."""


class Item(NamedTuple):
    """An entry ready to be written. ``piece`` is its field of ServerFrame, tag included."""

    timeline_seq: int
    piece: bytes
    message_id: int
    conversation_id: int
    conversation_seq: int
    notifies: bool
    own: bool
    """Written by the session's own account: counts for no delivered-receipt."""
    trace: bytes
    """Context that the write's span hangs below; empty when not sampled."""


class Unacked(NamedTuple):
    """What is remembered of an entry until its ack: small, for there may be hundreds."""

    timeline_seq: int
    size_bytes: int
    message_id: int
    conversation_id: int
    conversation_seq: int
    own: bool
    trace: bytes


@dataclass(slots=True, frozen=True)
class AckResult:
    """What an ack moved."""

    timeline_seq: int
    message_id: int
    delivered: dict[int, int]
    """Highest conversation_seq per conversation among the acked entries of others."""
    traced: list[Unacked]


class AckBeyondSent(ValueError):
    """An ack above what left in frames."""


class Window:
    """Positions of one session; see the module's text."""

    __slots__ = (
        "_bytes",
        "_early",
        "_early_bytes",
        "_max_bytes",
        "_max_entries",
        "_unacked",
        "acked_id",
        "acked_seq",
        "head_seq",
        "notify_seq",
        "progress_at",
        "queued_seq",
        "taken_seq",
        "traced",
    )

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._unacked: deque[Unacked] = deque()
        self._bytes = 0
        self._early: dict[int, Item] = {}
        self._early_bytes = 0
        self.acked_seq = 0
        self.acked_id = 0
        """Message id at acked_seq; 0 = not known."""
        self.taken_seq = 0
        self.queued_seq = 0
        self.head_seq = 0
        self.notify_seq = 0
        """Newest position known that may notify, written or not: what push would be for."""
        self.progress_at = 0.0
        """When an ack last made progress, or the first entry of an empty window was queued."""
        self.traced = 0
        """Sampled entries that are unacked."""

    def start(self, seq: int, head_seq: int, now: float, message_id: int = 0) -> None:
        """Begin after ``seq``, all positions but the head equal to it.

        ``message_id``: of the entry there, where it is known; said again without it, it stays.
        """
        if message_id or seq != self.acked_seq:
            self.acked_id = message_id
        self.acked_seq = self.taken_seq = self.queued_seq = seq
        self.head_seq = max(self.head_seq, head_seq, seq)
        self.progress_at = now

    @property
    def newest_known(self) -> tuple[int, int]:
        """(position, message id there or 0) of the newest entry that was queued, or is acked."""
        if self._unacked:
            return self._unacked[-1].timeline_seq, self._unacked[-1].message_id
        return self.acked_seq, self.acked_id

    @property
    def unacked_entries(self) -> int:
        """Entries queued and not acked."""
        return len(self._unacked)

    @property
    def unacked_bytes(self) -> int:
        """Their bytes: what a stalled session costs."""
        return self._bytes

    @property
    def early_entries(self) -> int:
        """Entries that wait behind a hole."""
        return len(self._early)

    @property
    def is_behind(self) -> bool:
        """Whether there is something that was not queued."""
        return self.head_seq > self.queued_seq

    def has_room(self, size_bytes: int) -> bool:
        """Whether an entry of that size may be queued. An empty window takes one of any size."""
        unacked = self._unacked
        return not unacked or (
            len(unacked) < self._max_entries and self._bytes + size_bytes <= self._max_bytes
        )

    def room_to_read(self) -> tuple[int, int]:
        """Entries and bytes to ask the store for; ``(0, 0)`` until a quarter is free.

        Reading for each single ack would cost a query an entry while a device catches up.
        """
        entries = self._max_entries - len(self._unacked)
        size = self._max_bytes - self._bytes
        if self._unacked and (entries * 4 < self._max_entries or size * 4 < self._max_bytes):
            return 0, 0
        return min(max(entries, 1), READ_ENTRIES), min(max(size, 1), READ_BYTES)

    def note_head(self, seq: int, notify_seq: int = 0) -> None:
        """Somebody says that the timeline reaches ``seq`` (and may notify up to ``notify_seq``)."""
        if seq > self.head_seq:
            self.head_seq = seq
        if notify_seq > self.notify_seq:
            self.notify_seq = notify_seq

    def queue(self, item: Item, now: float) -> bool:
        """Take the next entry; False unless it is contiguous and there is room."""
        size = len(item.piece)
        if item.timeline_seq != self.queued_seq + 1 or not self.has_room(size):
            return False
        if not self._unacked:
            self.progress_at = now
        self._unacked.append(
            Unacked(
                item.timeline_seq,
                size,
                item.message_id,
                item.conversation_id,
                item.conversation_seq,
                item.own,
                item.trace,
            )
        )
        self._bytes += size
        if item.trace:
            self.traced += 1
        self.queued_seq = item.timeline_seq
        if item.timeline_seq > self.head_seq:
            self.head_seq = item.timeline_seq
        if item.notifies and item.timeline_seq > self.notify_seq:
            self.notify_seq = item.timeline_seq
        return True

    def keep_early(self, item: Item) -> bool:
        """Keep an entry that came before a hole was filled; False when there is no place.

        A full window keeps nothing: what it could not write anyway is read when acks make room.
        """
        if item.timeline_seq in self._early:
            return True
        size = len(item.piece)
        if (
            not self.has_room(size)
            or len(self._early) >= EARLY_ENTRIES
            or self._early_bytes + size > EARLY_BYTES
        ):
            return False
        self._early[item.timeline_seq] = item
        self._early_bytes += size
        return True

    def next_early(self) -> Item | None:
        """The early entry that has become contiguous, taken out; older ones are forgotten."""
        early = self._early
        if not early:
            return None
        item = early.pop(self.queued_seq + 1, None)
        if item is not None:
            self._early_bytes -= len(item.piece)
        elif any(seq <= self.queued_seq for seq in early):
            for seq in [seq for seq in early if seq <= self.queued_seq]:
                self._early_bytes -= len(early.pop(seq).piece)
        return item

    def drop_early(self) -> None:
        """Forget what came early: it will be read."""
        self._early.clear()
        self._early_bytes = 0

    def took(self, entries: int) -> None:
        """So many entries left in a frame."""
        self.taken_seq += entries

    def traced_since(self, seq: int) -> Sequence[Unacked]:
        """Sampled entries after ``seq`` that have left; for spans of the write."""
        return [
            entry
            for entry in self._unacked
            if entry.trace and seq < entry.timeline_seq <= self.taken_seq
        ]

    def ack(self, up_to_seq: int, now: float) -> AckResult | None:
        """The device has stored up to ``up_to_seq``; None when that is no progress.

        Raises:
            AckBeyondSent: above what left.
        """
        if up_to_seq > self.taken_seq:
            raise AckBeyondSent
        if up_to_seq <= self.acked_seq:
            return None
        delivered: dict[int, int] = {}
        traced: list[Unacked] = []
        unacked, message_id = self._unacked, 0
        while unacked and unacked[0].timeline_seq <= up_to_seq:
            entry = unacked.popleft()
            self._bytes -= entry.size_bytes
            message_id = entry.message_id
            if not entry.own and entry.conversation_seq:
                delivered[entry.conversation_id] = entry.conversation_seq
            if entry.trace:
                self.traced -= 1
                traced.append(entry)
        self.acked_seq, self.acked_id = up_to_seq, message_id
        self.progress_at = now
        return AckResult(up_to_seq, message_id, delivered, traced)

    def owed_to_push(self) -> int:
        """Newest position that may notify and is not acked; 0 when there is none."""
        return self.notify_seq if self.notify_seq > self.acked_seq else 0
