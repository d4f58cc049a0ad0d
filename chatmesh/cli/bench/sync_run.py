"""One run of `bench sync` or `bench push` against a running mesh.

Role: starts the load processes (online pairs, users who are away), says when to begin and what to
count, waits until every hint is settled and every job has ended, then asks the stores what became
of each device. With a backlog, sync_svc is held while hints gather, and its drain is watched.
Rules: no partial figure. A run gives a `HintOutcome` of the whole measured time, or raises.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from chatmesh.cli.bench import readback, sync_record
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LoadProcess, Progress, RunFailed
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.plan import DevicePlan, PairPlan, place_pairs, user_names
from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.cli.bench.sync_outcome import Drain, HintOutcome, PushCounts
from chatmesh.cli.bench.sync_plan import HintLoad
from chatmesh.embedded.running import RunningMesh

PAIRS_MODULE: Final = "chatmesh.cli.bench.sync_load"
AWAY_MODULE: Final = "chatmesh.cli.bench.push_load"
ONLINE_DEVICE: Final = "bench"
LEAD_SECONDS: Final = 0.3
LOOK_SECONDS: Final = 0.25
SETTLE_SECONDS: Final = 90.0
"""Nothing settled for so long after the load: what is left is what the run reports."""
MOST_SENDERS: Final = 8


@dataclasses.dataclass(slots=True)
class _Users:
    """Everybody in a run."""

    pairs: list[PairPlan]
    senders: list[DevicePlan]
    away: list[DevicePlan]

    @property
    def recipients(self) -> list[str]:
        """Users who have devices with a push token."""
        return [pair.receiver.user for pair in self.pairs] + [one.user for one in self.away]


@dataclasses.dataclass(slots=True)
class _Watched:
    """What a drain showed while it went on."""

    hints: int = 0
    batches: int = 0
    released_at: float = 0.0
    seconds: float = 0.0
    queue_entries_max: int = 0
    batches_max: int = 0
    memory_mib_max: float = 0.0

    def drain(self) -> Drain:
        """For the outcome."""
        return Drain(
            hints=self.hints,
            batches=self.batches,
            seconds=round(self.seconds, 3),
            queue_entries_max=self.queue_entries_max,
            unsettled_batches_max=self.batches_max,
            sync_memory_mib_max=self.memory_mib_max,
        )


async def run(measured: MeasuredMesh, load: HintLoad, progress: Progress) -> HintOutcome:
    """Run a load.

    Raises ImpossibleLoad, RunFailed, MeshDied, and what the stores raise when they are away.
    """
    mesh = measured.mesh
    progress("reading settings", 0, 0)
    settings = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": await readback.security_settings(mesh),
        "push_provider": "log",
    }
    users = _users(mesh, load)
    async with _loaders(load, secrets.randbits(32), users) as loaders:
        progress("connecting", 0, 0)
        await asyncio.gather(*(loader.until("ready") for loader in loaders))
        return await _measure(measured, load, users, loaders, settings, progress)


async def _measure(
    measured: MeasuredMesh,
    load: HintLoad,
    users: _Users,
    loaders: Sequence[LoadProcess],
    settings: Mapping[str, Any],
    progress: Progress,
) -> HintOutcome:
    mesh, online = measured.mesh, load.online
    watched = _Watched() if load.backlog else None
    if watched is not None:
        await _hold_sync(measured)
    start_ns = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
    measure_ns = start_ns + int(online.warmup_seconds * 1e9)
    end_ns = measure_ns + int(online.seconds * 1e9)
    wall_ms = (time.time_ns() - time.monotonic_ns()) // 1_000_000
    for loader in loaders:
        await loader.tell(
            {"go": {"start_ns": start_ns, "measure_ns": measure_ns, "end_ns": end_ns}}
        )
    ends = asyncio.ensure_future(asyncio.gather(*(one.until("done") for one in loaders)))
    try:
        await _until(measure_ns, start_ns, "warming up", ends, loaders, progress)
        before = await _settled_hints(mesh, watched)
        await _until(end_ns, measure_ns, "measuring", ends, loaders, progress)
        hints = await _settled_hints(mesh, watched) - before
        if watched is not None:
            await _drain(measured, watched, loaders, progress)
        progress("waiting for the last messages", 1, _delivered(loaders))
        done = await ends
    finally:
        ends.cancel()
    mesh = _now(measured)
    neither = await _settle(mesh, users.recipients, loaders, progress)
    pushes = await asyncio.to_thread(sync_record.shown, mesh, users.recipients)
    memory = await asyncio.to_thread(MeshProcesses(mesh).memory_mib)
    for loader in loaders:
        await loader.leave()
    acks = {user: each for one in done for user, each in one.get("acks", {}).items()}
    from_ms, to_ms = (at_ns // 1_000_000 + wall_ms for at_ns in (measure_ns, end_ns))
    return HintOutcome(
        seconds=online.seconds if watched is None else max(watched.seconds, 0.001),
        totals=Totals.sum([Totals(**one["totals"]) for one in done if "totals" in one]),
        counts=PushCounts(
            neither=neither,
            visible_twice=sync_record.twice(pushes),
            pushed_after_ack=sync_record.after_ack(pushes, acks, ONLINE_DEVICE),
            pushed_online=sum(one.device_id == ONLINE_DEVICE for one in pushes)
            if watched is None
            else 0,
        ),
        hints=hints if watched is None else watched.hints,
        pushes=sum(from_ms <= one.at_ms < to_ms for one in pushes),
        pushes_in_all=len(pushes),
        after_accepted=_merged(one["after_accepted"] for one in done if "after_accepted" in one),
        push_after_accepted=_after_accepted(pushes, done, from_ms),
        memory_mib=memory,
        settings=settings,
        drain=None if watched is None else watched.drain(),
    )


def _after_accepted(
    pushes: Sequence[sync_record.Shown], done: Sequence[Mapping[str, Any]], from_ms: int
) -> Histogram:
    """From the sender's answer to the record of the notification that told of it."""
    accepted = {int(message): at_ms for one in done for message, at_ms in one.get("accepted", ())}
    made = Histogram()
    for one in pushes:
        at_ms = accepted.get(one.message_id)
        if at_ms is not None and at_ms >= from_ms:
            made.record((one.at_ms - at_ms) * 1_000_000)
    return made


