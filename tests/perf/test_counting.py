"""What one message costs in calls, frames, tasks, spans and log lines: ceilings, no times.

Twenty pairs with a window of twenty, on a real mesh: the same load on any machine makes about the
same batches, and what grows with each message shows, however fast or slow the machine is.
"""

import json
from collections.abc import Iterator

import pytest

from chatmesh.cli.bench import run
from chatmesh.cli.bench.mesh import ENVIRONMENT
from chatmesh.cli.bench.plan import Load
from chatmesh.embedded.running import RunningMesh
from chatmesh.testing.mesh import start_mesh
from tests.perf.counts import Counts, count, prepare, slowest_statements

pytestmark = pytest.mark.mesh
LOAD = Load(
    pairs=20, window=20, rate=None, size_bytes=200, seconds=150, warmup_seconds=0, messages=1_000
)  # fmt: skip
CEILINGS = {
    "postgres_calls": 0.3,
    "redis_commands": 0.3,
    "mesh_frames": 1.0,
    # none per message; what the passing of time and forty sessions make is below a hundredth
    "tasks": 0.01,
    "spans": 0.0,
    "log_lines": 0.01,
}


@pytest.fixture(scope="module")
def unsampled_mesh() -> Iterator[RunningMesh]:
    with start_mesh(trace_sample_ratio=0.0, environment={"*": ENVIRONMENT}) as started:
        yield started.mesh.running


@pytest.mark.timeout(240)
async def test_no_ceiling_is_broken(unsampled_mesh: RunningMesh) -> None:
    prepare(unsampled_mesh)
    before: list[Counts] = []

    def progress(phase: str, _share: float, _delivered: int) -> None:
        if phase == "measuring" and not before:  # all sessions live, nothing sent yet
            before.append(count(unsampled_mesh))

    outcome = await run.run(unsampled_mesh, LOAD, progress)

    messages = outcome.totals.delivered
    cost = count(unsampled_mesh).since(before[0], messages)
    print(f"\ncounts per delivered message: {json.dumps(cost)} ({messages} messages)")
    assert outcome.passed, outcome.totals
    assert messages == LOAD.pairs * (LOAD.messages or 0)
    broken = {name: cost[name] for name, ceiling in CEILINGS.items() if cost[name] > ceiling}
    assert broken == {}, slowest_statements(unsampled_mesh, messages)
