"""`bench idle`, `groups`, `resume`, `soak`: real runs with a handful of devices, and their form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatmesh.cli.bench import saved
from chatmesh.embedded.running import RunningMesh
from tests.cli.running import chatmesh

pytestmark = pytest.mark.mesh

PATIENCE_SECONDS = 170
SERVICES = {"chat_svc", "sequencer_svc", "presence_svc", "sync_svc", "push_svc"}
COSTS = SERVICES | {"postgres", "redis", "mesh_total", "client"}


def test_idle_weighs_each_service_apart_and_is_saved(
    running_mesh: RunningMesh, tmp_path: Path
) -> None:
    file, page = tmp_path / "idle.json", tmp_path / "idle.html"
    done = chatmesh(
        *("bench", "idle", "--data", running_mesh.folder.path, "--json", "--save", file),
        *("--html", page, "--connections", "6", "--warm", "2", "--seconds", "0.3"),
        *("--settle", "0"),
        timeout_seconds=PATIENCE_SECONDS,
    )
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["connections"] == 6
    assert result["kib_per_connection_by_service"].keys() == SERVICES
    assert result["cpu_ms_per_connection_per_s_by_service"].keys() == SERVICES
    assert result["kib_per_connection_by_store"].keys() == {"postgres", "redis"}
    assert result["kib_per_connection"] == pytest.approx(
        sum(result["kib_per_connection_by_service"].values()), abs=0.1
    )
    assert isinstance(result["redis_bytes_per_connection"], int)
    assert result["settings"]["security"]["public_tls"] is False
    run = saved.read(file)
    assert (run.kind, run.result, run.histogram) == ("idle", result, None)
    assert run.load["connections"] == 6
    assert "per idle connection" in page.read_text(encoding="utf-8")
    compared = chatmesh("bench", "compare", file, file)
    assert "kib_per_connection_by_service.chat_svc" in compared.stdout


def test_every_delivery_to_a_group_is_checked(running_mesh: RunningMesh, tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    done = chatmesh(
        *("bench", "groups", "--data", running_mesh.folder.path, "--json", "--save", file),
        *("--members", "5", "--senders", "2", "--window", "2", "--seconds", "1", "--warmup", "0"),
        timeout_seconds=PATIENCE_SECONDS,
    )
    result = json.loads(done.stdout)
    assert (result["lost"], result["duplicated"], result["out_of_order"]) == (0, 0, 0)
    assert result["deliveries"] > 0
    assert result["latency_ms"].keys() == {"p50", "p90", "p99", "max"}
    assert result["cpu_s_per_1000_deliveries"].keys() >= COSTS
    run = saved.read(file)
    assert run.histogram is not None
    assert sum(run.histogram["counts"].values()) == result["deliveries"]


def test_devices_that_come_back_have_all_that_they_missed(running_mesh: RunningMesh) -> None:
    done = chatmesh(
        *("bench", "resume", "--data", running_mesh.folder.path, "--json"),
        *("--devices", "5", "--behind", "25"),
        timeout_seconds=PATIENCE_SECONDS,
    )
    result = json.loads(done.stdout)
    assert (result["lost"], result["duplicated"], result["out_of_order"]) == (0, 0, 0)
    assert result["entries"] == 5 * 25
    assert result["seconds_to_all_caught_up"] > 0
    assert result["resume_ms"]["p50"] <= result["resume_ms"]["p99"]
    assert result["cpu_s_per_1000_entries"].keys() >= COSTS
    assert result["memory_mib_max"].keys() >= SERVICES


def test_a_soak_shows_every_slice_with_a_checkpoint_and_a_vacuum(
    running_mesh: RunningMesh,
) -> None:
    done = chatmesh(
        *("bench", "soak", "--data", running_mesh.folder.path, "--json", "--pairs", "2"),
        *("--rate", "20", "--minutes", "0.03", "--slice", "0.6", "--warmup", "0"),
        timeout_seconds=PATIENCE_SECONDS,
    )
    result = json.loads(done.stdout)
    assert (result["lost"], result["duplicated"], result["out_of_order"]) == (0, 0, 0)
    assert len(result["slices"]["p99_ms"]) == 3
    assert sum(result["slices"]["messages"]) <= result["delivered"]
    assert {len(each) for each in result["slices"]["memory_mib"].values()} == {3}
    assert result["memory_mib_per_hour"].keys() >= SERVICES
    assert result["upkeep"]["checkpoints"] >= 1
    assert result["upkeep"]["tables_vacuumed"] >= 1
