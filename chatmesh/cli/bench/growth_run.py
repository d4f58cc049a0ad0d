"""Runs `bench growth`: whether a message costs more when there is more of everything.

Role: each dimension compares two sides by the same load: a mesh with and without messages stored
before, few and ten times as many idle users online, two and four chat nodes. Runs of the two sides
take turns, so that what the machine does meanwhile meets both.
Rules: the cost is the mesh's CPU per message (services and stores), its median over the runs; a
ratio is the grown side's over the other's. A run that fails ends all without a figure.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from chatmesh.cli.bench import idle_run, readback, run
from chatmesh.cli.bench.loaders import LoadProcess, Progress, RunFailed
from chatmesh.cli.bench.mesh import MeasuredMesh, measured_mesh
from chatmesh.cli.bench.plan import Load
from chatmesh.cli.bench.result import Result

PRELOAD_WINDOW: Final = 64
PRELOAD_SECONDS: Final = 24 * 3600.0
"""The longest that storing messages before may take."""
DIMENSIONS: Final = ("preload", "idle", "nodes")
FEW_NODES: Final = 2


@dataclass(frozen=True, slots=True)
class GrowthLoad:
    """What is asked."""

    pairs: int
    window: int
    size_bytes: int
    seconds: float
    warmup_seconds: float
    runs: int
    preload: int
    """Messages stored before."""
    idle_users: int
    """Online beside the load, on the side with few; the other has `idle_factor` times as many."""
    idle_factor: int
    nodes: int
    """Chat nodes in place of two."""
    dimensions: tuple[str, ...] = DIMENSIONS

    def messages(self) -> Load:
        """One run."""
        return Load(
            pairs=self.pairs, window=self.window, rate=None, size_bytes=self.size_bytes,
            seconds=self.seconds, warmup_seconds=self.warmup_seconds,
        )  # fmt: skip

    def stored_before(self) -> Load:
        """The load that stores messages before, as fast as it goes. Raises ImpossibleLoad."""
        each = -(-self.preload // self.pairs)
        return Load(
            pairs=self.pairs, window=PRELOAD_WINDOW, rate=None, size_bytes=self.size_bytes,
            seconds=PRELOAD_SECONDS, warmup_seconds=0, messages=each,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    name: str
    mesh: MeasuredMesh
    idle_users: int = 0


class Growth:
    """All dimensions, one after the other."""

    def __init__(self, load: GrowthLoad, say: Callable[[str], None], progress: Progress) -> None:
        self._load = load
        self._say = say
        self._progress = progress
        self.costs: dict[str, dict[str, list[float]]] = {}
        """By dimension and side: CPU-seconds per 1,000 messages of each run."""
        self.stored = 0
        self.running: MeasuredMesh | None = None
        """The mesh that is measured now: whose logs are kept when it fails."""

    def measure(self, stack: ExitStack) -> dict[str, Any]:
        """Run all; settings of the first mesh. Raises as `run.run` does."""
        base = self._mesh(stack, FEW_NODES)
        settings = {
            "durable": readback.durable_settings(base.mesh),
            "security": asyncio.run(readback.security_settings(base.mesh)),
        }
        load = self._load
        if "idle" in load.dimensions:
            many = load.idle_users * load.idle_factor
            few, much = Side("few", base, load.idle_users), Side("many", base, many)
            self._compare("idle", few, much)
        if "nodes" in load.dimensions:
            with ExitStack() as only:
                more = self._mesh(only, load.nodes)
                self._compare("nodes", Side("few", base), Side("many", more))
        if "preload" in load.dimensions:
            full = self._mesh(stack, FEW_NODES)
            self._store_before(full)
            self._compare("preload", Side("empty", base), Side("full", full))
        return settings

    def _mesh(self, stack: ExitStack, nodes: int) -> MeasuredMesh:
        return stack.enter_context(measured_mesh(None, nodes, self._say))

    def _store_before(self, mesh: MeasuredMesh) -> None:
        self.running = mesh

        def shown(_phase: str, _share: float, delivered: int) -> None:
            self._progress("storing messages", min(1.0, delivered / self._load.preload), delivered)

        outcome = asyncio.run(run.run(mesh.mesh, self._load.stored_before(), shown))
        if not outcome.passed:
            raise RunFailed("messages were lost, doubled or out of order while storing them")
        self.stored = outcome.totals.delivered_in_all

    def _compare(self, dimension: str, one: Side, other: Side) -> None:
        sides: dict[str, list[float]] = {one.name: [], other.name: []}
        self.costs[dimension] = sides
        for number in range(self._load.runs):
            for side in (one, other):
                self.running = side.mesh
                what = f"{dimension} {side.name} {number + 1}/{self._load.runs}"
                sides[side.name].append(asyncio.run(self._run(side, what)))

    async def _run(self, side: Side, what: str) -> float:
        def shown(phase: str, share: float, delivered: int) -> None:
            self._progress(f"{what}: {phase}", share, delivered)

        async with _idle(side):
            outcome = await run.run(side.mesh.mesh, self._load.messages(), shown)
        if not outcome.passed:
            raise RunFailed(f"messages were lost, doubled or out of order ({what})")
        return float(outcome.to_json()["cpu_s_per_1000"]["mesh_total"])


@asynccontextmanager
async def _idle(side: Side) -> AsyncIterator[None]:
    """Users who are online and say nothing."""
    if not side.idle_users:
        yield
        return
    order = {"devices": idle_run.devices(side.mesh.mesh, side.idle_users), "ca": None}
    loader = await LoadProcess.start(order, idle_run.LOAD_MODULE)
    try:
        await loader.ask(do="open", count=side.idle_users)
        yield
        await loader.ask(do="bye")
    finally:
        await loader.stop()


def result_of(load: GrowthLoad, growth: Growth, settings: dict[str, Any]) -> Result:
    """Names of `--json`."""
    ratios, costs = {}, {}
    for dimension, sides in growth.costs.items():
        one, other = (statistics.median(runs) for runs in sides.values())
        ratios[dimension] = round(other / one, 3) if one else 0.0
        costs[dimension] = {name: list(runs) for name, runs in sides.items()}
    lines = [
        f"{dimension}: {ratio:g} times the cost per message "
        f"({', '.join(f'{name} {_shown(runs)}' for name, runs in costs[dimension].items())})"
        for dimension, ratio in ratios.items()
    ]
    return Result(
        kind="growth",
        load=asdict(load),
        figures={
            "cost_ratio": ratios,
            "cpu_s_per_1000": costs,
            "stored_before": growth.stored,
            "settings": settings,
        },
        headline=f"cost per message with more of everything, {load.runs} runs a side, in turns",
        lines=lines,
    )


def _shown(runs: list[float]) -> str:
    return "/".join(f"{cost:.4g}" for cost in runs)
