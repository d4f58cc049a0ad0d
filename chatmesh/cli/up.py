"""`chatmesh up`: the whole mesh on this machine, until Ctrl-C.

Rules: one ready line on stdout, progress on stderr. The first Ctrl-C or SIGTERM stops in order, the
second without waiting for drains.
"""

import enum
import json
import os
import shlex
import signal
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from chatmesh.cli import CommandError, DataOption, JsonOption, progress

if TYPE_CHECKING:
    from chatmesh.embedded.supervisor import Mesh


_OTHERS = ("presence_svc", "sequencer_svc", "sync_svc", "push_svc")


class PortsMode(enum.StrEnum):
    """Which ports a mesh listens on."""

    fixed = "fixed"
    auto = "auto"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(up)


def up(
    data: DataOption = None,
    chat_nodes: Annotated[
        int, typer.Option(min=1, max=100, help="Chat nodes, each with a public port.")
    ] = 2,
    replicas: Annotated[
        int,
        typer.Option(min=1, max=9, help="Processes of each other server; 2 suit `chatmesh drill`."),
    ] = 1,
    ports: Annotated[
        PortsMode,
        typer.Option(help="auto: free ports, so that several meshes run beside each other."),
    ] = PortsMode.fixed,
    trace_ratio: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of messages traced; 1 suits development."),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Start PostgreSQL, Valkey and the five servers; stop them on Ctrl-C.

    CHATMESH_POSTGRES_URL and CHATMESH_REDIS_URL use stores of yours instead.
    """
    try:
        from chatmesh.embedded.supervisor import Mesh, MeshOptions
    except ImportError as error:
        raise CommandError(f"{error.name} is missing: pip install 'chatmesh[embedded]'") from None
    from chatmesh.embedded.layout import default_folder
    from chatmesh.runtime import logs

    logs.configure("up", "warning", "console")
    options = MeshOptions(
        data=data or default_folder(),
        chat_nodes=chat_nodes,
        replicas=dict.fromkeys(_OTHERS, replicas),
        ports=ports.value,
        trace_sample_ratio=trace_ratio,
    )
    asked = _StopSignals()
    mesh = asked.mesh = Mesh(options, report=progress, gave_up=asked.give_up)
    try:
        mesh.start()
        typer.echo(_ready_json(mesh) if as_json else _ready_text(mesh, named=data is not None))
        asked.wait()
    except _Interrupted:
        pass  # asked to stop while starting; start() has ended what it began
    finally:
        asked.stopping = True
        if asked.came:
            progress("stopping (again to stop at once)")
        mesh.stop()
    progress("stopped")
    if asked.failure:
        raise CommandError(asked.failure)


class _Interrupted(BaseException):
    """Raised out of the start by a stop signal; no `except Exception` on the way catches it."""


class _StopSignals:
    """SIGINT, SIGTERM and SIGHUP: before ready they interrupt, then they stop, then they hurry."""

    def __init__(self) -> None:
        self.stopping = False
        self.came = False
        self.failure = ""
        self.mesh: Mesh | None = None
        # a pipe, not a threading.Event: a handler that runs while the main thread enters the
        # event's wait would wait for a lock that the main thread itself holds
        self._read_end, self._write_end = os.pipe()
        self._starting = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def wait(self) -> None:
        """Blocks until one comes."""
        self._starting = False
        os.read(self._read_end, 1)

    def give_up(self, why: str) -> None:
        """From the keeper's thread: a server says that it can never serve, so nobody waits on."""
        self.failure = why
        os.write(self._write_end, b"!")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if self.stopping:
            if self.mesh is not None:
                self.mesh.hurry()
        elif self._starting:
            self._starting = False
            self.stopping = True
            raise _Interrupted
        os.write(self._write_end, b"!")


def _ready_text(mesh: "Mesh", *, named: bool) -> str:
    running = mesh.running
    where = f" --data {shlex.quote(str(running.folder.path))}" if named else ""
    return (
        f"ready: chat on {' and '.join(running.public)}, data in {running.folder.path}, "
        f"process {running.pid}; log in with `chatmesh token alice{where}`"
    )


def _ready_json(mesh: "Mesh") -> str:
    return json.dumps(json.loads(mesh.folder.mesh_file.read_bytes()))
