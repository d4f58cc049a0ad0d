"""The load process of `bench groups`: every member of one group, each delivery checked.

`python -m chatmesh.cli.bench.groups_load` is started by the command; see `answering`:

    in   {"devices": […], "senders": …, "window": …, "size_bytes": …, "ack_ms": …, "run": …}
         {"do": "open"}                          all members live
         {"do": "meet", "conversation_id": …}    each sender's first message reaches everybody
         {"do": "load", "start_ns": …, "measure_ns": …, "end_ns": …}

A message is delivered when a member's device had it: once, whole, in its sender's order and in the
group's. It is done when all had it; a sender keeps `window` messages that are not done.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from chatmesh.cli.bench.answering import Crew, serve
from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.ledger import Ledger
from chatmesh.cli.bench.load import CONNECTING_AT_ONCE, STALLED_SECONDS, TICK_SECONDS, say
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.pair import FrameBudget, Period
from chatmesh.cli.bench.payload import KeySource, PairBodies, SendFrames
from chatmesh.cli.bench.plan import DevicePlan, ImpossibleLoad
from chatmesh.v1 import session_pb2, types_pb2

FRAME_RETRY_SECONDS: Final = 0.005


class Member(Device):
    """A device of one member. `on_message` gets what others wrote, `on_echo` what it wrote."""

    def __init__(self, plan: DevicePlan, crew: Crew, group: Group) -> None:
        super().__init__(plan, crew.fail)
        self._group = group
        self.ledgers: dict[str, Ledger] = {}
        """By sender."""
        self.sender: Sender | None = None
        """What this member sends, if it does."""
        self._conversation_seq = 0

    def on_event(self, event: types_pb2.Event) -> None:
        """Checked, whoever wrote it."""
        group = self._group
        if event.conversation_id != group.conversation_id:
            return  # made before we know the group's id: that it was made
        if self._conversation_seq and event.conversation_seq != self._conversation_seq + 1:
            self.out_of_order += 1
        self._conversation_seq = event.conversation_seq
        writer = group.senders.get(event.sender_user_id)
        if event.idempotency_key and self.sender is not None:
            self.sender.echoes += 1
        elif writer is not None and event.content.HasField("text"):
            self._take(writer, event.content.text.body)
        elif writer is not None and event.content.HasField("data"):
            self._take(writer, event.content.data.body.decode("ascii", "replace"))

    def _take(self, writer: Sender, body: str) -> None:
        stamp = writer.bodies.read(body)
        if stamp is None:
            self.fail("got a message that was not sent so")
            return
        ledger = self.ledgers.setdefault(writer.name, Ledger())
        if ledger.receive(stamp.number):
            self._group.delivered(writer, stamp.number, stamp.intended_ns)

    def on_results(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Each key once, in order, accepted."""
        if self.sender is None:
            self.fail("was answered though it sent nothing")
            return
        self.sender.answered(results)

    def after_frame(self) -> None:
        """What was done makes room in windows."""
        self._group.refill()


