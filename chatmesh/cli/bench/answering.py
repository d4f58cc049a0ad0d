"""The frame of a load process that does what it is told, one order after the other.

    in   {…}                      the first line: who and where
         {"do": "…", …}           an order
         {"do": "bye"}            leave in order, and end
    out  {"event": "done", …}     for each order; while it works it may say {"event": "tick", …}
         {"event": "failed", …}   the run is void; the process ends

The end of its input ends the process: it never outlives the command.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from chatmesh.cli.bench.device import Device, DeviceFailed
from chatmesh.cli.bench.load import Orders, allow_descriptors, say
from chatmesh.cli.bench.pace import Pacer
from chatmesh.cli.bench.plan import ImpossibleLoad
from chatmesh.runtime import engine

_EXPECTED_ERRORS = (DeviceFailed, ImpossibleLoad, OSError)


class Work(Protocol):
    """What a kind of load does."""

    async def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one order; what is said with "done". Raises DeviceFailed, ImpossibleLoad."""

    async def leave(self) -> None:
        """End all sessions."""


class Crew:
    """Devices of one load process: opened so many at once, kept alive, the first failure kept."""

    def __init__(self, ca: str | None) -> None:
        self.tls = ssl.create_default_context(cafile=ca) if ca else None
        self.devices: list[Device] = []
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pacers: list[Pacer] = []

    def fail(self, what: str) -> None:
        """A device failed: the run is void."""
        if not self.failure.done():
            self.failure.set_result(what)

    async def open(self, devices: Sequence[Device], at_once: int) -> None:
        """All of them live. Raises DeviceFailed."""
        gate = asyncio.Semaphore(at_once)

        async def open_one(device: Device) -> None:
            async with gate:
                await device.open(self.tls)

        try:
            async with asyncio.TaskGroup() as group:
                for device in devices:
                    group.create_task(open_one(device))
        except* _EXPECTED_ERRORS as errors:
            raise errors.exceptions[0] from None
        self.devices.extend(devices)

    def keep_alive(self, ack_seconds: float) -> None:
        """From now on acks and pings go out by themselves."""
        if not self._pacers:
            self._pacers = [Pacer(ack_seconds, self._ack), Pacer(1.0, self._ping)]

    async def sleep(self, seconds: float) -> None:
        """Sleep, unless a device fails meanwhile. Raises DeviceFailed."""
        await asyncio.wait((self.failure,), timeout=max(0.0, seconds))
        if self.failure.done():
            raise DeviceFailed(self.failure.result())

    async def close(self, devices: Iterable[Device]) -> None:
        """End these sessions."""
        for device in devices:
            await device.leave()

    async def leave(self) -> None:
        """End all sessions."""
        for pacer in self._pacers:
            pacer.stop()
        await self.close(self.devices)

    def _ack(self) -> None:
        for device in self.devices:
            device.ack()

    def _ping(self) -> None:
        now = time.monotonic()
        for device in self.devices:
            device.keep_alive(now)


async def answer(make: Callable[[Mapping[str, Any]], Work]) -> int:
    """Do what is ordered until the end; the exit code is 0 when all could be done."""
    orders = Orders()
    await orders.open()
    work = make(await orders.next())
    while True:
        order = await orders.next()
        try:
            if order["do"] == "bye":
                await work.leave()
                say(event="done")
                return 0
            gc.freeze()  # what lives now lives long: no collection needs to look at it
            say(event="done", **await work.do(order))
        except _EXPECTED_ERRORS as error:
            say(event="failed", what=str(error), impossible=isinstance(error, ImpossibleLoad))
            return 1


def serve(make: Callable[[Mapping[str, Any]], Work]) -> int:
    """`python -m` of a load module; the exit code."""
    allow_descriptors()
    return engine.run(answer(make))
