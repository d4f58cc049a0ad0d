"""Runs `bench soak`: one steady load, looked at slice by slice, with checkpoint and vacuum in it.

Role: messages at a rate for minutes; after every slice the memory of each service and the p99 of
the slice are noted. Without a rate the peak is measured first, and half of it is the rate.
Rules: no partial figure. When the half of the time has passed without a checkpoint or a vacuum of
PostgreSQL's own, one is ordered, so that what a soak shows always includes them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from chatmesh.cli.bench import readback, run
from chatmesh.cli.bench.idle_run import load_pids
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import (
    LoadProcess,
    Progress,
    RunFailed,
    all_of,
    sleep_until,
    watched,
)
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.meter import Meter
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.plan import Load
from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.cli.bench.result import Result
from chatmesh.cli.bench.soak_load import SLICE_VARIABLE
from chatmesh.cli.bench.soak_outcome import Slices, Soaked, SoakLoad, result_of
from chatmesh.embedded.running import RunningMesh

LOAD_MODULE: Final = "chatmesh.cli.bench.soak_load"
PEAK_WINDOW: Final = 20
_UPKEEP: Final = """
SELECT (SELECT num_timed + num_requested FROM pg_stat_checkpointer)::bigint,
  (SELECT coalesce(sum(vacuum_count + autovacuum_count), 0) FROM pg_stat_user_tables)::bigint
"""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Checkpoints and vacuums of PostgreSQL so far."""

    checkpoints: int
    vacuums: int


async def measure(measured: MeasuredMesh, load: SoakLoad, progress: Progress) -> Result:
    """The figures. Raises RunFailed, MeshDied, ImpossibleLoad and what the stores raise."""
    mesh = measured.mesh
    rate, peak = load.rate, None
    if rate is None:
        peak = await _peak(mesh, load, progress)
        rate = peak / 2
    steady = Load(
        pairs=load.pairs, window=None, rate=rate, size_bytes=load.size_bytes,
        seconds=load.minutes * 60, warmup_seconds=load.warmup_seconds, processes=load.processes,
    )  # fmt: skip
    processes = MeshProcesses(mesh)
    settings: dict[str, Any] = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": await readback.security_settings(mesh),
    }
    async with _loaders(mesh, steady, load.slice_seconds) as loaders, watched(processes):
        progress("connecting", 0, 0)
        ready = await all_of(loader.until("ready") for loader in loaders)
        settings["limits"] = ready[0]["limits"]
        soaked = await _soak(mesh, load, steady, processes, loaders, progress)
    processes.check()
    return result_of(load, len(mesh.public), rate, peak, soaked, settings)


async def _peak(mesh: RunningMesh, load: SoakLoad, progress: Progress) -> float:
    """Messages/s as fast as it goes. Raises RunFailed."""
    fastest = Load(
        pairs=load.pairs, window=PEAK_WINDOW, rate=None, size_bytes=load.size_bytes,
        seconds=load.peak_seconds, warmup_seconds=load.warmup_seconds, processes=load.processes,
    )  # fmt: skip

    def shown(phase: str, share: float, delivered: int) -> None:
        progress(f"the peak: {phase}", share, delivered)

    outcome = await run.run(mesh, fastest, shown)
    if not outcome.passed:
        raise RunFailed("messages were lost, doubled or out of order while looking for the peak")
    return float(outcome.to_json()["delivered_per_s"])


