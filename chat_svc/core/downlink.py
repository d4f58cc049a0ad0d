"""What a session is told of its timeline: the rules between the window, the store and the frames.

- Contiguous? Queue it. Already queued? Drop it. A hole? Wait a few milliseconds, then read.
- On attach: route first, then read to the head, then live. So ``start`` asks for a read even when
  the cursor stands at the head: what was committed before the route was known told nobody.
- Window full: remember the head only; read again when acks make room.
- No ack in time: stop writing, owe a push; the next ack voids it and goes on.

Pure: effects are appended to the list that the session's machine owns.
"""

from collections.abc import Sequence
from typing import Final

from chat_svc.core import effects
from chat_svc.core.effects import Effect
from chat_svc.core.frames import OutgoingFrames
from chat_svc.core.window import AckResult, Item, Window
from chatmesh.v1.session_pb2 import CaughtUp

READ_RETRY_SECONDS: Final = 1.0
"""After a read that failed, or that found nothing where a head was promised."""
TOO_SLOW_FACTOR: Final = 12
"""After so many ack timeouts without progress the session ends: it holds a window for nothing."""


class Downlink:
    """Entries on their way to one session."""

    __slots__ = (
        "_ack_timeout_seconds",
        "_caught_up_target",
        "_effects",
        "_frames",
        "_handed_over",
        "_live",
        "_read_after",
        "_read_head",
        "_reading",
        "_retry_read_at",
        "_stalled",
        "_waiting_for_hole",
        "others_arrived",
        "window",
    )

    def __init__(
        self,
        window: Window,
        frames: OutgoingFrames,
        wanted: list[Effect],
        ack_timeout_seconds: float,
    ) -> None:
        self.window = window
        self._frames = frames
        self._effects = wanted
        self._ack_timeout_seconds = ack_timeout_seconds
        self._live = False
        self._caught_up_target: int | None = None  # position to tell; None = told
        self._reading = False
        self._read_head = 0  # head as it was known when the read began
        self._read_after = 0
        self._retry_read_at = 0.0
        self._waiting_for_hole = False
        self._stalled = False
        self._handed_over = 0  # position that push was told of
        self.others_arrived = False
        """Entries of others were queued since somebody looked: unread counts may have changed."""

    @property
    def is_stalled(self) -> bool:
        """Whether writing has stopped for want of acks."""
        return self._stalled

    def start(self, seq: int, head_seq: int, now: float) -> None:
        """The route is known: read from ``seq`` on, tell when ``head_seq`` is reached."""
        self.window.start(seq, head_seq, now)
        self._live = True
        self._caught_up_target = head_seq
        self._read()

    def stop(self) -> None:
        """Queue nothing more."""
        self._live = False

    def offer(self, item: Item, now: float) -> None:
        """An entry from the live path: queued, kept, or only remembered."""
        window = self.window
        if item.timeline_seq <= window.queued_seq:
            return
        if self._live and not self._stalled:
            if window.queue(item, now):
                self._queued(item)
                if window.early_entries:
                    self._drain_early(now)
                if self._caught_up_target is not None:
                    self._tell_caught_up()
                return
            if item.timeline_seq > window.queued_seq + 1 and window.keep_early(item):
                self._wait_for_hole()
        window.note_head(item.timeline_seq, item.timeline_seq if item.notifies else 0)

    def note_head(self, seq: int, notify_seq: int = 0) -> None:
        """The timeline reaches ``seq``; the entry itself did not come along."""
        self.window.note_head(seq, notify_seq)
        if self._live and self.window.is_behind:
            self._catch_up()

    def hole_due(self) -> None:
        """The wait for a missing entry is over: read what is still missing."""
        self._waiting_for_hole = False
        if self._live and self.window.is_behind:
            self._read()

    def read_done(self, items: Sequence[Item], min_seq: int, head_seq: int, now: float) -> bool:
        """Answer to ``Read``: entries by position, and where the timeline stands.

        False: the position cannot be resumed from, because retention passed it or history was
        rewound.
        """
        self._reading = False
        if not self._live:
            return True
        window = self.window
        if min_seq > window.queued_seq + 1 or head_seq < self._read_after:
            return False
        progress = False
        for item in items:
            if item.timeline_seq <= window.queued_seq:
                continue  # came over the live path meanwhile
            if self._stalled or not window.queue(item, now):
                break
            self._queued(item)
            progress = True
        self._drain_early(now)
        told_meanwhile = window.head_seq > self._read_head
        if not told_meanwhile:
            # The store is the truth: a head that only a hint named may not exist.
            window.head_seq = max(window.queued_seq, head_seq)
            window.notify_seq = min(window.notify_seq, window.head_seq)
        self._tell_caught_up()
        if window.is_behind:
            if progress or told_meanwhile:
                self._catch_up()
            else:
                self._retry_read_at = now + READ_RETRY_SECONDS
        return True

    def read_failed(self, now: float) -> None:
        """Answer to ``Read`` when the store is away: it is asked again later."""
        self._reading = False
        self._retry_read_at = now + READ_RETRY_SECONDS

    def ack(self, up_to_seq: int, now: float) -> AckResult | None:
        """The device has stored up to ``up_to_seq``; None when that is no progress.

        Raises:
            AckBeyondSent: above what left in frames.
        """
        ack = self.window.ack(up_to_seq, now)
        if ack is None:
            return None
        self._effects.append(effects.Acked(ack))
        self._stalled = False
        if self._handed_over:
            self._effects.append(effects.PushVoid(up_to_seq))
            if up_to_seq >= self._handed_over:
                self._handed_over = 0
        if self._live and self.window.is_behind:
            self._catch_up()
        return ack

    def tick(self, now: float) -> bool:
        """Look at timeouts, about once a second. False: too slow for too long."""
        window = self.window
        if self._retry_read_at and now >= self._retry_read_at:
            self._retry_read_at = 0.0
            if window.is_behind or self._caught_up_target is not None:
                self._read()
        if not window.unacked_entries:
            return True
        silent_seconds = now - window.progress_at
        if silent_seconds > self._ack_timeout_seconds:
            if not self._stalled:
                self._stalled = True
                window.drop_early()
            owed = window.owed_to_push()
            if owed > self._handed_over:
                self._handed_over = owed
                self._effects.append(effects.PushOwed(owed))
        return silent_seconds <= self._ack_timeout_seconds * TOO_SLOW_FACTOR

    def _queued(self, item: Item) -> None:
        self._frames.add_entry(item.piece)
        if not item.own:
            self.others_arrived = True

    def _drain_early(self, now: float) -> None:
        while (item := self.window.next_early()) is not None:
            if self.window.queue(item, now):
                self._queued(item)

    def _catch_up(self) -> None:
        """Something is missing: read it, unless it may come by itself in a moment."""
        if self.window.early_entries:
            self._wait_for_hole()
        else:
            self._read()

    def _wait_for_hole(self) -> None:
        if not self._waiting_for_hole and not self._reading:
            self._waiting_for_hole = True
            self._effects.append(effects.WaitForHole())

    def _read(self) -> None:
        if self._reading or self._stalled:
            return
        window = self.window
        entries, size = window.room_to_read()
        if entries:
            self._reading = True
            self._read_head = window.head_seq
            self._read_after = window.queued_seq
            self._effects.append(effects.Read(window.queued_seq, entries, size))

    def _tell_caught_up(self) -> None:
        target = self._caught_up_target
        if target is not None and not self._reading and self.window.queued_seq >= target:
            self._frames.set_caught_up(CaughtUp(timeline_seq=target).SerializeToString())
            self._caught_up_target = None
