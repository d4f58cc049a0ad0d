"""The load process of `bench resume`: devices that come back all at once, far behind.

`python -m chatmesh.cli.bench.resume_load` is started by the command; see `answering`:

    in   {"devices": […], "writers": […], "size_bytes": …, "run": …}
         {"do": "visit"}                             all seen once, live, and gone again
         {"do": "write", "groups": […], "count": …}  each group's writer sends so many messages
         {"do": "resume", "count": …}                all come back at once; each expects so many

A device belongs to the group of its number modulo the number of groups. It says its cursor, as a
client does that has stored what it acked. It is caught up when the server says so and it has every
message of its group, once, whole and in order.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from chatmesh.cli.bench.answering import Crew, serve
from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.ledger import Ledger
from chatmesh.cli.bench.load import CONNECTING_AT_ONCE, STALLED_SECONDS, say
from chatmesh.cli.bench.pair import FrameBudget
from chatmesh.cli.bench.payload import KeySource, PairBodies, SendFrames
from chatmesh.cli.bench.plan import DevicePlan, ImpossibleLoad
from chatmesh.v1 import session_pb2, types_pb2

ACK_SECONDS: Final = 0.1
RESUME_SECONDS: Final = 600.0
"""How long a device may take until it is caught up."""
WRITE_FRAME: Final = 20
"""Messages in one frame of a writer."""
SAY_SECONDS: Final = 0.25


class Writer(Device):
    """Writes one group's messages, with few of them under way."""

    def __init__(self, plan: DevicePlan, number: int, order: Mapping[str, Any], crew: Crew) -> None:
        super().__init__(plan, crew.fail)
        self.bodies = PairBodies(int(order["run"]), number, int(order["size_bytes"]))
        self.sent = 0
        self._keys = KeySource()
        self._budget = FrameBudget()
        self._unanswered: deque[bytes] = deque()

    def pump(self, frames: SendFrames, count: int) -> bool:
        """Send more when the last frame was answered; whether all was."""
        if self._unanswered or self.sent >= count:
            return not self._unanswered and self.sent >= count
        if not self._budget.take(self.limits):
            return False
        now_ms = time.time_ns() // 1_000_000 + self.clock_ahead_ms
        messages = []
        for _ in range(min(WRITE_FRAME, self.limits.max_send_batch, count - self.sent)):
            key = self._keys.next(now_ms)
            messages.append(frames.message(key, self.bodies.make(self.sent, time.monotonic_ns())))
            self._unanswered.append(key)
            self.sent += 1
        self.write(frames.frame(messages))
        return False

    def on_results(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Accepted, in order."""
        for result in results:
            if result.HasField("problem"):
                problem = result.problem
                self.fail(f"had a message refused: {problem.reason}: {problem.message}")
                return
            if not self._unanswered or self._unanswered.popleft() != result.idempotency_key:
                self.fail("was answered out of order, or twice, or for a foreign key")
                return


class Returning(Device):
    """A device that comes back with its cursor."""

    open_seconds = RESUME_SECONDS

    def __init__(
        self, plan: DevicePlan, crew: Crew, bodies: PairBodies, seen: types_pb2.Cursor | None
    ) -> None:
        super().__init__(plan, crew.fail)
        self.ledger = Ledger()
        self.message_id = 0 if seen is None else seen.message_id
        self.all_here = asyncio.Event()
        """Every message that is expected came."""
        self.expected = 0
        self._bodies = bodies
        self._seen = seen

    def hello(self) -> session_pb2.Hello:
        """With what it has stored."""
        hello = super().hello()
        if self._seen is not None:
            hello.cursor.CopyFrom(self._seen)
        return hello

    @property
    def cursor(self) -> types_pb2.Cursor:
        """What it has stored and acked."""
        return types_pb2.Cursor(timeline_seq=self.acked_seq, message_id=self.message_id)

    def on_event(self, event: types_pb2.Event) -> None:
        """Its group's messages are checked; others are the mesh's own."""
        self.message_id = event.message_id
        content = event.content
        if content.HasField("text"):
            body = content.text.body
        elif content.HasField("data"):
            body = content.data.body.decode("ascii", "replace")
        else:
            return
        stamp = self._bodies.read(body)
        if stamp is None:
            self.fail("got a message that was not sent to it, or not so")
        elif self.ledger.receive(stamp.number) and self.ledger.delivered >= self.expected:
            self.all_here.set()


class ResumeWork:
    """All devices and writers."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._order = order
        self._crew = Crew(None)
        self._plans = [DevicePlan(**one) for one in order["devices"]]
        self._writers = [
            Writer(DevicePlan(**one), number, order, self._crew)
            for number, one in enumerate(order["writers"])
        ]
        self._cursors: list[types_pb2.Cursor] = []
        self._back: list[Returning] = []

    async def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Visit, write or resume."""
        match order["do"]:
            case "visit":
                return await self._visit()
            case "write":
                return await self._write(list(order["groups"]), int(order["count"]))
        return await self._resume(int(order["count"]))

    async def leave(self) -> None:
        """End all sessions."""
        await self._crew.leave()

    # -- orders --------------------------------------------------------------------------------

    async def _visit(self) -> dict[str, Any]:
        """Seen once: the mesh knows the devices, and they have stored all there is."""
        await self._crew.open(self._writers, CONNECTING_AT_ONCE)
        largest = self._writers[0].limits.max_content_bytes
        if int(self._order["size_bytes"]) > largest:
            raise ImpossibleLoad(
                f"--size {self._order['size_bytes']}: this mesh takes at most {largest} bytes "
                "(CHATMESH_LIMIT_MAX_CONTENT_BYTES)"
            )
        self._crew.keep_alive(ACK_SECONDS)
        for start in range(0, len(self._plans), 10 * CONNECTING_AT_ONCE):
            some = self._devices(start, min(start + 10 * CONNECTING_AT_ONCE, len(self._plans)))
            await self._crew.open(some, CONNECTING_AT_ONCE)
            await self._crew.close(some)
            self._cursors += [device.cursor for device in some]
            del self._crew.devices[len(self._writers) :]
            say(event="tick", delivered=0)
        return {"seen": len(self._cursors)}

    async def _write(self, groups: list[int], count: int) -> dict[str, Any]:
        frames = [SendFrames(group, int(self._order["size_bytes"])) for group in groups]
        moved_at, seen = time.monotonic(), -1
        while True:
            done = [
                writer.pump(frames[number], count) for number, writer in enumerate(self._writers)
            ]
            if all(done):
                return {"written": sum(writer.sent for writer in self._writers)}
            now, sent = time.monotonic(), sum(writer.sent for writer in self._writers)
            if sent != seen:
                moved_at, seen = now, sent
            elif now - moved_at > STALLED_SECONDS:
                raise DeviceFailed(f"the groups' messages are not taken: {sent} so far")
            await self._crew.sleep(0.005)

    async def _resume(self, count: int) -> dict[str, Any]:
        self._back = self._devices(0, len(self._plans))
        for device in self._back:
            device.expected = count
        histogram = Histogram()
        began_ns = time.monotonic_ns()

        async def come_back(device: Returning) -> None:
            await self._crew.open([device], 1)
            await device.all_here.wait()
            histogram.record(time.monotonic_ns() - began_ns)

        returning = asyncio.ensure_future(self._all_back(come_back))
        try:
            await self._until_all(returning)
        finally:
            returning.cancel()
        if not returning.cancelled() and returning.done():
            returning.result()
        await self._crew.sleep(ACK_SECONDS * 3)  # an entry too many would come now
        return {
            "seconds": histogram.max_ns / 1e9,
            "caught_up": histogram.count,
            "lost": sum(device.ledger.lost(count) for device in self._back),
            "duplicated": sum(one.duplicated + one.ledger.duplicated for one in self._back),
            "out_of_order": sum(one.out_of_order + one.ledger.out_of_order for one in self._back),
            "entries": sum(device.entries for device in self._back),
            "histogram": histogram.to_json(),
        }

    async def _all_back(self, come_back: Any) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for device in self._back:
                    group.create_task(come_back(device))
        except* (DeviceFailed, OSError) as errors:
            raise errors.exceptions[0] from None

    async def _until_all(self, returning: asyncio.Future[None]) -> None:
        """Until all are back, one fails, or nothing has moved for STALLED_SECONDS."""
        moved_at, seen = time.monotonic(), -1
        while not returning.done():
            now, entries = time.monotonic(), sum(device.entries for device in self._back)
            if entries != seen:
                moved_at, seen = now, entries
            elif now - moved_at > max(STALLED_SECONDS, 1.0):
                return  # what is missing counts as lost
            say(event="tick", delivered=entries)
            await asyncio.wait((returning, self._crew.failure), timeout=SAY_SECONDS,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            await self._crew.sleep(0)

    def _devices(self, start: int, end: int) -> list[Returning]:
        return [
            Returning(
                self._plans[number],
                self._crew,
                self._writers[number % len(self._writers)].bodies,
                self._cursors[number] if self._cursors[number : number + 1] else None,
            )
            for number in range(start, end)
        ]


if __name__ == "__main__":
    sys.exit(serve(ResumeWork))
