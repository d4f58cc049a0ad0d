"""Runs `chatmesh` as a shell would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def chatmesh(
    *arguments: str | Path,
    text: str = "",
    code: int = 0,
    timeout_seconds: float = 60,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command; fails when its exit code is another than `code`."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("CHATMESH_")}
    done = subprocess.run(
        [sys.executable, "-m", "chatmesh.cli.main", *map(str, arguments)],
        input=text, capture_output=True, text=True, check=False, timeout=timeout_seconds,
        env={**ours, "HOME": "/nonexistent", **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done
