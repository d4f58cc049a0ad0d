"""A chat node in forty lines of rules, without I/O: what the session machine is tested against.

It keeps the promises that the SDK may count on (contiguous timeline, once per key, cursor checked
by id) and checks the ones that the SDK owes (hello first, acks within what was sent, limits).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Entry, Event, Limits, OutgoingMessage, Problem

LIMITS = Limits(
    max_content_bytes=65536,
    max_send_batch=5,
    max_sends_in_flight=8,
    window_entries=16,
    window_bytes=1 << 18,
    frames_per_second=200,
    frames_burst=400,
    max_frame_bytes=1 << 16,
    idle_timeout_seconds=20,
    ack_timeout_seconds=10,
)


@dataclass
class Node:
    """The durable side: one account's timeline and its keys."""

    timeline: list[Event] = field(default_factory=list)
    answers: dict[bytes, pb.SendResult] = field(default_factory=dict)
    first_seen: list[bytes] = field(default_factory=list)
    """Keys in the order in which they first arrived."""
    next_id: int = 1
    user: str = "alice"

    def append(self, key: bytes = b"") -> Entry:
        """Commit an event into the timeline."""
        event = Event(
            conversation_id=7,
            conversation_seq=len(self.timeline) + 1,
            message_no=len(self.timeline) + 1,
            message_id=self.next_id,
            idempotency_key=key,
        )
        self.next_id += 1
        self.timeline.append(event)
        return Entry(timeline_seq=len(self.timeline), event=event)

    def commit(self, message: OutgoingMessage) -> pb.SendResult:
        """Once per key."""
        key = message.idempotency_key
        if key in self.answers:
            again = pb.SendResult()
            again.CopyFrom(self.answers[key])
            again.repeated = True
            return again
        entry = self.append(key)
        result = pb.SendResult(
            idempotency_key=key,
            message_id=entry.event.message_id,
            conversation_id=7,
            conversation_seq=entry.event.conversation_seq,
            message_no=entry.event.message_no,
            timeline_seq=entry.timeline_seq,
        )
        self.answers[key] = result
        return result


@dataclass
class Stream:
    """One session on the node: takes client frames, holds server frames until they are fetched."""

    node: Node
    out: list[pb.ServerFrame] = field(default_factory=list)
    greeted: bool = False
    half_closed: bool = False
    closed: bool = False
    written: int = 0
    acked: int = 0
    frames: int = 0

    def take(
        self, frame: pb.ClientFrame, refuse: frozenset[bytes], later: frozenset[bytes]
    ) -> None:
        """One client frame. `refuse` and `later`: keys that get such an answer."""
        assert not self.half_closed, "a frame after half-close"
        assert frame.ByteSize() <= LIMITS.max_frame_bytes
        self.frames += 1
        kind = frame.WhichOneof("kind")
        assert (kind == "hello") is not self.greeted, "hello comes first, and once"
        if kind == "hello":
            self._hello(frame.hello)
        elif kind == "send":
            self._send(frame.send, refuse, later)
        elif kind == "ack":
            seq = frame.ack.up_to_timeline_seq
            assert self.acked < seq <= self.written, f"ack {seq} of {self.acked}..{self.written}"
            self.acked = seq
        elif kind == "ping":
            self.out.append(pb.ServerFrame(pong=[pb.Pong(nonce=frame.ping.nonce)]))

    def _hello(self, hello: pb.Hello) -> None:
        self.greeted = True
        start = 0
        if hello.HasField("cursor"):
            start, seen_id = hello.cursor.timeline_seq, hello.cursor.message_id
            head = len(self.node.timeline)
            if start > head or (
                seen_id and start and self.node.timeline[start - 1].message_id != seen_id
            ):
                self.close(pb.Closed.REASON_CURSOR_INVALID, pb.Closed.RECONNECT_NEVER)
                return
        elif hello.start == pb.Hello.START_HEAD:
            start = len(self.node.timeline)
        self.written = self.acked = start
        self.out.append(
            pb.ServerFrame(
                welcome=[
                    pb.Welcome(
                        user_id=self.node.user,
                        device_id=hello.device_id or "made-1",
                        start_timeline_seq=start,
                        head_timeline_seq=len(self.node.timeline),
                        limits=LIMITS,
                    )
                ]
            )
        )

    def _send(self, send: pb.Send, refuse: frozenset[bytes], later: frozenset[bytes]) -> None:
        assert 1 <= len(send.messages) <= LIMITS.max_send_batch
        frame = pb.ServerFrame()
        stopped = False
        for message in send.messages:
            key = message.idempotency_key
            if key in later:
                problem = Problem(code=8, reason="OUTBOX_FULL", retry_after_ms=100)
                frame.send_results.add(idempotency_key=key, problem=problem)
                continue
            if key not in self.node.first_seen:
                self.node.first_seen.append(key)
            if stopped or key in refuse:
                reason = "PREVIOUS_REFUSED" if stopped else "NOT_REACHABLE"
                frame.send_results.add(idempotency_key=key, problem=Problem(code=5, reason=reason))
                stopped = send.stop_on_error
            else:
                frame.send_results.append(self.node.commit(message))
        self.out.append(frame)

    def write_entries(self, most: int) -> None:
        """Write what follows, within the window."""
        room = min(most, LIMITS.window_entries - (self.written - self.acked))
        events = self.node.timeline[self.written : self.written + max(0, room)]
        if not events or not self.greeted or self.closed:
            return
        frame = pb.ServerFrame()
        for event in events:
            self.written += 1
            frame.entries.add(timeline_seq=self.written, event=event)
        self.out.append(frame)

    def close(
        self, reason: pb.Closed.Reason.ValueType, reconnect: pb.Closed.Reconnect.ValueType
    ) -> None:
        """The last frame."""
        self.closed = True
        self.out.append(pb.ServerFrame(closed=[pb.Closed(reason=reason, reconnect=reconnect)]))
