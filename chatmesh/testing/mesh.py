"""A running mesh as a pytest fixture: real servers, real stores, in a folder of its own.

In a conftest.py:

    pytest_plugins = ["chatmesh.testing.mesh"]

    async def test_something(chat_mesh):
        async with chat_mesh.client("alice") as alice:
            await alice.send(to_user="bob", text="hello")

`chat_mesh` is started once per test session, with two chat nodes on free ports. For a mesh of
another shape use `start_mesh(...)` as a context manager. Needs the extra `embedded`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatmesh.client import Client
from chatmesh.embedded.supervisor import Mesh, MeshOptions


@dataclass(frozen=True, slots=True)
class RunningChat:
    """A mesh and how to speak to it. `mesh` kills, restarts and finds its processes."""

    mesh: Mesh

    @property
    def targets(self) -> list[str]:
        """Public addresses, one a chat node."""
        return self.mesh.running.public

    def token(self, user: str, **options: Any) -> str:
        """A development token; options: tenant, ttl_seconds, scopes."""
        return self.mesh.running.token(user, **options)

    def client(
        self, user: str, device_id: str = "device", *, node: int = 0, **options: Any
    ) -> Client:
        """A client of a user on a chat node; options as of `Client`."""
        options.setdefault("token", self.token(user))
        return Client(self.targets[node % len(self.targets)], device_id=device_id, **options)


@contextlib.contextmanager
def start_mesh(**options: Any) -> Iterator[RunningChat]:
    """A mesh in a fresh folder, gone at the end; options as of `MeshOptions`."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-test-") as folder:
        options.setdefault("data", Path(folder) / "data")
        options.setdefault("ports", "auto")
        options.setdefault("trace_sample_ratio", 1.0)
        with Mesh(MeshOptions(**options)) as mesh:
            yield RunningChat(mesh)


@pytest.fixture(scope="session")
def chat_mesh() -> Iterator[RunningChat]:
    """One mesh for the whole test session."""
    with start_mesh() as running:
        yield running
