"""A mesh whose links between presence, Redis and one chat node can be broken.

Four chat nodes: a good one, and one each to be killed, stopped and cut off from presence. Two
replicas of presence, the first of which reaches Redis through a proxy.
"""

from __future__ import annotations

import asyncio
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.testing import TcpProxy
from tests.presence.mesh import PATIENCE_SECONDS
from tests.runtime import stores

GOOD, DIES, STOPS, CUT = range(4)
LEASE_SECONDS: Final = "8.5"
"""The shortest that is allowed: these tests wait for leases to end."""


@dataclass
class BrokenMesh:
    """Running."""

    mesh: Mesh
    valkey: stores.Store
    to_presence: TcpProxy
    """The way of node CUT to presence."""
    to_redis: TcpProxy
    """The way of the first replica of presence to Redis."""

    def name(self, node: int) -> str:
        """Of a node's process."""
        return f"chat-{node + 1}"

    async def metric(self, process: str, name: str) -> float:
        """Sum of a metric of one process."""
        (found,) = [one for one in self.mesh.running.processes if one.name == process]
        text = await asyncio.to_thread(_read, f"http://{found.metrics}/metrics")
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name)
        )


@asynccontextmanager
async def broken_mesh() -> AsyncIterator[BrokenMesh]:
    """One, with nothing broken yet."""
    nowhere = "127.0.0.1:1"
    with stores.valkey() as valkey, tempfile.TemporaryDirectory(prefix="cm-") as folder:
        login, _, socket = valkey.url.removeprefix("unix://").partition("@")
        async with TcpProxy(nowhere) as to_presence, TcpProxy(f"unix:{socket}") as to_redis:
            options = MeshOptions(
                data=Path(folder) / "data",
                chat_nodes=4,
                ports="auto",
                replicas={"presence_svc": 2, "sequencer_svc": 2},
                redis_url=valkey.url,
                environment={
                    "presence_svc": {
                        "CHATMESH_PRESENCE_LEASE_SECONDS": LEASE_SECONDS,
                        "CHATMESH_PRESENCE_DEBOUNCE_SECONDS": "1",
                    },
                    "presence": {
                        "CHATMESH_PRESENCE_LEASE_SECONDS": LEASE_SECONDS,
                        "CHATMESH_PRESENCE_DEBOUNCE_SECONDS": "1",
                        "CHATMESH_REDIS_URL": f"redis://{login}@{to_redis.address}",
                    },
                    f"chat-{CUT + 1}": {"CHATMESH_PRESENCE_TARGET": to_presence.address},
                },
            )
            mesh = Mesh(options)
            starting = asyncio.create_task(asyncio.to_thread(mesh.start))
            try:
                to_presence.target = await _presence_2(mesh)
                await starting
                yield BrokenMesh(mesh, valkey, to_presence, to_redis)
            finally:
                await asyncio.wait((starting,))
                await asyncio.to_thread(mesh.stop, hurry=True)


async def _presence_2(mesh: Mesh) -> str:
    """Its address, as soon as the mesh has a plan."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (planned := mesh._plan.servers):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    return f"127.0.0.1:{planned['presence-2'].mesh}"


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - an address of ours
        text: str = answer.read().decode()
    return text
