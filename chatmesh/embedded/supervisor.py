"""One whole mesh on one machine, as an object: `Mesh`.

Used in two ways. `chatmesh up` runs it in a process of its own; tests, demo and bench make one in
theirs:

    with Mesh(MeshOptions(data=folder, ports="auto")) as mesh:
        mesh.running.public          # ["127.0.0.1:23456", ...]
        mesh.kill("chat-1")          # kill -9; it comes back on the same ports
        mesh.wait_ready()

It is plain synchronous code with a thread, so it belongs to no event loop: call it from a
synchronous fixture, or through asyncio.to_thread. Whatever happens to the process that holds it
(an exception, Ctrl-C, kill -9), nothing of the mesh stays behind: a guardian process sees to it.

Order of stop: chat nodes, sync, push, presence, sequencer, span receiver, Valkey, PostgreSQL.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psutil

import chatmesh
from chatmesh.embedded.children import Guard
from chatmesh.embedded.composition import SERVERS_SECONDS, Composition, MeshOptions
from chatmesh.embedded.errors import NotRunning
from chatmesh.embedded.layout import DataFolder, write_private
from chatmesh.embedded.parts import Keeper
from chatmesh.embedded.ports import HOST, PortPlan, plan
from chatmesh.embedded.processes import ProcessTable
from chatmesh.embedded.running import RunningMesh, describe

__all__ = ["Mesh", "MeshOptions"]


def _silent(_: str) -> None:
    """The default for progress: nobody listens."""


class Mesh:
    """A mesh that runs from `start()` to `stop()`.

    `report` gets a line of progress at a time; `gave_up`, from a thread, the story of a process
    that says itself that it can never come up again (wrong settings). The others go on.
    """

    def __init__(
        self,
        options: MeshOptions | None = None,
        report: Callable[[str], None] = _silent,
        gave_up: Callable[[str], None] = _silent,
    ) -> None:
        self.options = options or MeshOptions()
        self.folder = DataFolder(self.options.data)
        self._report = report
        self._gave_up = gave_up
        self._table = ProcessTable(self.folder.processes_file)
        self._guard: Guard | None = None
        self._keeper: Keeper | None = None
        self._description: dict[str, Any] | None = None
        self._plan = PortPlan({}, 0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(hurry=kind is not None)

    def start(self) -> None:
        """Starts everything and waits until all serve.

        Raises an EmbeddedError that says what to do; nothing is left running then.
        """
        self.folder.make()
        lock = self.folder.lock()
        try:
            self._end_leftovers()
            self._plan = plan(self.options.processes(), self.options.ports)
            self._guard = Guard(self.folder, lock)
            self._keeper = Keeper(
                self.folder,
                self._table,
                self._guard,
                self._report,
                self._write_mesh_file,
                self._gave_up,
            )
            composition = Composition(
                self.options, self.folder, self._plan, self._keeper, self._report
            )
            composition.start(self._table)
            self._description = {
                "version": chatmesh.__version__,
                "pid": os.getpid(),
                "started_at_ms": int(time.time() * 1000),
                "data": str(self.folder.path),
                "otlp_endpoint": composition.otlp_endpoint,
            }
            self._write_mesh_file()
        except BaseException:
            self.stop(hurry=True)
            raise

    def stop(self, *, hurry: bool = False) -> None:
        """Ends everything, in order; harmless when nothing runs. `hurry` waits for no drain."""
        self._description = None
        if self._keeper is not None:
            self._keeper.stop(hurry=hurry)
            self._keeper = None
        if self._guard is not None:
            self._table.end_all(hurry=hurry)
            self.folder.mesh_file.unlink(missing_ok=True)
            self._guard.dismiss()
            self._guard = None
        self.folder.unlock()

    def hurry(self) -> None:
        """For another thread or a signal handler while `stop` waits for drains: no more waiting."""
        if self._keeper is not None:
            self._keeper.hurry()

    @property
    def running(self) -> RunningMesh:
        """Addresses, secrets and processes, as any other process finds them. Raises NotRunning."""
        return describe(self.folder, self._content())

    def names(self) -> list[str]:
        """Names of all processes: valkey, spans, presence, sync, postgres, …, chat-1, chat-2."""
        return self._kept().names()

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signals one process (SIGKILL, SIGSTOP, SIGCONT, …) and returns its pid.

        What dies of it is started again. Raises UnknownPart.
        """
        return self._kept().send(name, number)

    def restart(self, name: str) -> None:
        """Stops one process in its orderly way and starts it again. Then `wait_ready([name])`."""
        self.hold(name)
        self.release(name)

    def hold(self, name: str, number: int | None = None) -> None:
        """Ends one process (in its orderly way, or by a signal), waits, and keeps it down."""
        self._kept().hold(name, number)

    def release(self, name: str) -> None:
        """Starts a process again that was held. Then `wait_ready([name])`."""
        self._kept().release(name)

    def wait_ready(
        self, names: list[str] | None = None, timeout_seconds: float = SERVERS_SECONDS
    ) -> None:
        """Waits until these processes (default: all) serve. Raises StartFailed."""
        self._kept().wait_ready(self.names() if names is None else names, timeout_seconds)

    def pid(self, name: str) -> int | None:
        """The process id of one process; None while it is down."""
        return self._kept().pid(name)

    def pids(self, name: str) -> list[int]:
        """The pid of a process and of all its children; empty while it is down."""
        pid = self.pid(name)
        if pid is None:
            return []
        try:
            return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise NotRunning("the mesh is not started")
        return self._keeper

    def _end_leftovers(self) -> None:
        """What a mesh left whose supervisor and guardian were both killed."""
        self._table.load()
        if self._table.entries():
            self._report("ending what a killed mesh left")
        self._table.end_all(hurry=True)
        self.folder.mesh_file.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        """mesh.json as it is now."""
        if self._description is None:
            raise NotRunning("the mesh is not started")
        modules = dict(self.options.processes())
        processes = []
        for name in self.names():
            ports = self._plan.servers.get(name)
            faces = {face: f"{HOST}:{port}" for face, port in ports.listed()} if ports else {}
            processes.append(
                {
                    "name": name,
                    "service": modules.get(name, name),
                    "pid": self.pid(name) or 0,
                    "public": faces.get("public", ""),
                    "mesh": faces.get("mesh", ""),
                    "metrics": faces.get("metrics", ""),
                    "log": str(self.folder.logs / f"{name}.log"),
                }
            )
        public = [process["public"] for process in processes if process["public"]]
        return {**self._description, "public": public, "processes": processes}

    def _write_mesh_file(self) -> None:
        """Called at the start and whenever a process was started again."""
        if self._description is not None:
            content = json.dumps(self._content(), indent=1).encode()
            write_private(self.folder.mesh_file, content)
