"""Plans of random runs: the same for the same seed, every kind in them, cut down by `smallest`."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.steps import CHANGES, FAULTS, SAYS, Step, plan, smallest


def test_a_plan_is_the_same_for_the_same_seed_and_holds_every_kind() -> None:
    steps = plan(7, 100)
    assert steps == plan(7, 100)
    assert steps != plan(8, 100)
    assert {step.kind for step in steps} == {*SAYS, *CHANGES, *FAULTS}


async def test_what_fails_is_cut_down_to_what_it_takes() -> None:
    steps = plan(1, 200)
    culprits = [steps[20], steps[21], steps[150]]

    async def fails(fewer: Sequence[Step]) -> bool:
        return all(step in fewer for step in culprits)

    assert await smallest(steps, fails) == culprits
