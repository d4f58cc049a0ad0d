"""The command as a person or a script runs it, on a running mesh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatmesh.cli.bench.compare import figures
from chatmesh.cli.bench.saved import read
from chatmesh.embedded.running import RunningMesh

pytestmark = pytest.mark.mesh


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", "bench", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def on(mesh: RunningMesh) -> tuple[str, ...]:
    return ("messages", "--data", str(mesh.folder.path), "--seconds", "1", "--warmup", "0")


@pytest.mark.parametrize("how", [("--window", "5"), ("--rate", "50")])
def test_json_is_one_line_with_every_message_accounted_for(
    how: tuple[str, str], running_mesh: RunningMesh, tmp_path: Path
) -> None:
    saved = tmp_path / "run.json"
    done = bench(*on(running_mesh), "--pairs", "4", *how, "--json", "--save", str(saved))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["delivered"] > 0
    assert (result["lost"], result["duplicated"], result["out_of_order"]) == (0, 0, 0)
    services = {"chat_svc", "sequencer_svc", "presence_svc", "sync_svc", "push_svc"}
    assert result["cpu_s_per_1000"].keys() >= services | {
        "postgres", "redis", "mesh_total", "client",
    }  # fmt: skip
    assert result["settings"]["security"] == {
        "public_without_token_refused": True,
        "mesh_tls": "TLSv1.3",
        "mesh_without_certificate_refused": True,
        "mesh_wrong_caller_refused": True,
        "trace_sample_ratio": 0.01,
    }
    assert result["settings"]["durable"]["postgres"]["fsync"] == "on"
    assert result["settings"]["wal_fsyncs"] > 0
    run = read(saved)
    assert run.result == result
    assert run.machine["packages"]["grpcio"]
    assert all(a == b for _, a, b in figures(run.result, result))
    compared = bench("compare", str(saved), str(saved))
    assert compared.returncode == 0, compared.stderr
    assert "delivered_per_s" in compared.stdout


def test_a_profile_tells_batches_and_a_page_shows_the_run(
    running_mesh: RunningMesh, tmp_path: Path
) -> None:
    page = tmp_path / "run.html"
    done = bench(
        *on(running_mesh),
        "--pairs",
        "2",
        "--window",
        "4",
        "--profile",
        "--html",
        str(page),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)["profile"]
    assert {one["path"] for one in profile["batches"]} >= {"commit", "sync.gather"}
    text = page.read_text(encoding="utf-8")
    assert "messages delivered" in text
    assert "handled at once" in text
    nowhere = bench(*on(running_mesh), "--html", str(tmp_path / "no" / "run.html"))
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "--html: there is no folder" in nowhere.stderr


def test_what_the_mesh_does_not_allow_is_refused_before_the_first_message(
    running_mesh: RunningMesh,
) -> None:
    done = bench(*on(running_mesh), "--pairs", "2", "--window", "257")
    assert (done.returncode, done.stdout) == (2, "")
    assert "at most 256 sends open" in done.stderr


def test_no_mesh_there_is_told(tmp_path: Path) -> None:
    done = bench("messages", "--data", str(tmp_path), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no mesh runs on" in done.stderr
    assert "Traceback" not in done.stderr
