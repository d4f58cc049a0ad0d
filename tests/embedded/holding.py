"""Starts and watches `hold_mesh`, the process that the tests of this folder kill."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
HOLDER = Path(__file__).with_name("hold_mesh.py")
GONE_SECONDS = 30


@dataclass
class Held:
    """A running holder and what it said."""

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def pids(self) -> list[int]:
        """Every process of the mesh but the holder itself."""
        return [
            self.said["guardian"],
            *(pid for group in self.said["pids"].values() for pid in group),
        ]

    def processes(self) -> list[psutil.Process]:
        """The same, as handles that know a pid from its successor."""
        found: list[psutil.Process] = []
        for pid in self.pids:
            try:
                found.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue  # a short-lived child of PostgreSQL
        return found


@contextmanager
def held_mesh(
    data: Path,
    *,
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    user: int | None = None,
) -> Iterator[Held]:
    """A mesh of stores held by a process of its own; stopped at the end if it still runs."""
    process = subprocess.Popen(
        [python, str(HOLDER), str(data)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert process.stdout is not None
    with process:
        try:
            yield Held(process, json.loads(process.stdout.readline() or "{}"))
        finally:
            process.terminate()


def wait_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Waits until these are gone and returns those that stay; an unreaped zombie is gone."""
    _, alive = psutil.wait_procs([each for each in processes if not _is_zombie(each)], GONE_SECONDS)
    return [each for each in alive if not _is_zombie(each)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users can pass through, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
