"""The load process of `bench presence`: pairs of friends on two chat nodes.

`python -m chatmesh.cli.bench.presence_load` is started by the command; JSON lines go both ways:

    in   {"pairs": [[device, device], …], "ca": …}   a device as in `plan.DevicePlan`
         {"do": "connect"} {"do": "probe", "count": …} {"do": "fan", "seconds": …}
         {"do": "storm", "targets": […]} {"do": "bye"}
    out  {"event": "done", …} for each of them, or {"event": "failed", "what": …}

A probe: one of a pair is gone until the friend is told, comes back, and the friend is told again.
A storm: the first of each pair drop their connections at once, and connect at once elsewhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.load import CONNECTING_AT_ONCE, Orders, allow_descriptors, say
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.payload import KeySource
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.runtime import engine
from chatmesh.v1 import session_pb2, types_pb2

PATIENCE_SECONDS: Final = 60
PROBES_AT_ONCE: Final = 20
ACK_SECONDS: Final = 0.1
_ONLINE: Final = types_pb2.PRESENCE_STATE_ONLINE
_OFFLINE: Final = types_pb2.PRESENCE_STATE_OFFLINE
_FOREGROUND: Final = session_pb2.AppState.STATE_FOREGROUND
_BACKGROUND: Final = session_pb2.AppState.STATE_BACKGROUND


class Person(Device):
    """A device that notes what it is told of its friend."""

    def __init__(self, plan: DevicePlan, friend: str, on_failure: Callable[[str], None]) -> None:
        super().__init__(plan, on_failure)
        self.friend = friend
        self.notices = 0
        self.state = 0
        self._changed = asyncio.Event()

    async def sees(self, state: int) -> None:
        """Wait until the friend is shown in a state. Raises DeviceFailed."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self.state != state:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise DeviceFailed(f"{self.name} was not told of {self.friend}") from None

    def says(self, **frame: Any) -> None:
        """One frame."""
        self.write(session_pb2.ClientFrame(**frame).SerializeToString())

    def _on_frame(self, data: bytes) -> None:
        super()._on_frame(data)
        for presence in session_pb2.ServerFrame.FromString(data).presence:
            if presence.user_id == self.friend:
                self.notices += 1
                self.state = presence.state
                self._changed.set()


