"""Runs `bench groups`: one group, everybody online, what a delivery costs.

Rules: no partial figure. A run gives the figures of the whole measured time, or raises.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

from chatmesh.cli.bench import readback
from chatmesh.cli.bench.calls import create_group
from chatmesh.cli.bench.idle_run import devices, load_pids
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LoadProcess, Progress, sleep_until, watched
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.meter import Meter, Usage
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.plan import ImpossibleLoad
from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.cli.bench.result import Result
from chatmesh.cli.bench.run import LEAD_SECONDS

LOAD_MODULE: Final = "chatmesh.cli.bench.groups_load"
MAX_SENDERS: Final = 100


@dataclass(frozen=True, slots=True)
class GroupLoad:
    """What is asked."""

    members: int
    senders: int
    window: int
    """Messages of each sender that not everybody has yet."""
    size_bytes: int
    seconds: float
    warmup_seconds: float
    ack_ms: int = 100

    def __post_init__(self) -> None:
        """Raises ImpossibleLoad."""
        if self.senders > self.members:
            raise ImpossibleLoad(
                f"--senders {self.senders}: only members write, and there are "
                f"--members {self.members}"
            )


async def measure(measured: MeasuredMesh, load: GroupLoad, progress: Progress) -> Result:
    """The figures. Raises RunFailed, MeshDied, ImpossibleLoad and what the stores raise."""
    mesh = measured.mesh
    processes = MeshProcesses(mesh)
    progress("reading settings", 0, 0)
    settings: dict[str, Any] = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": await readback.security_settings(mesh),
    }
    people = devices(mesh, load.members, "g")
    order = {
        "devices": people, "senders": load.senders, "window": load.window,
        "size_bytes": load.size_bytes, "ack_ms": load.ack_ms,
        "run": secrets.randbits(32),
    }  # fmt: skip
    loader = await LoadProcess.start(order, LOAD_MODULE)
    try:
        async with watched(processes):
            progress("connecting", 0, 0)
            settings["limits"] = (await loader.ask(do="open"))["limits"]
            owner = people[0]
            conversation_id = await create_group(
                owner["target"], owner["token"], "bench", [one["user"] for one in people[1:]]
            )
            progress("the first messages", 0, 0)
            await loader.ask(do="meet", conversation_id=conversation_id)
            usage, done = await _load(load, processes, loader, progress)
        await loader.ask(do="bye")
        processes.check()
    finally:
        await loader.stop()
    return result_of(load, len(mesh.public), usage, done, settings)


async def _load(
    load: GroupLoad, processes: MeshProcesses, loader: LoadProcess, progress: Progress
) -> tuple[Usage, Any]:
    start_ns = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
    measure_ns = start_ns + int(load.warmup_seconds * 1e9)
    end_ns = measure_ns + int(load.seconds * 1e9)
    ends = asyncio.ensure_future(
        _listed(loader, start_ns=start_ns, measure_ns=measure_ns, end_ns=end_ns)
    )
    try:
        await sleep_until(measure_ns, start_ns, "warming up", ends, [loader], progress)
        meter = Meter(processes, load_pids([loader]))
        await sleep_until(end_ns, measure_ns, "measuring", ends, [loader], progress)
        usage = meter.end()
        progress("waiting for the last messages", 1, loader.delivered)
        (done,) = await ends
    finally:
        ends.cancel()
    return usage, done


async def _listed(loader: LoadProcess, **times: int) -> list[Any]:
    return [await loader.ask(do="load", **times)]


def result_of(
    load: GroupLoad, chat_nodes: int, usage: Usage, done: Any, settings: dict[str, Any]
) -> Result:
    """Names of `--json`."""
    totals = Totals(**done["totals"])
    histogram = Histogram.from_json(done["histogram"])
    per_second = round(totals.delivered / load.seconds, 1)
    figures = {
        "deliveries": totals.delivered,
        "deliveries_per_s": per_second,
        "messages_per_s": round(per_second / (load.members - 1), 2),
        "lost": totals.lost,
        "duplicated": totals.duplicated,
        "out_of_order": totals.out_of_order,
        "latency_ms": histogram.summary_ms(),
        "cpu_s_per_1000_deliveries": usage.cpu_s_per_1000(totals.delivered),
        "memory_mib": dict(usage.memory_mib),
        "settings": settings,
    }
    bad = totals.lost or totals.duplicated or totals.out_of_order
    return Result(
        kind="groups",
        load={**dataclasses.asdict(load), "chat_nodes": chat_nodes},
        figures=figures,
        headline=f"{per_second:,.0f} deliveries/s to a group of {load.members:,} "
        f"({load.senders} senders, window {load.window})",
        histogram=histogram,
        passed=totals.delivered > 0 and not bad,
        failure="the run failed: see what was lost, duplicated or out of order above",
    )
