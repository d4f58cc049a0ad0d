"""Runs `bench presence`: one load process, what the mesh used meanwhile, and the storm's price."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import redis

from chatmesh.cli.bench import run as runs
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LoadProcess, RunFailed
from chatmesh.cli.bench.outcome import Outcome
from chatmesh.cli.bench.plan import DevicePlan, Load
from chatmesh.cli.bench.processes import MeshProcesses
from chatmesh.embedded.running import RunningMesh

Report = Callable[[str], None]
LOAD_MODULE: Final = "chatmesh.cli.bench.presence_load"
STORM_RATE: Final = 200.0
STORM_PAIRS: Final = 20
SETTLE_SECONDS: Final = 2.0
"""After connecting, before what is idle is measured."""
_OURS: Final = ("chat_svc", "presence_svc", "redis")
"""Whose CPU staying online costs."""


@dataclass(frozen=True, slots=True)
class PresenceLoad:
    """What is asked."""

    pairs: int
    probes: int
    seconds: float
    """Of the idle time, and of the changes."""
    storm: bool = False


async def measure(mesh: RunningMesh, load: PresenceLoad, report: Report) -> dict[str, Any]:
    """The figures. Raises RunFailed, MeshDied, ImpossibleLoad and what the stores raise."""
    processes = MeshProcesses(mesh)
    memory = await asyncio.to_thread(_redis_bytes, mesh)
    loader = await LoadProcess.start({"pairs": _pairs(mesh, load.pairs), "ca": None}, LOAD_MODULE)
    try:
        report(f"connecting {2 * load.pairs:,} devices")
        connected = await _ask(loader, do="connect")
        people = connected["sessions"]
        await asyncio.sleep(SETTLE_SECONDS)
        report(f"idle for {load.seconds:g} s")
        memory = await asyncio.to_thread(_redis_bytes, mesh) - memory
        before = processes.sample()
        await asyncio.sleep(load.seconds)
        used = processes.sample().since(before)
        report(f"{load.probes:,} friends come and go")
        probed = await _ask(loader, do="probe", count=load.probes)
        report(f"changes for {load.seconds:g} s")
        fanned = await _ask(loader, do="fan", seconds=load.seconds)
        storm = await _storm(mesh, load, loader, report) if load.storm else None
        processes.check()
        await _ask(loader, do="bye")
    finally:
        await loader.stop()
    told = Histogram.from_json(probed["histogram"])
    return {
        "sessions": people,
        "attach_per_s": round(people / connected["seconds"], 1),
        "connect_to_friend_ms": {
            "p50": round(told.quantile_ns(0.5) / 1e6, 2),
            "p99": round(told.quantile_ns(0.99) / 1e6, 2),
            "count": told.count,
        },
        "changes_per_s": round(fanned["changes"] / fanned["seconds"], 1),
        "redis_bytes_per_1000": round(1_000 * memory / people),
        "idle_cores_per_1000": {
            name: round(1_000 * used.get(name, 0.0) / load.seconds / people, 5) for name in _OURS
        },
        "storm": storm,
    }


async def _storm(
    mesh: RunningMesh, load: PresenceLoad, loader: LoadProcess, report: Report
) -> dict[str, Any]:
    """Messages at a rate, quiet and then while everybody reconnects at once."""
    messages = Load(
        pairs=STORM_PAIRS, window=None, rate=STORM_RATE, size_bytes=200,
        seconds=max(load.seconds, 1.0), warmup_seconds=1, processes=1, ack_ms=100,
    )  # fmt: skip
    report("messages, quiet")
    quiet = await runs.run(mesh, messages, _silent)
    report(f"messages, while {load.pairs:,} sessions reconnect at once")
    running = asyncio.create_task(runs.run(mesh, messages, _silent))
    try:
        await asyncio.sleep(messages.warmup_seconds + min(1.0, messages.seconds / 4))
        stormed = await _ask(loader, do="storm", targets=mesh.public[1:] or mesh.public)
        noisy = await running
    finally:
        running.cancel()
        await asyncio.wait((running,))
    calm, wild = _p99_ms(quiet), _p99_ms(noisy)
    return {
        "sessions": load.pairs,
        "live_s": round(stormed["live_seconds"], 2),
        "told_s": round(stormed["told_seconds"], 2),
        "message_p99_ms": {"quiet": calm, "storm": wild},
        "p99_ratio": round(wild / max(calm, 1e-9), 2),
        "passed": quiet.passed and noisy.passed,
    }


def _p99_ms(outcome: Outcome) -> float:
    return round(outcome.histogram.quantile_ns(0.99) / 1e6, 2)


def _silent(_phase: str, _share: float, _delivered: int) -> None:
    """The command reports phases itself."""


async def _ask(loader: LoadProcess, **order: Any) -> Any:
    await loader.tell(order)
    return await loader.until("done")


def _pairs(mesh: RunningMesh, count: int) -> list[list[dict[str, Any]]]:
    """The first of each pair on the first node, the friend on the last."""
    if not mesh.public:
        raise RunFailed("the mesh has no chat node")
    mark = secrets.token_hex(4)

    def device(name: str, target: str) -> dict[str, Any]:
        user = f"bench-{mark}-{name}"
        plan = DevicePlan(user, "bench", mesh.token(user, ttl_seconds=7_200), target)
        return dataclasses.asdict(plan)

    return [
        [device(f"p{n}", mesh.public[0]), device(f"f{n}", mesh.public[-1])] for n in range(count)
    ]


def _redis_bytes(mesh: RunningMesh) -> int:
    """What Redis holds now."""
    client = redis.Redis.from_url((mesh.folder.secrets / "redis-url").read_text())
    try:
        found: dict[str, Any] = client.info("memory")
        return int(found["used_memory_dataset"])
    finally:
        client.close()
