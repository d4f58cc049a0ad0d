"""The load process against an XMPP server: the same pairs, windows and checks as ours.

`python -m benchmarks.peers.load` speaks with its parent as `chatmesh.cli.bench.load` does:

    in   {"load": …, "run": …, "host": …, "port": …, "domain": …, "password": …, "pairs": [[…, …]]}
         {"go": {start_ns, measure_ns, end_ns}}, then {"bye": {}}
    out  ready, tick, done, failed

A receiver checks that every message came once, whole and in its order.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from benchmarks.peers.xmpp import XmppFailed, XmppSession
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.ledger import Ledger
from chatmesh.cli.bench.load import (
    CONNECTING_AT_ONCE,
    PACE_LOWEST_SECONDS,
    STALLED_SECONDS,
    TICK_SECONDS,
    Orders,
    allow_descriptors,
    say,
)
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.pair import MOST_BEHIND, Period
from chatmesh.cli.bench.payload import PairBodies
from chatmesh.cli.bench.plan import Load
from chatmesh.runtime import engine

MOST_IN_FLIGHT: Final = 256
"""Undelivered messages of one pair at a rate; the same as our sessions may have open."""


class XmppPair:
    """A sender and a receiver."""

    def __init__(self, run: XmppRun, number: int, names: tuple[str, str], order: Any) -> None:
        self.ledger = Ledger()
        self.sent = 0
        self.sender, self.receiver = (
            XmppSession(name, order["password"], order["domain"]) for name in names
        )
        self.sender.on_failure = self.receiver.on_failure = run.fail
        self.receiver.on_message = self._arrived
        self.receiver.after_read = self.fill
        self.intended: deque[int] = deque()
        self._bodies = PairBodies(int(order["run"]), number, run.load.size_bytes)
        self._run = run
        self._from = f"{names[0]}@{order['domain']}"

    def pump(self) -> None:
        """Send what waits, as far as may be under way."""
        room = min(len(self.intended), MOST_IN_FLIGHT - (self.sent - self.ledger.delivered))
        if len(self.intended) > MOST_BEHIND:
            self._run.fail(f"{self.sender.user} is {MOST_BEHIND} messages behind: lower the rate")
        if room <= 0:
            return
        bodies = []
        for _ in range(room):
            bodies.append(self._bodies.make(self.sent, self.intended.popleft()).decode())
            self.sent += 1
        self.sender.send(self.receiver.user, bodies)

    def fill(self) -> None:
        """Keep the window full while the load is on."""
        run = self._run
        if run.load.window is not None and run.period.is_open:
            now_ns = time.monotonic_ns()
            missing = run.load.window - (self.sent - self.ledger.delivered)
            if missing > 0 and now_ns < run.period.end_ns:
                self.intended.extend([now_ns] * missing)
        self.pump()

    def _arrived(self, sender: str, body: str) -> None:
        stamp = self._bodies.read(body)
        if stamp is None or sender != self._from:
            self._run.fail(f"{self.receiver.user} got a message that was not sent to it, or not so")
            return
        if not self.ledger.receive(stamp.number):
            return
        now_ns, period = time.monotonic_ns(), self._run.period
        measured_at = stamp.intended_ns if self._run.load.window is None else now_ns
        if period.measure_ns <= measured_at < period.end_ns:
            self._run.histogram.record(now_ns - stamp.intended_ns)
        if period.measure_ns <= now_ns < period.end_ns:
            period.delivered += 1


class XmppRun:
    """All pairs."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.load = Load.from_json(order["load"])
        self.period = Period()
        self.histogram = Histogram()
        self._order = order
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pacer: Pacer | None = None
        self._pairs = [
            XmppPair(self, number, (names[0], names[1]), order)
            for number, names in enumerate(order["pairs"])
        ]

    def fail(self, what: str) -> None:
        """The run is void."""
        if not self._failure.done():
            self._failure.set_result(what)

    async def connect(self) -> None:
        """All live, and each pair's first message delivered. Raises XmppFailed."""
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def open_one(session: XmppSession) -> None:
            async with gate:
                await session.open(str(self._order["host"]), int(self._order["port"]))

        try:
            async with asyncio.TaskGroup() as group:
                for pair in self._pairs:
                    for session in (pair.sender, pair.receiver):
                        group.create_task(open_one(session))
        except* XmppFailed as errors:
            raise errors.exceptions[0] from None
        for pair in self._pairs:
            pair.intended.append(time.monotonic_ns())
            pair.pump()
        await self._until_delivered()
        if self._under_way():
            raise XmppFailed(f"{self._under_way()} first messages did not arrive")

    async def measure(self, start_ns: int, measure_ns: int, end_ns: int) -> Totals:
        """As of our own load."""
        self.period.measure_ns, self.period.end_ns = measure_ns, end_ns
        await self._sleep((start_ns - time.monotonic_ns()) / 1e9)
        gc.collect()
        gc.freeze()
        self.period.is_open = True
        if self.load.rate is not None:
            self._start_rate(self.load.rate, start_ns)
        for pair in self._pairs:
            pair.fill()
        while time.monotonic_ns() < end_ns:
            await self._sleep(TICK_SECONDS)
            say(event="tick", delivered=sum(pair.ledger.delivered for pair in self._pairs))
        self.period.is_open = False
        if self._pacer is not None:
            self._pacer.stop()
        await self._until_delivered()
        totals = Totals(delivered=self.period.delivered)
        for pair in self._pairs:
            totals.sent += pair.sent
            totals.delivered_in_all += pair.ledger.delivered
            totals.lost += pair.ledger.lost(pair.sent)
            totals.duplicated += pair.ledger.duplicated
            totals.out_of_order += pair.ledger.out_of_order
        return totals

    def leave(self) -> None:
        """End all sessions."""
        for pair in self._pairs:
            pair.sender.leave()
            pair.receiver.leave()

    def _start_rate(self, rate: float, start_ns: int) -> None:
        step_ns = 1e9 * self.load.pairs / (rate * len(self._pairs))
        sent = 0

        def due() -> None:
            nonlocal sent
            now_ns = min(time.monotonic_ns(), self.period.end_ns - 1)
            touched: dict[int, XmppPair] = {}
            while (intended_ns := start_ns + int(sent * step_ns)) <= now_ns:
                pair = self._pairs[sent % len(self._pairs)]
                pair.intended.append(intended_ns)
                touched[id(pair)] = pair
                sent += 1
            for pair in touched.values():
                pair.pump()

        self._pacer = Pacer(max(PACE_LOWEST_SECONDS, step_ns / 1e9), due, start_ns)

    def _under_way(self) -> int:
        return sum(len(pair.intended) + pair.sent - pair.ledger.delivered for pair in self._pairs)

    async def _until_delivered(self) -> None:
        moved_at, seen = time.monotonic(), -1
        while left := self._under_way():
            now = time.monotonic()
            if left != seen:
                moved_at, seen = now, left
            elif now - moved_at > STALLED_SECONDS:
                return
            await self._sleep(0.02)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.wait((self._failure,), timeout=max(0.0, seconds))
        if self._failure.done():
            raise XmppFailed(self._failure.result())


async def main() -> int:
    """Talk with the parent; the exit code is 0 when a result was given."""
    orders = Orders()
    await orders.open()
    run = XmppRun(await orders.next())
    try:
        await run.connect()
        say(event="ready", limits={})
        go = await orders.next()
        totals = await run.measure(**go["go"])
        say(event="done", totals=asdict(totals), histogram=run.histogram.to_json())
        await orders.next()
        run.leave()
    except (XmppFailed, OSError) as error:
        say(event="failed", what=str(error), impossible=False)
        return 1
    return 0


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
