"""One drill: clients talk, servers are replaced one after another, counts are taken.

Rules: the next server is replaced only when every receiver is up to date again, as a rollout waits
for the pod before; sending never waits. No partial result: a drill gives an `Outcome` or raises.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from chatmesh.cli.bench.loaders import LoadProcess, RunFailed
from chatmesh.cli.drill.outcome import Outcome, Plan, Replacement, Traffic
from chatmesh.cli.drill.replacing import NotReplaced, replace, servers_of
from chatmesh.embedded import running, services
from chatmesh.embedded.running import ProcessInfo, RunningMesh
from chatmesh.embedded.supervisor import Mesh, MeshOptions

CLIENTS_MODULE: Final = "chatmesh.cli.drill.clients"
REPLICAS: Final = 2
"""Of each service in a mesh of the drill's own: with one, a replacement is an outage of its
start-up time."""
UP_TO_DATE_MS: Final = 500.0
SETTLE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.1
LEAD_SECONDS: Final = 0.5


class DrillFailed(Exception):
    """There is no result; the text says why."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def drill(
    plan: Plan, data: Path | None, wanted: Sequence[str], report: Callable[[str], None]
) -> tuple[Outcome, Path]:
    """Run a drill; the outcome, and where the mesh's logs are.

    Raises DrillFailed, and an EmbeddedError when the mesh does not start or run.
    """
    unknown = set(wanted) - set(services.SERVICES)
    if unknown:
        raise DrillFailed(
            f"--service {', '.join(sorted(unknown))}: choose from {', '.join(services.SERVICES)}",
            exit_code=2,
        )
    with _mesh(data, report) as (mesh, keep):
        try:
            servers = servers_of(mesh.folder.path, list(wanted))
            outcome = asyncio.run(run(plan, mesh, servers, report))
        except (NotReplaced, RunFailed, OSError) as error:
            keep()
            raise DrillFailed(f"no result: {error} (all logs: {mesh.folder.logs})") from None
        if not outcome.passed:
            keep()
    return outcome, mesh.folder.logs


def two_of_each() -> dict[str, Any]:
    """Options of a mesh in which no replacement is an outage."""
    replicas = {module: REPLICAS for module in services.SERVICES if module != "chat_svc"}
    return {"chat_nodes": REPLICAS, "replicas": replicas}


@contextmanager
def _mesh(
    data: Path | None, report: Callable[[str], None]
) -> Iterator[tuple[RunningMesh, Callable[[], None]]]:
    """The mesh, and what to call so that its folder is kept."""
    if data is not None:
        yield running.find(data), lambda: None
        return
    folder = Path(tempfile.mkdtemp(prefix="chatmesh-drill-"))
    options = MeshOptions(data=folder, ports="auto", **two_of_each())
    kept: list[bool] = []
    try:
        with Mesh(options, report) as mesh:
            yield mesh.running, lambda: kept.append(True)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


async def run(
    plan: Plan, mesh: RunningMesh, servers: Sequence[ProcessInfo], report: Callable[[str], None]
) -> Outcome:
    """Drill these servers of a running mesh, in this order. Raises NotReplaced, RunFailed."""
    for service in {server.service for server in servers}:
        if len(mesh.addresses_of(service)) == 1:
            report(
                f"{service} has one replica, so its gap includes the start of its successor: "
                "start the mesh by `chatmesh up --replicas 2`"
            )
    clients = await LoadProcess.start(_order(plan, mesh), CLIENTS_MODULE)
    try:
        report("connecting clients")
        await clients.until("ready")
        begin_ns = time.monotonic_ns()
        await clients.tell({"go": {}})
        result = asyncio.create_task(clients.until("done"))
        try:
            await asyncio.sleep(LEAD_SECONDS)  # the load is on before the first server goes
            replaced = [
                await _replace(plan, mesh, server, clients, result, report) for server in servers
            ]
            seconds = (time.monotonic_ns() - begin_ns) / 1e9
            await clients.tell({"end": {}})
            report("waiting for the last messages")
            done = await result
        finally:
            result.cancel()
        await clients.leave()
    finally:
        await clients.stop()
    raw = done["traffic"]
    traffic = Traffic(**{**raw, "gaps": [(start, end) for start, end in raw["gaps"]]})
    return Outcome(plan, traffic, replaced, seconds)


def _order(plan: Plan, mesh: RunningMesh) -> dict[str, object]:
    run_name = f"drill-{time.time_ns():x}"
    pairs = [
        {
            "receiver": f"{run_name}-r{number}",
            "sender_token": mesh.token(f"{run_name}-s{number}", ttl_seconds=86_400),
            "receiver_token": mesh.token(f"{run_name}-r{number}", ttl_seconds=86_400),
        }
        for number in range(plan.pairs)
    ]
    return {"pairs": pairs, "targets": mesh.public, "rate": plan.rate}


async def _replace(
    plan: Plan,
    mesh: RunningMesh,
    server: ProcessInfo,
    clients: LoadProcess,
    result: asyncio.Task[object],
    report: Callable[[str], None],
) -> Replacement:
    report(f"{'draining' if plan.kind == 'rolling' else 'killing'} {server.name}")
    done = await asyncio.to_thread(replace, mesh.folder.path, server, plan.kind)
    deadline = time.monotonic() + SETTLE_SECONDS
    seen = clients.ticks
    while clients.ticks < seen + 2 or clients.behind_ms > UP_TO_DATE_MS:
        if result.done():
            result.result()
            raise RunFailed("the clients ended before they were told to")
        if time.monotonic() > deadline:
            break  # the result will show what was lost
        await asyncio.sleep(POLL_SECONDS)
    return Replacement(
        server.name, server.service, done.begin_ns, done.ready_ns, time.monotonic_ns()
    )
