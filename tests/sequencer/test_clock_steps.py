"""A million ids from eight processes, while the wall clocks of sequencers and database step."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Iterator

import pytest

from chatmesh.ids import DEFAULT_LAYOUT
from chatmesh.runtime import migrate
from sequencer_svc.store.workers import PACKAGE
from tests.runtime import stores
from tests.sequencer.clocks import Clocks, clocks
from tests.service_process import PATIENCE_SECONDS, ServiceProcess

pytestmark = pytest.mark.slow

HOUR = 3_600
SEQUENCERS, CALLERS, REQUESTS, COUNT = 4, 8, 125, 1_000


@pytest.fixture
def made_clocks() -> Iterator[Clocks]:
    with clocks() as made:
        yield made


async def take(targets: str) -> asyncio.subprocess.Process:
    """Start one caller."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.sequencer.take_ids", targets, str(COUNT), str(REQUESTS)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )


async def test_a_million_ids_are_distinct_whatever_the_clocks_do(made_clocks: Clocks) -> None:
    database_clock = made_clocks.make("database")
    sequencer_clocks = [made_clocks.make(f"sequencer-{n}") for n in range(SEQUENCERS)]
    with stores.postgres(environment=database_clock.environment) as store:
        migrate.apply(store.url, PACKAGE, "pre")
        sequencers = [
            ServiceProcess(
                "sequencer_svc",
                {"postgres_url": store.url, "sequencer_window_seconds": "2"},
                environment=clock.environment,
            )
            for clock in sequencer_clocks
        ]
        try:
            for one in sequencers:
                await one.wait_ready()
            callers = [
                await take(",".join(one.address for one in sequencers[at % SEQUENCERS :]))
                for at in range(CALLERS)
            ]
            reading = asyncio.gather(*(one.communicate() for one in callers))
            steps = itertools.cycle((HOUR, -HOUR, 0))
            while not reading.done():
                step = next(steps)
                for clock in sequencer_clocks[::2]:
                    clock.step(step)
                database_clock.step(step)
                await asyncio.wait((reading,), timeout=0.7)
            outputs = await reading
            database_clock.step(0)
            sequencer_clocks[0].step(HOUR)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "ids are not affected" not in sequencers[0].log():  # noqa: ASYNC110 - its alarm
                    await asyncio.sleep(0.1)
        finally:
            for one in sequencers:
                one.end()
    ranges: list[tuple[int, int]] = []
    for caller, (output, _) in zip(callers, outputs, strict=True):
        assert caller.returncode == 0
        *lines, last = output.decode().splitlines()
        assert last.startswith("refused")
        ranges += [(int(first), int(count)) for first, count in map(str.split, lines)]
    assert sum(count for _, count in ranges) == CALLERS * REQUESTS * COUNT
    ranges.sort()
    for (first, count), (following, _) in itertools.pairwise(ranges):
        assert first + count <= following, "no id was given twice"
    assert len({DEFAULT_LAYOUT.decode(first).worker for first, _ in ranges}) >= SEQUENCERS
