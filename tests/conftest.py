"""What tests of all areas share: one real mesh for a whole test session.

Rules: tests that share it make users of their own and leave no session open. Who kills parts of it,
or wants other settings, starts a mesh of their own. It starts when the first test asks for it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatmesh.runtime import engine

engine.prepare()  # before any test module imports grpc: tests run the engine that servers run

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh


@pytest.fixture(scope="session")
def running_mesh() -> Iterator["RunningMesh"]:
    """PostgreSQL, Valkey, five servers, two chat nodes, on free ports."""
    from chatmesh.embedded.supervisor import Mesh, MeshOptions

    with tempfile.TemporaryDirectory(prefix="chatmesh-tests-") as folder:
        options = MeshOptions(data=Path(folder) / "data", ports="auto")
        with Mesh(options) as mesh:
            yield mesh.running
