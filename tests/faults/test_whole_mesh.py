"""Random runs over a whole mesh against the small model: users, devices, nodes, messages of every
kind, members, blocks, and everything that may break underneath, healed in the end. And commits that
are broken on purpose, which such a run must find."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from tests.faults.hints import SHARES
from tests.faults.run import Differs
from tests.faults.steps import CHANGES, FAULTS, SAYS, Step, plan, smallest
from tests.faults.whole_mesh import WholeMesh, whole_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

SEEDS = [int(seed) for seed in os.environ.get("CHATMESH_FAULTS_SEEDS", "1,3").split(",")]
STEPS = int(os.environ.get("CHATMESH_FAULTS_STEPS", "200"))
SHRINK = os.environ.get("CHATMESH_FAULTS_SHRINK") == "1"
RUN_SECONDS = 400 if STEPS <= 200 else 3_600
"""Nothing is timed: so long may one run take before it counts as hanging."""
RECORDED = {
    *("send", "sent", "opened", "received", "acked", "members", "final"),
    *("token", "pushed", "away", "came", "went", "shown"),
}
"""Kinds of operations that a history holds when it was really recorded."""
RUNS_TO_FIND = 4
"""A broken commit must be found within so many runs."""
QUIET_STEPS = 110


@pytest.fixture(scope="module")
async def whole() -> AsyncIterator[WholeMesh]:
    async with whole_mesh() as mesh:
        yield mesh


@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_healing_every_device_equals_the_model(whole: WholeMesh, seed: int) -> None:
    whole.seen.clear()
    whole.mangler.done.clear()
    steps = plan(seed, STEPS)
    try:
        await whole.run(seed, steps, others=True)
    except Differs:
        if SHRINK:
            await show_smallest(whole, seed, steps)
        raise
    seen = whole.seen + whole.mangler.done
    print(f"seed {seed}:", *(f"{kind}: {times}" for kind, times in sorted(seen.items())), sep="\n")
    wanted = {*SAYS, *CHANGES, *FAULTS, *SHARES, *(f"recorded: {kind}" for kind in RECORDED)}
    assert wanted <= set(seen), f"never done: {wanted - set(seen)}"


async def show_smallest(whole: WholeMesh, seed: int, steps: Sequence[Step]) -> None:
    """Print the fewest steps that still fail."""

    async def fails(fewer: Sequence[Step]) -> bool:
        try:
            await whole.run(seed, fewer)
        except Differs:
            return True
        return False

    print("the fewest steps that fail:", *await smallest(steps, fails), sep="\n")


def replaced(source: str, changes: dict[str, str]) -> str:
    """A change of a function's text that really changes it."""
    for old, new in changes.items():
        assert old in source, old
        source = source.replace(old, new)
    return source


def seq_is_skipped(source: str) -> str:
    if "commit_one" in source:
        seq = "c.last_conversation_seq + 1;"
        return replaced(source, {seq: f"{seq[:-1]} + (random() < 0.1)::integer;"})
    seq = "row_number() OVER w AS seq"
    return replaced(source, {seq: "row_number() OVER w + (t.n > 2)::integer AS seq"})


def key_is_ignored(source: str) -> str:
    if "commit_one" in source:
        own = "FROM head h WHERE h.account = p_sender"
        return replaced(source, {own: f"{own} AND false"})
    return replaced(source, {"FROM f WHERE f.own": "FROM f WHERE f.own AND false"})


def checks_come_first(source: str) -> str:
    """Who is a member is read, then locks are waited for."""
    start, rest = source.split("  -- locks\n")
    locks, rest = rest.split("  -- checks\n")
    checks, rest = rest.split("  -- numbers and writes\n")
    wait = "  PERFORM pg_sleep(0.02);\n"
    if "commit_one" in source:
        at = locks.index("  v_members :=")
        members = locks[at : locks.index(";", at) + 2]
        return replaced(source, {members: "", "  -- locks\n": members + wait})
    set_first = ("  v_now_ms", "  v_low", "  v_high")
    times = "".join(line for line in locks.splitlines(True) if line.startswith(set_first))
    return start + times + checks + wait + locks + rest


BROKEN = {
    "a conversation_seq is skipped": seq_is_skipped,
    "keys are ignored": key_is_ignored,
    "checks come before the locks": checks_come_first,
}
FUNCTIONS = ("chat.commit_1", "chat.commit_one_1")


@pytest.mark.parametrize("fault", list(BROKEN))
async def test_a_commit_broken_on_purpose_is_found(whole: WholeMesh, fault: str) -> None:
    url = whole.mesh.running.owner_url()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        sources = []
        for name in FUNCTIONS:
            cursor = await connection.execute("SELECT pg_get_functiondef(%s::regproc)", (name,))
            ((source,),) = await cursor.fetchall()
            sources.append(source)
        try:
            for source in sources:
                await connection.execute(BROKEN[fault](source))
            assert await is_found(whole)
        finally:
            for source in sources:
                await connection.execute(source)


async def is_found(whole: WholeMesh) -> bool:
    """Whether a run without any other fault differs from the model."""
    for seed in range(RUNS_TO_FIND):
        try:
            await whole.run(seed, plan(seed, QUIET_STEPS, faults=0), mangling=False)
        except Differs as differs:
            print(differs)
            return True
    return False
