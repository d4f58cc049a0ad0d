"""Runs `bench resume`: everybody comes back at once, each so many entries behind.

Role: groups of devices are made through the public API, seen once and gone; each group's writer
sends what they miss; when the mesh has nothing of it left to do, all come back.
Rules: no partial figure. The hints and pushes of the writing are settled before the clock runs, so
that only the coming back is measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chatmesh.cli.bench import readback, sync_record
from chatmesh.cli.bench.calls import create_group
from chatmesh.cli.bench.idle_run import devices, load_pids
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LoadProcess, Progress, RunFailed, watched
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.meter import Meter, Usage
from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.cli.bench.result import Result
from chatmesh.embedded.running import RunningMesh

LOAD_MODULE: Final = "chatmesh.cli.bench.resume_load"
GROUP_MEMBERS: Final = 100
"""Devices that share a writer: what they miss is written a hundred times faster than one by one."""
SETTLE_SECONDS: Final = 60.0
"""Nothing settled for so long: the run is given up."""
LOOK_SECONDS: Final = 0.2
MEMORY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class ResumeLoad:
    """What is asked."""

    devices: int
    behind: int
    size_bytes: int

    @property
    def groups(self) -> int:
        """How many writers there are."""
        return -(-self.devices // GROUP_MEMBERS)


async def measure(measured: MeasuredMesh, load: ResumeLoad, progress: Progress) -> Result:
    """The figures. Raises RunFailed, MeshDied, ImpossibleLoad and what the stores raise."""
    mesh = measured.mesh
    processes = MeshProcesses(mesh)
    progress("reading settings", 0, 0)
    settings: dict[str, Any] = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": await readback.security_settings(mesh),
    }
    people, writers = devices(mesh, load.devices, "b"), devices(mesh, load.groups, "w")
    order = {
        "devices": people, "writers": writers, "size_bytes": load.size_bytes,
        "run": secrets.randbits(32),
    }  # fmt: skip
    loader = await LoadProcess.start(order, LOAD_MODULE)
    try:
        async with watched(processes):
            made = await _groups(people, writers, progress)
            progress("all are seen once", 0.2, 0)
            await loader.ask(do="visit")
            progress(f"writing {load.behind:,} for each", 0.3, 0)
            await loader.ask(do="write", groups=made, count=load.behind)
            await _settled(mesh, progress)
            progress(f"{load.devices:,} come back", 0.7, 0)
            usage, peak, done = await _come_back(load, processes, loader)
        await loader.ask(do="bye")
        processes.check()
    finally:
        await loader.stop()
    return result_of(load, len(mesh.public), usage, peak, done, settings)


async def _groups(
    people: Sequence[Mapping[str, Any]], writers: Sequence[Mapping[str, Any]], progress: Progress
) -> list[int]:
    made = []
    for number, writer in enumerate(writers):
        progress("making groups", 0.2 * number / len(writers), 0)
        members = [one["user"] for one in people[number :: len(writers)]]
        made.append(await create_group(writer["target"], writer["token"], "bench", members))
    return made


async def _settled(mesh: RunningMesh, progress: Progress) -> None:
    """Wait until no hint is on its way. Raises RunFailed."""
    moved_at, least = time.monotonic(), 1 << 62
    while True:
        _, hints = await asyncio.to_thread(sync_record.outbox, mesh)
        if not hints:
            return
        if hints < least:
            least, moved_at = hints, time.monotonic()
        if time.monotonic() - moved_at > SETTLE_SECONDS:
            raise RunFailed(f"{hints:,} hints of what was written do not settle")
        progress("waiting for hints to settle", 0.6, 0)
        await asyncio.sleep(LOOK_SECONDS)


async def _come_back(
    load: ResumeLoad, processes: MeshProcesses, loader: LoadProcess
) -> tuple[Usage, dict[str, float], Mapping[str, Any]]:
    """With what was used, and the most memory that each service held meanwhile, in MiB."""
    meter = Meter(processes, load_pids([loader]))
    back = asyncio.ensure_future(loader.ask(do="resume", count=load.behind))
    peak: dict[str, float] = {}
    try:
        while not back.done():
            await asyncio.wait((back,), timeout=MEMORY_SECONDS)
            for name, mib in (await asyncio.to_thread(processes.memory_mib)).items():
                peak[name] = max(mib, peak.get(name, 0.0))
        done = back.result()
    finally:
        back.cancel()
    return meter.end(), peak, done


def result_of(
    load: ResumeLoad,
    chat_nodes: int,
    usage: Usage,
    peak: Mapping[str, float],
    done: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Result:
    """Names of `--json`."""
    histogram = Histogram.from_json(done["histogram"])
    seconds = float(done["seconds"])
    entries = load.devices * load.behind - int(done["lost"])
    figures = {
        "seconds_to_all_caught_up": round(seconds, 3),
        "resume_ms": histogram.summary_ms(),
        "entries": entries,
        "entries_per_s": round(entries / seconds, 1) if seconds else 0.0,
        "lost": done["lost"],
        "duplicated": done["duplicated"],
        "out_of_order": done["out_of_order"],
        "cpu_s_per_1000_entries": usage.cpu_s_per_1000(entries),
        "memory_mib": dict(usage.memory_mib),
        "memory_mib_max": dict(peak),
        "settings": dict(settings),
    }
    bad = done["lost"] or done["duplicated"] or done["out_of_order"]
    return Result(
        kind="resume",
        load={**dataclasses.asdict(load), "chat_nodes": chat_nodes},
        figures=figures,
        headline=f"{load.devices:,} devices, each {load.behind:,} behind: all caught up after "
        f"{seconds:.3g} s",
        histogram=histogram,
        passed=not bad and int(done["caught_up"]) == load.devices,
        failure="the run failed: see what was lost, duplicated or out of order above",
    )
