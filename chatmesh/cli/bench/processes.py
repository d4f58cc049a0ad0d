"""CPU and memory of the mesh's processes, as the kernel counts them.

Role: samples by service; whether every process is still the one it was at the start.
Rules: CPU is utime + stime of a process, of its living children, and of the dead ones it has waited
for: PostgreSQL's backends come and go. Memory is the proportional set size where the kernel tells
it (pages that several processes share are split among them), else the resident set size.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from chatmesh.embedded.processes import birth_of
from chatmesh.embedded.running import ProcessInfo, RunningMesh

STORE_NAMES: Mapping[str, str] = {"valkey": "redis"}
"""Part of an embedded mesh → the name it has in figures."""


class MeshDied(Exception):
    """A process of the mesh ended during the run; the text says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU seconds since their start, by service."""

    cpu_s: Mapping[str, float]

    def since(self, earlier: Sample) -> dict[str, float]:
        """What was used between two samples."""
        return {name: cpu - earlier.cpu_s.get(name, 0.0) for name, cpu in self.cpu_s.items()}


class MeshProcesses:
    """The processes of a running mesh, fixed at the moment this is made."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._processes = [process for process in mesh.processes if process.pid]
        self._births = {process.pid: birth_of(process.pid) for process in self._processes}
        self.check()

    @property
    def services(self) -> list[str]:
        """Names in figures, one for all replicas of a service."""
        return list(dict.fromkeys(map(_name, self._processes)))

    def check(self) -> None:
        """Raises MeshDied when a process has ended since (also when another took its place)."""
        for process in self._processes:
            if self._births[process.pid] is None or (
                birth_of(process.pid) != self._births[process.pid]
            ):
                raise MeshDied(
                    f"{process.name} (process {process.pid}) ended during the run; "
                    f"its log: {process.log}"
                )

    def sample(self) -> Sample:
        """CPU now. Raises MeshDied."""
        used: dict[str, float] = defaultdict(float)
        for process in self._processes:
            used[_name(process)] += _cpu_of_tree(process.pid)
        self.check()
        return Sample(dict(used))

    def memory_mib(self) -> dict[str, float]:
        """Memory now, by service. Raises MeshDied."""
        used: dict[str, float] = defaultdict(float)
        for process in self._processes:
            used[_name(process)] += sum(map(_memory_of, _tree(process.pid))) / 2**20
        self.check()
        return {name: round(mib, 1) for name, mib in used.items()}


def cpu_of(pids: Iterable[int]) -> float:
    """CPU seconds of our own processes: the load's and this one."""
    return sum(map(_cpu_of_tree, pids))


def memory_of(pids: Iterable[int]) -> float:
    """MiB of our own processes."""
    return round(sum(_memory_of(psutil.Process(pid)) for pid in pids) / 2**20, 1)


def _name(process: ProcessInfo) -> str:
    return STORE_NAMES.get(process.service, process.service)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        if pid == os.getpid():
            return [root]  # the load processes are counted by themselves
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_of_tree(pid: int) -> float:
    used = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # waited for meanwhile: then its parent's count holds it
        used += times.user + times.system
        if pid != os.getpid():
            used += times.children_user + times.children_system
    return used


def _memory_of(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.uss or full.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
