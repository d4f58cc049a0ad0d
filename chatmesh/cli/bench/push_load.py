"""The load process of `bench push`: senders, and users of whom no device is online.

`python -m chatmesh.cli.bench.push_load` is started by the command; JSON lines go both ways:

    in   {"away": {users, rate}, "size_bytes": …, "run": …, "ca": …, "senders": […], "users": […]}
         {"go": {start_ns, measure_ns, end_ns}}
         {"bye": {}}
    out  {"event": "ready"}                       every user has a token, every sender a session
         {"event": "tick", "delivered": …}        messages accepted so far
         {"event": "done", "accepted": [[message id, Unix ms], …]}
         {"event": "failed", "what": …}

Every message goes to the next user at its intended time, whatever came of the ones before.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from chatmesh.cli.bench import push_tokens
from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.load import CONNECTING_AT_ONCE, Orders, allow_descriptors, say
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.payload import KeySource, PairBodies, SendFrames
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.runtime import engine
from chatmesh.v1 import session_pb2

TICK_SECONDS: Final = 0.25
ANSWER_SECONDS: Final = 30
"""Messages that are not answered so long after the last one was sent end the run."""


class Caller(Device):
    """A sender; its messages go to users who are away."""

    def __init__(self, plan: DevicePlan, on_failure: Callable[[str], None]) -> None:
        super().__init__(plan, on_failure)
        self.accepted: list[tuple[int, int]] = []
        """(message id, Unix ms of its answer)."""
        self._keys = KeySource()
        self._wanted: deque[tuple[SendFrames, bytes]] = deque()
        self._unanswered = 0

    @property
    def is_settled(self) -> bool:
        """Whether all that was wanted is answered."""
        return not self._wanted and not self._unanswered

    def want(self, frames: SendFrames, body: bytes) -> None:
        """Queue one message; `pump` sends."""
        self._wanted.append((frames, body))

    def pump(self) -> None:
        """Send what waits, as far as the session's limits go."""
        room = min(
            len(self._wanted),
            self.limits.max_send_batch,
            self.limits.max_sends_in_flight - self._unanswered,
        )
        if room <= 0:
            return
        now_ms = time.time_ns() // 1_000_000 + self.clock_ahead_ms
        waiting = [self._wanted.popleft() for _ in range(room)]
        messages = [frames.message(self._keys.next(now_ms), body) for frames, body in waiting]
        self._unanswered += room
        self.write(SendFrames.frame(messages))

    def on_results(self, results: Iterable[session_pb2.SendResult]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for result in results:
            self._unanswered -= 1
            if result.HasField("problem"):
                self.fail(f"had a message refused: {result.problem.reason}")
                return
            self.accepted.append((result.message_id, now_ms))
        self.pump()


class AwayRun:
    """All senders and users of the process."""

    def __init__(self, order: dict[str, Any], tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._rate = float(order["away"]["rate"])
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.callers = [Caller(DevicePlan(**one), self._fail) for one in order["senders"]]
        self._users = [DevicePlan(**one) for one in order["users"]]
        size = int(order["size_bytes"])
        self._frames = [SendFrames(user.user, size) for user in self._users]
        self._bodies = PairBodies(int(order["run"]), 0, size)
        self._sent = 0
        self._pacers: list[Pacer] = []

    def _fail(self, what: str) -> None:
        if not self._failure.done():
            self._failure.set_result(what)

    async def connect(self) -> None:
        """Make all users' devices and open the senders' sessions. Raises DeviceFailed."""
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def make(plan: DevicePlan) -> None:
            async with gate:
                await push_tokens.make_away(plan, self._tls, self._fail)

        try:
            async with asyncio.TaskGroup() as group:
                for user in self._users:
                    group.create_task(make(user))
                for caller in self.callers:
                    group.create_task(caller.open(self._tls))
        except* (DeviceFailed, OSError) as errors:
            raise errors.exceptions[0] from None
        self._pacers.append(Pacer(1.0, self._keep_alive))

    async def measure(self, start_ns: int, measure_ns: int, end_ns: int) -> None:
        """Send at the intended times until the end, then wait for all answers."""
        step_ns = 1e9 / self._rate

        def due() -> None:
            now_ns = time.monotonic_ns()
            while (intended := start_ns + int(self._sent * step_ns)) <= now_ns < end_ns:
                caller = self.callers[self._sent % len(self.callers)]
                body = self._bodies.make(self._sent, intended)
                caller.want(self._frames[self._sent % len(self._frames)], body)
                self._sent += 1
            for caller in self.callers:
                caller.pump()

        self._pacers.append(Pacer(max(0.005, 1 / self._rate), due, start_ns))
        deadline_ns = end_ns + int(ANSWER_SECONDS * 1e9)
        while time.monotonic_ns() < end_ns or not all(one.is_settled for one in self.callers):
            await asyncio.wait((self._failure,), timeout=TICK_SECONDS)
            if self._failure.done():
                raise DeviceFailed(self._failure.result())
            if time.monotonic_ns() > deadline_ns:
                raise DeviceFailed(f"messages without an answer after {ANSWER_SECONDS} s")
            say(event="tick", delivered=sum(len(one.accepted) for one in self.callers))

    async def leave(self) -> None:
        """End all sessions."""
        for pacer in self._pacers:
            pacer.stop()
        for caller in self.callers:
            await caller.leave()

    def _keep_alive(self) -> None:
        for caller in self.callers:
            caller.ack()
            caller.keep_alive(time.monotonic())


async def main() -> int:
    """Talk with the command; the exit code is 0 when a result was given."""
    orders = Orders()
    await orders.open()
    order = dict(await orders.next())
    tls = ssl.create_default_context(cafile=order["ca"]) if order["ca"] else None
    run = AwayRun(order, tls)
    try:
        await run.connect()
        say(event="ready", limits={})
        go = await orders.next()
        await run.measure(**go["go"])
        say(event="done", accepted=[each for one in run.callers for each in one.accepted])
        await orders.next()
        await run.leave()
    except (DeviceFailed, OSError) as error:
        say(event="failed", what=str(error), impossible=False)
        return 1
    return 0


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
