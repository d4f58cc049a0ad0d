"""Random runs over a whole mesh against the small model: users, devices, nodes, messages of every
kind, members, blocks, and everything that may break underneath, healed in the end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.faults.hints import SHARES
from tests.faults.steps import CHANGES, FAULTS, SAYS, plan
from tests.faults.whole_mesh import WholeMesh, whole_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

SEEDS = [int(seed) for seed in os.environ.get("CHATMESH_FAULTS_SEEDS", "1").split(",")]
STEPS = int(os.environ.get("CHATMESH_FAULTS_STEPS", "260"))


@pytest.fixture(scope="module")
async def whole() -> AsyncIterator[WholeMesh]:
    async with whole_mesh() as mesh:
        yield mesh


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_healing_every_device_equals_the_model(whole: WholeMesh, seed: int) -> None:
    whole.seen.clear()
    whole.mangler.done.clear()
    await whole.run(seed, plan(seed, STEPS, faults=2), others=True)
    seen = whole.seen + whole.mangler.done
    print(f"seed {seed}:", *(f"{kind}: {times}" for kind, times in sorted(seen.items())), sep="\n")
    wanted = {*SAYS, *CHANGES, *FAULTS, *SHARES}
    assert wanted <= set(seen), f"never done: {wanted - set(seen)}"
