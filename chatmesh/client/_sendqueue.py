"""Messages without an answer, in the order in which they were first offered. Pure.

Invariants (tests/client/test_sendqueue.py):
- every message is in exactly one of two places: waiting, or in flight in the present session;
- what leaves is always the oldest waiting one, so after a lost session everything unanswered goes
  again in the first order and before anything newer (reliability: O2);
- a key leaves the queue only by its answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatmesh.v1.types_pb2 import OutgoingMessage

ALONE = 0
"""Group number of messages that stand alone."""


@dataclass(slots=True)
class Outgoing:
    """One message on its way.

    `group` other than ALONE binds the messages of one `stop_on_error` send: they share a frame.
    `order` is set by the queue.
    """

    key: bytes
    message: OutgoingMessage
    group: int = ALONE
    order: int = 0
    size_bytes: int = field(default=0)

    def __post_init__(self) -> None:
        self.size_bytes = self.message.ByteSize() + 8  # tag and length in the frame


class SendQueue:
    """Waiting and in-flight messages of one device."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Outgoing]] = []  # heap by order
        self._in_flight: dict[bytes, Outgoing] = {}
        self._known: set[bytes] = set()
        self._next_order = 1
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def in_order(self) -> list[Outgoing]:
        """All of them, by the order in which they were first offered."""
        waiting = [outgoing for _, outgoing in self._waiting]
        return sorted([*waiting, *self._in_flight.values()], key=lambda one: one.order)

    @property
    def size_bytes(self) -> int:
        """Bytes of all messages without an answer."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """Messages sent in the present session and not answered."""
        return len(self._in_flight)

    @property
    def is_waiting(self) -> bool:
        """Whether something could be taken."""
        return bool(self._waiting)

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Append messages; a key that is there already is ignored."""
        for outgoing in messages:
            if outgoing.key in self._known:
                continue
            outgoing.order = self._next_order
            self._next_order += 1
            self._known.add(outgoing.key)
            self._bytes += outgoing.size_bytes
            heapq.heappush(self._waiting, (outgoing.order, outgoing))

    def take(self, *, max_in_flight: int, max_messages: int, max_bytes: int) -> list[Outgoing]:
        """The next frame's messages, now in flight; empty when none may go.

        All of one group, or all standing alone. One message goes even when it is larger than
        `max_bytes`: the server refuses it then, which is better than a queue that stands still.
        """
        taken: list[Outgoing] = []
        room = min(max_messages, max_in_flight - len(self._in_flight))
        size = 0
        while self._waiting and len(taken) < room:
            outgoing = self._waiting[0][1]
            if taken and (
                size + outgoing.size_bytes > max_bytes or outgoing.group != taken[0].group
            ):
                break
            heapq.heappop(self._waiting)
            self._in_flight[outgoing.key] = outgoing
            taken.append(outgoing)
            size += outgoing.size_bytes
        return taken

    def settle(self, key: bytes) -> Outgoing | None:
        """The message has its answer and leaves; None when it was not there (answered before)."""
        outgoing = self._in_flight.pop(key, None)
        if outgoing is None and key in self._known:
            outgoing = self._drop_waiting(key)
        if outgoing is not None:
            self._known.discard(key)
            self._bytes -= outgoing.size_bytes
        return outgoing

    def again(self, key: bytes) -> None:
        """The answer was "later": the message waits again, at its old place."""
        outgoing = self._in_flight.pop(key, None)
        if outgoing is not None:
            heapq.heappush(self._waiting, (outgoing.order, outgoing))

    def session_lost(self) -> None:
        """Nothing is in flight any more; what was waits again at its old place."""
        for outgoing in self._in_flight.values():
            heapq.heappush(self._waiting, (outgoing.order, outgoing))
        self._in_flight.clear()

    def _drop_waiting(self, key: bytes) -> Outgoing | None:
        """Rare: an answer (or the own entry) of the session before came after it was lost."""
        for index, (_, outgoing) in enumerate(self._waiting):
            if outgoing.key == key:
                self._waiting[index] = self._waiting[-1]
                self._waiting.pop()
                heapq.heapify(self._waiting)
                return outgoing
        return None
