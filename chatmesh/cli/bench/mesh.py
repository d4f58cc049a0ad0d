"""The mesh that a run measures: one that runs already, or one of its own that goes with it.

Rules: a mesh of its own is the embedded one with the servers' default settings, but for the rate
of client frames: the load keeps within it, and at the default (200 frames/s a session) a pair with
a window of 1 would measure that limit and nothing else. Its folder is kept when the run failed,
with the logs in it, and removed in every other case.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chatmesh.embedded import running
from chatmesh.embedded.running import RunningMesh
from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.limits import BY_NAME

ENVIRONMENT: Final = {
    "CHATMESH_LIMIT_FRAMES_PER_SECOND": str(BY_NAME["frames_per_second"].high),
    "CHATMESH_LIMIT_FRAMES_BURST": str(BY_NAME["frames_burst"].high),
}


@dataclass(slots=True)
class MeasuredMesh:
    """What a run is given. `keep` is set when somebody will want its logs."""

    mesh: RunningMesh
    control: Mesh | None = None
    """What holds and releases its servers; None when somebody else started it."""
    keep: bool = False

    @property
    def logs(self) -> Path:
        """Where its logs are."""
        return self.mesh.folder.logs


@contextmanager
def measured_mesh(
    data: Path | None,
    chat_nodes: int,
    report: Callable[[str], None],
    environment: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[MeasuredMesh]:
    """The mesh on `data`, or a new one on free ports in a folder that is removed afterwards.

    `environment` are variables of a new mesh's servers, by module.

    Raises an EmbeddedError that says what to do.
    """
    if data is not None:
        yield MeasuredMesh(running.find(data))
        return
    folder = Path(tempfile.mkdtemp(prefix="chatmesh-bench-"))
    options = MeshOptions(
        data=folder,
        chat_nodes=chat_nodes,
        ports="auto",
        environment={**(environment or {}), "*": ENVIRONMENT},
    )
    keep = False
    try:
        with Mesh(options, report) as mesh:
            measured = MeasuredMesh(mesh.running, mesh)
            try:
                yield measured
            finally:
                keep = measured.keep
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
