"""The load process: its share of the pairs, run against the mesh as clients from outside.

`python -m chatmesh.cli.bench.load` is started by the command; JSON lines go both ways:

    in   {"load": …, "run": …, "ca": …, "pairs": […]}
         {"go": {start_ns, measure_ns, end_ns}}
         {"bye": {}}                              leave in order, and end
    out  {"event": "ready", "limits": …}          all sessions live, every pair has sent one
         {"event": "tick", "delivered": …}        four times a second
         {"event": "done", …}                     counts and histogram
         {"event": "failed", "what": …}           the run is void

Times are CLOCK_MONOTONIC nanoseconds, the same for all processes of a machine. The end of its
input ends the process: it never outlives the command.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.pair import Pair, Period
from chatmesh.cli.bench.plan import DevicePlan, ImpossibleLoad, Load, PairPlan, refuse_by_limits
from chatmesh.runtime import engine

CONNECTING_AT_ONCE: Final = 32
TICK_SECONDS: Final = 0.25
MAX_LINE_BYTES: Final = 256 << 20
"""20,000 pairs with their tokens come in one line."""
STALLED_SECONDS: Final = float(os.environ.get("CHATMESH_BENCH_STALLED_SECONDS", "15"))
"""Nothing delivered for so long while messages are under way: the rest counts as lost."""
PACE_LOWEST_SECONDS: Final = 0.0005
FRAME_RETRY_SECONDS: Final = 0.005
_EXPECTED_ERRORS: Final = (DeviceFailed, ImpossibleLoad, OSError)


class LoadRun:
    """All devices of one process."""

    make_pair: type[Pair] = Pair
    """What a pair is; runs that measure more have another."""

    def __init__(
        self, load: Load, run: int, plans: list[PairPlan], tls: ssl.SSLContext | None
    ) -> None:
        self._load = load
        self._tls = tls
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.period = Period()
        self.histogram = Histogram()
        self.pairs = [
            self.make_pair(plan, load, run, self.period, self.histogram, self._fail)
            for plan in plans
        ]
        self.devices: list[Device] = [
            d for pair in self.pairs for d in (pair.sender, pair.receiver)
        ]
        self._pacers: list[Pacer] = []

    def _fail(self, what: str) -> None:
        if not self._failure.done():
            self._failure.set_result(what)

    # -- phases --------------------------------------------------------------------------------

    async def connect(self) -> dict[str, int]:
        """All sessions live and every pair acquainted; the limits in force."""
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def open_one(device: Device) -> None:
            async with gate:
                await device.open(self._tls)

        try:
            async with asyncio.TaskGroup() as group:
                for device in self.devices:
                    group.create_task(open_one(device))
        except* _EXPECTED_ERRORS as errors:
            raise errors.exceptions[0] from None
        limits = {field.name: value for field, value in self.devices[0].limits.ListFields()}
        refuse_by_limits(self._load, limits)
        self._pacers = [
            Pacer(self._load.ack_ms / 1000, self._ack_all),
            Pacer(1.0, self._keep_alive),
            Pacer(FRAME_RETRY_SECONDS, self._pump_waiting),
        ]
        for pair in self.pairs:  # makes accounts, conversation and contacts: no part of the load
            pair.want(time.monotonic_ns())
        await self._until_delivered()
        waiting = sum(not pair.is_settled() for pair in self.pairs)
        if waiting:
            raise DeviceFailed(
                f"the first message of {waiting} of {len(self.pairs)} pairs did not arrive: "
                f"nothing moved for {STALLED_SECONDS:g} s"
            )
        return limits

    async def measure(self, start_ns: int, measure_ns: int, end_ns: int) -> Totals:
        """Load from start to end, count from measure to end, then wait for what is under way."""
        self.period.measure_ns, self.period.end_ns = measure_ns, end_ns
        await self._or_failure(asyncio.sleep((start_ns - time.monotonic_ns()) / 1e9))
        gc.collect()
        gc.freeze()  # what lives now lives to the end: no collection needs to look at it
        self.period.is_open = True
        if self._load.rate is not None:
            self._start_rate(self._load.rate, start_ns)
        else:
            now_ns = time.monotonic_ns()
            for pair in self.pairs:
                pair.fill_window(now_ns)
        while time.monotonic_ns() < end_ns and not self._all_sent():
            await self._or_failure(asyncio.sleep(TICK_SECONDS))
            say(event="tick", delivered=self.delivered_in_all)
        self.period.is_open = False
        await self._until_delivered()
        return self._totals()

    async def leave(self) -> None:
        """End all sessions."""
        for pacer in self._pacers:
            pacer.stop()
        for device in self.devices:
            await device.leave()

    @property
    def delivered_in_all(self) -> int:
        """Messages that arrived so far."""
        return sum(pair.ledger.delivered for pair in self.pairs)

    # -- waiting -------------------------------------------------------------------------------

    async def _or_failure(self, sleeping: Any) -> None:
        """Sleep, unless the run fails meanwhile. Raises DeviceFailed."""
        task = asyncio.ensure_future(sleeping)
        await asyncio.wait((task, self._failure), return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            task.cancel()
            raise DeviceFailed(self._failure.result())

    async def _until_delivered(self) -> None:
        """Until nothing is under way, or nothing has moved for STALLED_SECONDS."""
        moved_at, seen = time.monotonic(), -1
        while not all(pair.is_settled() for pair in self.pairs):
            now, progress = time.monotonic(), sum(device.entries for device in self.devices)
            if progress != seen:
                moved_at, seen = now, progress
            elif now - moved_at > STALLED_SECONDS:
                return
            await self._or_failure(asyncio.sleep(0.02))

    def _all_sent(self) -> bool:
        """Whether each pair has sent its number, where there is one (and the first one before)."""
        wanted = self._load.messages
        return wanted is not None and all(pair.sent > wanted for pair in self.pairs)

    # -- timers --------------------------------------------------------------------------------

    def _start_rate(self, rate: float, start_ns: int) -> None:
        share = rate * len(self.pairs) / self._load.pairs
        step_ns = 1e9 / share
        sent = 0

        def due() -> None:
            nonlocal sent
            now_ns = min(time.monotonic_ns(), self.period.end_ns - 1)
            touched: dict[int, Pair] = {}
            while (intended_ns := start_ns + int(sent * step_ns)) <= now_ns:
                pair = self.pairs[sent % len(self.pairs)]
                pair.intend(intended_ns)
                touched[id(pair)] = pair
                sent += 1
            for pair in touched.values():
                pair.pump()

        self._pacers.append(Pacer(max(PACE_LOWEST_SECONDS, 1 / share), due, start_ns))

    def _ack_all(self) -> None:
        for device in self.devices:
            device.ack()

    def _keep_alive(self) -> None:
        now = time.monotonic()
        for device in self.devices:
            device.keep_alive(now)

    def _pump_waiting(self) -> None:
        for pair in self.pairs:
            if pair.is_waiting:
                pair.pump()

    # -- the end -------------------------------------------------------------------------------

    def _totals(self) -> Totals:
        totals = Totals(delivered=self.period.delivered)
        for pair in self.pairs:
            ledger = pair.ledger
            totals.sent += pair.sent
            totals.delivered_in_all += ledger.delivered
            totals.lost += ledger.lost(pair.sent) + pair.echoes_missing()
            totals.duplicated += ledger.duplicated + pair.duplicated_elsewhere()
            totals.out_of_order += ledger.out_of_order + pair.disorder_elsewhere()
        return totals


def say(**event: Any) -> None:
    """One line to the command."""
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


class Orders:
    """Lines from the command. Its end ends this process, wherever it is."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(maxsize=4)
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen."""
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._reading = loop.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            await self._lines.put(json.loads(line))
        os._exit(3)  # the command has gone: nobody waits for a result, nothing is to be saved

    async def next(self) -> Mapping[str, Any]:
        """The next line."""
        return await self._lines.get()


def plans_from_json(content: list[Mapping[str, Any]]) -> list[PairPlan]:
    """Pairs as the command wrote them."""
    return [
        PairPlan(int(pair["number"]), DevicePlan(**pair["sender"]), DevicePlan(**pair["receiver"]))
        for pair in content
    ]


async def main(make: type[LoadRun] = LoadRun) -> int:
    """Talk with the command; the exit code is 0 when a result was given."""
    orders = Orders()
    await orders.open()
    order = await orders.next()
    tls = ssl.create_default_context(cafile=order["ca"]) if order["ca"] else None
    run = make(
        Load.from_json(order["load"]), int(order["run"]), plans_from_json(order["pairs"]), tls
    )
    try:
        say(event="ready", limits=await run.connect())
        go = await orders.next()
        totals = await run.measure(**go["go"])
        say(event="done", totals=asdict(totals), histogram=run.histogram.to_json())
        await orders.next()  # the command reads our CPU and memory first
        await run.leave()
    except _EXPECTED_ERRORS as error:
        say(event="failed", what=str(error), impossible=isinstance(error, ImpossibleLoad))
        return 1
    return 0


def allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: each device is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
