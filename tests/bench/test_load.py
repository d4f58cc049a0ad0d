"""The load process against servers that lie: each lie is noticed, an honest server passes."""

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.loaders import LOAD_MODULE, LoadProcess, RunFailed
from chatmesh.cli.bench.plan import ImpossibleLoad, Load, place_pairs, user_names
from tests.bench.liar import lying_server

MESSAGES = 100
PAIRS = 2
LOAD: dict[str, Any] = {
    "pairs": PAIRS, "window": 8, "rate": None, "size_bytes": 120, "seconds": 60.0,
    "warmup_seconds": 0.0, "messages": MESSAGES,
}  # fmt: skip


async def played(lie: str, **changes: Any) -> Mapping[str, Any]:
    """What a load process says at the end against a server with this lie."""
    async with lying_server(lie) as target:
        load = Load(**{**LOAD, **changes})
        names = user_names("t", load.pairs)
        tokens = {user: user for pair in names for user in pair}
        pairs = place_pairs(names, tokens, [target])
        process = await LoadProcess.start(
            {"load": load.to_json(), "run": 1, "ca": None, "pairs": [asdict(p) for p in pairs]}
        )
        try:
            await process.until("ready")
            now = time.monotonic_ns()
            end = now + int(load.seconds * 1e9)
            await process.tell({"go": {"start_ns": now, "measure_ns": now, "end_ns": end}})
            return await process.until("done")
        finally:
            await process.stop()


async def test_honest_server_passes() -> None:
    done = await played("none")
    totals = done["totals"]
    assert totals["sent"] == PAIRS * (MESSAGES + 1)
    assert totals["delivered"] == PAIRS * MESSAGES
    assert totals["delivered_in_all"] == totals["sent"]
    assert (totals["lost"], totals["duplicated"], totals["out_of_order"]) == (0, 0, 0)
    assert Histogram.from_json(done["histogram"]).count == totals["delivered"]


async def test_rate_sends_all_intended_messages() -> None:
    done = await played("none", window=None, rate=400.0, seconds=1.0, messages=None)
    assert done["totals"]["sent"] == PAIRS + 400
    assert done["totals"]["lost"] == 0


@pytest.mark.parametrize(
    ("lie", "noticed"),
    [
        ("doubled", {"lost": 0, "duplicated": PAIRS, "out_of_order": 0}),
        ("swapped", {"lost": 0, "duplicated": 0, "out_of_order": PAIRS}),
        ("gap", {"lost": 0, "duplicated": 0, "out_of_order": PAIRS}),
    ],
)
async def test_lie_is_counted(lie: str, noticed: dict[str, int]) -> None:
    totals = (await played(lie))["totals"]
    assert {name: totals[name] for name in noticed} == noticed


@pytest.mark.parametrize(("lie", "lost"), [("lost", PAIRS), ("echo lost", PAIRS)])
async def test_loss_is_counted_when_nothing_moves_any_more(
    lie: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATMESH_BENCH_STALLED_SECONDS", "1")
    totals = (await played(lie))["totals"]
    assert totals["lost"] == lost
    assert totals["duplicated"] == 0


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("changed", "was not sent to it"),
        ("refused", "NOT_REACHABLE"),
        ("closed", "REASON_DRAINED"),
    ],
)
async def test_lie_ends_the_run(lie: str, said: str) -> None:
    with pytest.raises(RunFailed, match=said):
        await played(lie)


async def test_load_beyond_the_limits_of_the_mesh_is_refused() -> None:
    with pytest.raises(ImpossibleLoad, match="--window 300"):
        await played("none", window=300)


async def test_load_process_does_not_outlive_the_command() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", LOAD_MODULE,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() != 0