def _merged(parts: Any) -> Histogram:
    made = Histogram()
    for part in parts:
        made.merge(Histogram.from_json(part))
    return made


# -- a backlog ---------------------------------------------------------------------------------


async def _hold_sync(measured: MeasuredMesh) -> None:
    if measured.control is None:
        raise RunFailed("--backlog holds sync_svc: it needs a mesh of its own (without --data)")
    for process in measured.mesh.processes:
        if process.service == "sync_svc":
            await asyncio.to_thread(measured.control.hold, process.name)


async def _drain(
    measured: MeasuredMesh, watched: _Watched, loaders: Sequence[LoadProcess], progress: Progress
) -> None:
    """Let sync_svc run again, and watch it until nothing is unsettled. Raises RunFailed."""
    control = measured.control
    if control is None:
        raise RunFailed("nobody here holds sync_svc")
    mesh = measured.mesh
    watched.batches, watched.hints = await asyncio.to_thread(sync_record.outbox, mesh)
    names = [one.name for one in mesh.processes if one.service == "sync_svc"]
    for name in names:
        await asyncio.to_thread(control.release, name)
    await asyncio.to_thread(control.wait_ready, names)
    watched.released_at = moved_at = time.monotonic()
    mesh = control.running
    processes = MeshProcesses(mesh)
    before = watched.hints
    while True:
        batches, hints = await asyncio.to_thread(sync_record.outbox, mesh)
        entries = await asyncio.to_thread(sync_record.queue_entries, mesh)
        memory = (await asyncio.to_thread(processes.memory_mib)).get("sync_svc", 0.0)
        watched.seconds = time.monotonic() - watched.released_at
        watched.batches_max = max(watched.batches_max, watched.batches, batches)
        watched.queue_entries_max = max(watched.queue_entries_max, entries)
        watched.memory_mib_max = max(watched.memory_mib_max, memory)
        progress("draining", 1 - hints / max(1, watched.hints), _delivered(loaders))
        if not batches:
            return
        if hints < before:
            before, moved_at = hints, time.monotonic()
        if time.monotonic() - moved_at > SETTLE_SECONDS:
            raise RunFailed(f"{hints:,} hints did not drain: nothing moved for {SETTLE_SECONDS} s")
        await asyncio.sleep(LOOK_SECONDS)


