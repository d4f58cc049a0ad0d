"""What a mesh and its load used between two moments, and what that is per thousand of something.

Rules: the parts of the mesh and the clients are never mixed: `mesh_total` is without `client`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatmesh.cli.bench.processes import MeshProcesses, cpu_of, memory_of


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and MiB by service; the load is `client`."""

    services: Sequence[str]
    cpu_s: Mapping[str, float]
    memory_mib: Mapping[str, float]

    def cpu_s_per_1000(self, count: float) -> dict[str, float | None]:
        """CPU by service, of the mesh and of the clients, for each 1,000 of what was counted."""

        def cost(cpu_s: float) -> float | None:
            return round(cpu_s * 1000 / count, 5) if count else None

        made = {name: cost(used) for name, used in self.cpu_s.items() if name != "client"}
        for store in ("postgres", "redis"):
            made.setdefault(store, None)  # a server of yours: its processes are not ours to see
        made["mesh_total"] = cost(sum(self.cpu_s[name] for name in self.services))
        made["client"] = cost(self.cpu_s["client"])
        return made


class Meter:
    """Runs from the moment it is made. Raises MeshDied, here and at its end."""

    def __init__(self, processes: MeshProcesses, clients: Sequence[int]) -> None:
        self._processes = processes
        self._clients = clients
        self._before = processes.sample()
        self._clients_before = cpu_of(clients)

    def end(self) -> Usage:
        """What was used since, and the memory that is held now."""
        cpu = self._processes.sample().since(self._before)
        clients = cpu_of(self._clients) - self._clients_before
        memory = {**self._processes.memory_mib(), "client": memory_of(self._clients)}
        return Usage(self._processes.services, {**cpu, "client": clients}, memory)
