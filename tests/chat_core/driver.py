"""Drives a session machine as its node and its client would, on a clock made of numbers."""

from dataclasses import replace
from typing import TypeVar

from chat_svc.core import effects
from chat_svc.core.effects import Effect
from chat_svc.core.limits import Limits
from chat_svc.core.session import SessionMachine, State
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.session_pb2 import ClientFrame, ServerFrame
from tests.chat_core.builders import WALL_MS, item, parsed

EffectT = TypeVar("EffectT", bound=Effect)


class Driver:
    """One session with the positions of its account's timeline."""

    def __init__(self, limits: Limits | None = None, *, head: int = 0, **changes: int) -> None:
        self.limits = replace(limits or Limits(), **changes)
        self.now = 100.0
        self.machine = SessionMachine(self.limits, self.now)
        self.head = head
        self.min_seq = 1
        self.received: list[int] = []
        self.frames: list[ServerFrame] = []

    # -- the client

    def say(self, **kind: object) -> None:
        self.machine.on_frame(ClientFrame(**kind), self.now, WALL_MS)  # type: ignore[arg-type]

    def open(self, start: int = 0, **hello: object) -> pb.Welcome:
        """hello, and the node's answer, up to the first read."""
        self.say(hello=pb.Hello(device_id="d1", **hello))  # type: ignore[arg-type]
        self.one(effects.Open)
        welcome = pb.Welcome(
            user_id="bob", device_id="d1", head_timeline_seq=self.head, start_timeline_seq=start,
            min_timeline_seq=self.min_seq, account_version=3, unread=2, mentions=1,
        )  # fmt: skip
        self.machine.opened(welcome, self.now)
        return welcome

    def go_live(self, start: int = 0) -> None:
        """Opened, read to the head, everything written."""
        self.open(start)
        self.serve_reads()
        self.drain()
        assert self.machine.state is State.LIVE

    def ack(self, seq: int) -> None:
        self.say(ack=pb.Ack(up_to_timeline_seq=seq))

    def drain(self) -> list[ServerFrame]:
        """Write everything; what the client got."""
        got = []
        while self.machine.frames:
            frame = parsed(self.machine.take_frame())
            self.received += [entry.timeline_seq for entry in frame.entries]
            got.append(frame)
        self.frames += got
        return got

    def closed(self) -> pb.Closed:
        """The last frame."""
        self.drain()
        assert self.machine.state is State.CLOSED
        return self.frames[-1].closed[0]

    # -- the node

    def take(self, kind: type[EffectT]) -> list[EffectT]:
        """Effects of one kind, taken out."""
        found: list[EffectT] = [
            effect for effect in self.machine.effects if isinstance(effect, kind)
        ]
        self.machine.effects[:] = [
            effect for effect in self.machine.effects if not isinstance(effect, kind)
        ]
        return found

    def one(self, kind: type[EffectT]) -> EffectT:
        (found,) = self.take(kind)
        return found

    def offer(self, seq: int, *, own: bool = False, size: int = 20) -> None:
        self.head = max(self.head, seq)
        self.machine.offer(item(seq, size, own=own), self.now)

    def answer(self, read: effects.Read) -> None:
        rows = [
            item(seq)
            for seq in range(
                max(read.after_seq + 1, self.min_seq),
                min(self.head, read.after_seq + read.max_entries) + 1,
            )
        ]
        self.machine.read_done(rows, self.min_seq, self.head, self.now)

    def serve_reads(self) -> int:
        """Answer reads until none is wanted; how many there were."""
        count = 0
        while reads := self.take(effects.Read):
            for read in reads:
                self.answer(read)
                count += 1
        return count

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now, WALL_MS)