# -- the end -----------------------------------------------------------------------------------


async def _settle(
    mesh: RunningMesh, users: Sequence[str], loaders: Sequence[LoadProcess], progress: Progress
) -> int:
    """Wait until every device has acked or was told; how many messages are left with neither."""
    moved_at, least = time.monotonic(), 1 << 62
    while True:
        left = await asyncio.to_thread(sync_record.neither, mesh, users)
        if not left:
            return 0
        if left < least:
            least, moved_at = left, time.monotonic()
        if time.monotonic() - moved_at > SETTLE_SECONDS:
            return left
        progress("waiting for the last pushes", 1, _delivered(loaders))
        await asyncio.sleep(LOOK_SECONDS)


async def _settled_hints(mesh: RunningMesh, watched: _Watched | None) -> float:
    """Nothing to ask while sync is held."""
    if watched is not None:
        return 0.0
    return await asyncio.to_thread(sync_record.settled_hints, mesh)


def _now(measured: MeasuredMesh) -> RunningMesh:
    return measured.mesh if measured.control is None else measured.control.running


def _delivered(loaders: Sequence[LoadProcess]) -> int:
    return sum(one.delivered for one in loaders)


async def _until(
    at_ns: int,
    since_ns: int,
    phase: str,
    ends: asyncio.Future[Any],
    loaders: Sequence[LoadProcess],
    progress: Progress,
) -> None:
    """Until a moment, showing how far it is; sooner when a load process failed."""
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        progress(phase, max(0.0, 1 - left_ns / max(1, at_ns - since_ns)), _delivered(loaders))
        await asyncio.wait((ends,), timeout=min(LOOK_SECONDS, left_ns / 1e9))
        if ends.done():
            ends.result()  # raises what it failed with
            return


# -- who takes part ----------------------------------------------------------------------------


def _users(mesh: RunningMesh, load: HintLoad) -> _Users:
    if not mesh.public:
        raise RunFailed("the mesh has no chat node")
    run_name = secrets.token_hex(4)
    lifetime = load.online.seconds + load.online.warmup_seconds + 3600
    names = user_names(run_name, load.online.pairs)
    tokens = {user: mesh.token(user, ttl_seconds=lifetime) for pair in names for user in pair}

    def device(user: str, number: int, device_id: str) -> DevicePlan:
        target = mesh.public[number % len(mesh.public)]
        return DevicePlan(user, device_id, mesh.token(user, ttl_seconds=lifetime), target)

    senders = min(load.away.users, MOST_SENDERS)
    return _Users(
        place_pairs(names, tokens, mesh.public),
        [device(f"bench-{run_name}-c{n}", n, ONLINE_DEVICE) for n in range(senders)],
        [device(f"bench-{run_name}-a{n}", n, "away") for n in range(load.away.users)],
    )


@asynccontextmanager
async def _loaders(
    load: HintLoad, run_number: int, users: _Users
) -> AsyncIterator[list[LoadProcess]]:
    """The load processes: the pairs' ones, and one for the users who are away."""
    started: list[LoadProcess] = []
    shared = {"run": run_number, "ca": None}
    try:
        for index in range(load.online.processes):
            share = users.pairs[index :: load.online.processes]
            order = {
                **shared,
                "load": load.online.to_json(),
                "pairs": [dataclasses.asdict(pair) for pair in share],
            }
            started.append(await LoadProcess.start(order, PAIRS_MODULE))
        if users.away:
            order = {
                **shared,
                "away": load.away.to_json(),
                "size_bytes": load.online.size_bytes,
                "senders": [dataclasses.asdict(one) for one in users.senders],
                "users": [dataclasses.asdict(one) for one in users.away],
            }
            started.append(await LoadProcess.start(order, AWAY_MODULE))
        yield started
    finally:
        for one in started:
            await one.stop()
