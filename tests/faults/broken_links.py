"""A mesh whose servers do not agree on the time, with proxies before nodes and PostgreSQL.

Chat nodes' and sequencers' wall clocks are apart by an hour and more, in every test: nothing may
depend on them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from chatmesh.embedded import keys
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.postgres import DATABASE, SERVICE_ROLES
from chatmesh.embedded.supervisor import Mesh, MeshOptions
from chatmesh.testing import TcpProxy
from tests.chat_node.device import Device

CLOCKS_AHEAD_SECONDS = {"chat-1": 3_600, "chat-2": 0.5, "sequencer": -3_600, "sequencer-2": 86_400}
"""None of a chat node is late: there Python's clock alone is moved, gRPC's deadlines would be over
before they begin."""
PATIENCE_SECONDS = 60


class LateProxy(TcpProxy):
    """A proxy whose target is known only when somebody connects."""

    def __init__(self, find: Callable[[], str]) -> None:
        super().__init__("")
        self._find = find

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.target = self._find()
        return await super()._connect()


@dataclass
class Links:
    """Running."""

    mesh: Mesh
    postgres: TcpProxy
    """Between the chat nodes and PostgreSQL."""
    public: list[TcpProxy]
    """Before each chat node."""

    def device(self, user: str, device_id: str = "phone", node: int = 0) -> Device:
        """A device that begins with that node; not connected yet."""
        targets = [proxy.address for proxy in self.public]
        return Device(targets, user, device_id, self.mesh.running.token(user), node=node)

    async def ask(self, query: Any, *params: Any) -> list[tuple[Any, ...]]:
        """A question to PostgreSQL as its owner, past the proxy."""
        url = self.mesh.running.owner_url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall() if cursor.description else []

    async def until(self, query: Any, *params: Any) -> None:
        """Until a question has an answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self.ask(query, *params):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)


@asynccontextmanager
async def broken_links() -> AsyncIterator[Links]:
    """Start one; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-links-") as name:
        folder = DataFolder(Path(name) / "data")
        async with AsyncExitStack() as stack:
            postgres = await stack.enter_async_context(LateProxy(lambda: _socket(folder)))
            mesh = Mesh(
                MeshOptions(
                    data=folder.path,
                    ports="auto",
                    replicas={"sequencer_svc": 2},
                    environment=_environment(folder, postgres),
                )
            )
            await asyncio.to_thread(mesh.start)
            try:
                public = [
                    await stack.enter_async_context(TcpProxy(target))
                    for target in mesh.running.public
                ]
                yield Links(mesh, postgres, public)
            finally:
                await asyncio.to_thread(mesh.stop, hurry=True)


def _environment(folder: DataFolder, postgres: TcpProxy) -> dict[str, dict[str, str]]:
    folder.make()
    role = SERVICE_ROLES["chat_svc"]
    password = keys.postgres_password(folder, role).read_text()
    url = f"postgresql://{role}:{password}@{postgres.address}/{DATABASE}"
    root = Path(__file__).parents[2]
    path = f"{Path(__file__).parent / 'clock'}:{root}"
    made = {
        name: {"PYTHONPATH": path, "TEST_CLOCK_AHEAD_SECONDS": str(ahead)}
        for name, ahead in CLOCKS_AHEAD_SECONDS.items()
    }
    made["chat_svc"] = {"CHATMESH_POSTGRES_URL": url}
    # a session's route is told, then it waits before it reads up to its head
    made["chat-2"]["CHATMESH_FAILPOINTS"] = "attach.after:pause=0.5"
    return made


def _socket(folder: DataFolder) -> str:
    """Where PostgreSQL listens in this life of the mesh."""
    url = (folder.secrets / "postgres-url").read_text()
    query = parse_qs(urlsplit(url).query)
    return f"unix:{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
