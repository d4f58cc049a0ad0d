"""A Redis Cluster of three local Valkey primaries."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chatmesh.embedded.binaries import valkey_program
from tests.presence.mesh import PATIENCE_SECONDS, free_port

SLOTS, PRIMARIES = 16_384, 3
BUS_OFFSET = 10_000
"""A node's bus listens on its port plus this."""


@asynccontextmanager
async def cluster() -> AsyncIterator[str]:
    """Its URL."""
    ports: list[int] = []
    while len(ports) < PRIMARIES:
        port = free_port()
        if port + BUS_OFFSET < 65_536 and port not in ports:
            ports.append(port)
    with ExitStack() as stack:
        for port in ports:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cm-"))
            process = subprocess.Popen(  # noqa: ASYNC220 - a test may wait
                [
                    str(valkey_program()),
                    *("--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
                    *("--cluster-enabled", "yes", "--save", ""),
                ],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _join(ports)
        yield f"redis+cluster://127.0.0.1:{ports[0]}"


async def _join(ports: list[int]) -> None:
    clients = [Redis(port=port, protocol=3) for port in ports]
    for at, client in enumerate(clients):
        while not await _answers(client):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        first, last = at * SLOTS // PRIMARIES, (at + 1) * SLOTS // PRIMARIES - 1
        await client.cluster("ADDSLOTSRANGE", first, last)
        await client.cluster("MEET", "127.0.0.1", ports[0])
    for client in clients:
        while not await _is_whole(client):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        await client.aclose()


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisError:
        return False


async def _is_whole(client: Redis) -> bool:
    found: dict[str, str] = await client.cluster("info")
    return found["cluster_state"] == "ok" and int(found["cluster_known_nodes"]) == PRIMARIES
