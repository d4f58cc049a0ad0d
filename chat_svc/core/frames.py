"""The outgoing half of a session as bytes: pieces wait by section and leave as one ServerFrame.

A *piece* is one field of ServerFrame, tag and length included; a frame is pieces joined in the
order that the contract names: entries, send_results, caught_up, receipts, presence, typing, pong,
going_away. ``welcome`` and ``closed`` leave alone, as first and as last. Of receipts, presence,
typing and pong only the newest per key waits.

Rules: pure; bounded by its owner: entries by the window, results by sends in flight, keyed pieces
here. A piece that left is forgotten: what was written proves nothing (the ack does).
"""

from typing import Final

from google.protobuf.message import DecodeError

from chat_svc.core.wire import framed, read_varint
from chatmesh.v1.session_pb2 import Pong, Receipt, Typing

WELCOME: Final = b"\x0a"
ENTRIES: Final = b"\x12"
SEND_RESULTS: Final = b"\x1a"
CAUGHT_UP: Final = b"\x22"
RECEIPTS: Final = b"\x2a"
PRESENCE: Final = b"\x32"
TYPING: Final = b"\x3a"
PONG: Final = b"\x42"
GOING_AWAY: Final = b"\x4a"
CLOSED: Final = b"\x52"

_KEYED: Final = (RECEIPTS, PRESENCE, TYPING, PONG)
_SIGNALS: Final[dict[bytes, type[Receipt | Typing | Pong]]] = {
    RECEIPTS: Receipt,
    TYPING: Typing,
    PONG: Pong,
}
MAX_SIGNAL_BYTES: Final = 4_096
"""A user id is 512 bytes at most; the rest of a receipt is numbers."""

MAX_FRAME_BYTES: Final = 64 * 1024
"""Entries of a frame are joined up to this, and so are results: large enough to amortise the write
(3 µs a piece against 25 a write), small enough that a pong does not wait behind a megabyte. One
larger piece goes by itself. Each kind has a share of its own: a long catch-up starves no pong."""

MAX_KEYED_BYTES: Final = 16 * 1024
"""Share of receipts, presence, typing and pongs in one frame."""

MAX_KEYED_PIECES: Final = 512
"""Per section. A device that does not read loses its oldest receipts, presence and typing: each of
them is told anew after a resume or by the next change."""


def entry_piece(entry: bytes) -> bytes:
    """An Entry's bytes as a piece."""
    return framed(ENTRIES, entry)


def piece(section: bytes, message: bytes) -> bytes:
    """A serialised message as a piece of that section."""
    return framed(section, message)


def section_of(frame: bytes) -> bytes | None:
    """Section of a signal: exactly one piece, a receipt, typing or pong; None for anything else.

    Signals come through the queue, which may be written by others, and are spliced into clients'
    frames: nothing may hide behind the first piece, and it must be one that clients can decode.
    """
    tag = frame[:1]
    kind = _SIGNALS.get(tag)
    if kind is None or len(frame) > MAX_SIGNAL_BYTES:
        return None
    try:
        size, start = read_varint(frame, 1)
        if start + size != len(frame):
            return None
        kind.FromString(frame[start:])
    except (ValueError, DecodeError):
        return None
    return tag


