"""Which port each server of an embedded mesh listens on.

Rules: everything listens on 127.0.0.1. The fixed plan is written in the README and never changes
by itself: a port that is taken is an error that names it. Metrics are 100 above the mesh port.
"""

import random
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from chatmesh.embedded.errors import PortTaken

HOST = "127.0.0.1"
METRICS_ABOVE_MESH = 100
SPANS_PORT = 7091
_MESH_PORT = {"presence_svc": 7011, "sequencer_svc": 7021, "sync_svc": 7041, "push_svc": 7051}
_CHAT_PUBLIC = 7030
_CHAT_NEAR = 5
"""Chat nodes 1 to 5 have 7030 to 7039; from the sixth on they go where there is room."""
_CHAT_FAR_PUBLIC = 7400
# below the ports that the kernel hands to outgoing connections, above the well-known ones
_AUTO_RANGE = (10_000, 30_000)
Mode = Literal["fixed", "auto"]


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """Ports of one process; only chat nodes have a public one."""

    mesh: int
    metrics: int
    public: int | None = None

    def listed(self) -> list[tuple[str, int]]:
        """(face, port) of each that is used."""
        return [(face, port) for face, port in asdict(self).items() if port is not None]


@dataclass(frozen=True, slots=True)
class PortPlan:
    """Ports of a whole mesh: by process name, and the span receiver's."""

    servers: dict[str, ServerPorts]
    spans: int


def plan(processes: Sequence[tuple[str, str]], mode: Mode) -> PortPlan:
    """Ports for processes, given as (name, service) with replicas of a service in order.

    Raises PortTaken when a port of the fixed plan is in use.
    """
    if mode == "auto":
        return _free_plan(processes)
    servers: dict[str, ServerPorts] = {}
    replicas: dict[str, int] = {}
    for name, service in processes:
        index = replicas.get(service, 0)
        replicas[service] = index + 1
        servers[name] = _fixed(service, index)
    made = PortPlan(servers, SPANS_PORT)
    for name, ports in made.servers.items():
        for face, port in ports.listed():
            _require_free(port, f"{name}, {face}")
    _require_free(made.spans, "span receiver")
    return made


def _fixed(service: str, index: int) -> ServerPorts:
    if service == "chat_svc":
        public = _CHAT_PUBLIC + 2 * index
        if index >= _CHAT_NEAR:
            public = _CHAT_FAR_PUBLIC + 2 * (index - _CHAT_NEAR)
        return ServerPorts(public + 1, public + 1 + METRICS_ABOVE_MESH, public)
    mesh = _MESH_PORT[service] + index
    return ServerPorts(mesh, mesh + METRICS_ABOVE_MESH)


def is_free(port: int) -> bool:
    """Whether this process could listen on a port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _require_free(port: int, what: str) -> None:
    if not is_free(port):
        raise PortTaken(
            f"port {port} on {HOST} ({what}) is taken: stop what listens there "
            f"(ss -ltnp 'sport = :{port}' tells), or start with --ports auto"
        )


def _free_plan(processes: Sequence[tuple[str, str]]) -> PortPlan:
    """Random free ports: two meshes that start in the same moment hardly meet."""
    ports = iter(_free_ports(3 * len(processes) + 1))
    servers = {
        name: ServerPorts(
            mesh=next(ports),
            metrics=next(ports),
            public=next(ports) if service == "chat_svc" else None,
        )
        for name, service in processes
    }
    return PortPlan(servers, next(ports))


def _free_ports(count: int) -> Iterable[int]:
    candidates = random.sample(range(*_AUTO_RANGE), k=20 * count)
    found = [port for port in candidates if is_free(port)][:count]
    if len(found) < count:
        raise PortTaken(f"no {count} free ports between {_AUTO_RANGE[0]} and {_AUTO_RANGE[1]}")
    return found
