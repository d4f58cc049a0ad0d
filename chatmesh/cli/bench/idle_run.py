"""Runs `bench idle`: what the mesh holds and does for sessions that only stay.

Role: a few sessions warm every node up; then memory and CPU with these alone, and with all of
them. What a session costs is the difference, over the sessions that came in between.
Rules: stores are counted apart from services: their memory is a cache that they are given. A
session that ends, or a process that dies, ends the run without a figure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis

from chatmesh.cli.bench import readback
from chatmesh.cli.bench.loaders import LoadProcess, Progress, RunFailed, watched
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.plan import DevicePlan
from chatmesh.cli.bench.processes import MeshProcesses, Sample, cpu_of
from chatmesh.cli.bench.result import Result
from chatmesh.embedded.running import RunningMesh

LOAD_MODULE: Final = "chatmesh.cli.bench.idle_load"
STORES: Final = ("postgres", "redis")
NOT_THE_MESH: Final = ("spans",)
"""Parts of an embedded mesh that no other has."""


@dataclass(frozen=True, slots=True)
class IdleLoad:
    """What is asked."""

    connections: int
    """Measured ones; those of the warm-up come before them."""
    warm: int
    seconds: float
    """Of each of the two looks at the CPU."""
    settle_seconds: float
    """After connecting, before memory is read."""
    ca: str | None = None
    """PEM file, when the public port speaks TLS."""

    def to_json(self) -> dict[str, Any]:
        """For saved runs."""
        return {
            **{k: v for k, v in dataclasses.asdict(self).items() if k != "ca"},
            "tls": self.ca is not None,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """The mesh at one moment, and its CPU over the time after it."""

    memory_kib: Mapping[str, float]
    redis_bytes: int
    cpu_s: Mapping[str, float]


async def measure(measured: MeasuredMesh, load: IdleLoad, progress: Progress) -> Result:
    """The figures. Raises RunFailed, MeshDied, ImpossibleLoad and what the stores raise."""
    mesh = measured.mesh
    processes = MeshProcesses(mesh)
    progress("reading settings", 0, 0)
    tls = ssl.create_default_context(cafile=load.ca) if load.ca else None
    settings = {
        "durable": await asyncio.to_thread(readback.durable_settings, mesh),
        "security": {
            **await readback.security_settings(mesh, tls),
            "public_tls": load.ca is not None,
        },
    }
    order = {"devices": devices(mesh, load.warm + load.connections), "ca": load.ca}
    loader = await LoadProcess.start(order, LOAD_MODULE)
    try:
        async with watched(processes):
            progress(f"warming up: {load.warm} connections", 0, 0)
            await loader.ask(do="open", count=load.warm)
            few = await _look(mesh, processes, loader, load, progress, 0.1)
            progress(f"connecting {load.connections:,}", 0.4, 0)
            client_cpu = cpu_of([loader.pid])
            await loader.ask(do="open", count=load.connections)
            client_cpu = cpu_of([loader.pid]) - client_cpu
            many = await _look(mesh, processes, loader, load, progress, 0.6)
        processes.check()
        await loader.ask(do="bye")
    finally:
        await loader.stop()
    figures = {
        **per_connection(few, many, load.connections, load.seconds),
        "connections": load.connections,
        "connect_client_cpu_ms": round(client_cpu * 1000 / load.connections, 3),
        "settings": settings,
    }
    return Result(
        kind="idle",
        load={**load.to_json(), "chat_nodes": len(mesh.public)},
        figures=figures,
        headline=f"{figures['kib_per_connection']:g} KiB of the services per idle connection "
        f"({load.connections:,} of them, {'TLS' if load.ca else 'plain text'})",
    )


async def _look(
    mesh: RunningMesh,
    processes: MeshProcesses,
    loader: LoadProcess,
    load: IdleLoad,
    progress: Progress,
    share: float,
) -> Look:
    progress("settling", share, 0)
    await loader.ask(do="idle", seconds=load.settle_seconds)
    memory = await asyncio.to_thread(processes.memory_mib)
    held = await asyncio.to_thread(redis_bytes, mesh)
    progress(f"idle for {load.seconds:g} s", share + 0.1, 0)
    before: Sample = processes.sample()
    await loader.ask(do="idle", seconds=load.seconds)
    used = processes.sample().since(before)
    return Look({name: mib * 1024 for name, mib in memory.items()}, held, used)


def per_connection(few: Look, many: Look, connections: int, seconds: float) -> dict[str, Any]:
    """What each of the connections between two looks cost, in all and by service."""
    kib = {
        name: round((held - few.memory_kib.get(name, 0.0)) / connections, 2)
        for name, held in many.memory_kib.items()
    }
    cpu_ms = {
        name: round((used - few.cpu_s.get(name, 0.0)) * 1000 / connections / seconds, 5)
        for name, used in many.cpu_s.items()
    }
    services = [name for name in kib if name not in (*STORES, *NOT_THE_MESH)]
    return {
        "kib_per_connection": round(sum(kib[name] for name in services), 2),
        "kib_per_connection_by_service": {name: kib[name] for name in services},
        "kib_per_connection_by_store": {name: kib[name] for name in STORES if name in kib},
        "redis_bytes_per_connection": round((many.redis_bytes - few.redis_bytes) / connections),
        "cpu_ms_per_connection_per_s": round(sum(cpu_ms.get(name, 0.0) for name in services), 5),
        "cpu_ms_per_connection_per_s_by_service": {name: cpu_ms[name] for name in services},
        "cpu_ms_per_connection_per_s_by_store": {
            name: cpu_ms[name] for name in STORES if name in cpu_ms
        },
        "idle_mesh_cpu_ms_per_s": round(
            sum(few.cpu_s.get(name, 0.0) for name in services) * 1000 / seconds, 3
        ),
    }


def devices(mesh: RunningMesh, count: int, name: str = "i") -> list[dict[str, Any]]:
    """New users, one device each, in turn over the chat nodes. Raises RunFailed."""
    if not mesh.public:
        raise RunFailed("the mesh has no chat node")
    mark = secrets.token_hex(4)

    def device(number: int) -> dict[str, Any]:
        user = f"bench-{mark}-{name}{number}"
        target = mesh.public[number % len(mesh.public)]
        plan = DevicePlan(user, "bench", mesh.token(user, ttl_seconds=86_400), target)
        return dataclasses.asdict(plan)

    return [device(number) for number in range(count)]


def redis_bytes(mesh: RunningMesh) -> int:
    """Bytes of data that Redis holds now, without its buffers. Raises RedisError."""
    client = redis.Redis.from_url(mesh.redis_url())
    try:
        found: dict[str, Any] = client.info("memory")
        return int(found["used_memory_dataset"])
    finally:
        client.close()


def load_pids(loaders: list[LoadProcess]) -> list[int]:
    """The clients' processes, and this one."""
    return [os.getpid(), *(loader.pid for loader in loaders)]
