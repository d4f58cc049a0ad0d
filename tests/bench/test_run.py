"""A whole run over real stores and a server that is no mesh: figures, and what ends a run."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from chatmesh.cli.bench import compare, idle_run, readback, report, saved, soak_run
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LOAD_MODULE, RunFailed
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.cli.bench.outcome import Outcome, Totals
from chatmesh.cli.bench.plan import Load
from chatmesh.cli.bench.processes import MeshDied, MeshProcesses
from chatmesh.cli.bench.run import run
from chatmesh.cli.bench.soak_outcome import SoakLoad
from chatmesh.embedded import keys
from chatmesh.embedded.running import ProcessInfo, RunningMesh
from chatmesh.testing.mesh import start_mesh
from tests.bench.liar import lying_server

LOAD = Load(
    pairs=2, window=4, rate=None, size_bytes=100, seconds=1, warmup_seconds=0.2, processes=2
)  # fmt: skip
NAMES = {
    "delivered", "delivered_per_s", "lost", "duplicated", "out_of_order", "latency_ms",
    "cpu_s_per_1000", "memory_mib", "pg_bytes_per_message", "wal_bytes_per_message", "settings",
}  # fmt: skip


@pytest.fixture(scope="module")
def stores() -> Iterator[RunningMesh]:
    """Real PostgreSQL and Valkey."""
    with start_mesh(servers=False, postgres_url=None, redis_url=None) as started:
        keys.development_secret(started.mesh.folder)
        yield started.mesh.running


@asynccontextmanager
async def mesh_with(
    stores: RunningMesh, lie: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[RunningMesh, asyncio.subprocess.Process]]:
    """The stores, and a liar in the place of a chat node whose process is a child that may die."""

    async def no_servers_to_ask(*_: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(readback, "security_settings", no_servers_to_ask)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    try:
        async with lying_server(lie) as target:
            node = ProcessInfo("chat-1", "chat_svc", child.pid, target, "", "", Path("chat.log"))
            yield dataclasses.replace(stores, processes=(*stores.processes, node)), child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def silent(_phase: str, _share: float, _delivered: int) -> None:
    pass


async def test_figures_have_the_names_that_were_asked_for(
    stores: RunningMesh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    phases = []
    async with mesh_with(stores, "none", monkeypatch) as (mesh, _):
        outcome = await run(mesh, LOAD, lambda phase, *_: phases.append(phase))
    result = json.loads(json.dumps(outcome.to_json()))
    assert result.keys() == NAMES
    assert result["latency_ms"].keys() == {"p50", "p90", "p99", "max"}
    assert {"chat_svc", "postgres", "redis", "mesh_total", "client"} <= result[
        "cpu_s_per_1000"
    ].keys()
    assert {"chat_svc", "postgres", "redis", "client"} <= result["memory_mib"].keys()
    assert result["delivered"] > 0
    assert result["delivered_per_s"] == pytest.approx(result["delivered"] / LOAD.seconds, abs=0.1)
    assert outcome.passed
    assert result["settings"]["durable"]["postgres"]["fsync"] == "on"
    assert result["settings"]["durable"]["postgres"]["synchronous_commit"] == "on"
    assert result["settings"]["durable"]["redis"]["maxmemory-policy"] == "noeviction"
    assert list(dict.fromkeys(phases)) == [
        "reading settings", "connecting", "warming up", "measuring",
        "waiting for the last messages",
    ]  # fmt: skip
    report.show(Console(quiet=True), outcome)
    saved.save(tmp_path / "a.json", outcome.result(1))
    again = saved.read(tmp_path / "a.json")
    assert again.result == result
    ratios = {name: (a, b) for name, a, b in compare.figures(again.result, result)}
    assert ratios["latency_ms.p50"] == (result["latency_ms"]["p50"],) * 2


@pytest.mark.parametrize("lie", ["doubled", "gap"])
async def test_a_run_with_a_lie_does_not_pass(
    lie: str, stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh_with(stores, lie, monkeypatch) as (mesh, _):
        outcome = await run(mesh, LOAD, silent)
    assert not outcome.passed


async def test_a_mesh_that_dies_ends_the_run(
    stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = dataclasses.replace(LOAD, seconds=60)
    async with mesh_with(stores, "none", monkeypatch) as (mesh, child):

        def kill(phase: str, _share: float, _delivered: int) -> None:
            if phase == "measuring" and child.returncode is None:
                child.kill()

        with pytest.raises(MeshDied, match=r"chat-1 .*ended during the run; its log: chat\.log"):
            await run(mesh, load, kill)


@pytest.mark.parametrize("phase", ["connecting 3", "idle for 60 s"])
async def test_a_mesh_that_dies_under_idle_sessions_gives_no_figure(
    phase: str, stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh_with(stores, "none", monkeypatch) as (mesh, child):

        def kill(now: str, _share: float, _delivered: int) -> None:
            if now == phase and child.returncode is None:
                child.kill()

        load = idle_run.IdleLoad(3, 1, seconds=60 if "60" in phase else 0.1, settle_seconds=0)
        with pytest.raises(MeshDied, match=r"chat-1 .*ended during the run; its log: chat\.log"):
            await idle_run.measure(MeasuredMesh(mesh), load, kill)


async def test_a_mesh_that_dies_under_a_soak_gives_no_figure(
    stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh_with(stores, "none", monkeypatch) as (mesh, child):

        def kill(phase: str, _share: float, _delivered: int) -> None:
            if phase == "soaking" and child.returncode is None:
                child.kill()

        load = SoakLoad(2, 20, 120, minutes=1, warmup_seconds=0, slice_seconds=1, peak_seconds=1)
        with pytest.raises(MeshDied, match=r"chat-1 .*ended during the run"):
            await soak_run.measure(MeasuredMesh(mesh), load, kill)


async def test_a_session_that_ends_ends_the_run(
    stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh_with(stores, "closed", monkeypatch) as (mesh, _):
        with pytest.raises(RunFailed, match="REASON_DRAINED"):
            await run(mesh, LOAD, silent)


async def test_interrupt_leaves_no_load_process(
    stores: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = dataclasses.replace(LOAD, seconds=60)
    async with mesh_with(stores, "none", monkeypatch) as (mesh, _):
        measuring = asyncio.Event()
        running = asyncio.create_task(
            run(mesh, load, lambda phase, *_: measuring.set() if phase == "measuring" else None)
        )
        await measuring.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [child for child in psutil.Process().children() if LOAD_MODULE in child.cmdline()] == []


def test_processes_are_told_by_their_birth(stores: RunningMesh) -> None:
    processes = MeshProcesses(stores)
    first = processes.sample()
    assert all(used >= 0 for used in processes.sample().since(first).values())
    assert processes.services == ["redis", "spans", "postgres"]
    gone = dataclasses.replace(
        stores, processes=(ProcessInfo("sync", "sync_svc", 2**22 - 1, "", "", "", Path("l")),)
    )
    with pytest.raises(MeshDied, match="sync"):
        MeshProcesses(gone)


def test_nothing_delivered_is_no_success() -> None:
    load = Load(**{**LOAD.to_json(), "processes": 1})
    outcome = Outcome(
        load=load, totals=Totals(), histogram=Histogram(),
        services=["chat_svc"], cpu_s={"chat_svc": 1.0, "client": 1.0}, memory_mib={},
        database_bytes=0, wal_bytes=0, wal_fsyncs=None, settings={},
    )  # fmt: skip
    assert not outcome.passed
    assert outcome.to_json()["cpu_s_per_1000"]["mesh_total"] is None


@pytest.mark.parametrize("content", ["", "{}", '{"form": 99}', "[]"])
def test_a_file_that_is_no_run_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(saved.NotARun, match=r"x\.json"):
        saved.read(path)
    with pytest.raises(saved.NotARun, match="cannot be read"):
        saved.read(tmp_path / "absent.json")