async def _soak(
    mesh: RunningMesh,
    load: SoakLoad,
    steady: Load,
    processes: MeshProcesses,
    loaders: Sequence[LoadProcess],
    progress: Progress,
) -> Soaked:
    start_ns = time.monotonic_ns() + int(run.LEAD_SECONDS * 1e9)
    measure_ns = start_ns + int(steady.warmup_seconds * 1e9)
    end_ns = measure_ns + int(steady.seconds * 1e9)
    slices, parts = Slices(), _Parts(len(loaders))
    for loader in loaders:
        loader.on_line = parts.heard
        await loader.tell(
            {"go": {"start_ns": start_ns, "measure_ns": measure_ns, "end_ns": end_ns}}
        )
    ends = asyncio.ensure_future(all_of(loader.until("done") for loader in loaders))
    upkeep = asyncio.create_task(_keep_up(mesh, measure_ns + (end_ns - measure_ns) // 2))
    looking = asyncio.create_task(_look(processes, parts, slices))
    try:
        await sleep_until(measure_ns, start_ns, "warming up", ends, loaders, progress)
        meter = Meter(processes, load_pids(list(loaders)))
        await sleep_until(end_ns, measure_ns, "soaking", ends, loaders, progress)
        usage = meter.end()
        progress("waiting for the last messages", 1, 0)
        done = await ends
        kept = await upkeep
        noted = asyncio.create_task(parts.whole.join())
        await asyncio.wait((noted, looking), return_when=asyncio.FIRST_COMPLETED)
        noted.cancel()
    finally:
        for task in (ends, upkeep, looking):
            task.cancel()
        await asyncio.gather(upkeep, looking, return_exceptions=True)
    for loader in loaders:
        await loader.leave()
    if looking.done() and not looking.cancelled() and (error := looking.exception()):
        raise error
    histogram = Histogram()
    for one in done:
        histogram.merge(Histogram.from_json(one["histogram"]))
    totals = Totals.sum([Totals(**one["totals"]) for one in done])
    return Soaked(totals, histogram, slices, usage, kept)


class _Parts:
    """Slices as the load processes tell of them; one is whole when all have."""

    def __init__(self, processes: int) -> None:
        self.whole: asyncio.Queue[tuple[int, Histogram]] = asyncio.Queue(maxsize=100_000)
        self._processes = processes
        self._found: dict[int, list[Mapping[str, Any]]] = {}

    def heard(self, line: Mapping[str, Any]) -> None:
        """One line of a load process."""
        if line["event"] != "slice":
            return
        found = self._found.setdefault(int(line["number"]), [])
        found.append(line)
        if len(found) == self._processes:
            del self._found[int(line["number"])]
            histogram = Histogram()
            for one in found:
                histogram.merge(Histogram.from_json(one["histogram"]))
            self.whole.put_nowait((sum(int(one["messages"]) for one in found), histogram))


async def _look(processes: MeshProcesses, parts: _Parts, slices: Slices) -> None:
    """Note each slice, and the memory at its end."""
    while True:
        messages, histogram = await parts.whole.get()
        memory = await asyncio.to_thread(processes.memory_mib)
        slices.messages.append(messages)
        slices.p99_ms.append(round(histogram.quantile_ns(0.99) / 1e6, 3))
        slices.memory_mib.append(memory)
        parts.whole.task_done()


async def _keep_up(mesh: RunningMesh, half_ns: int) -> dict[str, Any]:
    """At half of the time order what PostgreSQL has not done by itself; counts of the whole."""
    before = await asyncio.to_thread(_upkeep, mesh)
    await asyncio.sleep(max(0, half_ns - time.monotonic_ns()) / 1e9)
    halfway = await asyncio.to_thread(_upkeep, mesh)
    ordered = []
    if halfway.checkpoints == before.checkpoints:
        ordered.append("CHECKPOINT")
    if halfway.vacuums == before.vacuums:
        ordered.append("VACUUM")
    await asyncio.to_thread(_order, mesh, ordered)
    after = await asyncio.to_thread(_upkeep, mesh)
    return {
        "checkpoints": after.checkpoints - before.checkpoints,
        "tables_vacuumed": after.vacuums - before.vacuums,
        "ordered": ordered,
    }


def _upkeep(mesh: RunningMesh) -> Upkeep:
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        checkpoints, vacuums = connection.execute(_UPKEEP).fetchone() or (0, 0)
        return Upkeep(int(checkpoints), int(vacuums))


def _order(mesh: RunningMesh, statements: Sequence[str]) -> None:
    with psycopg.connect(mesh.owner_url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@asynccontextmanager
async def _loaders(
    mesh: RunningMesh, load: Load, slice_seconds: float
) -> AsyncIterator[list[LoadProcess]]:
    """The load processes, told how long a slice is."""
    os.environ[SLICE_VARIABLE] = str(slice_seconds)
    try:
        async with run.load_processes(
            load, secrets.randbits(32), run.pairs_of(mesh, load), LOAD_MODULE
        ) as started:
            yield started
    finally:
        os.environ.pop(SLICE_VARIABLE, None)
