"""The load process of `bench sync` and `bench push`: pairs of online devices.

As `chatmesh.cli.bench.load`, and besides: every recipient's device has a push token, every fifth
recipient a second device that is away, and each message is timed from its `accepted` result to its
arrival on the recipient's stream. When and up to where each device acked is told at the end, so
that a push that came after an ack is found.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Final

from chatmesh.cli.bench import push_tokens
from chatmesh.cli.bench.device import DeviceFailed
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.load import (
    CONNECTING_AT_ONCE,
    LoadRun,
    Orders,
    allow_descriptors,
    plans_from_json,
    say,
)
from chatmesh.cli.bench.pair import Pair, Period
from chatmesh.cli.bench.plan import ImpossibleLoad, Load, PairPlan
from chatmesh.cli.bench.sync_plan import POCKET_EVERY
from chatmesh.runtime import engine
from chatmesh.v1 import session_pb2, types_pb2

POCKET: Final = "pocket"


class HintPair(Pair):
    """A pair that times what lies between a sender's answer and the recipient's stream."""

    def __init__(
        self,
        plan: PairPlan,
        load: Load,
        run: int,
        period: Period,
        histogram: Histogram,
        on_failure: Callable[[str], None],
    ) -> None:
        super().__init__(plan, load, run, period, histogram, on_failure)
        self.plan = plan
        self.after_accepted = Histogram()
        self.acks: list[tuple[int, int]] = []
        """(timeline_seq, Unix ms) of the recipient's acks."""
        self._answered = 0
        self._accepted_ns: dict[int, int] = {}
        self._early: set[int] = set()
        """Numbers that arrived before their answer did."""
        self._acked_seq = 0
        self._hear_acks()

    def answered(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Results come in the order of the sends."""
        held = list(results)
        now_ns = time.monotonic_ns()
        for _ in held:
            if self._answered in self._early:
                self._early.discard(self._answered)
                self._time(0, now_ns)
            else:
                self._accepted_ns[self._answered] = now_ns
            self._answered += 1
        super().answered(held)

    def arrived(self, event: types_pb2.Event, now_ns: int) -> None:
        """One more of the recipient's entries."""
        before = self.ledger.delivered
        super().arrived(event, now_ns)
        if self.ledger.delivered == before:
            return
        number = self.ledger.expected - 1
        accepted_ns = self._accepted_ns.pop(number, None)
        if accepted_ns is None:
            self._early.add(number)
        else:
            self._time(now_ns - accepted_ns, now_ns)

    def _time(self, waited_ns: int, now_ns: int) -> None:
        period = self._period
        if period.measure_ns <= now_ns < period.end_ns:
            self.after_accepted.record(waited_ns)

    def _hear_acks(self) -> None:
        ack = self.receiver.ack

        def heard() -> None:
            ack()
            if self.receiver.acked_seq > self._acked_seq:
                self._acked_seq = self.receiver.acked_seq
                self.acks.append((self._acked_seq, time.time_ns() // 1_000_000))

        self.receiver.ack = heard  # type: ignore[method-assign]


class HintRun(LoadRun):
    """All pairs of one process."""

    make_pair = HintPair

    async def connect(self) -> dict[str, int]:
        """Sessions, first messages, then push tokens. Raises DeviceFailed, ImpossibleLoad."""
        limits = await super().connect()
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def bind(plan: PairPlan) -> None:
            async with gate:
                await push_tokens.bind(plan.receiver, self._tls)
                if plan.number % POCKET_EVERY == 0:
                    pocket = dataclasses.replace(plan.receiver, device_id=POCKET)
                    await push_tokens.make_away(pocket, self._tls, self._fail)

        try:
            async with asyncio.TaskGroup() as group:
                for pair in self.hint_pairs():
                    group.create_task(bind(pair.plan))
        except* (DeviceFailed, OSError) as errors:
            raise errors.exceptions[0] from None
        return limits

    def hint_pairs(self) -> list[HintPair]:
        """The pairs, as what they are."""
        return [pair for pair in self.pairs if isinstance(pair, HintPair)]

    def after_accepted(self) -> Histogram:
        """Of all pairs."""
        merged = Histogram()
        for pair in self.hint_pairs():
            merged.merge(pair.after_accepted)
        return merged


async def main() -> int:
    """Talk with the command; the exit code is 0 when a result was given."""
    orders = Orders()
    await orders.open()
    order = await orders.next()
    tls = ssl.create_default_context(cafile=order["ca"]) if order["ca"] else None
    run = HintRun(
        Load.from_json(order["load"]), int(order["run"]), plans_from_json(order["pairs"]), tls
    )
    try:
        say(event="ready", limits=await run.connect())
        go = await orders.next()
        totals = await run.measure(**go["go"])
        say(
            event="done",
            totals=asdict(totals),
            histogram=run.histogram.to_json(),
            after_accepted=run.after_accepted().to_json(),
            acks={pair.plan.receiver.user: pair.acks for pair in run.hint_pairs()},
        )
        await orders.next()  # the devices stay online until the command has looked at the pushes
        await run.leave()
    except (DeviceFailed, ImpossibleLoad, OSError) as error:
        say(event="failed", what=str(error), impossible=isinstance(error, ImpossibleLoad))
        return 1
    return 0


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
