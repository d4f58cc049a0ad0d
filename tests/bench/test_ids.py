"""`chatmesh bench ids`: the command on a running mesh, and the look for ids given twice."""

from __future__ import annotations

import array
import json
import subprocess
import sys

import pytest

from chatmesh.cli.bench.ids_run import Batch, duplicated
from chatmesh.embedded.running import RunningMesh


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "bench", "ids", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.mesh
def test_json_has_rates_and_no_duplicates(running_mesh: RunningMesh) -> None:
    done = bench(
        "--data", str(running_mesh.folder.path), "--seconds", "0.3", "--processes", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert (result["duplicated"], result["unordered"]) == (0, 0)
    assert result["ids_per_s"] > 0
    assert [one["batch"] for one in result["batches"]] == [1, 100, 1_000]
    assert all(one["ids_per_core_s"] > 0 for one in result["batches"])


@pytest.mark.parametrize(
    "wrong", [("--batch", "0"), ("--batch", "10001"), ("--seconds", "0"), ("--in-flight", "-1")]
)
def test_what_cannot_be_is_wrong_usage(wrong: tuple[str, str]) -> None:
    done = bench(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
    assert "Traceback" not in done.stderr


def of(*ranges: int) -> Batch:
    return Batch(1, 0, 0, 1, 1, 0, array.array("Q", ranges))


def test_ids_given_twice_are_counted_over_all_processes() -> None:
    assert duplicated([of(10, 5, 20, 1), of(15, 5, 21, 2)]) == 0
    assert duplicated([of(10, 5), of(14, 5)]) == 1
    assert duplicated([of(10, 10), of(12, 2), of(19, 2)]) == 3
    assert duplicated([of(1 << 62, 1), of(1 << 62, 1)]) == 1
