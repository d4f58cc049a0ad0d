"""The virtual clock."""

import asyncio

from chatmesh.runtime.clock import Clock
from chatmesh.testing import VirtualClock


async def test_sleepers_wake_in_order_and_only_in_time() -> None:
    clock = VirtualClock()
    woken: list[float] = []

    async def nap(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(nap(seconds)) for seconds in (3.0, 1.0, 2.0)]
    while clock.sleepers < 3:  # noqa: ASYNC110 - the clock under test offers no event
        await asyncio.sleep(0)
    clock.advance(2.0)
    await asyncio.wait(tasks[1:])
    assert woken == [1.0, 2.0]
    clock.advance(1.0)
    await tasks[0]


def test_the_three_times_move_as_real_ones_do() -> None:
    clock: Clock = VirtualClock(wall_ms=1_000, monotonic=10.0)
    assert isinstance(clock, VirtualClock)
    clock.advance(1.5)
    assert (clock.wall_ms(), clock.monotonic(), clock.boottime_ns()) == (
        2_500,
        11.5,
        11_500_000_000,
    )
    clock.step_wall(-2_000)
    clock.suspend(1.0)
    assert (clock.wall_ms(), clock.monotonic(), clock.boottime_ns()) == (
        1_500,
        11.5,
        12_500_000_000,
    )
