"""One run: load processes against a running mesh, with what the mesh used meanwhile.

Role: starts the load processes, says when to begin and what to count, samples CPU, memory and
bytes written around it, and watches that every process of the mesh lives to the end.
Rules: no partial figure. A run gives an `Outcome` of the whole measured time, or raises.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from chatmesh.cli.bench import hops, readback
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import (
    LOAD_MODULE,
    LoadProcess,
    Progress,
    RunFailed,
    all_of,
    sleep_until,
    watched,
)
from chatmesh.cli.bench.outcome import Outcome, Totals
from chatmesh.cli.bench.plan import Load, PairPlan, place_pairs, user_names
from chatmesh.cli.bench.processes import MeshProcesses, cpu_of, memory_of
from chatmesh.embedded.running import RunningMesh

LEAD_SECONDS: Final = 0.3
"""From the word "go" to the first message: every load process must have heard it."""
EXPORT_SECONDS: Final = 2.5
"""Processes of the embedded mesh export their spans every second."""


async def run(
    mesh: RunningMesh, load: Load, progress: Progress, *, profile: bool = False
) -> Outcome:
    """Run a load; with `profile` also say where its messages spent their time.

    Raises ImpossibleLoad when the mesh's limits forbid it, RunFailed, MeshDied, and what the stores
    raise when they are away.
    """
    processes = MeshProcesses(mesh)
    progress("reading settings", 0, 0)
    settings = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": await readback.security_settings(mesh),
    }
    pairs = pairs_of(mesh, load)
    run_number = secrets.randbits(32)
    async with load_processes(load, run_number, pairs) as loaders, watched(processes):
        progress("connecting", 0, 0)
        ready = await all_of(loader.until("ready") for loader in loaders)
        outcome = await _measure(mesh, load, processes, loaders, progress, profile=profile)
    settings["limits"] = ready[0]["limits"]
    return dataclasses.replace(outcome, settings=settings)


async def _measure(
    mesh: RunningMesh,
    load: Load,
    processes: MeshProcesses,
    loaders: Sequence[LoadProcess],
    progress: Progress,
    *,
    profile: bool,
) -> Outcome:
    ours = [os.getpid(), *(loader.pid for loader in loaders)]
    before = await asyncio.to_thread(readback.written, mesh.owner_url())
    start_ns = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
    measure_ns = start_ns + int(load.warmup_seconds * 1e9)
    end_ns = measure_ns + int(load.seconds * 1e9)
    go = {"go": {"start_ns": start_ns, "measure_ns": measure_ns, "end_ns": end_ns}}
    for loader in loaders:
        await loader.tell(go)
    ends = asyncio.ensure_future(all_of(loader.until("done") for loader in loaders))
    try:
        await sleep_until(measure_ns, start_ns, "warming up", ends, loaders, progress)
        looking = Profile(mesh) if profile else None
        used, used_by_us = processes.sample(), cpu_of(ours)
        await sleep_until(end_ns, measure_ns, "measuring", ends, loaders, progress)
        cpu, client_cpu = processes.sample().since(used), cpu_of(ours) - used_by_us
        memory = {**processes.memory_mib(), "client": memory_of(ours)}
        if looking is not None:
            looking.end()
        progress("waiting for the last messages", 1, sum(one.delivered for one in loaders))
        done = await ends
    finally:
        ends.cancel()
    after = await asyncio.to_thread(readback.written, mesh.owner_url())
    for loader in loaders:
        await loader.leave()
    processes.check()
    profiled = ([], []) if looking is None else await looking.result()
    histogram = Histogram()
    for one in done:
        histogram.merge(Histogram.from_json(one["histogram"]))
    return Outcome(
        load=load,
        totals=Totals.sum([Totals(**one["totals"]) for one in done]),
        histogram=histogram,
        services=processes.services,
        cpu_s={**cpu, "client": client_cpu},
        memory_mib=memory,
        database_bytes=after.database_bytes - before.database_bytes,
        wal_bytes=after.wal_bytes - before.wal_bytes,
        wal_fsyncs=None if None in (after.wal_fsyncs, before.wal_fsyncs)
        else (after.wal_fsyncs or 0) - (before.wal_fsyncs or 0),
        settings={},
        hops=profiled[0],
        sizes=profiled[1],
    )  # fmt: skip


class Profile:
    """Batches and hops between the moment this is made and `end`."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._since_ns = self._until_ns = time.time_ns()
        self._before = self._after = hops.batch_counters(mesh.processes)

    def end(self) -> None:
        """The measured time is over."""
        self._until_ns = time.time_ns()
        self._after = hops.batch_counters(self._mesh.processes)

    async def result(self) -> tuple[list[hops.Hop], list[hops.Sizes]]:
        """Hops and batches, once the last spans have been exported."""
        await asyncio.sleep(EXPORT_SECONDS)
        found = await asyncio.to_thread(
            hops.hops, self._mesh.folder.spans_file, self._since_ns, self._until_ns
        )
        return found, hops.sizes(self._before, self._after)


def pairs_of(mesh: RunningMesh, load: Load) -> list[PairPlan]:
    """New users, with tokens that outlive the run. Raises RunFailed."""
    if not mesh.public:
        raise RunFailed("the mesh has no chat node")
    names = user_names(secrets.token_hex(4), load.pairs)
    lifetime = load.seconds + load.warmup_seconds + 3600
    tokens = {user: mesh.token(user, ttl_seconds=lifetime) for pair in names for user in pair}
    return place_pairs(names, tokens, mesh.public)


@asynccontextmanager
async def load_processes(
    load: Load, run_number: int, pairs: Sequence[PairPlan], module: str = LOAD_MODULE
) -> AsyncIterator[list[LoadProcess]]:
    """The load processes, each with every n-th pair."""
    started: list[LoadProcess] = []
    try:
        for index in range(load.processes):
            order = {
                "load": load.to_json(),
                "run": run_number,
                "ca": None,
                "pairs": [dataclasses.asdict(pair) for pair in pairs[index :: load.processes]],
            }
            started.append(await LoadProcess.start(order, module))
        yield started
    finally:
        for one in started:
            await one.stop()
