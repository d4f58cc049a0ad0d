"""The table of processes that belong to one mesh, and how to end them all, in order.

Role: the supervisor writes the table before a process may run; whoever finds the table (the
supervisor at its stop, the guardian after the supervisor died, the next start after both died)
ends what is in it with the same function.
Rules: a pid alone proves nothing, since pids are reused: each is kept with the birth of its
process. Every process leads a session of its own, so its pid is its process group.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from chatmesh.embedded.layout import write_private

POLL_SECONDS = 0.02
HURRY_GRACE_SECONDS = 4.0
UNKILLABLE_SECONDS = 10.0
"""A process that SIGKILL does not end in this time hangs in the kernel; nobody can wait for it."""
STORE_STAGE = 100
"""Stages from here on are stores: ended after everything that writes to them, never hurried."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One process: lower stages end first; `stop_signal` asks, SIGKILL follows after the grace."""

    name: str
    pid: int
    birth: str
    stage: int
    stop_signal: int
    grace_seconds: float


def birth_of(pid: int) -> str | None:
    """What tells this process from others that had or will have its pid; None when it is gone.

    A zombie is gone: it holds nothing but its pid.
    """
    try:
        # fields after the command, which is in parentheses and may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return _birth_without_proc(pid) if not Path("/proc/self").exists() else None
    except (ProcessLookupError, PermissionError):
        return None
    return None if fields[0] in ("Z", "X") else f"{boot} {fields[19]}"


def _birth_without_proc(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.Error:
        return None


class ProcessTable:
    """The table as a file: what is written there survives the death of its writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._folders: list[str] = []

    def load(self) -> None:
        """Reads what an earlier mesh left; an unreadable file counts as empty."""
        try:
            content = json.loads(self.path.read_bytes())
            self._entries = {raw["name"]: Entry(**raw) for raw in content["processes"]}
            self._folders = [str(folder) for folder in content["folders"]]
        except (OSError, ValueError, TypeError, KeyError):
            self._entries, self._folders = {}, []

    def entries(self) -> list[Entry]:
        """All processes in the table, dead ones included."""
        return list(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Notes a process; on disk when this returns."""
        self._entries[entry.name] = entry
        self._write()

    def remove(self, name: str) -> None:
        """Forgets a process that ended; if the disk is full, later: its birth protects others."""
        if self._entries.pop(name, None) is not None:
            with contextlib.suppress(OSError):
                self._write()

    def add_folder(self, folder: Path) -> None:
        """Notes a folder outside the data folder that goes with the mesh."""
        self._folders.append(str(folder))
        self._write()

    def end_all(self, *, hurry: bool = False) -> None:
        """Ends every process in the table, removes its folders, empties the table."""
        end_in_order(self._entries.values(), hurry=hurry)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._entries, self._folders = {}, []
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {
            "processes": [asdict(entry) for entry in self._entries.values()],
            "folders": self._folders,
        }
        write_private(self.path, json.dumps(content, indent=1).encode())


def end_in_order(entries: Iterable[Entry], *, hurry: bool = False) -> None:
    """Asks stage after stage to end, and kills what stays longer than its grace.

    With ``hurry`` (nobody waits for a drain any more) all servers are asked at once and have
    HURRY_GRACE_SECONDS; the stores keep their order and their time, which is their clean shutdown.
    """
    stages: dict[int, list[Entry]] = {}
    for entry in entries:
        stages.setdefault(0 if hurry and entry.stage < STORE_STAGE else entry.stage, []).append(
            entry
        )
    for stage in sorted(stages):
        _end_together(stages[stage], hurry=hurry and stage < STORE_STAGE)


def _end_together(entries: list[Entry], *, hurry: bool) -> None:
    begun = time.monotonic()
    for entry in entries:
        if _lives(entry):
            _signal(entry, entry.stop_signal)
    waiting = list(entries)
    while waiting := [entry for entry in waiting if _lives(entry)]:
        passed = time.monotonic() - begun
        for entry in list(waiting):
            grace = min(entry.grace_seconds, HURRY_GRACE_SECONDS) if hurry else entry.grace_seconds
            if passed > grace + UNKILLABLE_SECONDS:
                waiting.remove(entry)
            elif passed > grace:
                kill_group(entry)
        time.sleep(POLL_SECONDS)


def _lives(entry: Entry) -> bool:
    return birth_of(entry.pid) == entry.birth


def _signal(entry: Entry, number: int) -> None:
    try:
        os.kill(entry.pid, number)
        os.kill(entry.pid, signal.SIGCONT)  # a stopped process takes no SIGTERM
    except ProcessLookupError:
        pass  # ended in between


def kill_group(entry: Entry) -> None:
    """SIGKILL to a process and all that it started in its group."""
    try:
        os.killpg(entry.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # ended in between; macOS answers EPERM for a group of zombies
