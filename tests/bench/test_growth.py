"""`bench growth` on a running mesh. Both sides are the same here: turns count, not ratios."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from chatmesh.cli.bench import growth_run
from chatmesh.cli.bench.growth_run import Growth, GrowthLoad, result_of
from chatmesh.cli.bench.mesh import MeasuredMesh
from chatmesh.embedded.running import RunningMesh

pytestmark = pytest.mark.mesh


def test_sides_take_turns_and_messages_are_stored_before(
    running_mesh: RunningMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def same_mesh(*_: Any) -> Iterator[MeasuredMesh]:
        yield MeasuredMesh(running_mesh)

    monkeypatch.setattr(growth_run, "measured_mesh", same_mesh)
    load = GrowthLoad(
        pairs=1, window=2, size_bytes=60, seconds=0.3, warmup_seconds=0, runs=1, preload=30,
        idle_users=1, idle_factor=2, nodes=4, dimensions=("preload", "idle"),
    )  # fmt: skip
    turns: list[str] = []

    def noted(phase: str, _share: float, _delivered: int) -> None:
        turn = phase.partition(":")[0]
        if turn not in turns:
            turns.append(turn)

    growth = Growth(load, lambda _: None, noted)
    with ExitStack() as stack:
        result = result_of(load, growth, growth.measure(stack))
    assert turns == [
        "idle few 1/1", "idle many 1/1", "storing messages", "preload empty 1/1",
        "preload full 1/1",
    ]  # fmt: skip
    assert result.figures["cost_ratio"].keys() == {"preload", "idle"}
    assert result.figures["stored_before"] >= 30
    assert {len(runs) for sides in growth.costs.values() for runs in sides.values()} == {1}
    assert result.figures["settings"]["durable"]["postgres"]["fsync"] == "on"
