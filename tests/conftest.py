"""What tests of all areas share: one real mesh for a whole test session.

Rules: tests that share it make users of their own and leave no session open. Who kills parts of it,
or wants other settings, starts a mesh of their own. It starts when the first test asks for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from chatmesh.runtime import engine

engine.prepare()  # before any test module imports grpc: tests run the engine that servers run

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh


@pytest.fixture(scope="session", autouse=True)
async def grpc_for_good() -> None:
    """Holds grpc.aio up to the end of the tests.

    With the last of its objects grpc.aio takes its poller down, and waits in that object's
    destructor until every operation has ended. When the garbage collector is who finds the last
    object, no event loop runs that could end them, and the wait is for ever.
    """
    import grpc

    grpc.aio.init_grpc_aio()


@pytest.fixture(scope="session")
def running_mesh() -> Iterator["RunningMesh"]:
    """PostgreSQL, Valkey, five servers, two chat nodes, on free ports."""
    from chatmesh.testing.mesh import start_mesh

    with start_mesh(trace_sample_ratio=None) as started:
        yield started.mesh.running
