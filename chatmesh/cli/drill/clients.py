"""The drill's clients: pairs of SDK clients in a process of their own.

`python -m chatmesh.cli.drill.clients` is started by `run`; JSON lines go both ways:

    in   {"pairs": […], "targets": […], "rate": …}
         {"go": {}}         begin to send
         {"end": {}}        stop sending, wait for what is under way
         {"bye": {}}
    out  {"event": "ready"}
         {"event": "tick", "behind_ms": …}   ten times a second: age of the oldest missing message
         {"event": "done", "traffic": …}

Rules: what an application would see is counted: every exception of the SDK is an error, every
message that a receiver's iterator gives is checked. Messages are due at fixed times, whatever the
mesh does: a slow mesh makes no pause in the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from chatmesh.cli.bench.ledger import Ledger
from chatmesh.cli.bench.load import Orders, allow_descriptors, say
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.drill.outcome import Traffic
from chatmesh.client import Client, Disconnected
from chatmesh.runtime import engine

TICK_SECONDS: Final = 0.1
STALLED_SECONDS: Final = 60.0
"""Nothing arrived for so long after the last send: what is missing is lost."""
RHYTHM_SHARE: Final = 2
"""An interval this many times a pair's own is a gap worth keeping."""
SHORTEST_GAP_SECONDS: Final = 0.1
KEPT_ERRORS: Final = 1000


class Talk:
    """One sender, one receiver."""

    def __init__(self, plan: Mapping[str, str], targets: Sequence[str], traffic: Traffic) -> None:
        self._plan = plan
        self._targets = ",".join(targets)
        self._traffic = traffic
        self.ledger = Ledger()
        self.sent = 0
        self._due: deque[tuple[int, int]] = deque()
        """(number, when it was due) of what has not arrived, oldest first."""
        self._arrived_ns = 0
        self.rhythm_seconds = 1.0
        self._sender: Client
        self._receiver: Client
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Both connected, and one message exchanged."""
        self._sender = await stack.enter_async_context(self._client("sender"))
        self._receiver = await stack.enter_async_context(self._client("receiver"))
        for client in (self._sender, self._receiver):
            self._start(self._count_reconnects(client))
        self._start(self._receive())

    def _client(self, end: str) -> Client:
        return Client(
            self._targets, token=self._plan[f"{end}_token"], device_id="drill", start="head",
            connect_timeout_seconds=60,
        )  # fmt: skip

    def begin(self) -> None:
        """The load begins: gaps count from here."""
        self._arrived_ns = time.monotonic_ns()

    def send(self) -> None:
        """One message, now."""
        self._due.append((self.sent, time.monotonic_ns()))
        self._start(self._send(self.sent))
        self.sent += 1

    def behind_ms(self, now_ns: int) -> float:
        """Age of the oldest message that has not arrived."""
        return (now_ns - self._due[0][1]) / 1e6 if self._due else 0.0

    async def close(self) -> None:
        """No more reading; waiting sends are given up."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, number: int) -> None:
        try:
            await self._sender.send(to_user=self._plan["receiver"], text=f"{number} drill")
        except Exception as error:  # noqa: BLE001 - whatever the SDK shows is what is counted
            self._error(f"send: {type(error).__name__}: {error}")

    async def _receive(self) -> None:
        try:
            async for entry in self._receiver.entries():
                if entry.text is not None:
                    self._take(int(entry.text.split()[0]))
        except Exception as error:  # noqa: BLE001 - see above
            self._error(f"receive: {type(error).__name__}: {error}")

    async def _count_reconnects(self, client: Client) -> None:
        async for event in client.events():
            if isinstance(event, Disconnected):
                self._traffic.reconnects += 1

    def _take(self, number: int) -> None:
        now_ns = time.monotonic_ns()
        shortest = max(SHORTEST_GAP_SECONDS, RHYTHM_SHARE * self.rhythm_seconds)
        if self._arrived_ns and now_ns - self._arrived_ns > shortest * 1e9:
            self._traffic.gaps.append((self._arrived_ns, now_ns))
        self._arrived_ns = now_ns
        self.ledger.receive(number)
        while self._due and self._due[0][0] < self.ledger.expected:
            self._due.popleft()

    def _error(self, text: str) -> None:
        if len(self._traffic.errors) < KEPT_ERRORS:
            self._traffic.errors.append(text)


class Drill:
    """All pairs."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.traffic = Traffic()
        self.talks = []
        targets = list(order["targets"])
        for number, plan in enumerate(order["pairs"]):
            turned = targets[number % len(targets) :] + targets[: number % len(targets)]
            self.talks.append(Talk(plan, turned, self.traffic))
        self._rate = float(order["rate"])
        for talk in self.talks:
            talk.rhythm_seconds = len(self.talks) / self._rate
        self._first = 0

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Every pair has exchanged a message, which made its accounts and conversation."""
        for talk in self.talks:
            await talk.open(stack)
        for talk in self.talks:
            talk.send()
        await self._settle()
        self._first = sum(talk.sent for talk in self.talks)

    async def load(self, orders: Orders) -> None:
        """Send at the rate until told to end, then wait for what is under way."""
        begin_ns = time.monotonic_ns()
        due = 0
        for talk in self.talks:
            talk.begin()

        def send_due() -> None:
            nonlocal due
            wanted = int((time.monotonic_ns() - begin_ns) / 1e9 * self._rate)
            while due < wanted:
                self.talks[due % len(self.talks)].send()
                due += 1

        sending = Pacer(max(0.001, 1 / self._rate), send_due)
        ticking = Pacer(TICK_SECONDS, self._tick)
        try:
            await orders.next()
            sending.stop()
            await self._settle()
        finally:
            sending.stop()
            ticking.stop()

    def totals(self) -> Traffic:
        """Everything counted; call at the end."""
        traffic = self.traffic
        traffic.sent = sum(talk.sent for talk in self.talks) - self._first
        for talk in self.talks:
            traffic.lost += talk.ledger.lost(talk.sent)
            traffic.duplicated += talk.ledger.duplicated
            traffic.out_of_order += talk.ledger.out_of_order
        return traffic

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        say(event="tick", behind_ms=max(talk.behind_ms(now_ns) for talk in self.talks))

    async def _settle(self) -> None:
        """Until all has arrived, or nothing has for STALLED_SECONDS."""
        seen, moved_at = -1, time.monotonic()
        while any(talk.ledger.lost(talk.sent) for talk in self.talks):
            arrived = sum(talk.ledger.delivered for talk in self.talks)
            if arrived != seen:
                seen, moved_at = arrived, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                return
            await asyncio.sleep(0.05)


async def main() -> int:
    """Talk with `run`; exit code 0 when a result was given."""
    orders = Orders()
    await orders.open()
    drill = Drill(await orders.next())
    async with contextlib.AsyncExitStack() as stack:
        try:
            await drill.open(stack)
        except Exception as error:  # noqa: BLE001 - told; there is no drill without clients
            say(event="failed", what=f"clients cannot connect: {error}", impossible=False)
            return 1
        say(event="ready")
        await orders.next()
        await drill.load(orders)
        say(event="done", traffic=asdict(drill.totals()))
        await orders.next()
        for talk in drill.talks:
            await talk.close()
    return 0


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