class Sender:
    """What one member sends, and who has not got it yet."""

    def __init__(self, member: Member, number: int, run: int, size_bytes: int) -> None:
        self.name = member.plan.user
        self.bodies = PairBodies(run, number, size_bytes)
        self.sent = 0
        self.done = 0
        self.echoes = 0
        self.has: dict[int, int] = {}
        """Message not done → members that have it."""
        self._member = member
        self._keys = KeySource()
        self._budget = FrameBudget()
        self._unanswered: deque[bytes] = deque()

    def fill(self, window: int, frames: SendFrames) -> None:
        """Send what the window and the session's limits allow, in one frame."""
        limits = self._member.limits
        room = min(
            window - (self.sent - self.done),
            limits.max_send_batch,
            limits.max_sends_in_flight - len(self._unanswered),
        )
        if room <= 0 or not self._budget.take(limits):
            return
        now_ms = time.time_ns() // 1_000_000 + self._member.clock_ahead_ms
        now_ns = time.monotonic_ns()
        messages = []
        for _ in range(room):
            key = self._keys.next(now_ms)
            messages.append(frames.message(key, self.bodies.make(self.sent, now_ns)))
            self._unanswered.append(key)
            self.sent += 1
        self._member.write(frames.frame(messages))

    def answered(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Results of sends."""
        for result in results:
            if result.HasField("problem"):
                problem = result.problem
                self._member.fail(f"had a message refused: {problem.reason}: {problem.message}")
                return
            if not self._unanswered or self._unanswered.popleft() != result.idempotency_key:
                self._member.fail("was answered out of order, or twice, or for a foreign key")
                return

    @property
    def is_settled(self) -> bool:
        """Whether all it sent was answered, delivered to all, and seen by itself."""
        return self.done >= self.sent and not self._unanswered and self.echoes >= self.sent


class Group:
    """All members."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.conversation_id = 0
        self.histogram = Histogram()
        self.senders: dict[str, Sender] = {}
        self._window = int(order["window"])
        self._size_bytes = int(order["size_bytes"])
        self._ack_seconds = int(order["ack_ms"]) / 1000
        self._crew = Crew(None)
        self._period = Period()
        self._frames = SendFrames(0, self._size_bytes)
        self._pacer: Pacer | None = None
        self._room: set[Sender] = set()
        self.members = [Member(DevicePlan(**one), self._crew, self) for one in order["devices"]]
        for number, member in enumerate(self.members[: int(order["senders"])]):
            member.sender = Sender(member, number, int(order["run"]), self._size_bytes)
            self.senders[member.plan.user] = member.sender

    async def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Open, meet or load."""
        match order["do"]:
            case "open":
                await self._crew.open(self.members, CONNECTING_AT_ONCE)
                self._crew.keep_alive(self._ack_seconds)
                return self._checked_limits()
            case "meet":
                return await self._meet(int(order["conversation_id"]))
        return await self._load(
            int(order["start_ns"]), int(order["measure_ns"]), int(order["end_ns"])
        )

    async def leave(self) -> None:
        """End all sessions."""
        if self._pacer is not None:
            self._pacer.stop()
        await self._crew.leave()

    # -- what comes ----------------------------------------------------------------------------

    def delivered(self, sender: Sender, number: int, intended_ns: int) -> None:
        """One member has one message."""
        now_ns = time.monotonic_ns()
        period = self._period
        if period.measure_ns <= now_ns < period.end_ns:
            self.histogram.record(now_ns - intended_ns)
            period.delivered += 1
        have = sender.has.get(number, 0) + 1
        if have < len(self.members) - 1:
            sender.has[number] = have
            return
        sender.has.pop(number, None)
        sender.done += 1
        self._room.add(sender)

    def refill(self) -> None:
        """Windows that have room are filled while the load is on."""
        if self._room:
            some, self._room = self._room, set()
            if self._period.is_open:
                for sender in some:
                    sender.fill(self._window, self._frames)

    # -- orders --------------------------------------------------------------------------------

    def _checked_limits(self) -> dict[str, Any]:
        limits = self.members[0].limits
        if self._size_bytes > limits.max_content_bytes:
            raise ImpossibleLoad(
                f"--size {self._size_bytes}: this mesh takes at most {limits.max_content_bytes} "
                "bytes (CHATMESH_LIMIT_MAX_CONTENT_BYTES)"
            )
        if self._window > limits.max_sends_in_flight:
            raise ImpossibleLoad(
                f"--window {self._window}: this mesh lets a session have at most "
                f"{limits.max_sends_in_flight} sends open (CHATMESH_LIMIT_MAX_SENDS_IN_FLIGHT)"
            )
        return {"limits": {field.name: value for field, value in limits.ListFields()}}

    async def _meet(self, conversation_id: int) -> dict[str, Any]:
        self.conversation_id = conversation_id
        self._frames = SendFrames(conversation_id, self._size_bytes)
        for sender in self.senders.values():
            sender.fill(1, self._frames)
        if not await self._settled():
            raise DeviceFailed(
                f"the group's first messages did not reach everybody: nothing moved for "
                f"{STALLED_SECONDS:g} s"
            )
        self._pacer = Pacer(FRAME_RETRY_SECONDS, self._try_all)
        return {}

    async def _load(self, start_ns: int, measure_ns: int, end_ns: int) -> dict[str, Any]:
        self._period.measure_ns, self._period.end_ns = measure_ns, end_ns
        await self._crew.sleep((start_ns - time.monotonic_ns()) / 1e9)
        self._period.is_open = True
        self._try_all()
        while (left_ns := end_ns - time.monotonic_ns()) > 0:
            await self._crew.sleep(min(TICK_SECONDS, left_ns / 1e9))
            say(event="tick", delivered=self._deliveries())
        self._period.is_open = False
        await self._settled()
        return {
            "totals": asdict(self.totals()),
            "messages": sum(sender.sent for sender in self.senders.values()),
            "histogram": self.histogram.to_json(),
        }

    def _try_all(self) -> None:
        """Also those whom frames a second had stopped."""
        if self._period.is_open:
            for sender in self.senders.values():
                sender.fill(self._window, self._frames)

    async def _settled(self) -> bool:
        """Wait until all is done; False when nothing has moved for STALLED_SECONDS."""
        moved_at, seen = time.monotonic(), -1
        while not all(sender.is_settled for sender in self.senders.values()):
            now, entries = time.monotonic(), sum(one.entries for one in self.members)
            if entries != seen:
                moved_at, seen = now, entries
            elif now - moved_at > STALLED_SECONDS:
                return False
            await self._crew.sleep(0.02)
        return True

    def _deliveries(self) -> int:
        return sum(one.delivered for member in self.members for one in member.ledgers.values())

    def totals(self) -> Totals:
        """What every member has of every sender, and what must not be."""
        totals = Totals(delivered=self._period.delivered, delivered_in_all=self._deliveries())
        for sender in self.senders.values():
            totals.sent += sender.sent * (len(self.members) - 1)
            totals.lost += max(0, sender.sent - sender.echoes)
            totals.duplicated += max(0, sender.echoes - sender.sent)
        for member in self.members:
            totals.duplicated += member.duplicated
            totals.out_of_order += member.out_of_order
            for name, sender in self.senders.items():
                if name == member.plan.user:
                    continue
                ledger = member.ledgers.get(name) or Ledger()
                totals.lost += ledger.lost(sender.sent)
                totals.duplicated += ledger.duplicated
                totals.out_of_order += ledger.out_of_order
        return totals


if __name__ == "__main__":
    sys.exit(serve(Group))
