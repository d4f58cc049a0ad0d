"""Sizes are the run's costs times the users' habits, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chatmesh.cli.bench import saved
from chatmesh.cli.bench.sizing import Habits, markdown, size_of
from chatmesh.cli.main import build

RESULT: dict[str, Any] = {
    "cpu_s_per_1000": {
        "chat_svc": 1.0, "sequencer_svc": 0.01, "sync_svc": 0.2, "presence_svc": 0.1,
        "push_svc": 0.0, "postgres": 0.5, "redis": None, "mesh_total": 1.81, "client": 9.0,
    },
    "memory_mib": {"chat_svc": 200.0, "sync_svc": 100.0, "client": 999.0},
    "pg_bytes_per_message": 1_000,
    "wal_bytes_per_message": 2_000,
    "processes": {"chat_svc": 2},
}  # fmt: skip
HABITS = Habits(messages_a_day=86.4, peak=10, busy=0.5, online=0.5, kib_a_session=None)


def test_a_size_is_the_runs_cost_times_the_load() -> None:
    size = size_of(RESULT, 1_000, HABITS)
    assert size.messages_a_second == pytest.approx(10)
    assert size.server_cores == pytest.approx(0.0131)
    assert size.postgres_cores == pytest.approx(0.005)
    assert size.redis_cores is None, "a store that was not ours to see"
    assert size.database_gb_a_day == pytest.approx(0.0864)
    assert size.wal_gb_a_day == pytest.approx(0.1728)
    assert set(size.pods.values()) == {2}, "never fewer: a replacement would be an outage"
    assert size.memory_gib == pytest.approx((2 * 100 + 2 * 100) / 1024)


def test_pods_grow_with_the_load_and_memory_with_sessions() -> None:
    size = size_of(RESULT, 1_000_000, HABITS)
    assert size.pods["chat_svc"] == 20
    assert size.pods["sync_svc"] == 4
    with_sessions = Habits(86.4, 10, 0.5, 0.5, kib_a_session=64)
    more = size_of(RESULT, 1_000_000, with_sessions)
    assert more.memory_gib - size.memory_gib == pytest.approx(500_000 * 64 / 1024 / 1024)


def test_what_was_not_measured_is_told() -> None:
    table = markdown([size_of(RESULT, 1_000, HABITS)], "`run.json`", HABITS)
    assert "not measured" in table.splitlines()[1]
    assert table.splitlines()[-1].startswith("| 1,000 | 10.0 |")


def test_the_command_reads_a_saved_run(tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps({
        "form": saved.FORM, "load": {"chat_nodes": 2},
        "machine": {"processor": "a CPU", "cores": 2},
        "result": RESULT,
    }))  # fmt: skip
    told = CliRunner().invoke(build(), ["bench", "sizing", str(run), "--users", "5", "--json"])
    assert told.exit_code == 0, told.output
    (size,) = json.loads(told.stdout)
    assert size["users"] == 5
    shown = CliRunner().invoke(build(), ["bench", "sizing", str(run)])
    assert "a CPU" in shown.stdout
    assert "| 1,000,000 |" in shown.stdout