class PresenceRun:
    """All pairs."""

    def __init__(
        self, pairs: Iterable[tuple[DevicePlan, DevicePlan]], tls: ssl.SSLContext | None
    ) -> None:
        self._tls = tls
        self._pairs = [
            (Person(one, other.user, _fail), Person(other, one.user, _fail)) for one, other in pairs
        ]
        self._keys = KeySource()
        self._pacers: list[Pacer] = []

    async def connect(self) -> dict[str, Any]:
        """All live; then each pair is made contacts by a message."""
        began = time.monotonic()
        people = [person for pair in self._pairs for person in pair]
        await self._open(people, CONNECTING_AT_ONCE)
        seconds = time.monotonic() - began
        self._pacers = [Pacer(ACK_SECONDS, self._ack), Pacer(1.0, self._keep_alive)]
        for one, _ in self._pairs:
            now_ms = time.time_ns() // 1_000_000 + one.clock_ahead_ms
            message = types_pb2.OutgoingMessage(
                idempotency_key=self._keys.next(now_ms),
                to_user_id=one.friend,
                content=types_pb2.Content(text=types_pb2.TextContent(body="hello")),
            )
            one.says(send=session_pb2.Send(messages=[message]))
        await _all(one.sees(_ONLINE) for pair in self._pairs for one in pair)
        return {"sessions": len(people), "seconds": seconds}

    async def probe(self, count: int) -> dict[str, Any]:
        """`count` times: gone, back, and how long until the friend was told."""
        histogram = Histogram()
        for start in range(0, count, PROBES_AT_ONCE):
            some = [
                at % len(self._pairs) for at in range(start, min(start + PROBES_AT_ONCE, count))
            ]
            await _all(self._probe(at, histogram) for at in dict.fromkeys(some))
        return {"histogram": histogram.to_json()}

    async def fan(self, seconds: float) -> dict[str, Any]:
        """Each pair's first goes away and comes back as fast as the friend is told."""
        before = sum(other.notices for _, other in self._pairs)
        began = time.monotonic()
        until = began + seconds

        async def flap(one: Person, other: Person) -> None:
            while time.monotonic() < until:
                for state, seen in (
                    (_BACKGROUND, types_pb2.PRESENCE_STATE_AWAY), (_FOREGROUND, _ONLINE),
                ):  # fmt: skip
                    one.says(app_state=session_pb2.AppState(state=state))
                    await other.sees(seen)

        await _all(flap(one, other) for one, other in self._pairs)
        taken = time.monotonic() - began
        return {"changes": sum(p.notices for _, p in self._pairs) - before, "seconds": taken}

    async def storm(self, targets: list[str]) -> dict[str, Any]:
        """The first of each pair drop, all at once, and connect to other targets, all at once."""
        fresh: list[Person] = []
        for at, (one, other) in enumerate(self._pairs):
            await one.leave()
            plan = dataclasses.replace(one.plan, target=targets[at % len(targets)])
            fresh.append(Person(plan, one.friend, _fail))
            self._pairs[at] = (fresh[-1], other)
        began = time.monotonic()
        await self._open(fresh, len(fresh))
        live = time.monotonic() - began
        await _all(one.sees(_ONLINE) for one in fresh)
        return {"live_seconds": live, "told_seconds": time.monotonic() - began}

    async def leave(self) -> None:
        """End all sessions."""
        for pacer in self._pacers:
            pacer.stop()
        for pair in self._pairs:
            for one in pair:
                await one.leave()

    async def _probe(self, at: int, histogram: Histogram) -> None:
        one, other = self._pairs[at]
        await one.leave()
        await other.sees(_OFFLINE)
        back = Person(one.plan, one.friend, _fail)
        self._pairs[at] = (back, other)
        began = time.monotonic_ns()
        await back.open(self._tls)
        await other.sees(_ONLINE)
        histogram.record(time.monotonic_ns() - began)

    async def _open(self, people: list[Person], at_once: int) -> None:
        gate = asyncio.Semaphore(at_once)

        async def open_one(person: Person) -> None:
            async with gate:
                await person.open(self._tls)

        await _all(open_one(person) for person in people)

    def _ack(self) -> None:
        for pair in self._pairs:
            for one in pair:
                one.ack()

    def _keep_alive(self) -> None:
        now = time.monotonic()
        for pair in self._pairs:
            for one in pair:
                one.keep_alive(now)


async def _all(works: Iterable[Any]) -> None:
    """All of them, or the first failure."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* (DeviceFailed, OSError) as errors:
        raise errors.exceptions[0] from None


def _fail(what: str) -> None:
    say(event="failed", what=what, impossible=False)


async def _do(run: PresenceRun, order: Mapping[str, Any]) -> dict[str, Any]:
    match order["do"]:
        case "connect":
            return await run.connect()
        case "probe":
            return await run.probe(int(order["count"]))
        case "fan":
            return await run.fan(float(order["seconds"]))
        case "storm":
            return await run.storm(list(order["targets"]))
    await run.leave()
    return {}


async def main() -> int:
    """Do what is ordered until the end; the exit code is 0 when all could be done."""
    orders = Orders()
    await orders.open()
    first = await orders.next()
    tls = ssl.create_default_context(cafile=first["ca"]) if first["ca"] else None
    pairs = [(DevicePlan(**one), DevicePlan(**other)) for one, other in first["pairs"]]
    run = PresenceRun(pairs, tls)
    while True:
        order = await orders.next()
        try:
            say(event="done", **await _do(run, order))
        except (DeviceFailed, OSError) as error:
            _fail(str(error))
            return 1
        if order["do"] == "bye":
            return 0


if __name__ == "__main__":
    allow_descriptors()
    sys.exit(engine.run(main()))
