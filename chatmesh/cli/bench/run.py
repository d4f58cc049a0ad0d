"""One run: load processes against a running mesh, with what the mesh used meanwhile.

Role: starts the load processes, says when to begin and what to count, samples CPU, memory and
bytes written around it, and watches that every process of the mesh lives to the end.
Rules: no partial figure. A run gives an `Outcome` of the whole measured time, or raises.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from chatmesh.cli.bench import hops, readback
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.load import MAX_LINE_BYTES
from chatmesh.cli.bench.outcome import Outcome, Totals
from chatmesh.cli.bench.plan import ImpossibleLoad, Load, PairPlan, place_pairs, user_names
from chatmesh.cli.bench.processes import MeshDied, MeshProcesses, cpu_of, memory_of
from chatmesh.embedded.running import RunningMesh

Progress = Callable[[str, float, int], None]
"""Phase, share of it that is done (0 to 1), messages delivered so far."""

LEAD_SECONDS: Final = 0.3
"""From the word "go" to the first message: every load process must have heard it."""
WATCH_SECONDS: Final = 0.5
LAST_WORDS_SECONDS: Final = 3
EXPORT_SECONDS: Final = 2.5
"""Processes of the embedded mesh export their spans every second."""
LOAD_MODULE: Final = "chatmesh.cli.bench.load"


class RunFailed(Exception):
    """There is no result; the text says why and where to look."""


class LoadProcess:
    """A child that is the clients of some pairs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.delivered = 0
        self.ticks = 0
        self.behind_ms = 0.0
        """Age of the oldest message under way, where the process tells it."""

    @classmethod
    async def start(cls, order: Mapping[str, Any], module: str = LOAD_MODULE) -> LoadProcess:
        """Start one and give it its order. `module` is what `python -m` runs."""
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE_BYTES,
        )  # fmt: skip
        made = cls(started)
        await made.tell(order)
        return made

    async def tell(self, order: Mapping[str, Any]) -> None:
        """One line to it."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()

    async def until(self, event: str) -> Mapping[str, Any]:
        """Its next line of this kind; ticks are noted. Raises RunFailed, ImpossibleLoad."""
        if self._process.stdout is None:
            raise RunFailed("the load process has no output")
        while line := await self._process.stdout.readline():
            content: Mapping[str, Any] = json.loads(line)
            if content["event"] == event:
                return content
            if content["event"] == "failed":
                failure = ImpossibleLoad if content["impossible"] else RunFailed
                raise failure(str(content["what"]))
            self.delivered = content.get("delivered", self.delivered)
            self.behind_ms = content.get("behind_ms", self.behind_ms)
            self.ticks += 1
        code = await self._process.wait()
        raise RunFailed(f"the load process {self.pid} ended with code {code}")

    async def leave(self) -> None:
        """After its result: its sessions end in order, and so does it."""
        await self.tell({"bye": {}})
        await self._process.wait()

    async def stop(self) -> None:
        """End it, however far it is."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


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
    pairs = _pairs(mesh, load)
    run_number = secrets.randbits(32)
    async with _loaders(load, run_number, pairs) as loaders, _watched(processes, loaders):
        progress("connecting", 0, 0)
        ready = await _all(loader.until("ready") for loader in loaders)
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
    ends = asyncio.ensure_future(_all(loader.until("done") for loader in loaders))
    try:
        await _sleep_until(measure_ns, start_ns, "warming up", ends, loaders, progress)
        looking = Profile(mesh) if profile else None
        used, used_by_us = processes.sample(), cpu_of(ours)
        await _sleep_until(end_ns, measure_ns, "measuring", ends, loaders, progress)
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


def _pairs(mesh: RunningMesh, load: Load) -> list[PairPlan]:
    if not mesh.public:
        raise RunFailed("the mesh has no chat node")
    names = user_names(secrets.token_hex(4), load.pairs)
    lifetime = load.seconds + load.warmup_seconds + 3600
    tokens = {user: mesh.token(user, ttl_seconds=lifetime) for pair in names for user in pair}
    return place_pairs(names, tokens, mesh.public)


@asynccontextmanager
async def _loaders(
    load: Load, run_number: int, pairs: Sequence[PairPlan]
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
            started.append(await LoadProcess.start(order))
        yield started
    finally:
        for one in started:
            await one.stop()


@asynccontextmanager
async def _watched(processes: MeshProcesses, loaders: Sequence[LoadProcess]) -> AsyncIterator[None]:
    """Within: a death in the mesh ends the run as MeshDied, whatever the clients say of it."""
    me = asyncio.current_task()
    died: list[MeshDied] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                processes.check()
            except MeshDied as death:
                died.append(death)
                if me is not None:
                    me.cancel()
                return

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not died or me is None:
            raise
        me.uncancel()
        raise died[0] from None
    except RunFailed as failure:
        # a session that ended may be the first sign of a death: give the kernel a moment to tell
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while time.monotonic() < deadline:
            try:
                processes.check()
            except MeshDied as death:
                raise death from failure
            await asyncio.sleep(0.1)
        raise
    finally:
        watching.cancel()


async def _sleep_until(
    at_ns: int,
    since_ns: int,
    phase: str,
    ends: asyncio.Future[list[Mapping[str, Any]]],
    loaders: Sequence[LoadProcess],
    progress: Progress,
) -> None:
    """Until a moment, showing how far it is; sooner when the load has ended (or failed)."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        share = 1 - left_ns / max(1, at_ns - since_ns)
        progress(phase, max(0.0, share), sum(one.delivered for one in loaders))
        await asyncio.wait((ends,), timeout=min(0.25, left_ns / 1e9))
        if ends.done():
            ends.result()  # raises what it failed with
            return


async def _all(waiting: Any) -> list[Mapping[str, Any]]:
    """All of them, or the first failure alone."""
    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in waiting]
    except* (RunFailed, ImpossibleLoad) as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
