"""The same loads on ours and on ejabberd, one after the other, and how many times ours is theirs.

Rules: both store every message in the embedded PostgreSQL with the same settings, both are loaded
by pairs of clients on this machine, and both have every message checked. No partial figure: when
one side fails, there is no result.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import ejabberd
from chatmesh.cli.bench import readback, run
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LoadProcess, Progress, RunFailed, sleep_until
from chatmesh.cli.bench.mesh import measured_mesh
from chatmesh.cli.bench.outcome import Totals
from chatmesh.cli.bench.plan import Load, user_names
from chatmesh.cli.bench.processes import MeshProcesses, cpu_of
from chatmesh.embedded.supervisor import Mesh, MeshOptions

LOAD_MODULE: Final = "benchmarks.peers.load"
RATIOS: Final = ("delivered_per_s", "p50_ms", "p99_ms", "cpu_s_per_1000")


@dataclass(frozen=True, slots=True)
class Measured:
    """One load on one server."""

    delivered_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    """Of the server and its stores."""
    client_cpu_s_per_1000: float


def ours(loads: Mapping[str, Load], say: Callable[[str], None], bar: Progress) -> dict[str, Any]:
    """A mesh of its own: figures by load, and its settings. Raises RunFailed, MeshDied."""
    figures: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    with measured_mesh(None, 2, say) as measured:
        try:
            for name, load in loads.items():
                outcome = asyncio.run(run.run(measured.mesh, load, bar))
                if not outcome.passed:
                    raise RunFailed(f"ours, {name}: messages were lost, doubled or out of order")
                result = outcome.to_json()
                settings = result["settings"]
                figures[name] = Measured(
                    result["delivered_per_s"],
                    result["latency_ms"]["p50"],
                    result["latency_ms"]["p99"],
                    result["cpu_s_per_1000"]["mesh_total"],
                    result["cpu_s_per_1000"]["client"],
                )
        except BaseException:
            measured.keep = True
            raise
    return {"figures": figures, "settings": settings}


def theirs(loads: Mapping[str, Load], say: Callable[[str], None], bar: Progress) -> dict[str, Any]:
    """ejabberd on an embedded PostgreSQL. Raises RunFailed, EjabberdFailed."""
    folder = Path(tempfile.mkdtemp(prefix="chatmesh-peers-"))
    folder.chmod(0o755)
    home = folder / "ejabberd"
    home.mkdir()
    address = f"127.{secrets.randbelow(200) + 10}.{secrets.randbelow(250)}.{os.getpid() % 250 + 1}"
    options = MeshOptions(
        data=folder / "stores", ports="auto", servers=False, postgres_url=None, redis_url=None,
        postgres_settings={"listen_addresses": address},
    )  # fmt: skip
    names = {name: user_names(secrets.token_hex(4), load.pairs) for name, load in loads.items()}
    everybody = [user for pairs in names.values() for pair in pairs for user in pair]
    keep = True
    try:
        with Mesh(options, say) as stores:
            say(f"starting ejabberd {ejabberd.version()}")
            owner_url = stores.running.owner_url()
            with ejabberd.running(home, owner_url, address, everybody) as server:
                durable = readback.durable_settings(stores.running)["postgres"]
                processes = MeshProcesses(stores.running)
                figures, sent = {}, 0
                for name, load in loads.items():
                    figures[name], more = asyncio.run(
                        _theirs(server, processes, load, names[name], bar)
                    )
                    sent += more
                archived = ejabberd.archived(owner_url)
        if archived < sent:
            raise RunFailed(f"ejabberd has archived {archived:,} of {sent:,} messages")
        keep = False
        return {
            "figures": figures, "version": server.version, "archived": archived,
            "settings": {"postgres": durable},
        }  # fmt: skip
    finally:
        if keep:
            say(f"ejabberd's logs: {home}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _theirs(
    server: ejabberd.Ejabberd,
    processes: MeshProcesses,
    load: Load,
    names: Sequence[tuple[str, str]],
    progress: Progress,
) -> tuple[Measured, int]:
    """The figures, and how many messages were sent in all."""
    order = {
        "load": load.to_json(), "run": secrets.randbits(32), "host": server.host,
        "port": server.port, "domain": server.domain, "password": server.password,
        "pairs": names,
    }  # fmt: skip
    loader = await LoadProcess.start(order, LOAD_MODULE)
    try:
        progress("connecting", 0, 0)
        await loader.until("ready")
        start_ns = time.monotonic_ns() + int(run.LEAD_SECONDS * 1e9)
        measure_ns = start_ns + int(load.warmup_seconds * 1e9)
        end_ns = measure_ns + int(load.seconds * 1e9)
        await loader.tell(
            {"go": {"start_ns": start_ns, "measure_ns": measure_ns, "end_ns": end_ns}}
        )
        ends = asyncio.ensure_future(_done(loader))
        try:
            await sleep_until(measure_ns, start_ns, "warming up", ends, [loader], progress)
            used, server_cpu = processes.sample(), cpu_of([server.pid])
            client_cpu = cpu_of([loader.pid, os.getpid()])
            await sleep_until(end_ns, measure_ns, "measuring", ends, [loader], progress)
            cpu = processes.sample().since(used).get("postgres", 0.0)
            cpu += cpu_of([server.pid]) - server_cpu
            client_cpu = cpu_of([loader.pid, os.getpid()]) - client_cpu
            (done,) = await ends
        finally:
            ends.cancel()
        server.check()
        processes.check()
        await loader.leave()
    except RunFailed:
        server.check()
        processes.check()
        raise
    finally:
        await loader.stop()
    return _measured(load, done, cpu, client_cpu), int(done["totals"]["sent"])


async def _done(loader: LoadProcess) -> list[Mapping[str, Any]]:
    return [await loader.until("done")]


def _measured(load: Load, done: Mapping[str, Any], cpu_s: float, client_cpu_s: float) -> Measured:
    totals = Totals(**done["totals"])
    if totals.lost or totals.duplicated or totals.out_of_order or not totals.delivered:
        raise RunFailed(
            f"ejabberd: {totals.delivered} delivered, {totals.lost} lost, {totals.duplicated} "
            f"doubled, {totals.out_of_order} out of order"
        )
    histogram = Histogram.from_json(done["histogram"])
    return Measured(
        round(totals.delivered / load.seconds, 1),
        round(histogram.quantile_ns(0.5) / 1e6, 3),
        round(histogram.quantile_ns(0.99) / 1e6, 3),
        round(cpu_s * 1000 / totals.delivered, 4),
        round(client_cpu_s * 1000 / totals.delivered, 4),
    )


def ratios(mine: Mapping[str, Measured], other: Mapping[str, Measured]) -> dict[str, Any]:
    """Ours over theirs, by load and figure."""
    return {
        name: {
            figure: round(getattr(one, figure) / getattr(other[name], figure), 3)
            if getattr(other[name], figure)
            else None
            for figure in RATIOS
        }
        for name, one in mine.items()
        if name in other
    }
