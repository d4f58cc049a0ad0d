"""`chatmesh demo`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.mesh, pytest.mark.slow]

CHATMESH = (sys.executable, "-m", "chatmesh.cli.main")


def test_every_step_is_seen(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CHATMESH_DATA"}
    done = subprocess.run(
        [*CHATMESH, "demo", "--json", "--data", str(tmp_path / "d")],
        capture_output=True, text=True, check=False, env=environment, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert [step["number"] for step in result["steps"]] == list(range(1, 18))
    assert all(step["ok"] and step["observed"] for step in result["steps"])
    assert {step["flow"] for step in result["steps"]} == {"login", "message", "offline", "trace"}
    assert result["span_processes"] >= 7
    services = {hop["service"] for hop in result["hops"]}
    assert {"chat_svc", "sync_svc", "presence_svc", "alice-phone", "bob-phone"} <= services
    timed = [step for step in result["steps"] if step["span_ms"]]
    assert len(timed) >= 6, "spans give the steps of the message's way their time"

    trace = subprocess.run(
        [*CHATMESH, "trace", result["message_id"], "--json", "--data", str(tmp_path / "d")],
        capture_output=True, text=True, check=True, env=environment, timeout=60,
    )  # fmt: skip
    # a span that was late for the demo is here as well
    assert len(json.loads(trace.stdout)["hops"]) >= len(result["hops"]), "the folder remembers"
