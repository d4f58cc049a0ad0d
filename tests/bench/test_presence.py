"""`chatmesh bench presence` on a running mesh: every figure, and a storm that loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from chatmesh.embedded.running import RunningMesh


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "bench", "presence", *arguments],
        capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


@pytest.mark.mesh
def test_json_has_every_figure(running_mesh: RunningMesh) -> None:
    done = bench(
        "--data", str(running_mesh.folder.path), "--storm", "20", "--probes", "5",
        "--seconds", "0.5", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["sessions"] == 40
    assert result["attach_per_s"] > 0
    told = result["connect_to_friend_ms"]
    assert told["count"] == 5
    assert 0 < told["p50"] <= told["p99"]
    assert result["changes_per_s"] > 0
    assert result["redis_bytes_per_1000"] > 0
    assert result["idle_cores_per_1000"].keys() == {"chat_svc", "presence_svc", "redis"}
    assert result["storm"]["passed"]
    assert result["storm"]["p99_ratio"] > 0


@pytest.mark.parametrize("wrong", [("--pairs", "0"), ("--seconds", "0"), ("--storm", "-1")])
def test_what_cannot_be_is_wrong_usage(wrong: tuple[str, str]) -> None:
    done = bench(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
    assert "Traceback" not in done.stderr
