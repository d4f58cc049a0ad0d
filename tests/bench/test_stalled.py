"""Devices that read nothing: a bounded piece of memory each. The healthy ones' latency is a figure
of the command, not of a test."""

import json
import subprocess
import sys

import pytest

from chatmesh.limits import BY_NAME, STALLED_SESSION_BYTES

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

SESSIONS, ENTRIES, SIZE = 40, 1_500, 1_000


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "bench", "stalled", *arguments],
        capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


def test_devices_that_read_nothing_cost_no_more_than_is_stated() -> None:
    done = bench(
        "--sessions", str(SESSIONS), "--entries", str(ENTRIES), "--size", str(SIZE),
        "--pairs", "4", "--rate", "20", "--seconds", "1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["stalled_sessions"] == SESSIONS
    assert result["allowed_bytes"] < SESSIONS * ENTRIES * SIZE, "less than all that is pending"
    assert result["rss_growth_bytes"] <= STALLED_SESSION_BYTES * SESSIONS * 1.2
    assert result["healthy_p99_ratio"] > 0


def test_what_is_stated_covers_the_window() -> None:
    assert BY_NAME["window_bytes"].default < STALLED_SESSION_BYTES


@pytest.mark.parametrize("arguments", [("--entries", "0"), ("--pairs", "0")])
def test_impossible_wishes_are_wrong_usage(arguments: tuple[str, str]) -> None:
    assert bench(*arguments).returncode == 2