class OutgoingFrames:
    """What waits to be written to one session."""

    __slots__ = (
        "_caught_up",
        "_closed",
        "_entries",
        "_entries_start",
        "_going_away",
        "_keyed",
        "_results",
        "_welcome",
        "keyed_dropped",
    )

    def __init__(self) -> None:
        self._welcome = b""
        self._entries: list[bytes] = []
        self._entries_start = 0  # pieces before it have left; the list is cut when all have
        self._results: list[bytes] = []
        self._caught_up = b""
        self._keyed: dict[bytes, dict[bytes, bytes]] = {}
        self._going_away = b""
        self._closed = b""
        self.keyed_dropped = 0

    def __bool__(self) -> bool:
        return bool(
            self._entries
            or self._results
            or self._keyed
            or self._caught_up
            or self._welcome
            or self._going_away
            or self._closed
        )

    @property
    def waiting_entries(self) -> int:
        """Entries that have not left."""
        return len(self._entries) - self._entries_start

    @property
    def waiting_results(self) -> int:
        """Results that have not left."""
        return len(self._results)

    @property
    def waiting_presence(self) -> int:
        """Presences that have not left; past MAX_KEYED_PIECES the oldest are dropped."""
        return len(self._keyed.get(PRESENCE, ()))

    def set_welcome(self, message: bytes) -> None:
        """The serialised Welcome, to leave first and alone."""
        self._welcome = framed(WELCOME, message)

    def add_entry(self, piece: bytes) -> None:
        """An entry's piece; by timeline_seq, contiguous (the window sees to it)."""
        self._entries.append(piece)

    def add_result(self, message: bytes) -> None:
        """A serialised SendResult."""
        self._results.append(framed(SEND_RESULTS, message))

    def set_caught_up(self, message: bytes) -> None:
        """A serialised CaughtUp; leaves with or after the last entry that waits now."""
        self._caught_up = framed(CAUGHT_UP, message)

    def put_keyed(self, section: bytes, key: bytes, piece: bytes) -> None:
        """A piece of RECEIPTS, PRESENCE, TYPING or PONG; replaces the one of the same key."""
        waiting = self._keyed.setdefault(section, {})
        waiting.pop(key, None)  # the newest goes to the end: the oldest is dropped first
        if len(waiting) >= MAX_KEYED_PIECES:
            del waiting[next(iter(waiting))]
            self.keyed_dropped += 1
        waiting[key] = piece

    def set_going_away(self, message: bytes) -> None:
        """A serialised GoingAway."""
        self._going_away = framed(GOING_AWAY, message)

    def set_closed(self, message: bytes) -> None:
        """A serialised Closed; leaves alone, after all that waits."""
        self._closed = framed(CLOSED, message)

    def drop_entries(self) -> None:
        """Forget entries that have not left: their session ends, the timeline keeps them."""
        self._entries.clear()
        self._entries_start = 0
        self._caught_up = b""

    def take(self) -> tuple[bytes, int]:
        """The next frame and how many entries it holds; ``(b"", 0)`` when nothing waits."""
        if self._welcome:
            frame, self._welcome = self._welcome, b""
            return frame, 0
        pieces, taken = self._take_entries()
        if self._results:
            self._take_results(pieces)
        if self._caught_up and not self._entries:
            pieces.append(self._caught_up)
            self._caught_up = b""
        if self._keyed:
            self._take_keyed(pieces)
        if self._going_away:
            pieces.append(self._going_away)
            self._going_away = b""
        if pieces:
            return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), taken
        frame, self._closed = self._closed, b""
        return frame, 0

    def _take_entries(self) -> tuple[list[bytes], int]:
        entries, start = self._entries, self._entries_start
        if not entries:
            return [], 0
        if start == 0 and len(entries) == 1:
            self._entries = []
            return entries, 1
        size, end = len(entries[start]), start + 1
        while end < len(entries) and size + len(entries[end]) <= MAX_FRAME_BYTES:
            size += len(entries[end])
            end += 1
        taken = entries[start:end]
        if end == len(entries):
            self._entries, self._entries_start = [], 0
        else:
            self._entries_start = end
            entries[start:end] = [b""] * (end - start)  # free the bytes, keep the places
        return taken, end - start

    def _take_results(self, pieces: list[bytes]) -> None:
        results, size, end = self._results, 0, 0
        while end < len(results) and (end == 0 or size + len(results[end]) <= MAX_FRAME_BYTES):
            size += len(results[end])
            end += 1
        pieces += results[:end]
        del results[:end]

    def _take_keyed(self, pieces: list[bytes]) -> None:
        size = 0
        for section in _KEYED:
            waiting = self._keyed.get(section)
            if waiting is None:
                continue
            while waiting:
                key = next(iter(waiting))
                size += len(waiting[key])
                if size > MAX_KEYED_BYTES:
                    return
                pieces.append(waiting.pop(key))
            del self._keyed[section]
